"""Stacked low-rank branches beside frozen projections: what LoRA and bottleneck adapters share.

At each adapted projection (a site), with weights w of the routing:

    out + scale * sum_i w_i B_i act(A_i z)

z is the projection's input (LoRA) or its output (bottleneck). A (r, d_in), B (d_out, r) are fp32
and computed with in the dtype of ``out``. Branches are added by forward hooks that exist only while
a routing is open: the backbone's modules and weights are never changed.

Shapes: B batch, S positions, n adapters in a plan, r rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from conpet.adapters.plan import Part, Plan, make_plan, side_by_side
from conpet.adapters.site import Site
from conpet.errors import ConfigError, RoutingError
from conpet.types import Routing

Activation = Callable[[Tensor], Tensor]


class _Picked:
    """The frozen adapters of a plan at one site, gathered and cast.

    A routing that stays open for many passes (an answer is written in one for each token) picks
    them in the first two and knows them in the others; one that is open for a single pass keeps
    nothing.
    """

    def __init__(self) -> None:
        self.passes = 0
        self.kept: tuple[Tensor, Tensor] | None = None

    def of(self, site: Site, part: Part, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A and B^T as ``Site.frozen`` gives them, in the type of the pass."""
        if self.kept is not None and self.kept[0].dtype == dtype:
            return self.kept
        a, bt = site.frozen(part.at)
        found = a.to(dtype), bt.to(dtype)
        self.passes += 1
        if self.passes > 1:
            self.kept = found
        return found


class LowRank(nn.Module):
    """All adapters of a pool as low-rank branches. Implements ``AdapterKind``.

    Args:
        projections: module path -> frozen projection to adapt.
        reads: what the branch reads: the projection's ``input`` or its ``output``.
        dropout: probability, on what the branch reads; only where a live adapter is trained.
        settings: what describes the kind in files and fingerprints.
    """

    def __init__(
        self,
        projections: Mapping[str, nn.Linear],
        *,
        rank: int,
        scale: float,
        reads: str,
        settings: Mapping[str, Any],
        activation: Activation | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not projections:
            raise ConfigError(
                "no projection of this backbone is adapted; name at least one in 'targets'"
            )
        self.rank, self.scale, self.activation, self.dropout = rank, scale, activation, dropout
        self.reads_output = reads == "output"
        self.paths = tuple(projections)
        self._settings = dict(settings)
        self._projections = tuple(projections.values())  # a tuple, so that none becomes a submodule
        self.sites = nn.ModuleList(
            Site(
                p.out_features if self.reads_output else p.in_features,
                p.out_features,
                rank,
                p.weight.device,
            )
            for p in self._projections
        )
        self._slots: dict[str, int] = {}
        self._live: set[str] = set()

    @property
    def hooked(self) -> tuple[nn.Module, ...]:
        return self._projections

    def settings(self) -> dict[str, Any]:
        return dict(self._settings)

    def add(self, name: str, generator: Generator) -> None:
        taken = set(self._slots.values())
        slot = next(s for s in range(len(taken) + 1) if s not in taken)
        for site in self._sites():
            site.add(slot, generator)
        self._slots[name] = slot
        self._live.add(name)

    def freeze(self, name: str) -> None:
        for site in self._sites():
            site.freeze(self._slots[name])
        self._live.discard(name)

    def thaw(self, name: str) -> None:
        for site in self._sites():
            site.thaw(self._slots[name])
        self._live.add(name)

    def remove(self, name: str) -> None:
        slot = self._slots.pop(name)
        self._live.discard(name)
        for site in self._sites():
            site.remove(slot)

    def parameters_of(self, name: str) -> dict[str, nn.Parameter]:
        key = str(self._slots[name])
        found: dict[str, nn.Parameter] = {}
        for path, site in zip(self.paths, self._sites(), strict=True):
            found[f"{path}.A"], found[f"{path}.B"] = site.live_a[key], site.live_b[key]
        return found

    def storage(self, name: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for path, site in zip(self.paths, self._sites(), strict=True):
            found[f"{path}.A"], found[f"{path}.B"] = site.storage(self._slots[name])
        return found

    def stacked(self, names: Sequence[str]) -> dict[str, Tensor]:
        """``path.A`` -> A of frozen adapters behind one another, (n * r, d_in); where they lie side
        by side, as they lie."""
        slots = sorted(self._slots[name] for name in names)
        at = side_by_side(slots, self._projections[0].weight.device)
        return {
            f"{path}.A": site.frozen(at)[0]
            for path, site in zip(self.paths, self._sites(), strict=True)
        }

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for path, site in zip(self.paths, self._sites(), strict=True):
            shapes[f"{path}.A"], shapes[f"{path}.B"] = site.a_shape, site.b_shape
        return shapes

    @contextmanager
    def routed(self, routing: Routing) -> Iterator[None]:
        device = self._projections[0].weight.device
        plan = make_plan(
            routing, self._slots, self._live, rank=self.rank, scale=self.scale, device=device
        )
        handles = [
            projection.register_forward_hook(partial(self._branch, site, plan, _Picked()))
            for projection, site in zip(self._projections, self._sites(), strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _branch(
        self,
        site: Site,
        plan: Plan,
        picked: _Picked,
        module: nn.Module,
        args: tuple[Tensor, ...],
        out: Tensor,
    ) -> Tensor:
        """The forward hook of one projection: ``out`` (B, ..., d_out) with the branches added."""
        z = out if self.reads_output else args[0]
        if len(z) != plan.batch:
            raise RoutingError(
                f"the routing has {plan.batch} rows and the batch {len(z)}; give one row per "
                "example (a zero row is the plain backbone)"
            )
        if plan.empty:
            return out
        if self.dropout and plan.live and self.training and torch.is_grad_enabled():
            z = F.dropout(z, self.dropout)
        z = z.to(out.dtype).reshape(plan.batch, -1, z.shape[-1])
        total = out.reshape(plan.batch, -1, out.shape[-1])
        if plan.frozen is not None:
            read = z.detach() if plan.cut else z
            a, bt = picked.of(site, plan.frozen, out.dtype)
            total = self._add(plan.frozen, a, bt, read, total)
        if plan.live is not None:
            total = self._add(plan.live, *site.live(plan.keys, plan.live.at), z, total)
        return total.view(out.shape)

    def _add(self, part: Part, a: Tensor, bt: Tensor, z: Tensor, total: Tensor) -> Tensor:
        """``total`` (B, S, d_out) with the branches of one part added, exact and without a loop.

        Dense, A (n * r, d_in) and B^T (n * r, d_out): all rows through all n adapters. Gathered,
        (B, k * r, d_in) and (B, k * r, d_out): each row through its own k.
        """
        # Row by row, as frozen ones lie: the gradient of a transposed B takes four times as long.
        a, bt = a.to(total.dtype), bt.to(total.dtype).contiguous()
        gathered = a.dim() == 3
        u = torch.bmm(z, a.transpose(1, 2)) if gathered else F.linear(z, a)
        if self.activation is not None:
            u = self.activation(u)
        scale = self.scale
        if part.weight is not None:
            u, scale = u * part.weight.to(u.dtype), 1.0
        # Added into the product: no tensor of the size of `total` is made only to be added; and
        # none at all where nobody asks for what it was before.
        spent = not (torch.is_grad_enabled() or self.reads_output)
        if gathered:
            return torch.baddbmm(total, u, bt, alpha=scale, out=total if spent else None)
        rows = total.flatten(0, 1)
        added = torch.addmm(rows, u.flatten(0, 1), bt, alpha=scale, out=rows if spent else None)
        return added.view(total.shape)

    def _sites(self) -> Iterator[Site]:
        for site in self.sites:
            assert isinstance(site, Site)
            yield site
