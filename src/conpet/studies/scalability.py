"""Study ``scalability``: one adapter with replay against one adapter a task, as tasks grow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

from conpet.evaluation.collect import RunRecord
from conpet.studies.base import Cell, Plan, Row, Rows, Study
from conpet.studies.rows import mean_after_first, training_seconds
from conpet.studies.say import distinct, gap, pick, say, times
from conpet.studies.sizes import DYNAMIC

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS = {"tiny": (2, 4), "small": (5, 10, 20, 40), "full": (5, 10, 20, 40)}
METHODS = {
    "conpet-static": ("method.base=replay",),
    "conpet-dynamic": (*DYNAMIC, "method.start=selector"),
}


def grid(plan: Plan) -> list[Cell]:
    return [
        plan.cell(
            method,
            {"method": method, "tasks": n, "seed": seed},
            *METHODS[method],
            f"stream.n_tasks={n}",
        )
        for seed, n, method in product(plan.seeds, TASKS[plan.size.name], METHODS)
    ]


def measure(record: RunRecord) -> Row:
    seconds, last = training_seconds(record), record.tasks[-1]
    tests = sum(record.n_test)
    return {
        "seconds_per_task": mean_after_first(seconds),
        "steps_per_task": mean_after_first([task.cost.steps for task in record.tasks]),
        "last_over_second": seconds[-1] / seconds[1] if len(seconds) > 1 else float("nan"),
        "milliseconds_per_answer": 1000 * last.cost.seconds.get("evaluate", float("nan")) / tests,
        "seconds_by_task": seconds,
        "steps_by_task": [task.cost.steps for task in record.tasks],
    }


def plot(rows: Rows) -> Figure:
    from conpet.studies.figures import Panel, line, panels

    columns = {
        "Whole accuracy": ("%", "whole_accuracy"),
        "Training of a task": ("seconds", "seconds_per_task"),
        "Steps of a task": ("optimiser steps", "steps_per_task"),
        "Answer to one text": ("milliseconds", "milliseconds_per_answer"),
    }
    return panels(
        [
            Panel(
                title,
                "tasks",
                unit,
                [line(pick(rows, method=m), "tasks", column, m) for m in METHODS],
                log="x",
            )
            for title, (unit, column) in columns.items()
        ]
    )


def text(rows: Rows) -> Iterator[str]:
    numbers = sorted(distinct(rows, "tasks"))
    for n in numbers:
        static, dynamic = (pick(rows, tasks=n, method=m) for m in METHODS)
        yield (
            f"{n} tasks: conpet-static {say(static, 'whole_accuracy')} %, conpet-dynamic "
            f"{say(dynamic, 'whole_accuracy')} % whole accuracy "
            f"({gap(dynamic, static, 'whole_accuracy')} points); forgetting "
            f"{say(static, 'forgetting')} and {say(dynamic, 'forgetting')}."
        )
    for method in METHODS:
        few, many = (pick(rows, method=method, tasks=n) for n in (numbers[0], numbers[-1]))
        yield (
            f"{method}, from {numbers[0]} to {numbers[-1]} tasks: whole accuracy "
            f"{gap(many, few, 'whole_accuracy')} points; a task takes "
            f"{say(many, 'steps_per_task', 0)} steps in {say(many, 'seconds_per_task')} s instead "
            f"of {say(few, 'steps_per_task', 0)} in {say(few, 'seconds_per_task')} s; an answer "
            f"{times(many, few, 'milliseconds_per_answer')} the time; the last of "
            f"{numbers[-1]} tasks {say(many, 'last_over_second', 2)} times the training time of "
            "the second."
        )
    static, dynamic = (pick(rows, tasks=numbers[-1], method=m) for m in METHODS)
    yield (
        f"At {numbers[-1]} tasks {say(static, 'stored_parameters', 0)} (static) and "
        f"{say(dynamic, 'stored_parameters', 0)} (dynamic) parameters are kept beside the backbone."
    )


STUDY = Study(
    name="scalability",
    title="One adapter or one a task, as tasks grow",
    question="How do accuracy and cost of a task change from 5 to 40 tasks, the classes the same?",
    streams={"": "clinc150-mixed", "tiny": "banking77"},
    grid=grid,
    plot=plot,
    text=text,
    measure=measure,
)
