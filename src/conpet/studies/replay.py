"""Study ``replay``: sampling from the whole history against a small memory, at equal steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from conpet.evaluation.collect import RunRecord
from conpet.replay.base import split_batch
from conpet.replay.memory import n_validating
from conpet.runtime import RunFolder
from conpet.studies.arithmetic import drawn_share, rehearsed_share, text_bytes
from conpet.studies.base import Cell, Labels, Plan, Row, Rows, Study
from conpet.studies.rows import forgetting_by_task, raw_state
from conpet.studies.say import distinct, gap, mean, pick, say, times
from conpet.training.history import load_task
from conpet.types import Example, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASE = "replay"
"""The method whose replay is exchanged."""
PER_CLASS = {"tiny": (1,), "small": (1, 5, 20), "full": (1, 5, 20)}


def grid(plan: Plan) -> list[Cell]:
    cells = []
    for seed in plan.seeds:
        labels: Labels = {"replay": "dynamic", "seed": seed}
        cells.append(plan.cell("conpet-static", labels, f"method.base={BASE}"))
        for n in PER_CLASS[plan.size.name]:
            labels = {"replay": f"memory-{n}", "seed": seed}
            words = ["replay.kind=memory", f"replay.per_class={n}", "replay.epoch=limit"]
            cells.append(plan.cell(BASE, labels, *words))
    return cells


def measure(record: RunRecord) -> Row:
    """Forgetting of each task, what was kept, and how much of the history came back.

    Dynamic replay keeps texts and labels of all training and validation examples; a memory those
    of its exemplars. What came back is the expected share, see ``arithmetic``; the number of old
    examples drawn is that of all examples seen, by the share that a batch has of old ones.
    """
    tasks, kept = _learned(record), raw_state(record)["replay"]
    sizes, draws = [len(task.train) for task in tasks], _old_draws(record)
    if kept:
        exemplars = [[task.train[i] for i in kept[task.name]] for task in tasks]
        training = [_training(part, record.settings["replay"]["valid_share"]) for part in exemplars]
        share = rehearsed_share(sizes, training, draws, record.settings["train"]["epochs"])
    else:
        exemplars = [[*task.train, *task.valid] for task in tasks]
        share = drawn_share(sizes, draws)
    texts = [(e.text, e.label or "") for part in exemplars for e in part]
    forgotten = forgetting_by_task(record)
    return {
        "kept_examples": len(texts),
        "kept_bytes": text_bytes(texts),
        "coverage": share,
        "largest_forgetting": max(forgotten, default=math.nan),
        "forgetting_by_task": forgotten,
        "steps_by_task": [task.cost.steps for task in record.tasks],
    }


def _training(exemplars: Sequence[Example], valid_share: float) -> int:
    """How many exemplars train: of each class all but its last ones, which validate."""
    counts = Counter(example.label for example in exemplars)
    return sum(n - n_validating(n, valid_share) for n in counts.values())


def _learned(record: RunRecord) -> list[Task]:
    folder = RunFolder(record.folder).history
    return [load_task(folder / f"{i:02d}.jsonl.gz") for i in range(1, len(record.tasks) + 1)]


def _old_draws(record: RunRecord) -> list[float]:
    """Old examples seen while each task was learned; none while the first was."""
    batch = int(record.settings["train"]["batch_size"])
    _, old = split_batch(batch, float(record.settings["replay"]["new_to_old"]))
    return [0.0, *((task.cost.examples or 0) * old / batch for task in record.tasks[1:])]


def plot(rows: Rows) -> Figure:
    from conpet.studies.figures import Panel, line, panels, series

    arms = distinct(rows, "replay")
    by_task = [
        series([row["forgetting_by_task"] for row in pick(rows, replay=arm)], arm) for arm in arms
    ]

    def points(column: str) -> list:
        return [
            line(_one_place(pick(rows, replay=arm), column), column, "whole_accuracy", arm)
            for arm in arms
        ]

    return panels(
        [
            Panel("Forgetting of each task", "task", "points", by_task),
            Panel(
                "History that came back",
                "% of old examples",
                "whole accuracy, %",
                points("coverage"),
            ),
            Panel(
                "What must be kept",
                "bytes of text",
                "whole accuracy, %",
                points("kept_bytes"),
                log="x",
            ),
        ]
    )


def _one_place(rows: Rows, column: str) -> list[Row]:
    """The rows of all seeds at the mean of a column, so that they make one point."""
    return [row | {column: mean(rows, column)} for row in rows]


def text(rows: Rows) -> Iterator[str]:
    arms = distinct(rows, "replay")
    for arm in arms:
        runs = pick(rows, replay=arm)
        yield (
            f"{arm}: whole accuracy {say(runs, 'whole_accuracy')} %, forgetting "
            f"{say(runs, 'forgetting')} points (most of one task {say(runs, 'largest_forgetting')})"
            f", {say(runs, 'steps', 0)} steps; {say(runs, 'kept_examples', 0)} examples kept "
            f"({say(runs, 'kept_bytes', 0)} bytes of text), {say(runs, 'coverage')} % of the old "
            "ones expected to have come back."
        )
    steps = {int(mean(pick(rows, replay=arm), "steps")) for arm in arms}
    yield (
        "All arms took the same number of optimiser steps."
        if len(steps) == 1
        else f"The arms did not take equal steps: {min(steps)} to {max(steps)}."
    )
    dynamic, memories = pick(rows, replay="dynamic"), [a for a in arms if a != "dynamic"]
    for arm in memories:
        memory = pick(rows, replay=arm)
        yield (
            f"Dynamic replay against {arm}: {gap(dynamic, memory, 'whole_accuracy')} points of "
            f"whole accuracy, {gap(dynamic, memory, 'forgetting')} points of forgetting, "
            f"{times(dynamic, memory, 'kept_bytes')} its bytes."
        )
    worst = {arm: _worst_task(pick(rows, replay=arm)) for arm in arms}
    yield (
        "The task that fell most, by its number: "
        + ", ".join(f"{arm} {task}" for arm, task in worst.items())
        + "."
    )


def _worst_task(rows: Rows) -> int | str:
    forgotten = [row["forgetting_by_task"] for row in rows if row["forgetting_by_task"]]
    return int(np.mean(forgotten, axis=0).argmax()) + 1 if forgotten else "none"


STUDY = Study(
    name="replay",
    title="The whole history, sampled, against a small memory",
    question="At equal optimiser steps, does it pay to draw from the whole history rather than "
    "from a few exemplars of each class, and what must be kept for it?",
    streams={"": "banking77"},
    grid=grid,
    plot=plot,
    text=text,
    measure=measure,
)
