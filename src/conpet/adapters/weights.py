"""Named tensors: do they fit, and are they the same?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from conpet.errors import CheckpointError


def check_shapes(
    given: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], *, what: str
) -> None:
    """CheckpointError unless ``given`` has exactly these names and shapes."""
    missing, extra = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if missing or extra:
        raise CheckpointError(
            f"{what} does not fit: {len(missing)} tensors are missing{_first(missing)} and "
            f"{len(extra)} are not known{_first(extra)}; it was made for other target modules or "
            "another backbone"
        )
    for key, shape in expected.items():
        if tuple(given[key].shape) != shape:
            raise CheckpointError(
                f"{what} does not fit: '{key}' has shape {tuple(given[key].shape)}, expected "
                f"{shape}; it was made with another rank, number of classes or backbone"
            )


def fingerprint(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """sha256, hex, over the settings and over name, dtype, shape and bytes of each tensor."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _first(keys: Sequence[str]) -> str:
    return f" (first: '{keys[0]}')" if keys else ""
