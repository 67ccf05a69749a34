"""One adapter per task, the task id given: the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from conpet.methods.base import Method, Phase, State
from conpet.methods.tune import Tune
from conpet.replay.dynamic import NoReplay
from conpet.routing.base import oracle
from conpet.types import Batch, Routing


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PerTask(Method):
    """A fresh adapter and head for each task, trained and asked on that task alone.

    The task id is given at prediction (task-incremental), so this is no competitor: it is the bound
    for routing, and the single-task score that forward transfer is measured against.
    """

    adapter_kinds: ClassVar[tuple[str, ...]] = ("lora", "bottleneck", "prompt", "prefix")
    answers: ClassVar[tuple[str, ...]] = ("class", "text")

    @property
    def needs_task_id(self) -> bool:
        return True

    def phases(self, state: State) -> Sequence[Phase]:
        task = state.task
        return [
            Tune("adapter", state.spec, task.name, "task", len(task.labels), NoReplay(), "within")
        ]

    def route(self, state: State, batch: Batch) -> Routing:
        return oracle(state.task_names, batch.task)
