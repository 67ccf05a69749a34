"""A tiny backbone, a batch for it, and adapters with random weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conpet.adapters.pool import Pool
from conpet.backbones.base import Backbone
from conpet.testing import tiny_bert


@pytest.fixture
def backbone() -> Backbone:
    return tiny_bert()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, (4, 5); two rows are padded."""
    ids = torch.randint(10, 60, (4, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 3:] = mask[2, 4:] = 0
    return ids, mask


@pytest.fixture
def filled() -> Callable[..., Pool]:
    """``filled(pool, *names)`` adds adapters with random, non-zero weights; they stay live."""

    def fill(pool: Pool, *names: str, n_classes: int = 0) -> Pool:
        for number, name in enumerate(names):
            pool.add(name, seed=number, n_classes=n_classes)
            generator = torch.Generator().manual_seed(100 + number)
            pool.load_tensors(
                name,
                {
                    key: torch.randn(tensor.shape, generator=generator) * 0.3
                    for key, tensor in pool.tensors(name).items()
                },
            )
        return pool

    return fill
