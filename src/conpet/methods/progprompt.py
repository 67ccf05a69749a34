"""Progressive Prompts (arXiv 2301.12314): every task's soft prompt stands before all older ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from conpet.methods.base import Method, Phase, State
from conpet.methods.tune import Tune, every_head
from conpet.objectives.classify import side_by_side
from conpet.replay.dynamic import NoReplay
from conpet.routing.stack import stacked, stacked_up_to
from conpet.types import Batch, Routing


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ProgPrompt(Method):
    """Learn task t with a new soft prompt P_t (m, d) before the frozen ones of all older tasks:

        what the backbone reads = [P_t; P_{t-1}; ...; P_1; E(x)]        (t * m + S, d)
        loss = task loss, of which only P_t (and its head) have a gradient

    E(x) are the embeddings of the text; texts are cut, never prompts. With ``adapter.bottleneck`` a
    prompt passes a residual network while it is trained.

    Two modes, of which every result names the one it was made by. ``progprompt(task-id)``
    (``task_id=true``, as published): an input of task j is answered with [P_j; ...; P_1] and the
    head of j. ``progprompt(no-task-id)``: nobody says which task it is, so the whole stack answers,
    and old tasks are asked with prompts that they were not learned with.

    Classes: each task has a head of its own, frozen with its prompt: what belongs to an old task
    stays as it is. With the task id the loss runs over the classes of the task; without it over all
    classes seen, the heads side by side on the features of the stack.

    Where we differ from the authors' code: each prompt has a network of its own (theirs may be
    shared), without a layer norm; no replay of old tasks' batches.
    """

    adapter_kinds: ClassVar[tuple[str, ...]] = ("prompt",)
    adapter_defaults: ClassVar[Mapping[str, Any]] = {"kind": "prompt"}
    answers: ClassVar[tuple[str, ...]] = ("class", "text")
    refuses: ClassVar[Mapping[str, str]] = {
        "replay.kind": "what was learned of old tasks is frozen, and it looks at no old example",
        "adapter.kind": "it puts soft prompts behind one another, which other adapters cannot be",
    }

    task_id: bool = Field(
        default=False,
        description="the task of an input is given when it is answered, as the authors have it; "
        "named in every result",
    )

    @property
    def needs_task_id(self) -> bool:
        return self.task_id

    @property
    def mode(self) -> str:
        return "task-id" if self.task_id else "no-task-id"

    def prompts(self, n_tasks: int) -> int:
        return n_tasks

    def phases(self, state: State) -> Sequence[Phase]:
        task = state.task
        how = ("adapter", state.spec, task.name, "task", len(task.labels), NoReplay())
        return [OnTop(*how, "within" if self.task_id else "label")]

    def route(self, state: State, batch: Batch) -> Routing:
        if self.task_id:
            return stacked_up_to(state.task_names, batch.task)
        return stacked(state.task_names, len(batch), state.device)

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        features = state.forward(batch, routing).features
        if not self.task_id:
            return every_head(state, features).log_softmax(dim=1)
        newest = len(state.history) - 1
        own = newest - routing.weights.argmax(dim=1)  # (B,) the first prompt is the task's own
        logits, examples, first = [], [], []
        for index in own.unique().tolist():
            task, mine = state.history[index], (own == index).nonzero()[:, 0]
            logits.append(state.pool.head(task.name)(features[mine]))
            examples.append(mine)
            first.append(task.first_column)
        shape = (len(batch), state.n_classes)
        return side_by_side(logits, examples, first, shape).log_softmax(dim=1)


@plain_dataclass(frozen=True)
class OnTop(Tune):
    """Tune the newest prompt before all older ones, and its head beside theirs."""

    def _routing(self, state: State, batch: Batch) -> Routing:
        return stacked(state.task_names, len(batch), state.device)

    def _answers(self, state: State, features: Tensor) -> Tensor:
        if self.target == "within":
            return super()._answers(state, features)
        return every_head(state, features)
