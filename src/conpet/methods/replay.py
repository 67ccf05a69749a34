"""Experience replay, and EMR: old examples beside the new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from conpet.methods.base import Phase, State
from conpet.methods.tune import SHARED, KeepExemplars, OneAdapter, Tune


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ExperienceReplay(OneAdapter):
    """One adapter and one growing head, tuned on batches of new and old examples.

        loss = -(1/B) sum_b log softmax(W h_b + c)[y_b]   over all classes seen

    After the task, the memory keeps exemplars of it. Experience replay (ER); with
    ``replay.kind=dynamic`` it is Static ConPET in its plainest form.
    """

    default_replay: ClassVar[str] = "memory"
    replay_kinds: ClassVar[tuple[str, ...]] = ("memory", "dynamic", "full")
    answers: ClassVar[tuple[str, ...]] = ("class", "text")

    def phases(self, state: State) -> Sequence[Phase]:
        tune = Tune("adapter", state.spec, SHARED, "shared", len(state.labels), state.replay)
        return [tune, KeepExemplars("memory")]


class EMR(ExperienceReplay):
    """Episodic memory replay (EMR, arXiv 1903.02588): ``replay`` with a memory chosen by k-means.

    Where we differ from ConPET's EMR: batches are half new, half memory instead of ``frequency``
    copies of the memory among the new data (replay.frequency brings them back); k-means sees hidden
    states instead of logits (replay.features); the loss is over the classes seen so far.
    """

    default_selection: ClassVar[str] = "kmeans"
