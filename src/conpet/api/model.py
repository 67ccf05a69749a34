"""What was learned, and the verbs on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from conpet.api.asking import Inputs, Said, answering, as_examples, routing
from conpet.api.learning import learn_stream
from conpet.api.opened import OpenRun, open_run
from conpet.api.scores import score, summary
from conpet.api.top_k import check_top_k, evaluate_top_k
from conpet.api.unseen import check_same_source, evaluate_unseen, load_others, source_of
from conpet.config import RunConfig
from conpet.errors import CheckpointError, ConfigError, DataError
from conpet.evaluation.evaluator import evaluate, to_predictions
from conpet.events import Observer
from conpet.methods.base import Method, State
from conpet.runtime import RunFolder, read_json, write_json_atomic
from conpet.streams import Stream, load_stream
from conpet.streams.base import Kind
from conpet.training.store import RunStore
from conpet.types import AccuracyMatrix, Batch, Example, Prediction, Task


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
        examples = as_examples(inputs)
        answers = self._ask(examples, answering)
        return to_predictions(answers, [example.id for example in examples])

    def route(self, inputs: Sequence[str | Example]) -> list[dict[str, float]]:
        """The weight of each learned task in answering an input, largest first.

        Mixed adapters have the weights of the mixture; a selector gives its probabilities of the
        tasks that it chooses, and 0 to the others. The dicts are empty where nothing is routed, as
        one adapter answers for all tasks. Returns one an input, in order.
        """
        return self._ask(as_examples(inputs), routing)

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

    def evaluate_top_k(
        self, top_k: Sequence[int | str], *, observer: Observer | None = None
    ) -> dict[str, Any]:
        """Answer all tests anew with other numbers of adapters (``all``: every one): scores, and
        the seconds that it took. Written to ``top_k.json``, where reports find it.

        Raises:
            ConfigError: the method has no option ``top_k``, or a number is out of range.
        """
        wanted = check_top_k(self.config.method.name, self.method, top_k, len(self.tasks))
        run = self._open(with_data=True)
        self._check_ready(run.state)
        metric = read_json(self.folder.stream)["metric"]
        result = evaluate_top_k(run, metric, wanted, observer)
        write_json_atomic(self.folder.top_k, result)
        return result

    def evaluate_unseen(
        self,
        source: str | Path | Stream,
        *,
        data: str | Path | None = None,
        preset: str | None = None,
        only: Sequence[str] | None = None,
        observer: Observer | None = None,
    ) -> dict[str, Any]:
        """Answer the tests of tasks that were not learned (zero-shot), as the run would and with
        the plain backbone. Written to ``unseen/STREAM.json``, where reports find it.

        Args:
            source: a stream, or the name or path of one; its learned tasks are left out.
            data: the folder of a named stream's files, where it is no longer the run's own.
            preset: None takes the run's own preset and cuts.
            only: the tasks to answer, by name.

        Raises:
            ConfigError: the answers are classes, not free text; or all tasks are learned; or the
                file holds the scores of other data of that name.
        """
        self._check_no_task_needed()
        if not read_json(self.folder.stream).get("template"):
            raise ConfigError(
                f"run '{self.folder.path}' answers with the class labels that it has learned; "
                "those of other tasks are not among them, so that every answer would be wrong. "
                "Tasks that were not learned can be answered by runs on streams of instruction "
                "tasks; to learn more labels: conpet learn RUN DATA"
            )
        stream = load_others(
            self.config, source, fields=self.fields, data=data, preset=preset, only=only
        )
        file, origin = self.folder.unseen_of(stream.name), source_of(source)
        check_same_source(file, stream.name, origin)
        run = self._open(with_data=True)
        self._check_ready(run.state)
        prints = {task["name"]: task["fingerprint"] for task in self.store.tasks}
        result = evaluate_unseen(run, stream, prints, observer) | {"source": origin}
        write_json_atomic(file, result)
        return result

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

    def _ask(
        self,
        examples: Sequence[Example],
        how: Callable[[State, Method], Callable[[Batch], Sequence[Said]]],
    ) -> list[Said]:
        """What the run says of new inputs, in their order."""
        self._check_no_task_needed()
        state = self._open(with_data=False).state
        self._check_ready(state)
        inputs = Inputs(state, examples)
        return inputs.ask(how(state, self.method))

    def _check_no_task_needed(self) -> None:
        if self.method.needs_task_id:
            raise ConfigError(
                f"method '{self.config.method.name}' answers only when it is told the task, which "
                "a new input does not say; predict with conpet-dynamic, joint or another method"
            )

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
        if self._run is None:
            self._refresh()
        if self._run is None or (with_data and self._run.data is None):
            self._run = open_run(self.folder, self.config, with_data=with_data)
        return self._run
