"""Compare runs: group those that differ only in the seed, and put them into rows.

A row is a plain dict with None for what was not measured, so that it is valid JSON and an empty
field in a CSV.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from conpet.evaluation import continual
from conpet.evaluation.collect import RunRecord
from conpet.evaluation.scoring import standard_error, standard_error_of
from conpet.evaluation.single_task import cached_scores

Row = dict[str, Any]
NAN = float("nan")
SINGLE_TASK_METHOD = "per-task"
SHARED = ("backbone", "adapter", "train", "generation")  # of a run and its single-task scores
MOST_TOLD = 4  # settings in a label

COSTS = {
    "steps": "optimiser steps",
    "examples": "training examples seen",
    "forward_passes": "forward passes",
    "tuned_parameters": "tuned parameters",
    "stored_parameters": "stored parameters",
    "peak_memory_bytes": "peak memory",
}
"""The counted costs of a task; seconds come by phase."""


@dataclass(frozen=True)
class Group:
    """Runs on one stream that differ only in the seed, and a label that tells them from others."""

    label: str
    runs: tuple[RunRecord, ...]

    @property
    def first(self) -> RunRecord:
        return self.runs[0]


def group_runs(records: Sequence[RunRecord]) -> list[Group]:
    """The groups, finished ones first, and among them the highest whole accuracy first."""
    members: dict[str, list[RunRecord]] = {}
    for record in records:
        members.setdefault(_identity(record), []).append(record)
    runs = [tuple(sorted(group, key=lambda r: r.seed)) for group in members.values()]
    groups = [Group(label, group) for label, group in zip(_labels(runs), runs, strict=True)]
    return sorted(groups, key=lambda g: (not g.first.finished, -_known(_whole(g)), g.label))


def run_metrics(
    record: RunRecord, single_task: Sequence[float | None] | None = None
) -> dict[str, float]:
    """All figures of one run after the last learned task, by name; NaN where not measured.

    Args:
        single_task: (T,) scores of adapters tuned on one task alone, for the forward transfer.
    """
    matrix, n_test = record.matrix, record.n_test
    whole = continual.whole_accuracy(record.scores(), n_test)
    metrics = {
        "whole_accuracy": whole,
        "average_accuracy": continual.average_accuracy(record.scores()),
        "forgetting": continual.forgetting(matrix),
        "backward_transfer": continual.backward_transfer(matrix),
        "backward_transfer_over_T": continual.backward_transfer(matrix, "T"),
        "forward_transfer": continual.forward_transfer(matrix, single_task),
        "zero_shot": continual.zero_shot(matrix),
        "learning_accuracy": continual.learning_accuracy(matrix),
        "whole_accuracy_standard_error": standard_error_of([o.value for o in record.outcomes])
        if record.free
        else standard_error(whole, sum(n_test)),
    }
    metrics |= _answer_metrics(record)
    costs = [task.cost for task in record.tasks]
    metrics["seconds"] = _total([sum(c.seconds.values()) if c.seconds else None for c in costs])
    for name in ("steps", "examples", "forward_passes"):
        metrics[name] = _total([getattr(c, name) for c in costs])
    for name in ("tuned_parameters", "stored_parameters", "peak_memory_bytes"):
        metrics[name] = max((v for c in costs if (v := getattr(c, name)) is not None), default=NAN)
    return metrics


def _answer_metrics(record: RunRecord) -> dict[str, float]:
    names = ("oracle", "routing", "competition", "within_task")
    ways = {
        "selector_accuracy": continual.selector_accuracy,
        "selector_accuracy_by_input": continual.selector_accuracy_by_input,
    }
    if not record.outcomes:
        return dict.fromkeys((*ways, *(f"{way}_macro" for way in ways), *names), NAN)
    split = continual.split_errors(record.outcomes)
    return {
        **{name: way(record.outcomes) for name, way in ways.items()},
        **{f"{name}_macro": way(record.outcomes, "macro") for name, way in ways.items()},
        **{name: getattr(split, name) for name in names},
    }


def single_task_scores(
    record: RunRecord, records: Sequence[RunRecord]
) -> Sequence[float | None] | None:
    """s0 for a run: from a per-task run among ``records``, else from what was measured before.

    A ``per-task`` run with the same stream, backbone, adapter, training and seed tunes a fresh
    adapter on each task alone, so R[j, j] of it is s0[j]. Without one, the scores that
    ``api.single_task`` has measured and kept, None for a task without; None if there is none.
    """
    for other in records:
        if (
            other.method == SINGLE_TASK_METHOD
            and other.stream_fingerprint == record.stream_fingerprint
            and (other.backbone, other.seed) == (record.backbone, record.seed)
            and all(other.settings.get(key) == record.settings.get(key) for key in SHARED)
            and other.precision == record.precision
            and len(other.tasks) >= len(record.tasks)
        ):
            return [float(s) for s in np.diag(other.matrix.values)[: len(record.tasks)]]
    cached = cached_scores(record)
    return cached if any(score is not None for score in cached) else None


def comparison_rows(records: Sequence[RunRecord]) -> list[Row]:
    """One row a group: mean, spread (sample standard deviation over seeds) and number of runs."""
    rows = []
    for group in group_runs(records):
        first = group.first
        row: Row = {
            "stream": first.stream,
            "stream_fingerprint": first.stream_fingerprint,
            "metric": first.metric,
            "backbone": first.backbone,
            "group": group.label,
            "method": first.method,
            "runs": len(group.runs),
            "seeds": [r.seed for r in group.runs],
            "finished": first.finished,
            "tasks": len(first.tasks),
        }
        metrics = [run_metrics(r, single_task_scores(r, records)) for r in group.runs]
        for name in metrics[0]:
            values = np.array([m[name] for m in metrics])
            row[name] = plain(values.mean())
            row[f"{name}_spread"] = plain(values.std(ddof=1)) if len(values) > 1 else None
        rows.append(row)
    return rows


def run_rows(records: Sequence[RunRecord]) -> list[Row]:
    """One row a run."""
    rows = []
    for group in group_runs(records):
        for run in group.runs:
            metrics = run_metrics(run, single_task_scores(run, records))
            rows.append(about(run, group) | {name: plain(v) for name, v in metrics.items()})
    return rows


def stage_rows(records: Sequence[RunRecord]) -> list[Row]:
    """One row a run and learned task: accuracy after it, and what it cost."""
    groups = group_runs(records)
    phases = dict.fromkeys(
        p for g in groups for r in g.runs for t in r.tasks for p in t.cost.seconds
    )
    rows = []
    for group in groups:
        for run in group.runs:
            for i, task in enumerate(run.tasks):
                scores, n_test = run.scores(i), run.n_test[: i + 1]
                row = about(run, group) | {
                    "stage": i + 1,
                    "task": task.name,
                    "average_accuracy": plain(continual.average_accuracy(scores)),
                    "whole_accuracy": plain(continual.whole_accuracy(scores, n_test)),
                    "task_accuracy": plain(scores[i]),
                }
                row |= {f"seconds_{phase}": task.cost.seconds.get(phase) for phase in phases}
                rows.append(row | {name: getattr(task.cost, name) for name in COSTS})
    return rows


def plain(value: float) -> float | None:
    """A float for JSON: NaN becomes None."""
    return None if isnan(value) else float(value)


def about(run: RunRecord, group: Group) -> Row:
    """What the rows of a run begin with."""
    return {
        "stream": run.stream,
        "stream_fingerprint": run.stream_fingerprint,
        "metric": run.metric,
        "backbone": run.backbone,
        "group": group.label,
        "run": run.folder.name,
        "method": run.method,
        "seed": run.seed,
        "finished": run.finished,
        "tasks": len(run.tasks),
    }


def _whole(group: Group) -> float:
    return float(np.mean([continual.whole_accuracy(r.scores(), r.n_test) for r in group.runs]))


def _known(value: float) -> float:
    return -1.0 if isnan(value) else value


def _total(values: Sequence[float | None]) -> float:
    """Sum over the tasks that carry a figure; NaN if none does.

    A run that learns all tasks at once carries the cost of all in one place.
    """
    given = [v for v in values if v is not None]
    return float(sum(given)) if given else NAN


# Which runs belong together, and what tells groups apart ------------------------------------------


def _identity(run: RunRecord) -> str:
    settings = {key: value for key, value in run.settings.items() if key != "seed"}
    parts = (run.stream_fingerprint, run.backbone, run.method, len(run.tasks), settings)
    return json.dumps(parts, sort_keys=True, default=str)


def _labels(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """The method's name, and where that is not unique on a stream, what tells its groups apart."""
    labels = []
    for runs in groups:
        first = runs[0]
        rivals = [_flat(g[0].settings) for g in groups if _kind(g[0]) == _kind(first)]
        mine = _flat(first.settings)
        differing = sorted({k for d in rivals for k in d | mine if d.get(k) != mine.get(k)})
        told = [f"{k.removeprefix('method.')}={mine.get(k, 'unset')}" for k in differing]
        if len(told) > MOST_TOLD:
            told[MOST_TOLD:] = ["…"]
        if not first.finished:
            told.append(_progress(first))
        labels.append(f"{first.method} ({', '.join(told)})" if told else first.method)
    total, seen = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    keys = [(runs[0].stream_fingerprint, label) for runs, label in zip(groups, labels, strict=True)]
    total.update(keys)
    for i, key in enumerate(keys):
        seen[key] += 1
        if total[key] > 1:
            labels[i] += f" #{seen[key]}"
    return labels


def _kind(run: RunRecord) -> tuple[str, str]:
    return run.stream_fingerprint, run.method


def _progress(run: RunRecord) -> str:
    return f"{len(run.tasks)} of {run.n_tasks} tasks"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``{"train.lr": 1e-3}``, the seed left out."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif prefix + key != "seed":
            flat[prefix + key] = value
    return flat
