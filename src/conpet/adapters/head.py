"""A classification head that grows by classes.

Shapes: B batch, d hidden size, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conpet.adapters.seeding import generator_for
from conpet.errors import ConfigError


class Head(nn.Module):
    """logits = features W^T + b, always in fp32, also under autocast.

    W (C, d) starts as U(-1, 1) / sqrt(d) and b (C,) as zero: behind a layer norm the first logits
    have a standard deviation near 0.6 whatever the backbone's width, and no class is preferred.
    """

    def __init__(self, width: int, n_classes: int, *, seed: int, name: str = "head") -> None:
        super().__init__()
        self._name = name
        self.weight = nn.Parameter(torch.empty(0, width))
        self.bias = nn.Parameter(torch.empty(0))
        self.grow(n_classes, seed)

    @property
    def n_classes(self) -> int:
        return self.weight.shape[0]

    def grow(self, n: int, seed: int) -> None:
        """Add ``n`` classes behind the old ones, whose rows stay bitwise the same.

        The parameters are new objects: build the optimiser afterwards. The new rows depend on the
        seed, the head's name and the classes there are, not on the global random state.
        """
        if n < 0:
            raise ConfigError(f"a head cannot grow by {n} classes; it only grows, by 0 or more")
        if n == 0:
            return
        width, bound = self.weight.shape[1], 1 / math.sqrt(self.weight.shape[1])
        generator = generator_for(seed, "head", self._name, self.n_classes)
        rows = torch.empty(n, width).uniform_(-bound, bound, generator=generator)
        for name, new in (("weight", rows), ("bias", torch.zeros(n))):
            old = getattr(self, name)
            grown = torch.cat([old.detach(), new.to(old.device)])
            setattr(self, name, nn.Parameter(grown, requires_grad=old.requires_grad))

    def forward(self, features: Tensor) -> Tensor:
        """(B, d) of any float dtype -> (B, C) fp32."""
        return logits_of(self.weight, self.bias, features)


def logits_of(weight: Tensor, bias: Tensor, features: Tensor) -> Tensor:
    """(B, d) of any float dtype -> (B, C) fp32, by W (C, d) and b (C,)."""
    with _fp32(features.device):
        return F.linear(features.float(), weight, bias)


def each(heads: Sequence[Head], features: Sequence[Tensor]) -> list[Tensor]:
    """The logits of each head on features (P, d) of its own: (P, C) fp32."""
    if not heads:
        return []
    with _fp32(features[0].device):
        pairs = zip(heads, features, strict=True)
        return [F.linear(h.float(), head.weight, head.bias) for head, h in pairs]


def _fp32(device: torch.device) -> AbstractContextManager[None]:
    """Without autocast. (The meta device, which computes nothing, has none.)"""
    on_meta = device.type == "meta"
    return nullcontext() if on_meta else torch.autocast(device.type, enabled=False)
