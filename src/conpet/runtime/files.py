"""Files that are there whole or not at all: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conpet.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

METADATA = "conpet"
"""The one entry of a safetensors header in which our metadata lie, as JSON: a sha256 over tensors
and metadata, which tells damage, a blank, and the metadata. More entries would have no order."""

ADVICE = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some of your quota on that disk",
    errno.EACCES: "give yourself write permission, or choose another folder with --out",
    errno.EPERM: "give yourself write permission, or choose another folder with --out",
    errno.EROFS: "it is read-only; choose another folder with --out",
}


@contextmanager
def disk_errors(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn what the operating system says about ``path`` into a CheckpointError with advice."""
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "look at that path")
        raise CheckpointError(
            f"cannot {doing} {path}: {error.strerror or error}; what was there is untouched. "
            f"To go on, {advice}, then run the same command again"
        ) from error


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``; folders above it are made.

    Raises:
        CheckpointError: no space, no permission, ...; the old content is untouched.
    """

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    _replace(path, write)


def write_json_atomic(path: Path, value: Any) -> None:
    """Replace ``path`` by a value as JSON. NaN is refused: write None."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes_atomic(path, (text + "\n").encode("utf-8", "surrogatepass"))


def write_tensors_atomic(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Replace ``path`` by a safetensors file whose header holds ``metadata`` as JSON."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(dict(metadata or {}), allow_nan=False)
    header = {METADATA: f"{_digest(ready, text)} {text}"}

    def write(temporary: Path) -> None:
        try:
            save_file(ready, temporary, header)
        except SafetensorError as error:  # its text holds what the operating system said
            number = next((n for n in ADVICE if os.strerror(n) in str(error)), 0)
            raise OSError(number, os.strerror(number) if number else str(error)) from error

    _replace(path, write)


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    import torch

    digest = sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            _sync(temporary)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if os.name == "posix":
            _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """The value in a JSON file of a run.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    with disk_errors(path, "read"):
        data = path.read_bytes()
    try:
        return json.loads(data)
    except ValueError as error:
        raise CheckpointError(
            f"{path} is damaged: {error}. Restore it from a copy, or begin a new run folder"
        ) from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the metadata of a file by ``write_tensors_atomic``.

    Raises:
        CheckpointError: it is missing, cut short or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    with disk_errors(path, "read"), path.open("rb"):
        pass
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
        digest, _, text = header.get(METADATA, "").partition(" ")
        if digest != _digest(tensors, text):
            raise ValueError("its content is not what was written")
        metadata = json.loads(text)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged: {error}. Restore it from a copy; a checkpoint inside a task may "
            "be deleted, that task is then learned again"
        ) from None
    return tensors, metadata
