"""Scores of single examples, and the accuracy of many with its standard error.

Shapes: N examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from conpet.errors import DataError


def correct(predictions: Sequence[str], truths: Sequence[str]) -> np.ndarray:
    """Per example, is the predicted label exactly the true one? (N,) bool.

    Raises:
        DataError: the two differ in length, or there is no example.
    """
    if len(predictions) != len(truths):
        raise DataError(
            f"{len(predictions)} predictions were given for {len(truths)} true labels; "
            "give one prediction for each example, in the same order"
        )
    if not len(truths):
        raise DataError(
            "there is no example to score (0 predictions); a task needs at least 1 test example"
        )
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
