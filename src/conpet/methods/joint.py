"""Joint training: the bound that no continual method is expected to pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from conpet.methods.base import Method, Phase, State
from conpet.methods.tune import Tune
from conpet.replay.dynamic import FullReplay
from conpet.routing.base import single
from conpet.types import Batch, Routing

JOINT = "@joint"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Joint(Method):
    """One adapter and one head on the union of all tasks, trained once, after the last task came.

    Rows of the accuracy matrix before the last one are NaN. When a finished run learns one more
    task, the union is trained again from the start.
    """

    adapter_kinds: ClassVar[tuple[str, ...]] = ("lora", "bottleneck", "prompt", "prefix", "full")
    answers: ClassVar[tuple[str, ...]] = ("class", "text")

    steps: int | None = Field(
        default=None,
        ge=1,
        description="optimiser steps; None: train.epochs over the union, at most train.max_steps",
    )

    def phases(self, state: State) -> Sequence[Phase]:
        if not self.ready(state):
            return []
        spec = replace(state.spec, steps=self.steps)
        return [FromScratch("adapter", spec, JOINT, "shared", len(state.labels), FullReplay())]

    def route(self, state: State, batch: Batch) -> Routing:
        return single(JOINT, len(batch), state.device)

    def ready(self, state: State) -> bool:
        return len(state.history) >= state.planned


class FromScratch(Tune):
    """Tune a fresh adapter; what an earlier union has left is forgotten."""

    def begin(self, state: State) -> None:
        if self.adapter in state.pool:
            state.pool.remove(self.adapter)
        super().begin(state)
