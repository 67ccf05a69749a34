"""Where the measured single-task scores lie, and what they belong to.

s0[j], what forward transfer is measured against, is the score of a fresh adapter tuned and tested
on task j alone. It depends on the task's data and on everything that shapes such a run, not on the
stream around the task: so one run of method ``per-task`` on that task, in a folder named after all
of it, serves every run and every stream. ``api.single_task`` makes these runs; here they are found,
without loading a model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from conpet.config.schema import ELSEWHERE, RunConfig, TrainConfig
from conpet.errors import CheckpointError
from conpet.evaluation.collect import RunRecord
from conpet.runtime import RunFolder, read_json

AROUND = ("method", "stream", "replay", "forward_rows", *ELSEWHERE)
"""Keys of a configuration that do not shape what an adapter learns from one task alone."""


def single_task_folder(
    settings: Mapping[str, Any],
    *,
    task: int,
    fingerprint: str,
    metric: str,
    template: str,
    precision: str,
) -> Path:
    """The run folder of one single-task score, whether it is there or not.

    Args:
        settings: the configuration of the run that it is for, nested, as in ``state.json``.
        task: the number of the task in that run, from 1; it decides the learning rate.
        fingerprint: of the task.
        metric, template: of the stream.
        precision: what the run computed in, ``auto`` resolved.

    Raises:
        ValidationError: the settings are of another version of conpet.
    """
    facts = _shared(settings) | {"task": fingerprint, "metric": metric, "template": template}
    facts["precision"] = precision
    train = TrainConfig.model_validate(facts["train"])
    facts["train"] |= {"lr": train.lr_at(task), "lr_from": {}}
    key = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / key


def cache_folder() -> Path:
    """``single-task`` in the user's cache, which XDG_CACHE_HOME moves elsewhere."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return root / "conpet" / "single-task"


def score_in(folder: Path) -> float | None:
    """The score of a single-task run, 0..100; None where it is not there or not finished.

    Raises:
        CheckpointError: its files are damaged.
    """
    run = RunFolder(folder)
    if not run.state.is_file():  # written last
        return None
    try:
        return float(read_json(run.matrix)["values"][0][0])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{run.matrix} is damaged: it holds no score ({error!r}). Delete the folder {folder}; "
            "conpet report RUN --single-task measures it again"
        ) from None


def cached_scores(record: RunRecord) -> list[float | None]:
    """s0 of each learned task of a run, as far as it was measured before; (k,) of 0..100 or None.

    Raises:
        CheckpointError: a score is there and damaged.
    """
    if record.precision is None:
        return [None] * len(record.tasks)
    found: list[float | None] = []
    for number, task in enumerate(record.tasks, start=1):
        try:
            folder = single_task_folder(
                record.settings,
                task=number,
                fingerprint=task.fingerprint,
                metric=record.metric,
                template=record.template,
                precision=record.precision,
            )
        except ValidationError:  # nothing measured today stands for it
            return [None] * len(record.tasks)
        found.append(score_in(folder))
    return found


def _shared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that count, each section complete: a key added later counts by its default."""
    facts: dict[str, Any] = {}
    for name, field in RunConfig.model_fields.items():
        if name in AROUND:
            continue
        adapter = TypeAdapter(cast(Any, field.annotation))
        value = settings.get(name, field.get_default(call_default_factory=True))
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        facts[name] = adapter.dump_python(adapter.validate_python(value), mode="json")
    return facts
