"""Zero-shot: what a run makes of tasks that it has not learned, and its plain backbone of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from conpet.api.asking import Inputs, answering
from conpet.api.opened import OpenRun
from conpet.api.scores import score, summary
from conpet.config import RunConfig
from conpet.errors import ConfigError
from conpet.events import Observer
from conpet.methods.base import Method, Phase, State
from conpet.registry import STREAMS
from conpet.routing.base import plain
from conpet.runtime import read_json
from conpet.streams import Stream, load_stream
from conpet.streams.instruction import format_of
from conpet.types import Batch, Example, Routing, Task

TOLD = 3  # tasks in an error


class PlainBackbone(Method):
    """The backbone without an adapter: zero routing."""

    answers: ClassVar[tuple[str, ...]] = ("text",)

    def phases(self, state: State) -> Sequence[Phase]:
        return ()

    def route(self, state: State, batch: Batch) -> Routing:
        return plain(len(batch), state.device)


def load_others(
    config: RunConfig,
    source: str | Path | Stream,
    *,
    fields: Mapping[str, Any],
    data: str | Path | None = None,
    preset: str | None = None,
    only: Sequence[str] | None = None,
) -> Stream:
    """The stream of other tasks, drawn by the seed of the run's own.

    Args:
        fields: the run's own columns, for a table.
        preset: None: the run's own preset and cuts.

    Raises as ``load_stream``, and
        ConfigError: its answers are classes.
    """
    if isinstance(source, Stream):
        stream = source if only is None else source.subset(only)
    else:
        c = config.stream
        settings: dict[str, Any] = {"preset": preset}
        if preset is None:
            sizes = ("train_per_class", "valid_per_class", "test_per_class")
            settings = {key: getattr(c, key) for key in ("preset", *sizes)}
        if data is None and c.data is not None and Path(c.data).is_dir():
            data = c.data
        stream = load_stream(
            source,
            data=data,
            seed=c.seed,
            valid="carve",  # it is not looked at; in some public data it is the test part
            fields=(fields or None) if _is_table(source) else None,
            only=only,
            **settings,
        )
    if not stream.free:
        raise ConfigError(
            f"stream '{stream.name}' has class labels, and a run cannot answer with labels that it "
            "has not learned; give a stream of instruction tasks, or learn the labels: conpet "
            "learn RUN DATA"
        )
    return stream


def source_of(source: str | Path | Stream) -> str | None:
    """What tells streams of one name apart: the registered name, or the path; None of a ``Stream``,
    whose name is the caller's to choose."""
    if isinstance(source, Stream):
        return None
    return str(source) if source in STREAMS else str(Path(source).expanduser().resolve())


def check_same_source(file: Path, stream: str, source: str | None) -> None:
    """ConfigError where ``file`` holds the scores of another stream that is called the same."""
    known = read_json(file).get("source") if file.is_file() else None
    if known and source and known != source:
        raise ConfigError(
            f"'{file}' holds the scores on '{known}', and '{source}' is called '{stream}' as well; "
            "nothing was measured. Rename these data, or remove that file to have its scores "
            "replaced"
        )


def _is_table(source: str | Path) -> bool:
    """A data file or folder that says nothing of its own columns."""
    path = Path(source).expanduser()
    if source in STREAMS or path.suffix.lower() in (".yaml", ".yml") or not path.exists():
        return False
    return format_of(path) is None


def split_off(stream: Stream, learned: Sequence[Task], prints: Mapping[str, str]) -> dict[str, str]:
    """The tasks of a stream that are not unseen, and why.

    One is learned if it has name and fingerprint of a learned task, or if a prompt of it
    (instruction and input, in any part) is one of a learned task's, under whatever name.

    Args:
        prints: fingerprint of each learned task.
    """
    known = {_prompt(e): task.name for task in learned for e in _examples(task)}
    left_out = {}
    for task in stream.tasks:
        if prints.get(task.name) == stream.fingerprints[task.name]:
            left_out[task.name] = "learned by this run"
            continue
        shared = [known[p] for e in _examples(task) if (p := _prompt(e)) in known]
        if shared:
            total = sum(1 for _ in _examples(task))
            left_out[task.name] = (
                f"{len(shared)} of its {total} examples are of the learned task '{shared[0]}'"
            )
    return left_out


def _examples(task: Task) -> tuple[Example, ...]:
    return (*task.train, *task.valid, *task.test)


def _prompt(example: Example) -> tuple[str, str]:
    return example.instruction, example.text


def evaluate_unseen(
    run: OpenRun,
    stream: Stream,
    prints: Mapping[str, str],
    observer: Observer | None = None,
) -> dict[str, Any]:
    """The tests of the tasks of ``stream`` that the run has not learned, answered by its own
    routing and by its plain backbone, in prompts of the run's template.

    Args:
        prints: fingerprint of each learned task.

    Returns:
        ``stream``, ``fingerprint``, ``metric`` (the stream's), ``learned``, ``left_out`` (task:
        why), ``tasks``, ``row``, ``n_test``, ``average``, ``whole``, and of the ``backbone``
        ``row``, ``average`` and ``whole``, as plain JSON values.

    Raises:
        ConfigError: all its tasks are learned.
    """
    assert run.data is not None
    left_out = split_off(stream, run.data, prints)
    tasks = [task for task in stream.tasks if task.name not in left_out]
    if not tasks:
        told = [f"'{name}': {why}" for name, why in left_out.items()]
        more = f"; and {len(told) - TOLD} more" if len(told) > TOLD else ""
        raise ConfigError(
            f"of stream '{stream.name}' no task is left; {'; '.join(told[:TOLD])}{more}. Give "
            "tasks that the run has not learned; those that it has are measured by: conpet eval "
            f"{run.folder.path}"
        )
    observer = observer or Observer()
    observer.run_started(stream.name, len(tasks), 0)
    ways = {"answers": run.method, "plain backbone": PlainBackbone()}
    rows: dict[str, list[float]] = {way: [] for way in ways}
    for index, task in enumerate(tasks, start=1):
        observer.task_started(index, len(tasks), task.name)
        inputs = Inputs(run.state, task.test)
        for way, method in ways.items():
            answers = inputs.ask(answering(run.state, method), observer, way)
            rows[way].append(score(stream.metric, answers, task.test))
        both = {way: row[-1] for way, row in rows.items()}
        observer.task_ended([], both, {})
    names, n_test = [task.name for task in tasks], [len(task.test) for task in tasks]
    mine, reference = (summary(names, row, n_test) for row in rows.values())
    measured = replace(stream, tasks=tuple(tasks))
    return {
        "stream": stream.name,
        "fingerprint": measured.fingerprint,
        "metric": stream.metric,
        "learned": list(run.state.task_names),
        "left_out": left_out,
        **mine,
        "backbone": {key: reference[key] for key in ("row", "average", "whole")},
    }
