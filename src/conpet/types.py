"""The values that the parts of conpet hand to each other. No logic but validation.

Shapes: B batch, S sequence length, n adapters, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from conpet.errors import DataError, RoutingError

if TYPE_CHECKING:
    from torch import Tensor

Span = tuple[int, int]
"""Half-open character range [start, end) of a text."""

PADDED_TO = 8
"""Batches are padded to a multiple of so many tokens: the fewer shapes there are, the less often
kernels are prepared anew (on a CPU that can cost more than the kernel itself)."""

NO_TOKEN = -100
"""Fills the answers of a batch behind their end; no loss is taken there."""

Combine = Literal["mix", "expand", "concat"]
COMBINE: tuple[Combine, ...] = ("mix", "expand", "concat")


Position = Literal["before", "after"]
POSITIONS: tuple[Position, ...] = ("before", "after")


@dataclass(frozen=True, slots=True)
class Example:
    """One input with its label, or, where the answer is free text, with its right answers.

    Attributes:
        id: unique within a stream.
        text: the raw text, never empty; the input field of an instruction task.
        label: the class name; None for an input that is to be predicted, and for free text.
        entities: character spans: none (plain text), one (entity typing), or two (head, tail of a
            relation).
        instruction: what is to be done with the text, in words; often the same for a whole task.
        answers: right answers in free text, the first of which trains; none for an input that is
            to be answered, and where there is a label.
    """

    id: str
    text: str
    label: str | None = None
    entities: tuple[Span, ...] = ()
    instruction: str = ""
    answers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DataError(f"example '{self.id}' has an empty text; drop it or give it words")
        for start, end in self.entities:
            if not 0 <= start < end <= len(self.text):
                raise DataError(
                    f"example '{self.id}': entity span [{start}, {end}) is out of range; allowed "
                    f"is 0 <= start < end <= {len(self.text)} (characters of its text)"
                )
        if len(self.entities) == 2:
            (a, b), (c, d) = sorted(self.entities)
            if a < c < b < d:
                raise DataError(
                    f"example '{self.id}': entity spans [{a}, {b}) and [{c}, {d}) cross; entities "
                    "may lie apart or inside one another, but not overlap in part"
                )


@dataclass(frozen=True)
class Task:
    """One data set with its label space. Labels are disjoint from those of every other task; a task
    whose answers are free text has none."""

    name: str
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    valid: tuple[Example, ...]
    test: tuple[Example, ...]


Lengths = TypeVar("Lengths", int, np.ndarray)


def padded(length: Lengths) -> Lengths:
    """The next multiple of ``PADDED_TO``, of a number or of each of many."""
    return -(-length // PADDED_TO) * PADDED_TO


@dataclass(frozen=True)
class Batch:
    """Encoded examples, padded on the right to the longest of the batch, then to ``PADDED_TO``.

    Attributes:
        input_ids: (B, S) int64.
        attention_mask: (B, S) int64, 1 for real tokens.
        mask_position: (B,) int64, position of the mask token; -1 where the prompt has none.
        rows: (B,) int64, row of each example in the run's token store: the key of every cache.
        task: (B,) int64, index of the true task in learning order; -1 where it is not known.
        label: (B,) int64, column of the true class in the label space; -1 where it is not known.
        answer_ids: (B, A) int64, the answer that trains, end token included; ``NO_TOKEN`` behind
            it. A is 0 where answers are classes, or not known.
    """

    input_ids: Tensor
    attention_mask: Tensor
    mask_position: Tensor
    rows: Tensor
    task: Tensor
    label: Tensor
    answer_ids: Tensor

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def to(self, device: Any) -> Batch:
        """The same on another device. A GPU takes it when it is done with what it has to do, and is
        not waited for."""
        tensors: list[Tensor] = [getattr(self, f.name) for f in fields(self)]
        ahead = str(device).startswith("cuda") and self.input_ids.device.type == "cpu"
        if ahead:
            tensors = [t.pin_memory() if t.numel() else t for t in tensors]
        return Batch(*(t.to(device, non_blocking=ahead) for t in tensors))

    def select(self, index: Tensor) -> Batch:
        """The examples at ``index`` (any length, repeats allowed), without needless padding."""
        chosen = [getattr(self, f.name)[index] for f in fields(self)]
        if len(index):
            length = padded(int(chosen[1].sum(dim=1).max()))
            chosen[:2] = [tensor[:, :length] for tensor in chosen[:2]]
            chosen[-1] = chosen[-1][:, : int((chosen[-1] != NO_TOKEN).sum(dim=1).max())]
        return Batch(*chosen)

    def without_answers(self) -> Batch:
        """The same inputs with task, label and answer hidden: what a method sees at prediction."""
        return replace(
            self,
            task=self.task.new_full((len(self),), -1),
            label=self.label.new_full((len(self),), -1),
            answer_ids=self.answer_ids[:, :0],
        )


@dataclass(frozen=True)
class Latents:
    """Features that stand for examples, in place of a ``Batch`` of tokens.

    Attributes:
        features: (B, d) fp32.
        label: (B,) int64, column of the class in the label space.
    """

    features: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Routing:
    """Which adapters answer for which example, and how they are combined.

    Attributes:
        names: the adapters, one per column. Columns go by name, never by position in the pool.
        weights: (B, n) float. Rows need not sum to 1; a zero row is the plain backbone.
        combine: ``mix``: one pass, the adapters' outputs are added with these weights.
            ``expand``: each non-zero weight is a pass of its own and the heads' logits are put side
            by side.
            ``concat``: one pass, the soft prompts of a row's non-zero weights stand behind one
            another in the order of ``names``. As for ``expand``, weights only say which, and may
            rank them.
        top: most non-zero weights of a row. A weight of zero is then no part of the computation: it
            costs nothing and has no gradient. None: any number, and where weights carry gradient
            those that are zero have one too.
        cut: frozen adapters pass no gradient on to what they read; their weights still have one.
    """

    names: tuple[str, ...]
    weights: Tensor
    combine: Combine = "mix"
    top: int | None = None
    cut: bool = False

    def __post_init__(self) -> None:
        if self.weights.dim() != 2 or self.weights.shape[1] != len(self.names):
            raise RoutingError(
                f"routing weights have shape {tuple(self.weights.shape)}; "
                f"expected (batch, {len(self.names)}) for adapters {list(self.names)}"
            )
        if len(set(self.names)) != len(self.names):
            raise RoutingError(f"routing names repeat: {list(self.names)}; name each adapter once")
        if self.combine not in COMBINE:
            raise RoutingError(
                f"routing combine is '{self.combine}'; allowed: {', '.join(COMBINE)}"
            )

    def rows(self, at: Tensor) -> Routing:
        """The same for the examples at ``at``."""
        return replace(self, weights=self.weights[at])


@dataclass(frozen=True, slots=True)
class SoftPrompt:
    """Embeddings that stand before those of a batch's texts, or behind them.

    Attributes:
        embeddings: (B, m, d) fp32.
        mask: (B, m) int64, 1 for the positions that are there, 0 for those to be left out; None:
            all are there. A row without any is its text alone.
        position: ``before`` the text; or ``after`` its last real token, before any padding.
    """

    embeddings: Tensor
    mask: Tensor | None = None
    position: Position = "before"

    def __len__(self) -> int:
        return self.embeddings.shape[0]


@dataclass(frozen=True)
class Prediction:
    """The answer to one example.

    Attributes:
        id: the example's id.
        label: the predicted class, or the answer in free text.
        score: the probability of a class among those of the tasks that were routed to, 0..1; of a
            free answer the geometric mean of its tokens' probabilities.
        tasks: the tasks that were routed to, best first.
    """

    id: str
    label: str
    score: float
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class AccuracyMatrix:
    """R[i, j] = score (0..100) on task j after learning task i; NaN where it was not measured."""

    tasks: tuple[str, ...]
    values: np.ndarray  # (T, T) float64

    def __post_init__(self) -> None:
        n = len(self.tasks)
        if self.values.shape != (n, n):
            raise DataError(f"accuracy matrix has shape {self.values.shape}; expected ({n}, {n})")

    @staticmethod
    def from_rows(tasks: Sequence[str], rows: Sequence[Sequence[float | None]]) -> AccuracyMatrix:
        """Rows as JSON holds them: shorter rows are filled up, and None stands for NaN."""
        values = np.full((len(tasks), len(tasks)), np.nan)
        for i, row in enumerate(rows):
            values[i, : len(row)] = [np.nan if v is None else v for v in row]
        return AccuracyMatrix(tuple(tasks), values)

    def to_rows(self) -> list[list[float | None]]:
        return [[None if np.isnan(v) else float(v) for v in row] for row in self.values]
