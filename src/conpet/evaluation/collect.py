"""Read a run folder for the report: what was run, its matrix, its last predictions, its costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from conpet.errors import CheckpointError
from conpet.evaluation.continual import Outcome
from conpet.runtime import RunFolder, read_json
from conpet.types import AccuracyMatrix


class Cost(BaseModel):
    """What learning one task took; None where it was not measured.

    Attributes:
        seconds: by phase, e.g. selector, adapter, evaluate.
        steps: optimiser steps.
        examples: training examples seen, repeats counted.
        forward_passes: examples sent through the backbone; through some of its layers, a share.
        tuned_parameters: trained for this task.
        stored_parameters: kept by the run after this task, the backbone not counted.
        peak_memory_bytes: largest memory of the process or device while learning.
    """

    model_config = ConfigDict(frozen=True)

    seconds: dict[str, float] = Field(default_factory=dict)
    steps: int | None = None
    examples: int | None = None
    forward_passes: float | None = None
    tuned_parameters: int | None = None
    stored_parameters: int | None = None
    peak_memory_bytes: int | None = None


class LearnedTask(BaseModel):
    """One task that a run has learned; ``fingerprint`` is empty in folders that lack it."""

    model_config = ConfigDict(frozen=True)

    name: str
    fingerprint: str = ""
    labels: tuple[str, ...]
    n_test: int = Field(ge=0)
    cost: Cost = Cost()


class _StateFile(BaseModel):
    method: str
    stream: str
    backbone: str
    seed: int
    settings: dict[str, Any] = Field(default_factory=dict)
    stream_fingerprint: str
    planned: int
    tasks: tuple[LearnedTask, ...] = Field(min_length=1)


class _MatrixFile(BaseModel):
    tasks: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


class _StreamFile(BaseModel):
    metric: str = "accuracy"
    template: str = ""


class _EnvironmentFile(BaseModel):
    precision: str | None = None


def _with_truth(line: Any) -> Any:
    """A line about a free answer may leave the true label out: there is none."""
    return {"truth": None} | line if isinstance(line, dict) else line


Model = TypeVar("Model", bound=BaseModel)
_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Annotated[Outcome, BeforeValidator(_with_truth)])


@dataclass(frozen=True)
class RunRecord:
    """A run as the report sees it.

    Attributes:
        folder: where it was read.
        settings: all values that shape the run, nested as in its configuration.
        tasks: the k tasks learned so far.
        n_tasks: how many tasks the stream has.
        matrix: (k, k), over the learned tasks only.
        outcomes: the test examples of all learned tasks, judged after the last of them; empty if
            that was not measured, as before the last task of a method that learns all at once.
        metric: what the scores are measured by, a name of the METRICS registry.
        template: what makes a prompt of instruction and input; empty where answers are labels.
        precision: what ``precision: auto`` stood for; None in folders that do not say it.
    """

    folder: Path
    method: str
    stream: str
    backbone: str
    seed: int
    settings: dict[str, Any]
    stream_fingerprint: str
    tasks: tuple[LearnedTask, ...]
    n_tasks: int
    matrix: AccuracyMatrix
    outcomes: tuple[Outcome, ...] = field(repr=False)
    metric: str = "accuracy"
    template: str = ""
    precision: str | None = None

    @property
    def finished(self) -> bool:
        return len(self.tasks) >= self.n_tasks

    @property
    def told(self) -> bool:
        """Whether the task of every input was known when it was answered."""
        return self.method == "per-task" or self.method.endswith("(task-id)")

    @property
    def free(self) -> bool:
        """Whether the answers are free text, not class labels."""
        return bool(self.template) or any(outcome.answers for outcome in self.outcomes)

    @property
    def n_test(self) -> tuple[int, ...]:
        """Test examples of each learned task, (k,)."""
        return tuple(task.n_test for task in self.tasks)

    def scores(self, stage: int = -1) -> np.ndarray:
        """(i + 1,) the scores on the tasks learned by a stage, from 0; -1 is the last."""
        return self.matrix.values[stage, : stage % len(self.tasks) + 1]


def collect(folder: Path | str) -> RunRecord:
    """Read one run folder. A run that is not finished gives what it has.

    Raises:
        CheckpointError: the folder is no run folder, has no learned task, or is damaged.
    """
    run = RunFolder(Path(folder))
    if not run.state.is_file():
        raise CheckpointError(
            f"'{folder}' is no run folder with a learned task (state.json is missing); give the "
            "--out folder of a conpet run"
        )
    state = read_as(run.state, _StateFile)
    learned = [task.name for task in state.tasks]
    matrix = _matrix(run.matrix, learned)
    measured = not np.isnan(matrix.values[-1]).all()
    stream = _read_if_there(run.stream, _StreamFile)
    return RunRecord(
        folder=run.path,
        method=state.method,
        stream=state.stream,
        backbone=state.backbone,
        seed=state.seed,
        settings=state.settings,
        stream_fingerprint=state.stream_fingerprint,
        tasks=state.tasks,
        n_tasks=state.planned,
        matrix=matrix,
        outcomes=read_outcomes(run, len(learned), learned) if measured else (),
        metric=stream.metric,
        template=stream.template,
        precision=_read_if_there(run.environment, _EnvironmentFile).precision,
    )


def _matrix(path: Path, learned: list[str]) -> AccuracyMatrix:
    """The matrix over the learned tasks; columns of later tasks are left out."""
    k = len(learned)
    file = read_as(path, _MatrixFile)
    if list(file.tasks[:k]) != learned:
        raise CheckpointError(
            f"'{path}' does not fit to state.json: it is about {list(file.tasks)}, and the learned "
            f"tasks are {learned}. Run it again in a new folder, or leave it out"
        )
    if len(file.values) < k:
        raise _damaged(path, f"it has {len(file.values)} rows for {k} learned tasks")
    rows = [row[:k] for row in file.values[:k]]
    return AccuracyMatrix.from_rows(learned, rows)


def read_outcomes(run: RunFolder, stage: int, tasks: Iterable[str]) -> tuple[Outcome, ...]:
    """The test answers given after learning task number ``stage``, from 1, to those of ``tasks``.

    Raises:
        CheckpointError: the file of that stage is missing or damaged.
    """
    path = run.predictions / f"{stage:02d}.jsonl"
    outcomes, wanted = [], set(tasks)
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        try:
            outcomes.append(_OUTCOME.validate_json(line))
        except ValidationError as error:
            raise _damaged(path, f"line {number}: {_first(error)}") from error
    return tuple(o for o in outcomes if o.task in wanted)  # later tasks may be tested in advance


def read_as(path: Path, model: type[Model]) -> Model:
    """A JSON file of a run as ``model``; CheckpointError where it does not fit."""
    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        raise _damaged(path, _first(error)) from error


def _read_if_there(path: Path, model: type[Model]) -> Model:
    return read_as(path, model) if path.is_file() else model()


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, e.g. ``tasks.0.n_test: Input should be a valid integer``."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]


def _damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"'{path}' is damaged: {problem}. Run it again in a new folder, or leave it out"
    )
