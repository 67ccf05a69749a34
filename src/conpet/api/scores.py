"""Answers into scores: a row of the accuracy matrix and its averages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from conpet.evaluation.continual import average_accuracy, whole_accuracy
from conpet.evaluation.evaluator import Answer
from conpet.registry import METRICS
from conpet.types import Example


def score(metric: str, answers: Sequence[Answer], tests: Sequence[Example]) -> float:
    """0..100 by a metric of the METRICS registry."""
    return METRICS.load(metric)([a.label for a in answers], [str(e.label) for e in tests])


def summary(
    tasks: Sequence[str], row: Sequence[float | None], n_test: Sequence[int]
) -> dict[str, Any]:
    """The last row of the matrix, and its averages; None where the method could not answer."""
    seen = [math.nan if v is None else v for v in row[: len(tasks)]]
    averages = {"average": average_accuracy(seen), "whole": whole_accuracy(seen, n_test)}
    known = {k: None if math.isnan(v) else v for k, v in averages.items()}
    return {"tasks": list(tasks), "row": list(row), "n_test": list(n_test), **known}
