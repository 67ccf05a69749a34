"""Rows of a study: the figures of a run by its folder, and helpers that the studies measure by."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from typing import Any

import numpy as np

from conpet.evaluation.collect import RunRecord, read_outcomes
from conpet.evaluation.comparison import COSTS, plain, run_metrics
from conpet.evaluation.continual import Outcome
from conpet.runtime import RunFolder, read_json
from conpet.studies.base import Cell, Row, Rows

METRICS = (
    "whole_accuracy",
    "average_accuracy",
    "forgetting",
    "learning_accuracy",
    "selector_accuracy",
    "oracle",
    "routing",
    "competition",
    "within_task",
    "steps",
    "examples",
    "forward_passes",
    "seconds",
    "tuned_parameters",
    "stored_parameters",
    "peak_memory_bytes",
)
"""Columns of every run, by their names in the report; sums or maxima over its tasks."""
DIGITS = 6


def row_of(cell: Cell, record: RunRecord) -> Row:
    """Labels and figures of a finished run; None for what was not measured."""
    about = {"method": record.method, "stream": record.stream, "backbone": record.backbone}
    row: Row = {"run": cell.name, **cell.labels}
    row |= {name: value for name, value in about.items() if name not in row}
    metrics = run_metrics(record)
    row |= {"tasks": len(record.tasks)}
    figures = {name: plain(metrics[name]) for name in METRICS}
    counts = {name: int(value) for name in COSTS if (value := figures[name]) is not None}
    return row | rounded(figures | counts)


def rounded(row: Row) -> Row:
    """The same with six significant digits of fractions, and None for NaN."""
    return {key: _rounded(value) for key, value in row.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        value = plain(value)
        return value if value is None else float(f"{value:.{DIGITS}g}")
    return value


def raw_state(record: RunRecord) -> dict[str, Any]:
    """``state.json`` as it is: with what a ``RunRecord`` leaves out."""
    state: dict[str, Any] = read_json(RunFolder(record.folder).state)
    return state


def stage_outcomes(record: RunRecord, stage: int) -> Sequence[Outcome]:
    """The test answers after learning task ``stage``, from 1; of the tasks learned by then."""
    return read_outcomes(
        RunFolder(record.folder), stage, [task.name for task in record.tasks[:stage]]
    )


def training_seconds(record: RunRecord) -> list[float]:
    """Seconds that each task took, its tests not counted."""
    return [
        sum(value for phase, value in task.cost.seconds.items() if phase != "evaluate")
        for task in record.tasks
    ]


def forgetting_by_task(record: RunRecord) -> list[float]:
    """Of each task but the last: its best score before the last stage, less its last score."""
    values, n = record.matrix.values, len(record.tasks)
    return [float(np.max(values[j : n - 1, j]) - values[n - 1, j]) for j in range(n - 1)]


def table(rows: Rows) -> str:
    """CSV with the columns of all rows; lists become words with blanks between."""
    out = StringIO()
    names = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join("" if one is None else str(one) for one in value)
    return value


def mean_after_first(values: Sequence[float | None]) -> float:
    """Mean over all tasks but the first, which has no history; NaN where there is none."""
    rest = [value for value in values[1:] if value is not None]
    return float(np.mean(rest)) if rest else float("nan")
