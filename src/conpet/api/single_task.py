"""Measure what forward transfer is measured against: a fresh adapter on each task alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from conpet.api.opened import history_path
from conpet.api.runs import run
from conpet.config import RunConfig, load_config
from conpet.errors import CheckpointError
from conpet.evaluation import comparison
from conpet.evaluation.collect import RunRecord, collect
from conpet.evaluation.comparison import SINGLE_TASK_METHOD
from conpet.evaluation.single_task import AROUND, score_in, single_task_folder
from conpet.events import Observer
from conpet.methods.per_task import PerTask
from conpet.runtime import RunFolder, read_json, resolve_precision
from conpet.streams import Stream
from conpet.streams.base import task_fingerprint
from conpet.training.history import load_task


def single_task_scores(
    config: RunConfig, stream: Stream, *, measure: bool, observer: Observer | None = None
) -> list[float | None]:
    """s0 of each task, 0..100: its score by a one-task run of ``per-task`` with the same backbone,
    adapter, training budget, encoding, precision and seed.

    The runs are kept in the user's cache (``evaluation.single_task.cache_folder``), each found by
    what it depends on, so that none is made twice, nor one that was interrupted begun anew.

    Args:
        config: of the run that the scores are for.
        stream: its tasks, in its order.
        measure: make what is missing; else it is None.

    Raises:
        ConfigError: ``per-task`` cannot use the adapter that the run used, and scores are to be
            measured.
        CheckpointError: the cache cannot be written, or what lies there is damaged.
    """
    precision = resolve_precision(config.precision, config.device)
    scores: list[float | None] = []
    for number, (name, fingerprint) in enumerate(stream.fingerprints.items(), start=1):
        folder = single_task_folder(
            config.identity(),
            task=number,
            fingerprint=fingerprint,
            metric=stream.metric,
            template=stream.template,
            precision=precision,
        )
        if measure and score_in(folder) is None:
            if observer is not None:
                place = f"task {number}/{len(stream.tasks)} '{name}' alone, for its score: {folder}"
                observer.note("info", place)
            alone = replace(stream, name="single-task", tasks=(stream.tasks[number - 1],))
            run(_alone(config, number, folder, precision), stream=alone, observer=observer)
        scores.append(score_in(folder))
    return scores


def measure_missing(folders: Sequence[Path | str], observer: Observer | None = None) -> None:
    """Measure the single-task scores that a report on these runs would lack.

    A run whose forward transfer would not be known with them is passed over, and the observer is
    told why; so is, without a word, one with the ``per-task`` run of its settings beside it.

    Raises as ``single_task_scores``, and
        CheckpointError: a folder is no run folder, is damaged, or has lost its history.
    """
    observer = observer or Observer()
    records = [collect(folder) for folder in folders]
    for record in records:
        known = comparison.single_task_scores(record, records)
        if record.method == SINGLE_TASK_METHOD or (known is not None and None not in known):
            continue
        reason = _no_transfer(record)
        if reason:
            observer.note("warning", f"{record.folder}: no forward transfer, {reason}")
            continue
        config = load_config(RunFolder(record.folder).config, {"device": "auto"})
        config = config.model_copy(update={"precision": record.precision or config.precision})
        single_task_scores(config, _learned_stream(record), measure=True, observer=observer)


def _no_transfer(record: RunRecord) -> str:
    """Why single-task scores say nothing about a run; an empty text if they do."""
    if np.isnan(np.diag(record.matrix.values)).any():
        return f"as method '{record.method}' was not tested after each task"
    if all(task.cost.tuned_parameters == 0 for task in record.tasks):
        return f"as method '{record.method}' tunes no adapter"
    kind, allowed = record.settings["adapter"]["kind"], PerTask.adapter_kinds
    if kind not in allowed:
        return (
            f"as adapter.kind is '{kind}', and single tasks are measured with {', '.join(allowed)}"
        )
    return ""


def _alone(config: RunConfig, number: int, folder: Path, precision: str) -> RunConfig:
    """The configuration of the run on one task, which is the ``number``-th of its stream."""
    values = {key: value for key, value in config.to_dict().items() if key not in AROUND}
    values["train"] |= {"lr": config.train.lr_at(number), "lr_from": {}}
    values |= {"method": SINGLE_TASK_METHOD, "replay": "none", "stream": "single-task"}
    values |= {"out": folder, "precision": precision}
    values |= {"device": config.device, "threads": config.threads}
    return RunConfig.model_validate(values)


def _learned_stream(record: RunRecord) -> Stream:
    """The learned tasks of a run with their data, from its folder."""
    folder = RunFolder(record.folder)
    tasks = tuple(load_task(history_path(folder, i)) for i in range(len(record.tasks)))
    both = zip(tasks, record.tasks, strict=True)
    changed = [known.name for task, known in both if task_fingerprint(task) != known.fingerprint]
    if changed:
        raise CheckpointError(
            f"the history of '{record.folder}' is not what it learned: task(s) "
            f"{', '.join(changed)} differ. Restore {folder.history} from a copy of the run folder, "
            "or report without --single-task"
        )
    facts = read_json(folder.stream)
    return Stream(
        name=facts["name"],
        kind=facts["kind"],
        tasks=tasks,
        metric=record.metric,
        template=record.template,
    )
