"""Tasks that are alike and tasks that are not: one stream's labels divided by topic and by lot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conpet.errors import ConfigError
from conpet.evaluation.collect import RunRecord
from conpet.runtime import RunFolder, read_tensors, write_bytes_atomic
from conpet.streams import load_stream
from conpet.studies.base import Cell, Plan, Row
from conpet.studies.rows import raw_state

TINY_TASKS = 4
CLINC_DOMAINS = 10
TOPIC, LOT = "topic", "lot"


@dataclass(frozen=True)
class Division:
    """The words of a stream, and how many tasks it has.

    ``topic``: each task is a topic, so tasks are unlike each other. ``lot``: labels are drawn into
    tasks of equal size, so the nearest labels of most labels lie in other tasks.
    """

    name: str
    tasks: int
    words: tuple[str, ...]


def divisions(plan: Plan, more: Sequence[int] = ()) -> list[Division]:
    """By topic and by lot, in equally many tasks; then by lot in ``more`` numbers of tasks.

    tiny takes BANKING77, its labels in alphabetical order as topics; small and full CLINC150, by
    domain. A stream that was chosen has its own tasks as topics.

    Raises:
        ConfigError: the tasks of the chosen stream are drawn by lot already.
    """
    if plan.chosen:
        n = _own_tasks(plan)
        source: tuple[str, ...]
        source, lots = (f"stream={plan.stream}",), f"stream={plan.stream}"
    elif plan.size.name == "tiny":
        n = TINY_TASKS
        source = (f"stream={plan.stream}", f"stream.groups={plan.folder / 'topics.json'}")
        lots = f"stream={plan.stream}"
    else:
        n, source, lots = CLINC_DOMAINS, (f"stream={plan.stream}",), f"stream={plan.stream}-mixed"
    drawn = [Division(LOT, k, (lots, f"stream.n_tasks={k}")) for k in dict.fromkeys((n, *more))]
    return [Division(TOPIC, n, source), *drawn]


def _own_tasks(plan: Plan) -> int:
    own = load_stream(plan.stream, data=plan.data)
    n = len(own.tasks)
    if load_stream(plan.stream, data=plan.data, n_tasks=n).fingerprint == own.fingerprint:
        raise ConfigError(
            f"the {n} tasks of stream '{plan.stream}' are drawn by lot, and this study compares "
            "such tasks with topics; give a stream whose tasks have a meaning, e.g. clinc150, or "
            "leave --stream out"
        )
    return n


def write_topics(plan: Plan) -> None:
    """The groups file of the tiny size."""
    if plan.chosen or plan.size.name != "tiny":
        return
    labels = sorted(load_stream(plan.stream, data=plan.data).labels)
    parts = np.array_split(np.array(labels), TINY_TASKS)
    groups = {f"topic-{i}": part.tolist() for i, part in enumerate(parts, start=1)}
    write_bytes_atomic(plan.folder / "topics.json", (json.dumps(groups, indent=1) + "\n").encode())


def plain_cells(plan: Plan, found: Sequence[Division]) -> list[Cell]:
    """``lda`` on each division: its class means say how alike the tasks are. It draws nothing."""
    seed = plan.seeds[0]
    return [
        plan.cell(
            "lda",
            {"method": "lda", "division": d.name, "tasks": d.tasks, "seed": seed},
            stream=d.words,
        )
        for d in found
    ]


def nearest_elsewhere(means: np.ndarray, task: Sequence[int]) -> float:
    """Percent of the labels whose nearest other label belongs to another task.

    Nearest by the cosine of class means, from which the mean of all is taken.

    Args:
        means: (C, d) a mean of each class.
        task: (C,) the task of each.
    """
    x = means - means.mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True) + 1e-12
    cosine = x @ x.T  # (C, C)
    np.fill_diagonal(cosine, -np.inf)
    of = np.asarray(task)
    return float(100 * np.mean(of[cosine.argmax(axis=1)] != of))


def likeness(record: RunRecord) -> Row:
    """How alike the tasks are, of an ``lda`` run; nothing of any other."""
    if record.method != "lda":
        return {}
    tensors, _ = read_tensors(RunFolder(record.folder).path / raw_state(record)["learner"])
    task = [i for i, known in enumerate(record.tasks) for _ in known.labels]
    return {"nearest_elsewhere": nearest_elsewhere(tensors["buffer:lda/mean"].numpy(), task)}
