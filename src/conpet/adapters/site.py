"""The weights of all low-rank adapters at one projection.

Frozen adapters lie in stacks, A (capacity, r, d_in) and B^T (capacity, r, d_out), addressed by
slot: the adapters of adjacent slots are then one matrix of rank n * r as they lie. Live ones own
their parameters, A (r, d_in) and B (d_out, r). All weights are fp32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn


class Site(nn.Module):
    """A and B of every adapter at one projection of widths d_in (read) and d_out."""

    def __init__(self, width: int, out_width: int, rank: int, device: torch.device) -> None:
        super().__init__()
        self.a_shape, self.b_shape = (rank, width), (out_width, rank)
        self.register_buffer("a", torch.empty(0, rank, width, device=device))
        self.register_buffer("bt", torch.empty(0, rank, out_width, device=device))
        self.a: Tensor
        self.bt: Tensor
        self.live_a = nn.ParameterDict()
        self.live_b = nn.ParameterDict()

    def add(self, slot: int, generator: Generator) -> None:
        """A Kaiming-uniform with a = sqrt(5), which is U(-1, 1) / sqrt(d_in); B zero."""
        bound = 1 / math.sqrt(self.a_shape[1])
        # Filled by hand: loaders of pretrained models patch torch.nn.init into doing nothing.
        a = torch.empty(self.a_shape).uniform_(-bound, bound, generator=generator)
        self._own(slot, a.to(self.a.device), torch.zeros(self.b_shape, device=self.bt.device))

    def freeze(self, slot: int) -> None:
        if slot >= len(self.a):
            self._reserve(slot + 1)
        self.a[slot] = self.live_a.pop(str(slot)).detach()
        self.bt[slot] = self.live_b.pop(str(slot)).detach().T

    def thaw(self, slot: int) -> None:
        b = self.bt[slot].T.clone(memory_format=torch.contiguous_format)
        self._own(slot, self.a[slot].clone(), b)

    def remove(self, slot: int) -> None:
        """Forget the weights: nothing of them stays in the stack."""
        if str(slot) in self.live_a:
            del self.live_a[str(slot)], self.live_b[str(slot)]
        if slot < len(self.a):
            self.a[slot].zero_()
            self.bt[slot].zero_()

    def storage(self, slot: int) -> tuple[Tensor, Tensor]:
        if str(slot) in self.live_a:
            return self.live_a[str(slot)].detach(), self.live_b[str(slot)].detach()
        return self.a[slot], self.bt[slot].T

    def frozen(self, at: slice | Tensor) -> tuple[Tensor, Tensor]:
        """A and B^T of frozen adapters, at slots as a ``Part`` names them: (n * r, d), or
        (B, k * r, d) where each row has its own."""
        return _pick(self.a, at), _pick(self.bt, at)

    def live(self, keys: Sequence[str], at: slice | Tensor) -> tuple[Tensor, Tensor]:
        """The same of live adapters, at positions in ``keys``."""
        a, bt = [self.live_a[key] for key in keys], [self.live_b[key].T for key in keys]
        if len(keys) == 1:
            return a[0], bt[0]
        return _pick(torch.stack(a), at), _pick(torch.stack(bt), at)

    def _own(self, slot: int, a: Tensor, b: Tensor) -> None:
        self.live_a[str(slot)] = nn.Parameter(a)
        self.live_b[str(slot)] = nn.Parameter(b)

    def _reserve(self, slots: int) -> None:
        """Room for ``slots`` adapters; the capacity doubles, so that n additions copy O(n)."""
        capacity = max(1, len(self.a))
        while capacity < slots:
            capacity *= 2
        extra = capacity - len(self.a)
        self.a = torch.cat([self.a, self.a.new_zeros(extra, *self.a.shape[1:])])
        self.bt = torch.cat([self.bt, self.bt.new_zeros(extra, *self.bt.shape[1:])])


def _pick(stack: Tensor, at: slice | Tensor) -> Tensor:
    """What lies at ``at`` of a stack (capacity, r, d), its ranks behind one another."""
    if isinstance(at, slice):
        return stack[at].flatten(0, 1)
    found = stack.index_select(0, at.flatten())
    return found.view(*at.shape[:-1], -1, stack.shape[-1])
