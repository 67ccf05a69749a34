"""Random numbers that depend on what they are for, never on what was drawn before."""

from __future__ import annotations

import random
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    pass


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**63) from numbers and words; the same in every process and machine."""
    digest = sha256(
        repr(tuple(str(part) for part in parts)).encode("utf-8", "surrogatepass")
    ).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def rng(*parts: object) -> np.random.Generator:
    """A numpy generator seeded by ``derive_seed(*parts)``."""
    return np.random.default_rng(derive_seed(*parts))


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
