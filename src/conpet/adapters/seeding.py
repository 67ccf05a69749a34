"""Random numbers that depend on a seed and on names alone."""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for (seed, names); global state and order of calls do not matter."""
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
