"""Study ``active-modules``: how many adapters should answer an input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from conpet.evaluation.collect import RunRecord
from conpet.studies.base import Cell, Plan, Row, Rows, Study
from conpet.studies.say import distinct, gap, mean, numbers, pick, say, times
from conpet.studies.similarity import divisions, likeness, plain_cells, write_topics
from conpet.studies.sizes import DYNAMIC

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHOD = "conpet-dynamic"
MORE = {"tiny": (2,), "small": (5,), "full": (5, 20)}
"""Further numbers of tasks by lot."""


def ladder(n: int) -> list[int | str]:
    """1, 2, 4, ... up to half of n, then all of them."""
    return [*(2**i for i in range(n.bit_length()) if 2 * 2**i <= n), "all"]


def grid(plan: Plan) -> list[Cell]:
    found = divisions(plan, MORE[plan.size.name])
    cells = [
        plan.cell(
            METHOD,
            {"division": d.name, "tasks": d.tasks, "top_k": k, "seed": seed},
            *DYNAMIC,
            f"method.top_k={k}",
            stream=d.words,
        )
        for seed in plan.seeds
        for d in found
        for k in ladder(d.tasks)
    ]
    return cells + plain_cells(plan, found)


def measure(record: RunRecord) -> Row:
    """``active``: how many adapters answer after the last task."""
    k = record.settings["method"].get("top_k")
    active = {} if k is None else {"active": len(record.tasks) if k == "all" else int(k)}
    return active | likeness(record)


def _streams(rows: Rows) -> list[tuple[str, int]]:
    dynamic = pick(rows, method=METHOD)
    return [
        (division, n)
        for division in distinct(dynamic, "division")
        for n in distinct(pick(dynamic, division=division), "tasks")
    ]


def _of(rows: Rows, division: str, n: int) -> list[Row]:
    return pick(rows, method=METHOD, division=division, tasks=n)


def plot(rows: Rows) -> Figure:
    from conpet.studies.figures import Panel, line, panels

    columns = {
        "Whole accuracy": ("%", "whole_accuracy"),
        "True task not routed to": ("points", "routing"),
        "Another task scored higher": ("points", "competition"),
        "Forward passes": ("examples", "forward_passes"),
    }
    return panels(
        [
            Panel(
                title,
                "adapters that answer",
                unit,
                [
                    line(_of(rows, d, n), "active", column, f"by {d}, {n} tasks")
                    for d, n in _streams(rows)
                ],
                log="x",
            )
            for title, (unit, column) in columns.items()
        ]
    )


def text(rows: Rows) -> Iterator[str]:
    for division, n in _streams(rows):
        runs = _of(rows, division, n)
        tops = sorted(distinct(runs, "active"))
        best = max(tops, key=lambda k: _known(mean(pick(runs, active=k), "whole_accuracy")))
        alike = pick(rows, method="lda", division=division, tasks=n)
        figures = ", ".join(f"{k}: {say(pick(runs, active=k), 'whole_accuracy')}" for k in tops)
        one, every = pick(runs, active=tops[0]), pick(runs, active=tops[-1])
        yield (
            f"By {division}, {n} tasks (nearest label in another task: "
            f"{say(alike, 'nearest_elsewhere')} %): whole accuracy by adapters that answer is "
            f"{figures}; best with {best}."
        )
        yield (
            f"There, {tops[-1]} instead of {tops[0]} change whole accuracy by "
            f"{gap(every, one, 'whole_accuracy')} points at "
            f"{times(every, one, 'forward_passes')} the forward passes and "
            f"{times(every, one, 'seconds')} the time; routing error goes from "
            f"{say(one, 'routing')} to {say(every, 'routing')}, competition from "
            f"{say(one, 'competition')} to {say(every, 'competition')} points."
        )
    plain = pick(rows, method="lda")
    if numbers(plain, "whole_accuracy"):
        yield (
            "lda on the plain backbone, which knows no tasks, has "
            f"{', '.join(sorted({say([row], 'whole_accuracy') for row in plain}))} %."
        )


def _known(value: float) -> float:
    return -1.0 if value != value else value


STUDY = Study(
    name="active-modules",
    title="How many adapters should answer",
    question="Does it help to let more than one adapter answer, and does that depend on how alike "
    "tasks are and how many there are?",
    streams={"": "clinc150", "tiny": "banking77"},
    grid=grid,
    plot=plot,
    text=text,
    measure=measure,
    prepare=write_topics,
)
