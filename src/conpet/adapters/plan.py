"""From a routing to the cheapest exact way of computing it: decided once per call, not per layer.

Shapes: B batch, n adapters in the plan, r rank.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from conpet.types import Routing


@dataclass(frozen=True, slots=True)
class Plan:
    """Which adapters run, frozen ones before live ones, and how their outputs are weighted.

    Attributes:
        batch: B, the rows that the routing has.
        frozen: (f,) int64, slots of the frozen adapters; None where there are none.
        live: slots of the live adapters, as keys of the sites' parameters.
        row: (B,) int64, the one adapter of each row, as a position in [frozen, live]; None: every
            row runs all adapters of the plan.
        weight: factor on the rank-sized activations: (B, 1, n * r), or (B, 1, 1) with ``row``;
            None: 1 everywhere.
    """

    batch: int
    frozen: Tensor | None
    live: tuple[str, ...]
    row: Tensor | None = None
    weight: Tensor | None = None

    @property
    def empty(self) -> bool:
        return self.frozen is None and not self.live


def make_plan(
    routing: Routing,
    slots: Mapping[str, int],
    live: Collection[str],
    *,
    rank: int,
    device: torch.device,
) -> Plan:
    """The plan of a ``mix`` routing.

    - one adapter with weight 1 for all rows: two plain matrix products;
    - at most one non-zero weight in each row: each row gathers its own adapter; the cost depends
      on the distinct adapters in the batch, not on the size of the pool;
    - else: two matrix products of rank n * r over the adapters that any row uses.

    Where the weights carry gradient all named adapters run, because a weight of zero has a
    gradient too (a router that starts at zero could otherwise never learn).
    """
    values = routing.weights.detach().cpu()  # the only device synchronisation of a call
    learned = routing.weights.requires_grad and torch.is_grad_enabled()
    used = range(len(routing.names)) if learned else values.any(0).nonzero().flatten().tolist()
    columns = sorted(used, key=lambda c: routing.names[c] in live)  # stable: frozen first
    names = [routing.names[c] for c in columns]
    frozen = [slots[name] for name in names if name not in live]
    batch = len(values)
    at = torch.tensor(frozen, device=device) if frozen else None
    keys = tuple(str(slots[name]) for name in names if name in live)

    chosen = values[:, columns]  # (B, n)
    if not columns or (len(columns) == 1 and not learned and bool((chosen == 1).all())):
        return Plan(batch, at, keys)
    weights = routing.weights.to(device)[:, columns]
    if learned or len(columns) == 1 or int((chosen != 0).sum(1).max()) > 1:
        weight = weights.repeat_interleave(rank, dim=1).unsqueeze(1)
        return Plan(batch, at, keys, weight=weight)
    row = (chosen != 0).int().argmax(1)  # a zero row points at some adapter, with weight 0
    one = None if bool((chosen.sum(1) == 1).all()) else weights.sum(1)[:, None, None]
    return Plan(batch, at, keys, row=row.to(device), weight=one)
