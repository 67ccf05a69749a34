"""Every metric of continual learning, in one place, each with its formula.

Notation: T tasks in learning order; R[i, j] (0..100) the score on task j after learning task i;
n[j] the test examples of task j. Formulas count from 1, as papers do; arrays count from 0.

Not measured is NaN, and a metric whose formula touches an entry that was not measured is NaN: it is
never computed from what happens to be there. A run that has only the last row (all tasks at once)
has an average and a whole accuracy, and NaN for everything that compares stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from conpet.errors import DataError
from conpet.types import AccuracyMatrix

NAN = float("nan")


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


def forward_transfer(matrix: AccuracyMatrix, single_task: Sequence[float] | None) -> float:
    """FWT: ``1/T sum_j ( R[j, j] - s0[j] )``; higher is better.

    Args:
        single_task: (T,) s0, the scores of fresh adapters of the same kind, each tuned on one task
            alone; None where there is no such run, which makes the result NaN.

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
    return float(np.mean(np.diag(matrix.values) - np.asarray(single_task, dtype=np.float64)))


def learning_accuracy(matrix: AccuracyMatrix) -> float:
    """``1/T sum_j R[j, j]``: how well each task was known when it had just been learned."""
    return float(np.diag(matrix.values).mean())


@dataclass(frozen=True)
class Outcome:
    """What became of one test example: a line of ``predictions/NN.jsonl``.

    Attributes:
        id: the example's id.
        task: its true task.
        truth: its true label.
        label: the predicted label.
        score: the probability of that label among the classes seen, 0..1.
        routed: the tasks that were routed to, best first; empty for a method without routing, where
            all tasks answer together.
        oracle: the label that would be given if the true task were known; None if not recorded.
    """

    id: str
    task: str
    truth: str
    label: str
    score: float
    routed: tuple[str, ...] = ()
    oracle: str | None = None


@dataclass(frozen=True)
class ErrorSplit:
    """Where the points of the whole accuracy went, in points of 100.

    ``accuracy + routing + competition + within_task = 100``: a wrong answer is in exactly one part.

    Attributes:
        accuracy: right outcomes.
        routing: wrong, right if the task were known, and the true task was not routed to.
        competition: wrong, right if the task were known, and the true task was routed to (or the
            method does not route): a class of another task scored higher. 0 for one routed task.
        within_task: wrong, and wrong even if the task were known: no router can mend it.
        rescued: right, though wrong if the task were known; a part of ``accuracy``. 0 where the
            adapters' logits stand side by side; mixed adapters can have it.
    """

    accuracy: float
    routing: float
    competition: float
    within_task: float
    rescued: float

    @property
    def oracle(self) -> float:
        """Accuracy if the task were given: ``accuracy + routing + competition - rescued``."""
        return self.accuracy + self.routing + self.competition - self.rescued


def split_errors(outcomes: Sequence[Outcome]) -> ErrorSplit:
    """Split the gap to 100 into routing, competition and within-task error.

    Everything but ``accuracy`` is NaN unless the oracle of every example is recorded.

    Raises:
        DataError: there is no outcome.
    """
    _some(outcomes)
    right = np.array([a.label == a.truth for a in outcomes])
    if any(a.oracle is None for a in outcomes):
        return ErrorSplit(_points(right), NAN, NAN, NAN, NAN)
    oracle = np.array([a.oracle == a.truth for a in outcomes])
    reached = np.array([not a.routed or a.task in a.routed for a in outcomes])
    return ErrorSplit(
        accuracy=_points(right),
        routing=_points(~right & oracle & ~reached),
        competition=_points(~right & oracle & reached),
        within_task=_points(~right & ~oracle),
        rescued=_points(right & ~oracle),
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
    _some(outcomes)
    if not any(a.routed for a in outcomes):
        return NAN
    hit = np.array([a.routed[:1] == (a.task,) for a in outcomes])
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


def _points(hits: np.ndarray) -> float:
    return 100.0 * float(hits.mean())


def _some(outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        raise DataError(
            "there is no prediction to judge (0 outcomes); evaluate the run first (conpet eval)"
        )
