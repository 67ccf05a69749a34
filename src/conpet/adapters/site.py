"""The weights of all low-rank adapters at one projection.

Frozen adapters lie in stacks, A (capacity, r, d_in) and B (capacity, d_out, r), addressed by slot;
live ones own their parameters. All weights are fp32.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from conpet.adapters.plan import Plan


class Site(nn.Module):
    """A and B of every adapter at one projection of widths d_in (read) and d_out."""

    def __init__(self, width: int, out_width: int, rank: int, device: torch.device) -> None:
        super().__init__()
        self.a_shape, self.b_shape = (rank, width), (out_width, rank)
        self.register_buffer("a", torch.empty(0, *self.a_shape, device=device))
        self.register_buffer("b", torch.empty(0, *self.b_shape, device=device))
        self.a: Tensor
        self.b: Tensor
        self.live_a = nn.ParameterDict()
        self.live_b = nn.ParameterDict()

    def add(self, slot: int, generator: Generator) -> None:
        """A Kaiming-uniform with a = sqrt(5), which is U(-1, 1) / sqrt(d_in); B zero."""
        bound = 1 / math.sqrt(self.a_shape[1])
        # Filled by hand: loaders of pretrained models patch torch.nn.init into doing nothing.
        a = torch.empty(self.a_shape).uniform_(-bound, bound, generator=generator)
        self._own(slot, a.to(self.a.device), torch.zeros(self.b_shape, device=self.b.device))

    def freeze(self, slot: int) -> None:
        if slot >= len(self.a):
            self._reserve(slot + 1)
        self.a[slot] = self.live_a.pop(str(slot)).detach()
        self.b[slot] = self.live_b.pop(str(slot)).detach()

    def thaw(self, slot: int) -> None:
        self._own(slot, self.a[slot].clone(), self.b[slot].clone())

    def remove(self, slot: int) -> None:
        """Forget the weights: nothing of them stays in the stack."""
        if str(slot) in self.live_a:
            del self.live_a[str(slot)], self.live_b[str(slot)]
        if slot < len(self.a):
            self.a[slot].zero_()
            self.b[slot].zero_()

    def storage(self, slot: int) -> tuple[Tensor, Tensor]:
        if str(slot) in self.live_a:
            return self.live_a[str(slot)].detach(), self.live_b[str(slot)].detach()
        return self.a[slot], self.b[slot]

    def gather(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """A (n, r, d_in) and B (n, d_out, r) of the plan's adapters."""
        a = [self.live_a[key].unsqueeze(0) for key in plan.live]
        b = [self.live_b[key].unsqueeze(0) for key in plan.live]
        if plan.frozen is not None:
            a.insert(0, self.a.index_select(0, plan.frozen))
            b.insert(0, self.b.index_select(0, plan.frozen))
        return (a[0], b[0]) if len(a) == 1 else (torch.cat(a), torch.cat(b))

    def _own(self, slot: int, a: Tensor, b: Tensor) -> None:
        self.live_a[str(slot)] = nn.Parameter(a)
        self.live_b[str(slot)] = nn.Parameter(b)

    def _reserve(self, slots: int) -> None:
        """Room for ``slots`` adapters; the capacity doubles, so that n additions copy O(n)."""
        capacity = max(1, len(self.a))
        while capacity < slots:
            capacity *= 2
        extra = capacity - len(self.a)
        self.a = torch.cat([self.a, self.a.new_zeros(extra, *self.a_shape)])
        self.b = torch.cat([self.b, self.b.new_zeros(extra, *self.b_shape)])
