"""``conpet doctor``: is this machine ready?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import typer

from conpet.cli.common import AsJson, emit, work
from conpet.errors import ConpetError, MissingDependencyError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked at, how it is, and what to do where it is not ok."""

    name: str
    status: Status
    text: str


def verb(as_json: AsJson = False) -> None:
    """Check versions, device, backbones, data and disk, and train two steps for real.

    \b
    Example:
      conpet doctor
    """
    with work():
        findings = [_look(name, check) for name, check in CHECKS.items()]
    lines = [f"{f.status:<4}  {f.name:<10}  {f.text}" for f in findings]
    healthy = all(f.status != "fail" for f in findings)
    emit({"ok": healthy, "findings": [asdict(f) for f in findings]}, "\n".join(lines), as_json)
    if not healthy:
        raise typer.Exit(2)


def _look(name: str, check: Callable[[], tuple[Status, str]]) -> Finding:
    try:
        return Finding(name, *check())
    except ConpetError as error:
        return Finding(name, "fail", str(error))
    except Exception as error:
        return Finding(name, "fail", f"{type(error).__name__}: {error}; reinstall conpet")


def _versions() -> tuple[Status, str]:
    from conpet.runtime import environment

    facts = environment()
    packages = {name: found for name, found in facts["packages"].items() if found}
    listed = ", ".join(f"{name} {found}" for name, found in packages.items())
    return "ok", f"Python {facts['python']}, {listed}"


def _device() -> tuple[Status, str]:
    from conpet.runtime import environment, resolve_device, resolve_precision

    device = resolve_device("auto")
    facts = environment()
    name = ", ".join(facts["gpus"]) or facts["processor"]
    text = (
        f"{device} ({name}), precision {resolve_precision('auto', device)}, "
        f"{facts['threads']} threads on {facts['cores']} cores"
    )
    if facts["threads"] > facts["cores"]:
        return "warn", f"{text}; set threads={facts['cores']}, more threads than cores are slow"
    return "ok", text


def _backbone() -> tuple[Status, str]:
    from conpet.backbones.loading import load_backbone

    backbone = load_backbone("minilm")
    size = sum(p.numel() for p in backbone.model.parameters())
    return "ok", f"minilm is here, {size / 1e6:.1f} million parameters, and its hash is right"


def _generator() -> tuple[Status, str]:
    from conpet.backbones.loading import load_backbone

    try:
        backbone = load_backbone("nano", generative=True)
    except MissingDependencyError as error:
        return "warn", f"{error}. It is for answers in free text alone"
    size = sum(p.numel() for p in backbone.model.parameters())
    return "ok", f"nano is here, {size / 1e6:.1f} million parameters, and its hashes are right"


def _stream() -> tuple[Status, str]:
    from conpet.streams import load_stream

    stream = load_stream("banking77")
    return "ok", f"banking77: {len(stream.tasks)} tasks, {len(stream.labels)} labels"


def _disk() -> tuple[Status, str]:
    from conpet.runtime import RunFolder

    here = Path.cwd()
    with TemporaryDirectory(dir=_writable(here), prefix=".conpet-doctor-") as folder:
        RunFolder(Path(folder) / "run").create()
    return "ok", f"{here} can be written to"


def _writable(here: Path) -> Path:
    """The folder itself, after a try that says in our words why it cannot be written to."""
    from conpet.runtime.files import disk_errors

    probe = here / ".conpet-doctor"
    with disk_errors(here):
        probe.write_bytes(b"")
        probe.unlink()
    return here


def _training() -> tuple[Status, str]:
    """Two tasks on a tiny random backbone, through the same door as ``conpet run``."""
    from conpet import api
    from conpet.config import load_config
    from conpet.streams import load_stream

    start = time.perf_counter()
    stream = load_stream("banking77", train_per_class=4, valid_per_class=1, test_per_class=1)
    stream = stream.subset([task.name for task in stream.tasks[:2]])
    with TemporaryDirectory(prefix="conpet-doctor-") as folder:
        config = load_config(
            None,
            {"train.epochs": 1, "replay.batch_limit": 3, "train.batch_size": 8},
            stream="banking77",
            backbone="tiny-bert",
            out=Path(folder) / "run",
        )
        model = api.run(config, stream=stream)
        answer = model.predict(["my card was eaten by the machine"])[0]
    seconds = time.perf_counter() - start
    return (
        "ok",
        f"learned {len(model.tasks)} tiny tasks and answered '{answer.label}', {seconds:.1f} s",
    )


CHECKS: dict[str, Callable[[], tuple[Status, str]]] = {
    "versions": _versions,
    "device": _device,
    "backbone": _backbone,
    "generator": _generator,
    "stream": _stream,
    "disk": _disk,
    "training": _training,
}
