"""What ``conpet eval`` measured of runs besides their matrix: answers of fewer or more adapters,
and tasks that were not learned.

A measurement counts only for the tasks that a run had learned by then: once it has learned more, it
is passed over until it is made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from conpet.evaluation.collect import RunRecord, read_as
from conpet.evaluation.comparison import Group, Row, about
from conpet.runtime import RunFolder

MACHINE = ("device", "threads", "processor", "gpus", "precision")
"""Facts of ``machine`` in ``top_k.json`` that a report passes on."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class TopKScore(_Frozen):
    """All tests, each answered by ``k`` adapters."""

    k: int | Literal["all"]
    average: float
    whole: float
    seconds: float = Field(ge=0)


class TopK(_Frozen):
    """``top_k.json`` of a run; ``own`` is what it was learned with."""

    tasks: tuple[str, ...]
    own: int | Literal["all"] | None = None
    rows: tuple[TopKScore, ...]
    machine: dict[str, Any] = Field(default_factory=dict)


class Scores(_Frozen):
    """Of each task, and their mean."""

    row: tuple[float, ...]
    average: float


class Unseen(Scores):
    """A file in ``unseen/`` of a run: the run's own scores, and those of its plain backbone."""

    stream: str
    metric: str
    learned: tuple[str, ...]
    tasks: tuple[str, ...]
    n_test: tuple[int, ...]
    backbone: Scores

    @model_validator(mode="after")
    def _one_a_task(self) -> Unseen:
        sizes = [len(part) for part in (self.row, self.n_test, self.backbone.row)]
        if sizes != [len(self.tasks)] * 3:
            raise ValueError(f"it has {sizes} figures for {len(self.tasks)} tasks")
        return self


def read_top_k(record: RunRecord) -> TopK | None:
    """None where it was not measured.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = RunFolder(record.folder).top_k
    found = read_as(path, TopK) if path.is_file() else None
    return found if found and found.tasks == _learned(record) else None


def read_unseen(record: RunRecord) -> list[Unseen]:
    """By name of the stream. Raises as ``read_top_k``."""
    paths = sorted(RunFolder(record.folder).unseen.glob("*.json"))
    found = [read_as(path, Unseen) for path in paths]
    return [one for one in found if one.learned == _learned(record)]


def _learned(record: RunRecord) -> tuple[str, ...]:
    return tuple(task.name for task in record.tasks)


def _order(score: TopKScore) -> float:
    return float("inf") if score.k == "all" else score.k


def top_k_rows(groups: Sequence[Group]) -> list[Row]:
    """A row a run and k, by rising k, for CSV; with what the seconds depend on."""
    rows = []
    for group in groups:
        for run in group.runs:
            found = read_top_k(run)
            if found is None:
                continue
            for score in sorted(found.rows, key=_order):
                row = about(run, group) | {"top_k": score.k, "learned_with": found.own}
                row |= {"average_accuracy": score.average, "whole_accuracy": score.whole}
                row |= {"seconds": score.seconds, "test_examples": sum(run.n_test)}
                rows.append(row | {key: found.machine.get(key) for key in MACHINE})
    return rows


def top_k_table(groups: Sequence[Group]) -> list[Row]:
    """A row a group and k: means and spreads over the runs that it was measured of."""
    table = []
    for group in groups:
        files = [file for run in group.runs if (file := read_top_k(run))]
        found = [score for file in files for score in file.rows]
        for k in dict.fromkeys(score.k for score in sorted(found, key=_order)):
            mine = [score for score in found if score.k == k]
            table.append(
                _head(group)
                | {"top_k": k, "learned_with": files[0].own, "runs": len(mine)}
                | _mean("average_accuracy", [score.average for score in mine])
                | _mean("whole_accuracy", [score.whole for score in mine])
                | _mean("seconds", [score.seconds for score in mine])
            )
    return table


def unseen_rows(groups: Sequence[Group]) -> list[Row]:
    """A row a run, stream and task, for CSV."""
    return [
        about(run, group)
        | {"unseen_stream": one.stream, "unseen_metric": one.metric, "task": task}
        | {"test_examples": n, "score": score, "backbone_score": plain}
        for group in groups
        for run in group.runs
        for one in read_unseen(run)
        for task, n, score, plain in zip(
            one.tasks, one.n_test, one.row, one.backbone.row, strict=True
        )
    ]


def unseen_table(groups: Sequence[Group]) -> list[Row]:
    """A row a group and stream: means and spreads over the runs that it was measured of, and the
    same of each ``task`` (over the runs that answered it)."""
    table = []
    for group in groups:
        found = [one for run in group.runs for one in read_unseen(run)]
        for stream, metric in dict.fromkeys((one.stream, one.metric) for one in found):
            mine = [one for one in found if (one.stream, one.metric) == (stream, metric)]
            pairs = [(one.average, one.backbone.average) for one in mine]
            tasks = dict.fromkeys(task for one in mine for task in one.tasks)
            table.append(
                _head(group)
                | {"unseen_stream": stream, "unseen_metric": metric, "runs": len(mine)}
                | _beside_backbone(pairs)
                | {"tasks": [{"task": t} | _beside_backbone(list(_of(t, mine))) for t in tasks]}
            )
    return table


def _of(task: str, measured: Sequence[Unseen]) -> Iterator[tuple[float, float]]:
    """The scores of a task: the run's, and those of its plain backbone."""
    for one in measured:
        both = zip(one.row, one.backbone.row, strict=True)
        yield from (pair for name, pair in zip(one.tasks, both, strict=True) if name == task)


def _beside_backbone(pairs: Sequence[tuple[float, float]]) -> Row:
    return (
        _mean("score", [mine for mine, _ in pairs])
        | _mean("backbone", [plain for _, plain in pairs])
        | _mean("gain", [mine - plain for mine, plain in pairs])
    )


def _head(group: Group) -> Row:
    return {"group": group.label, "finished": group.first.finished}


def _mean(name: str, values: Sequence[float]) -> Row:
    """Mean and, of several, the sample standard deviation."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {name: float(np.mean(values)), f"{name}_spread": spread}
