"""Every metric of continual learning, in one place, each with its formula.

Notation: T tasks in learning order; R[i, j] (0..100) the score on task j after learning task i, by
the stream's metric; n[j] the test examples of task j; v (0..1) what the answer to one example is
worth by that metric, and o what the answer would be worth if the true task were known. For class
labels v and o are 1 (right) or 0 (wrong). Formulas count from 1, as papers do; arrays from 0.

Not measured is NaN, and a metric whose formula touches an entry that was not measured is NaN: it is
never computed from what happens to be there. A run that has only the last row (all tasks at once)
has an average and a whole accuracy, and NaN for everything that compares stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, isnan
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from conpet.errors import DataError
from conpet.types import AccuracyMatrix

NAN = float("nan")
Value = Annotated[float, Field(ge=0.0, le=1.0)]


def average_accuracy(scores: Sequence[float] | np.ndarray) -> float:
    """AP, the macro average: ``1/k sum_{j<=k} R[k, j]``.

    Args:
        scores: (k,) the scores on the k tasks learned so far, after the last of them.

    Raises:
        DataError: there is no score.
    """
    return float(_scores(scores).mean())


def whole_accuracy(scores: Sequence[float] | np.ndarray, n_test: Sequence[int]) -> float:
    """Micro average: ``sum_{j<=k} n[j] R[k, j] / sum_{j<=k} n[j]``, all test examples alike.

    Args:
        scores: (k,) as for ``average_accuracy``.
        n_test: (k,) test examples of each of these tasks.

    Raises:
        DataError: there is no score, or the counts do not fit the scores, or there is no example.
    """
    row, counts = _scores(scores), np.asarray(n_test, dtype=np.float64)
    if counts.shape != row.shape:
        raise DataError(
            f"{len(counts)} test counts were given for {len(row)} scores; give one a learned task"
        )
    if (counts < 0).any() or counts.sum() == 0:
        raise DataError(
            f"test counts are {list(n_test)}; allowed is 0 or more each, and at least 1 in all"
        )
    return float(row @ counts / counts.sum())


def forgetting(matrix: AccuracyMatrix) -> float:
    """F.Ra: ``1/(T-1) sum_{j<T} ( max_{j<=i<T} R[i, j] - R[T, j] )``; lower is better.

    The best is taken over the stages j..T-1, before the last, so it is negative for a task that is
    at its best at the end. NaN for one task.
    """
    values, n = matrix.values, len(matrix.tasks)
    if n < 2:
        return NAN
    best = [values[j : n - 1, j].max() for j in range(n - 1)]  # max of NaN is NaN, as intended
    return float(np.mean(np.array(best) - values[n - 1, : n - 1]))


def backward_transfer(matrix: AccuracyMatrix, divisor: Literal["T-1", "T"] = "T-1") -> float:
    """BWT: ``1/(T-1) sum_{j<T} ( R[T, j] - R[j, j] )``; higher is better.

    ``divisor="T"`` divides by T instead, as some published tables do (the term j = T is 0). NaN for
    one task: there is nothing to transfer back to.
    """
    n = len(matrix.tasks)
    if n < 2:
        return NAN
    change = matrix.values[n - 1, : n - 1] - np.diag(matrix.values)[: n - 1]
    return float(change.sum() / (n - 1 if divisor == "T-1" else n))


def forward_transfer(matrix: AccuracyMatrix, single_task: Sequence[float | None] | None) -> float:
    """FWT: ``1/T sum_j ( R[j, j] - s0[j] )``; higher is better.

    Args:
        single_task: (T,) s0, the scores of fresh adapters of the same kind, each tuned on one task
            alone; None, for all or for one task, where it was not measured: the result is NaN.

    Raises:
        DataError: the scores do not fit the tasks.
    """
    if single_task is None:
        return NAN
    if len(single_task) != len(matrix.tasks):
        raise DataError(
            f"{len(single_task)} single-task scores were given for {len(matrix.tasks)} tasks; "
            "give one a task, in the order of the matrix"
        )
    known = [NAN if score is None else score for score in single_task]
    return float(np.mean(np.diag(matrix.values) - np.asarray(known, dtype=np.float64)))


def zero_shot(matrix: AccuracyMatrix) -> float:
    """Zero-shot transfer: ``1/(T-1) sum_{j>=2} R[j-1, j]``, each task just before it is learned.

    NaN for one task, and unless every such entry was measured (``forward_rows``). Another thing
    than FWT, though some papers give it that name. With class labels it is 0: those of a task are
    not known before it is learned.
    """
    if len(matrix.tasks) < 2:
        return NAN
    return float(np.diag(matrix.values, 1).mean())


def learning_accuracy(matrix: AccuracyMatrix) -> float:
    """``1/T sum_j R[j, j]``: how well each task was known when it had just been learned."""
    return float(np.diag(matrix.values).mean())


@dataclass(frozen=True)
class Outcome:
    """What became of one test example: a line of ``predictions/NN.jsonl``.

    Attributes:
        id: the example's id.
        task: its true task.
        truth: its true label; None for a free answer.
        label: the predicted label, or the text that was given.
        score: the probability of that label among the classes seen, 0..1; of a free answer the
            geometric mean of its tokens' probabilities.
        routed: the tasks that were routed to, best first; empty for a method without routing, where
            all tasks answer together.
        oracle: the answer that would be given if the true task were known; None if not recorded.
        answers: the right answers in free text; none where there is a true label.
        value: v, what the answer is worth by the stream's metric, 0..1. Where it is not given, as
            for class labels, it follows: 1 for a right answer letter for letter, else 0.
        oracle_value: o, the same of ``oracle``; None where that was not recorded.
        routed_by_input: the tasks that would be routed to if only the input field were seen, not
            the instruction, best first; None where that was not recorded.
    """

    id: str
    task: str
    truth: str | None
    label: str
    score: float
    routed: tuple[str, ...] = ()
    oracle: str | None = None
    answers: tuple[str, ...] = ()
    value: Value = NAN
    oracle_value: Value | None = None
    routed_by_input: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if isnan(self.value):
            object.__setattr__(self, "value", float(self.label in self.right))
        if self.oracle is None:
            object.__setattr__(self, "oracle_value", None)
        elif self.oracle_value is None:
            object.__setattr__(self, "oracle_value", float(self.oracle in self.right))

    @property
    def right(self) -> tuple[str | None, ...]:
        """The answers that count as right: the free ones, or the true label."""
        return self.answers or (self.truth,)


@dataclass(frozen=True)
class ErrorSplit:
    """Where the points of the whole accuracy went, in points of 100; means over all examples.

    ``accuracy + routing + competition + within_task = 100``. A wrong label is in exactly one part;
    the points that a graded answer lost may be divided between two.

    Attributes:
        accuracy: mean of v; right outcomes.
        routing: mean of ``max(0, o - v)`` where the true task was not routed to, 0 elsewhere: wrong
            and right if the task were known.
        competition: the same where the true task was routed to (or the method does not route): a
            class of another task scored higher. 0 for one routed task.
        within_task: mean of ``1 - max(v, o)``; wrong, and wrong even if the task were known: no
            router can mend it.
        rescued: mean of ``max(0, v - o)``; right, though wrong if the task were known; a part of
            ``accuracy``. 0 where the adapters' logits stand side by side; mixed adapters can have
            it.
    """

    accuracy: float
    routing: float
    competition: float
    within_task: float
    rescued: float

    @property
    def oracle(self) -> float:
        """Mean of o, the accuracy if the task were given:
        ``accuracy + routing + competition - rescued``."""
        return self.accuracy + self.routing + self.competition - self.rescued


def split_errors(outcomes: Sequence[Outcome]) -> ErrorSplit:
    """Split the gap to 100 into routing, competition and within-task error.

    Everything but ``accuracy`` is NaN unless the oracle of every example is recorded.

    Raises:
        DataError: there is no outcome.
    """
    _some(outcomes)
    value = np.array([a.value for a in outcomes])
    if any(a.oracle_value is None for a in outcomes):
        return ErrorSplit(_points(value), NAN, NAN, NAN, NAN)
    oracle = np.array([a.oracle_value for a in outcomes])
    reached = np.array([not a.routed or a.task in a.routed for a in outcomes])
    lost = np.maximum(0.0, oracle - value)
    return ErrorSplit(
        accuracy=_points(value),
        routing=_points(lost * ~reached),
        competition=_points(lost * reached),
        within_task=_points(1.0 - np.maximum(value, oracle)),
        rescued=_points(np.maximum(0.0, value - oracle)),
    )


def selector_accuracy(
    outcomes: Sequence[Outcome], average: Literal["micro", "macro"] = "micro"
) -> float:
    """Share of examples whose best routed task is the true one, 0..100.

    ``micro``: over examples. ``macro``: the mean over tasks of each task's share. NaN where no
    example was routed.

    Raises:
        DataError: there is no outcome.
    """
    return _share_routed_right(outcomes, [a.routed for a in outcomes], average)


def selector_accuracy_by_input(
    outcomes: Sequence[Outcome], average: Literal["micro", "macro"] = "micro"
) -> float:
    """``selector_accuracy`` of the routing that sees the input field alone, not the instruction.

    An instruction that is the same for a whole task gives the task away; this is what is left
    without it. NaN where that routing was not recorded.

    Raises:
        DataError: there is no outcome.
    """
    return _share_routed_right(outcomes, [a.routed_by_input or () for a in outcomes], average)


def _share_routed_right(
    outcomes: Sequence[Outcome],
    routed: Sequence[tuple[str, ...]],
    average: Literal["micro", "macro"],
) -> float:
    _some(outcomes)
    if not any(routed):
        return NAN
    hit = np.array([to[:1] == (a.task,) for a, to in zip(outcomes, routed, strict=True)])
    if average == "micro":
        return _points(hit)
    task = np.array([a.task for a in outcomes])
    return float(np.mean([_points(hit[task == name]) for name in np.unique(task)]))


def routing_confusion(outcomes: Sequence[Outcome], tasks: Sequence[str]) -> np.ndarray:
    """(T, T) int64 counts: row = true task, column = best routed task, in the order of ``tasks``.

    Outcomes without routing are left out.

    Raises:
        DataError: an outcome names a task that is not in ``tasks``.
    """
    column = {name: j for j, name in enumerate(tasks)}
    counts = np.zeros((len(tasks), len(tasks)), dtype=np.int64)
    for outcome in outcomes:
        for name in (outcome.task, *outcome.routed[:1]):
            if name not in column:
                raise DataError(
                    f"prediction '{outcome.id}' names task '{name}', but the run's tasks are "
                    f"{', '.join(tasks)}; evaluate it again to renew its predictions (conpet eval)"
                )
        if outcome.routed:
            counts[column[outcome.task], column[outcome.routed[0]]] += 1
    return counts


def _scores(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    row = np.asarray(scores, dtype=np.float64)
    if not row.size:
        raise DataError("there is no score to average (0 tasks); learn a task first")
    return row


def _points(values: np.ndarray) -> float:
    """100 times the mean; the sum is exact, so that no order of the examples changes a digit."""
    return 100.0 * (fsum(values.tolist()) / len(values))


def _some(outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        raise DataError(
            "there is no prediction to judge (0 outcomes); evaluate the run first (conpet eval)"
        )
