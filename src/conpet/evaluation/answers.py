"""Free answers for the report: what those to each task are worth, and some of them to be read."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan

import numpy as np

from conpet.evaluation.collect import RunRecord, read_outcomes
from conpet.evaluation.comparison import Group
from conpet.evaluation.continual import Outcome
from conpet.evaluation.scoring import grade
from conpet.evaluation.theme import shorten
from conpet.registry import METRICS
from conpet.runtime import RunFolder, derive_seed
from conpet.training.history import load_task

TEXT_METRICS = ("rouge-l", "exact-match", "token-f1")
SHOWN = 3  # examples a task
LONGEST = 200  # characters of a text


@dataclass(frozen=True)
class TaskTable:
    """The scores (0..100) of each task, the mean over the runs of a group; NaN: not measured.

    Attributes:
        others: the text metrics besides the stream's own.
        rows: by task: its score just after it was learned, its score after the last task, and the
            others after the last task, in their order.
        average: the mean over tasks of each column.
    """

    group: Group
    others: tuple[str, ...]
    rows: dict[str, list[float]]
    average: list[float]


@dataclass(frozen=True)
class Sample:
    """One test example of a task with the answers that it got; texts are cut for reading.

    Attributes:
        input: the input field; the example's id where the run has lost its history.
        before: the answer just after the task was learned, None where it was not asked then.
        after: the answer after the last task.
        before_value, after_value: what they are worth by the stream's metric, 0..100.
    """

    task: str
    input: str
    right: str
    before: str | None
    before_value: float | None
    after: str
    after_value: float


def task_table(group: Group) -> TaskTable:
    """What the answers to each task are worth, by the stream's metric and the others for text."""
    first = group.first
    others = tuple(name for name in TEXT_METRICS if name != first.metric)
    columns = np.mean([_columns(run, others) for run in group.runs], axis=0)  # (T, 2 + others)
    rows = {task.name: row.tolist() for task, row in zip(first.tasks, columns, strict=True)}
    return TaskTable(group, others, rows, columns.mean(axis=0).tolist())


def _columns(run: RunRecord, others: Sequence[str]) -> np.ndarray:
    learned, last, given = np.diag(run.matrix.values), run.scores(), _by_task(run)
    texts = [[_score(name, given[task.name]) for name in others] for task in run.tasks]
    return np.column_stack([learned, last, np.array(texts)])


def _by_task(run: RunRecord) -> dict[str, list[Outcome]]:
    given: dict[str, list[Outcome]] = {task.name: [] for task in run.tasks}
    for outcome in run.outcomes:
        given[outcome.task].append(outcome)
    return given


def _score(metric: str, outcomes: Sequence[Outcome]) -> float:
    """0..100 of the answers after the last task; NaN where there are none."""
    if not outcomes:
        return float("nan")
    texts, right = [o.label for o in outcomes], [_right(o) for o in outcomes]
    return 100.0 * float(grade(METRICS.load(metric), texts, right).mean())


def samples(run: RunRecord) -> list[Sample]:
    """Some test examples of each task, drawn by their ids alone: the same in every run and report.

    Raises:
        CheckpointError: predictions or history are damaged.
    """
    found: list[Sample] = []
    folder = RunFolder(run.folder)
    for stage, (task, outcomes) in enumerate(_by_task(run).items(), start=1):
        last = {outcome.id: outcome for outcome in outcomes}
        drawn = heapq.nsmallest(SHOWN, last, key=partial(derive_seed, "shown", task))
        measured = not isnan(run.matrix.values[stage - 1, stage - 1])
        first = read_outcomes(folder, stage, [task]) if measured and drawn else ()
        before = {outcome.id: outcome for outcome in first}
        inputs = _inputs(folder, stage)
        found += [_sample(last[i], before.get(i), inputs.get(i, f"({i})")) for i in drawn]
    return found


def _inputs(folder: RunFolder, stage: int) -> dict[str, str]:
    """The texts of a task's test examples by their ids; none where the history is gone."""
    path = folder.history / f"{stage:02d}.jsonl.gz"
    return {e.id: e.text for e in load_task(path).test} if path.is_file() else {}


def _sample(after: Outcome, before: Outcome | None, text: str) -> Sample:
    return Sample(
        task=after.task,
        input=cut(text),
        right=cut("; or: ".join(_right(after))),
        before=None if before is None else cut(before.label),
        before_value=None if before is None else 100.0 * before.value,
        after=cut(after.label),
        after_value=100.0 * after.value,
    )


def _right(outcome: Outcome) -> tuple[str, ...]:
    return tuple(answer for answer in outcome.right if answer is not None)


def cut(text: str) -> str:
    """On one line, and not longer than people read."""
    return shorten(" ".join(text.split()), LONGEST) or "(empty)"
