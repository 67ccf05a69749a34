"""Sequential tuning: the floor that every continual method must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from conpet.methods.base import Phase, State
from conpet.methods.tune import SHARED, OneAdapter, Tune
from conpet.replay.dynamic import NoReplay


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Sequential(OneAdapter):
    """One adapter and one growing head, tuned on each task's own data, task after task.

    The PET-only baseline of arXiv 2309.14763 (SeqLoRA elsewhere). The loss runs over all classes
    seen; where the original's head holds the columns of all future classes from the start, ours
    grows by task.
    """

    adapter_kinds: ClassVar[tuple[str, ...]] = ("lora", "bottleneck", "prompt", "prefix", "full")
    answers: ClassVar[tuple[str, ...]] = ("class", "text")

    def phases(self, state: State) -> Sequence[Phase]:
        return [Tune("adapter", state.spec, SHARED, "shared", len(state.labels), NoReplay())]
