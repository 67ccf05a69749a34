"""Routing that needs no training: one adapter for all, or each example's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from conpet.errors import RoutingError
from conpet.types import Routing


def single(name: str, batch_size: int, device: torch.device) -> Routing:
    """Every example through the one adapter ``name``."""
    return Routing((name,), torch.ones(batch_size, 1, device=device))


def plain(batch_size: int, device: torch.device) -> Routing:
    """Every example through the backbone alone."""
    return Routing((), torch.zeros(batch_size, 0, device=device))


def oracle(names: Sequence[str], task: Tensor) -> Routing:
    """Each example through the adapter of its true task; ``task`` (B,) indexes ``names``."""
    if bool((task < 0).any()):
        raise RoutingError(
            "the task of an example is not known; routing by it needs one of the run's"
        )
    return Routing(tuple(names), functional.one_hot(task, len(names)).float(), "expand")
