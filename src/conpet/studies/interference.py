"""Study ``interference``: the selector on tasks that are alike and on tasks that are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from conpet.evaluation import continual
from conpet.evaluation.collect import RunRecord
from conpet.studies.base import Cell, Plan, Row, Rows, Study
from conpet.studies.rows import stage_outcomes
from conpet.studies.say import UNKNOWN, gap, mean, pick, say
from conpet.studies.similarity import (
    LOT,
    TOPIC,
    divisions,
    likeness,
    plain_cells,
    write_topics,
)
from conpet.studies.sizes import DYNAMIC

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHOD = "conpet-dynamic"
DIVISIONS = (TOPIC, LOT)


def grid(plan: Plan) -> list[Cell]:
    found = divisions(plan)
    cells = [
        plan.cell(
            METHOD,
            {"division": d.name, "tasks": d.tasks, "seed": seed},
            *DYNAMIC,
            "method.start=selector",
            stream=d.words,
        )
        for seed in plan.seeds
        for d in found
    ]
    return cells + plain_cells(plan, found)


def measure(record: RunRecord) -> Row:
    """Selector and accuracy after each task, from all predictions of the run."""
    if record.method != METHOD:
        return likeness(record)
    stages = [stage_outcomes(record, i) for i in range(1, len(record.tasks) + 1)]
    return {
        "selector_by_stage": [continual.selector_accuracy(answers) for answers in stages],
        "whole_by_stage": [continual.split_errors(answers).accuracy for answers in stages],
        "oracle_by_stage": [continual.split_errors(answers).oracle for answers in stages],
    }


def _of(rows: Rows, division: str) -> list[Row]:
    return pick(rows, method=METHOD, division=division)


def plot(rows: Rows) -> Figure:
    from conpet.studies.figures import Panel, panels, series

    columns = {
        "Selector accuracy": "selector_by_stage",
        "Whole accuracy": "whole_by_stage",
        "Accuracy if the task were known": "oracle_by_stage",
    }
    return panels(
        [
            Panel(
                title,
                "tasks learned",
                "%",
                [series([r[c] for r in _of(rows, d)], f"by {d}") for d in DIVISIONS],
            )
            for title, c in columns.items()
        ]
    )


def text(rows: Rows) -> Iterator[str]:
    for division in DIVISIONS:
        runs, alike = _of(rows, division), pick(rows, method="lda", division=division)
        yield (
            f"By {division}: for {say(alike, 'nearest_elsewhere')} % of the labels the nearest "
            f"other label lies in another task; lda, which knows no tasks, has "
            f"{say(alike, 'whole_accuracy')} %."
        )
        yield (
            f"By {division}: selector accuracy in %, {_stages(runs, 'selector_by_stage')}; at the "
            f"end whole accuracy {say(runs, 'whole_accuracy')} %, {say(runs, 'oracle')} % if the "
            f"task were known; {say(runs, 'routing')} points lost to routing, "
            f"{say(runs, 'within_task')} within the task."
        )
    topic, lot = (_of(rows, division) for division in DIVISIONS)
    yield (
        f"Tasks by lot against tasks by topic: selector {gap(lot, topic, 'selector_accuracy')}, "
        f"task known {gap(lot, topic, 'oracle')}, whole accuracy "
        f"{gap(lot, topic, 'whole_accuracy')} points."
    )
    slopes = [f"{_slope(_of(rows, division))} points by {division}" for division in DIVISIONS]
    yield f"From the second task to the last, one more costs the selector {' and '.join(slopes)}."


def _column(rows: Rows, name: str, stage: int) -> float:
    """Mean over seeds at a stage, from 0."""
    known = [{"value": row[name][stage]} for row in rows if len(row.get(name) or ()) > abs(stage)]
    return mean(known, "value")


def _stages(rows: Rows, name: str) -> str:
    """The figure after the second task, half-way and at the end."""
    n = max((len(row[name]) for row in rows), default=0)
    places = sorted({min(2, n), (n + 1) // 2 if n > 3 else n, n} - {0})
    told = [f"{_column(rows, name, k - 1):.1f} after {k} tasks" for k in places]
    return ", ".join(told) or UNKNOWN


def _slope(rows: Rows) -> str:
    """Points of selector accuracy that each task after the second one costs."""
    n = max((len(row["selector_by_stage"]) for row in rows), default=0)
    if n < 3:
        return UNKNOWN
    first, last = (_column(rows, "selector_by_stage", k) for k in (1, n - 1))
    return f"{(first - last) / (n - 2):.2f}"


STUDY = Study(
    name="interference",
    title="Interference between tasks that are alike",
    question="How much harder is the selector's work where the nearest label often lies in "
    "another task, and how does it fare as tasks grow?",
    streams={"": "clinc150", "tiny": "banking77"},
    grid=grid,
    plot=plot,
    text=text,
    measure=measure,
    prepare=write_topics,
)
