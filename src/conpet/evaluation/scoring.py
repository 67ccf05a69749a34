"""Values of single examples by a metric, the accuracy of many, and standard errors.

Shapes: N examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from conpet.errors import DataError

Metric = Callable[[str, tuple[str, ...]], float]
"""``(prediction, right answers) -> 0..1``: an entry of the METRICS registry, see ``metrics``."""


def grade(
    metric: Metric, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
) -> np.ndarray:
    """What each prediction is worth, (N,) float64 in 0..1; the score is 100 times the mean.

    Args:
        answers: (N,) the right answers of each example, at least one each.

    Raises:
        DataError: the two differ in length, there is no example or one without a right answer, or
            the metric leaves 0..1.
    """
    _check_pairs(len(predictions), len(answers))
    for number, right in enumerate(answers, start=1):
        if not right:
            raise DataError(
                f"example {number} of {len(answers)} has no right answer (0 given); a test example "
                "needs at least 1: add it to the data, or drop the example"
            )
    values = np.array([metric(p, a) for p, a in zip(predictions, answers, strict=True)], float)
    if not ((values >= 0.0) & (values <= 1.0)).all():
        name = getattr(metric, "__name__", str(metric))
        wrong = values[~((values >= 0.0) & (values <= 1.0))][0]
        raise DataError(
            f"metric '{name}' gave {wrong} for one answer; allowed is 0..1, the score of a task is "
            "100 times the mean: let the metric return a share of 1"
        )
    return values


def correct(predictions: Sequence[str], truths: Sequence[str]) -> np.ndarray:
    """Per example, is the predicted label exactly the true one? (N,) bool.

    Raises:
        DataError: the two differ in length, or there is no example.
    """
    _check_pairs(len(predictions), len(truths))
    return np.array([p == t for p, t in zip(predictions, truths, strict=True)], dtype=bool)


def accuracy(predictions: Sequence[str], truths: Sequence[str]) -> float:
    """Share of exactly right labels, 0..100. Raises as `correct`."""
    return 100.0 * float(correct(predictions, truths).mean())


def standard_error(score: float, n: int) -> float:
    """Standard error of an accuracy (0..100) over ``n`` independent examples, in points.

    ``sqrt(score * (100 - score) / (n - 1))``: the unbiased sample deviation of right and wrong,
    over the root of n. It speaks of the test examples only; the spread over seeds is another thing.
    NaN for fewer than two examples.

    Raises:
        DataError: the score is not in 0..100.
    """
    if not np.isnan(score) and not 0.0 <= score <= 100.0:
        raise DataError(f"an accuracy of {score} was given; allowed is 0..100, not a share of 1")
    return float(np.sqrt(score * (100.0 - score) / (n - 1))) if n > 1 else float("nan")


def standard_error_of(values: Sequence[float] | np.ndarray) -> float:
    """Standard error of the score ``100 * mean(values)``, in points.

    ``100 * s / sqrt(N)`` with ``s`` the sample standard deviation of the (N,) values in 0..1. For
    values of 0 and 1 it equals ``standard_error(100 * mean, N)``. NaN for fewer than two examples.
    """
    if len(values) < 2:
        return float("nan")
    return 100.0 * float(np.std(values, ddof=1)) / float(np.sqrt(len(values)))


def _check_pairs(predictions: int, truths: int) -> None:
    if predictions != truths:
        raise DataError(
            f"{predictions} predictions were given for {truths} true labels; "
            "give one prediction for each example, in the same order"
        )
    if not truths:
        raise DataError(
            "there is no example to score (0 predictions); a task needs at least 1 test example"
        )
