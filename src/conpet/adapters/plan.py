"""From a routing to the cheapest exact way of computing it: decided once per call, not per layer.

Shapes: B batch, n adapters of a part, k adapters of one row, r rank.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conpet.errors import RoutingError
from conpet.types import Routing


@dataclass(frozen=True, slots=True)
class Part:
    """The frozen or the live adapters of a plan: which places of their stack run, weighted how.

    Attributes:
        at: a slice (nothing is copied) or (n,) int64: every row runs these n adapters. (B, k)
            int64: each row gathers its own k.
        weight: factor on the rank-sized activations, (B, 1, n * r) or (B, 1, k * r), the scale of
            the adapters in it; None: the scale everywhere.
    """

    at: slice | Tensor
    weight: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Which adapters run. Frozen ones are apart from live ones: their stack is neither copied nor
    given a gradient only because a live adapter runs beside them.

    Attributes:
        batch: B, the rows that the routing has.
        frozen: its places are slots.
        live: its places are those in ``keys``.
        keys: the live adapters that run, as keys of the sites' parameters.
        cut: frozen adapters pass no gradient on to what they read.
    """

    batch: int
    frozen: Part | None = None
    live: Part | None = None
    keys: tuple[str, ...] = ()
    cut: bool = False

    @property
    def empty(self) -> bool:
        return self.frozen is None and self.live is None


def make_plan(
    routing: Routing,
    slots: Mapping[str, int],
    live: Collection[str],
    *,
    rank: int,
    scale: float,
    device: torch.device,
) -> Plan:
    """The plan of a ``mix`` routing, of its frozen and of its live adapters alike.

    - Rows with at most one non-zero weight, or at most ``top``: each row gathers its own adapters;
      the cost depends on the batch, not on the size of the pool.
    - Else, and where that is as cheap: two matrix products of rank n * r over the adapters that any
      row uses. One adapter with weight 1 for all rows is two plain products.

    Where the weights carry gradient and ``top`` is None all named adapters run, because a weight of
    zero has a gradient too (a router that starts at zero could otherwise never learn).

    Raises RoutingError where a row has more than ``top`` non-zero weights.
    """
    values = routing.weights.detach().cpu()  # the only device synchronisation of a call
    weights = routing.weights.to(device) * scale
    used = values != 0
    if routing.top is not None:
        _check_top(used, routing.top)
        weights = weights * used.to(device)  # what is absent has no gradient
    elif weights.requires_grad:
        used = torch.ones_like(used)
    runs = used.any(0).tolist()
    in_use = sorted((slots[n], n in live, i) for i, n in enumerate(routing.names) if runs[i])

    def part(columns: Sequence[int], places: Sequence[int]) -> Part | None:
        if not columns:
            return None
        chosen, mine, factor = values[:, columns], used[:, columns], weights[:, columns]
        k = int(mine.sum(1).max())
        if k < len(columns) and (k == 1 or routing.top is not None):
            row = mine.int().argsort(dim=1, descending=True, stable=True)[:, :k]
            at: slice | Tensor = torch.tensor(places)[row].to(device)
            chosen, factor = chosen.gather(1, row), factor.gather(1, row.to(device))
        else:
            at = side_by_side(places, device)
        if not factor.requires_grad and bool((chosen == 1).all()):
            return Part(at)
        return Part(at, factor.repeat_interleave(rank, dim=1).unsqueeze(1))

    frozen = [(slot, column) for slot, alive, column in in_use if not alive]
    lively = [(slot, column) for slot, alive, column in in_use if alive]
    return Plan(
        len(values),
        part([column for _, column in frozen], [slot for slot, _ in frozen]),
        part([column for _, column in lively], range(len(lively))),
        tuple(str(slot) for slot, _ in lively),
        routing.cut,
    )


def side_by_side(places: Sequence[int], device: torch.device) -> slice | Tensor:
    """Ascending places without a gap are a slice."""
    if places[-1] - places[0] + 1 == len(places):
        return slice(places[0], places[-1] + 1)
    return torch.tensor(places, device=device)


def _check_top(used: Tensor, top: int) -> None:
    counts = used.sum(1)
    too_many = (counts > top).nonzero().flatten().tolist()
    if too_many:
        row = too_many[0]
        raise RoutingError(
            f"row {row} of the routing has {int(counts[row])} weights that are not zero, but its "
            f"top is {top}; set the others to 0, or give a larger top or none"
        )
