"""Answers into scores: a row of the accuracy matrix and its averages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from conpet.errors import DataError
from conpet.evaluation.continual import average_accuracy, whole_accuracy
from conpet.evaluation.evaluator import Answer
from conpet.evaluation.scoring import grade
from conpet.registry import METRICS
from conpet.types import Example


def score(metric: str, answers: Sequence[Answer], tests: Sequence[Example]) -> float:
    """The score of a task, 0..100: 100 times the mean of ``values``."""
    return 100.0 * float(values(metric, answers, tests).mean())


def values(metric: str, answers: Sequence[Answer], tests: Sequence[Example]) -> np.ndarray:
    """What each answer is worth by a metric of the METRICS registry, (N,) in 0..1.

    Raises as ``text_values``.
    """
    return text_values(metric, [answer.label for answer in answers], tests)


def text_values(metric: str, texts: Sequence[str], tests: Sequence[Example]) -> np.ndarray:
    """The same of texts, e.g. of the answers that would be given if the tasks were known.

    Raises:
        ConfigError: there is no such metric.
        DataError: not one text a test example, no example, or one without a right answer.
    """
    return grade(METRICS.load(metric), texts, [right_answers(example) for example in tests])


def right_answers(example: Example) -> tuple[str, ...]:
    """The answers that count as right: the free ones, or the class label.

    Raises:
        DataError: the example has neither.
    """
    if example.answers:
        return example.answers
    if example.label is None:
        raise DataError(
            f"test example '{example.id}' has neither a label nor answers; a test needs what is "
            "right: give it one, or drop it"
        )
    return (example.label,)


def summary(
    tasks: Sequence[str], row: Sequence[float | None], n_test: Sequence[int]
) -> dict[str, Any]:
    """The last row of the matrix, and its averages; None where the method could not answer."""
    seen = [math.nan if v is None else v for v in row[: len(tasks)]]
    averages = {"average": average_accuracy(seen), "whole": whole_accuracy(seen, n_test)}
    known = {k: None if math.isnan(v) else v for k, v in averages.items()}
    return {"tasks": list(tasks), "row": list(row), "n_test": list(n_test), **known}
