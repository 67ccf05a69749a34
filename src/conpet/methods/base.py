"""The contracts of a method: Phase (what is trained) and Method.

Shapes: B batch, C classes seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor, nn

from conpet.errors import ConfigError
from conpet.methods.passes import Output
from conpet.methods.state import PhaseSpec, State
from conpet.registry import METHODS
from conpet.types import Batch, Routing, Task

__all__ = [
    "Computation",
    "LossTerms",
    "Method",
    "Output",
    "ParamGroup",
    "Phase",
    "PhaseSpec",
    "RowBatches",
    "State",
    "Step",
]

LossTerms = Mapping[str, Tensor]
Step = Mapping[str, Any]
"""What one step sees, an entry per loader: the examples of a ``Batch`` or of ``Latents``; and what
a loss term needs beside them."""


@dataclass(frozen=True)
class ParamGroup:
    """Parameters by stable names, trained at one learning rate."""

    parameters: Mapping[str, nn.Parameter]
    lr: float


class RowBatches(Sequence[Step]):
    """Batches of rows, encoded when they are asked for; those of a second loader behind the first.

    ``RowBatches(state, task=[rows, ...], memory=[rows, ...])``
    """

    def __init__(self, state: State, **loaders: Sequence[np.ndarray]) -> None:
        self.state = state
        self.rows = [(loader, rows) for loader, many in loaders.items() for rows in many]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        loader, rows = self.rows[i]
        return {loader: self.state.batch(rows)}


class Phase(Protocol):
    """What trains, where its batches come from, and what its loss terms are. The trainer runs it.

    ``begin`` and ``end`` depend only on the committed state and the seed: a crash inside them
    repeats them with the same result.
    """

    name: str
    spec: PhaseSpec

    def begin(self, state: State) -> None:
        """Add an adapter, grow a head, compute reference features."""
        return None

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        """What the optimiser moves; pure, for it is asked again on resume."""
        ...

    def begin_epoch(self, state: State, epoch: int) -> None:
        """Recompute what an epoch holds fixed; not called again when it is resumed half-way."""
        return None

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        """The batches of an epoch, one entry per loader; seeded by (seed, task, phase, epoch)."""
        ...

    def loss(self, state: State, step: Step) -> LossTerms:
        """Named terms; the trainer sums, differentiates and logs them."""
        ...

    def validate(self, state: State) -> float | None:
        """Score (higher is better) on validation data; None where there is none."""
        return None

    def after_backward(self, state: State) -> None:
        """Gradient projection and the like."""
        return None

    def after_step(self, state: State, step: Step) -> None:
        """Running statistics."""
        return None

    def end(self, state: State) -> None:
        """Freeze, store exemplars, class statistics."""
        return None

    def sketch(self, state: State) -> bool:
        """In a dry run, whose backbone has no weights and writes nothing: leave what ``end`` would,
        by its sizes. False where there is nothing to write, and ``end`` can do so itself."""
        return False


@dataclass(frozen=True)
class Computation(Phase):
    """A phase that takes no step: its ``end`` computes something from what was learned."""

    name: str
    spec: PhaseSpec = field(default_factory=partial(PhaseSpec, epochs=0, select="last"))

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        return []

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        return ()

    def loss(self, state: State, step: Step) -> LossTerms:
        return {}


class Method(Protocol):
    """A continual-learning method. Implementations are frozen dataclasses of hyper-parameters.

    Attributes:
        default_replay, replay_kinds: the kind of replay it takes, and those it can take.
        refuses: why it cannot take other kinds: a reason for ``replay.kind``, ``adapter.kind``,
            or for answers that are a ``class``.
        default_selection: how the exemplars of a memory are chosen.
        adapter_kinds: the kinds of adapter it can train.
        adapter_defaults: keys of ``adapter`` that are other ones for it than for most, where a
            configuration leaves them out.
        has_head: its adapter has a head that gives logits.
        answers: what it can learn to give: a ``class``, or ``text``.
    """

    default_replay: ClassVar[str] = "none"
    replay_kinds: ClassVar[tuple[str, ...]] = ("none",)
    refuses: ClassVar[Mapping[str, str]] = {}
    default_selection: ClassVar[str] = "random"
    adapter_kinds: ClassVar[tuple[str, ...]] = ("lora", "bottleneck", "prompt", "full")
    adapter_defaults: ClassVar[Mapping[str, Any]] = {}
    has_head: ClassVar[bool] = True
    answers: ClassVar[tuple[str, ...]] = ("class",)

    @property
    def needs_task_id(self) -> bool:
        """Whether it answers only where the task of an input is known."""
        return False

    @property
    def mode(self) -> str:
        """Which of two things it does that are not to be compared; stands behind its name in every
        result. Empty where there is one."""
        return ""

    def modules(self, state: State) -> Mapping[str, nn.Module]:
        """The method's own modules, as they are before anything is learned; saved with the
        state."""
        return {}

    @property
    def learns_from_valid(self) -> bool:
        """Whether validation examples do more than choose a state, so that none may be a test's."""
        return False

    def check(self, replay: str) -> None:
        """Raise ConfigError where an option does not go with another, or with the kind of replay.

        Asked before anything is learned.
        """
        return None

    def check_text(self) -> None:
        """Raise ConfigError where it cannot learn to give answers in free text.

        Asked before such a stream is learned.
        """
        if "text" not in self.answers:
            able = [name for name in METHODS if "text" in METHODS.load(name).answers]
            raise ConfigError(
                f"method '{type(self).__name__}' learns classes, and the answers of this stream "
                f"are free text; methods that can learn it: {', '.join(able)}"
            )

    def check_classes(self) -> None:
        """Raise ConfigError where it cannot learn classes.

        Asked before a stream of classes is learned.
        """
        if "class" not in self.answers:
            able = [name for name in METHODS if "class" in METHODS.load(name).answers]
            reason = self.refuses.get("class", "")
            raise ConfigError(
                f"method '{type(self).__name__}' learns answers in free text, and those of this "
                f"stream are classes{reason and ': ' + reason}; methods that can learn it: "
                f"{', '.join(able)}"
            )

    def check_tasks(self, state: State, tasks: Sequence[Task]) -> None:
        """Raise ConfigError or DataError where it cannot learn tasks that are to come.

        Asked before any of them is learned.
        """
        return None

    def warnings(self, state: State) -> Sequence[str]:
        """What a person should know of the newest task before it is learned."""
        return ()

    def notes(self, state: State) -> Sequence[str]:
        """What a person may want to know of the newest task once it is learned."""
        return ()

    def prompts(self, n_tasks: int) -> int:
        """Most soft prompts that stand with one text once ``n_tasks`` are learned; a text is cut
        to what they leave of the context."""
        return 1

    def phases(self, state: State) -> Sequence[Phase]:
        """What is optimised for the newest task of the history, in order."""
        ...

    def route(self, state: State, batch: Batch) -> Routing:
        """Which adapters answer. Never reads ``batch.task``, unless ``needs_task_id``."""
        ...

    def oracle(self, state: State, batch: Batch) -> Routing:
        """The routing if the true task (``batch.task``) were known, to split the errors."""
        return self.route(state, batch)

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        """(B, C) log-probabilities of the classes seen, in learning order."""
        return state.class_logits(batch, routing).log_softmax(dim=1)

    def ready(self, state: State) -> bool:
        """Whether the method can answer after the newest task."""
        return True
