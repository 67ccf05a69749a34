"""The choice of prompts from a pool by keys (L2P, arXiv 2112.08654), for each input by itself.

Shapes: B batch, N prompts of the pool, n chosen ones, d features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from conpet.types import Routing


class Keys(nn.Module):
    """A key for each prompt of the pool, (N, d), begun in U(-1, 1): a key of zeros has no
    direction, and all would be equally near."""

    def __init__(self, n: int, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        start = torch.empty(n, width).uniform_(-1, 1, generator=generator)
        self.keys = nn.Parameter(start)

    def forward(self, query: Tensor) -> Tensor:
        """(B, N) the cosine of queries (B, d) and keys."""
        return functional.normalize(query, dim=1) @ functional.normalize(self.keys, dim=1).T


def nearest(names: Sequence[str], cosine: Tensor, n: int) -> Routing:
    """Before each text the n prompts of largest cosine (B, N), in the order of ``names``."""
    chosen = cosine.detach().topk(n, dim=1).indices
    weights = torch.zeros_like(cosine.detach()).scatter_(1, chosen, 1.0)
    return Routing(tuple(names), weights, "concat", top=n)


def nearness(cosine: Tensor, n: int) -> Tensor:
    """The mean over a batch of the n largest cosines (B, N) of each row."""
    return cosine.topk(n, dim=1).values.mean()
