"""What was learned, and the verbs on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from conpet.api.learning import learn_stream
from conpet.api.opened import OpenRun, open_run
from conpet.api.scores import score, summary
from conpet.config import RunConfig
from conpet.encoding.encode import TokenStore
from conpet.errors import CheckpointError, ConfigError, DataError
from conpet.evaluation.evaluator import Answer, answer, evaluate, to_predictions
from conpet.events import Observer
from conpet.methods.base import State
from conpet.runtime import RunFolder, read_json, write_json_atomic
from conpet.streams import Stream, load_stream
from conpet.streams.base import Kind
from conpet.training.store import RunStore
from conpet.types import AccuracyMatrix, Example, Prediction, Task


class ContinualModel:
    """A run folder, opened: what was learned, and the verbs on it.

    Attributes:
        folder: every path of the run.
        config: the run's configuration.
    """

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self.folder = folder
        self.config = config
        self.store = RunStore(folder)
        self.method = config.build_method()
        self._run: OpenRun | None = None

    # What is known -------------------------------------------------------------------------------

    @property
    def tasks(self) -> tuple[str, ...]:
        """The learned tasks, in order."""
        return tuple(task["name"] for task in self.store.tasks)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that it can answer with, in learning order."""
        return tuple(label for task in self.store.tasks for label in task["labels"])

    @property
    def matrix(self) -> AccuracyMatrix:
        """R[i, j] in percent: accuracy on task j after learning task i."""
        rows = read_json(self.folder.matrix)["values"][: len(self.tasks)]
        return AccuracyMatrix.from_rows(self.tasks, [row[: len(self.tasks)] for row in rows])

    @property
    def fields(self) -> dict[str, Any]:
        """The columns in which the run's data differ from the defaults of ``load_stream``."""
        return dict(read_json(self.folder.stream).get("fields", {}))

    # Verbs ---------------------------------------------------------------------------------------

    def predict(self, inputs: Sequence[str | Example]) -> list[Prediction]:
        """Answer texts (or examples with entity spans or an instruction), without knowing their
        tasks.

        Returns one prediction an input, in order.
        """
        if self.method.needs_task_id:
            raise ConfigError(
                f"method '{self.config.method.name}' answers only when it is told the task, which "
                "a new input does not say; predict with conpet-dynamic, joint or another method"
            )
        examples = [
            e if isinstance(e, Example) else Example(str(i), e) for i, e in enumerate(inputs)
        ]
        state = self._open(with_data=False).state
        self._check_ready(state)
        scratch = TokenStore(state.store.encoder)
        rows = scratch.add(examples)
        by_place: dict[int, Answer] = {}
        size = self.config.train.eval_batch_size
        order = rows[np.argsort(scratch.lengths[rows], kind="stable")]
        for i in range(0, len(order), size):
            batch = scratch.batch(order[i : i + size]).to(state.device)
            places = batch.rows.tolist()
            unseen = replace(batch, rows=torch.full_like(batch.rows, -1))  # no cache knows them
            for place, found in zip(places, answer(state, self.method, [unseen]), strict=True):
                by_place[place] = found
        return to_predictions([by_place[int(row)] for row in rows], [e.id for e in examples])

    def evaluate(self) -> dict[str, Any]:
        """Answer all tests again, from the folder: the last row of the matrix and its averages."""
        run = self._open(with_data=True)
        self._check_ready(run.state)
        tests = [task.test for task in run.data or []]
        answers = evaluate(run.state, self.method, run.state.history)
        metric = read_json(self.folder.stream)["metric"]
        row = [
            score(metric, answers[name], test) for name, test in zip(self.tasks, tests, strict=True)
        ]
        return summary(self.tasks, row, [len(test) for test in tests])

    def learn(
        self,
        source: str | Path | Stream | Task,
        *,
        data: str | Path | None = None,
        observer: Observer | None = None,
    ) -> ContinualModel:
        """Learn more: a task, a data file with new labels, or a stream that extends the run's.

        ``data`` is the folder of a named stream's files, where it is no longer the run's own.
        """
        with self.folder.locked():
            self._refresh()
            facts = read_json(self.folder.stream)
            stream = self._as_stream(source, facts, data)
            if stream.kind != facts["kind"]:
                raise DataError(
                    f"'{stream.name}' holds examples of kind '{stream.kind}', and the run learned "
                    f"'{facts['kind']}'; give examples of the same kind: labels with as many "
                    "entity spans, or instructions with answers"
                )
            learned = {task["name"]: task["fingerprint"] for task in self.store.tasks}
            missing = [name for name in facts["fingerprints"] if name not in learned]
            if missing and not stream.extends(facts["fingerprints"]):
                raise CheckpointError(
                    f"the run has yet to learn {', '.join(missing)} of its own stream. Finish it "
                    f"first: conpet run with its configuration, --out {self.folder.path}"
                )
            if not stream.extends(learned):
                prints = stream.fingerprints  # some may be learned already: the rest after a crash
                new = [task for task in stream.tasks if prints[task.name] != learned.get(task.name)]
                stream = replace(stream, tasks=(*self._learned_tasks(), *new))
            own = {key: facts[key] for key in ("name", "metric", "attribution")}
            own["template"] = facts.get("template", "")
            stream = replace(stream, **own)  # more of the run's stream, whatever the file is called
            self.learn_stream(stream, observer)
            write_json_atomic(
                self.folder.stream, facts | {"fingerprints": dict(stream.fingerprints)}
            )
        return self

    def learn_stream(self, stream: Stream, observer: Observer | None = None) -> None:
        """Learn the tasks of a stream that come after the learned ones; the folder is locked."""
        self.store.finish_commit()
        if len(self.tasks) >= len(stream.tasks):
            return
        run = self._open(with_data=True)
        self._run = None  # half-learned until it is done; then the folder knows best
        learn_stream(run, stream, observer)
        self.store, self._run = run.store, run

    # Inside --------------------------------------------------------------------------------------

    def _check_ready(self, state: State) -> None:
        if not self.method.ready(state):
            raise ConfigError(
                f"method '{self.config.method.name}' answers only after the last task; this "
                f"run has learned {len(self.tasks)}; resume it first (same conpet run again)"
            )

    def _refresh(self) -> None:
        """Another process may have learned more since the folder was opened."""
        store = RunStore(self.folder)
        if store.record != self.store.record:
            self.store, self._run = store, None

    def _as_stream(
        self,
        source: str | Path | Stream | Task,
        facts: Mapping[str, Any],
        data: str | Path | None,
    ) -> Stream:
        """``source`` as a stream; files are read with the settings of the run's own stream."""
        kind = cast(Kind, facts["kind"])
        if isinstance(source, Stream):
            return source
        template = facts.get("template", "")
        if isinstance(source, Task):
            return Stream(source.name, kind, (source,), facts["metric"], template=template)
        c = self.config.stream
        if data is None and c.data is not None and Path(c.data).is_dir():
            data = c.data
        settings: dict[str, Any] = {
            "data": data,
            "preset": c.preset,
            "seed": c.seed,
            "train_per_class": c.train_per_class,
            "valid_per_class": c.valid_per_class,
            "test_per_class": c.test_per_class,
            "fields": self.fields,
            "valid": c.valid,
        }
        stream = load_stream(str(source), **settings)
        known = {label for task in self.store.tasks for label in task["labels"]}
        if c.groups is not None and known & set(stream.labels):  # the run's stream, grown longer
            stream = load_stream(str(source), **settings, groups=c.groups)
        names = [task.name for task in stream.tasks]
        if set(self.tasks) <= set(names):  # learned tasks first, in the order of the run
            order = [*self.tasks, *(name for name in names if name not in self.tasks)]
            stream = stream.reorder(order)
        return stream

    def _learned_tasks(self) -> list[Task]:
        return self._open(with_data=True).data or []

    def _open(self, *, with_data: bool) -> OpenRun:
        if self._run is None or (with_data and self._run.data is None):
            self._run = open_run(self.folder, self.config, with_data=with_data)
        return self._run
