"""Learn the tasks of a stream, one after another: train, evaluate, commit."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from conpet.api.opened import OpenRun, check_room, history_path
from conpet.api.scores import score, summary, text_values, values
from conpet.evaluation.evaluator import Answer, evaluate
from conpet.events import Observer, Observers
from conpet.runtime import (
    peak_memory_bytes,
    read_json,
    reset_peak_memory,
    resolve_device,
    seed_everything,
    set_deterministic,
    write_bytes_atomic,
    write_json_atomic,
)
from conpet.streams import Stream
from conpet.training.history import save_task
from conpet.training.trainer import Cost, Trainer
from conpet.types import Task


def learn_stream(run: OpenRun, stream: Stream, observer: Observer | None = None) -> None:
    """Learn the tasks of ``stream`` behind the learned ones; each is committed when it is done."""
    config, done = run.config, len(run.store.tasks)
    seed_everything(config.seed)
    device = resolve_device(config.device)
    set_deterministic(device)
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may learn twice
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",  # the state casts by itself, in training and at prediction alike
        log_with=list(config.trackers) or None,
        project_dir=str(run.folder.trackers),
    )
    run.state.replay.check(sum(max(1, len(task.labels)) for task in stream.tasks))
    check_room(run, len(stream.tasks))
    run.encode(stream.tasks[done:])
    run.method.check_tasks(run.state, stream.tasks[done:])
    run.state.planned = len(stream.tasks)
    watch = Observers.of_run(run.folder, accelerator, config.trackers, observer)
    with _stop_signals() as stopped, watch:
        watch.run_started(stream.name, len(stream.tasks), done)
        for index in range(done, len(stream.tasks)):
            fingerprint = stream.fingerprints[stream.tasks[index].name]
            save = partial(run.store.save_checkpoint, run.state, task_fingerprint=fingerprint)
            trainer = Trainer(
                run.state,
                run.method,
                accelerator=accelerator,
                observer=watch,
                save=save,
                checkpoint_every=config.checkpoint_every,
                stopped=stopped,
            )
            _learn_task(run, stream, index, trainer, watch)
        watch.run_ended()


def _learn_task(
    run: OpenRun, stream: Stream, index: int, trainer: Trainer, watch: Observers
) -> None:
    """Train on one task, evaluate on all learned ones, commit."""
    task, state = stream.tasks[index], run.state
    state.spec = replace(state.spec, lr=run.config.train.lr_at(index + 1))
    reset_peak_memory(state.device)
    watch.task_started(index + 1, len(stream.tasks), task.name)
    run.add_task(task)
    for warning in _warnings(run):
        watch.note("warning", f"task '{task.name}': {warning}")
    if run.truncated[task.name]:
        watch.note(
            "info",
            f"task '{task.name}': {run.truncated[task.name]} texts were cut to fit the model",
        )
    fingerprint = stream.fingerprints[task.name]
    cost = trainer.learn(run.store.load_checkpoint(state, fingerprint))
    for note in run.method.notes(state):
        watch.note("info", f"task '{task.name}': {note}")
    started = time.perf_counter()
    row: list[float | None] = [None] * (index + 1)
    if run.method.ready(state):
        row = _evaluate(run, stream, index)
    cost.seconds["evaluate"] = time.perf_counter() - started
    record = _record(run, task, fingerprint, cost)
    _commit(run, stream, index, row, record)
    assert run.data is not None
    tests = [len(known.test) for known in run.data]
    watch.task_ended(row, summary(state.task_names, row, tests), record["cost"])


def _evaluate(run: OpenRun, stream: Stream, index: int) -> list[float | None]:
    """Write the predictions of this stage; the new row of the matrix."""
    upto = len(stream.tasks) if run.config.forward_rows else index + 1
    tasks = [*run.state.history]
    for later in range(index + 1, upto):  # measured before they are learned
        tasks.append(run.encode_later(stream.tasks[later], later))
    answers = evaluate(run.state, run.method, tasks, run.memo)
    if stream.free:
        run.memo.save({run.state.cache_key(name) for name in run.state.pool.names})
    lines: list[str] = []
    row: list[float | None] = []
    for task in stream.tasks[:upto]:
        row.append(score(stream.metric, answers[task.name], task.test))
        lines += _lines(stream, task, answers[task.name])
    path = run.folder.predictions / f"{index + 1:02d}.jsonl"
    write_bytes_atomic(path, ("\n".join(lines) + "\n").encode())
    return row


def _lines(stream: Stream, task: Task, answers: Sequence[Answer]) -> Iterator[str]:
    """What was answered to the tests of a task, as JSON."""
    if stream.free:
        beyond = _graded(stream, task, answers)
    else:
        beyond = [{"truth": example.label} for example in task.test]
    for example, a, more in zip(task.test, answers, beyond, strict=True):
        facts: dict[str, Any] = {"id": example.id, "task": task.name}
        facts |= {"label": a.label, "score": a.score, "routed": a.routed, "oracle": a.oracle}
        yield json.dumps(facts | more, ensure_ascii=False)


def _graded(stream: Stream, task: Task, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """What the lines of free answers say besides: right answers, and what was given is worth."""
    worth = values(stream.metric, answers, task.test)
    known = text_values(stream.metric, [a.oracle or "" for a in answers], task.test)
    return [
        {
            "answers": example.answers,
            "value": round(float(value), 6),
            "oracle_value": None if a.oracle is None else round(float(best), 6),
            "routed_by_input": a.routed_by_input,
        }
        for example, a, value, best in zip(task.test, answers, worth, known, strict=True)
    ]


def _record(run: OpenRun, task: Task, fingerprint: str, cost: Cost) -> dict[str, Any]:
    """What ``state.json`` says about a learned task."""
    pool = run.state.pool
    own = [*run.state.buffers.values()]
    own += [tensor for module in run.state.modules.values() for tensor in module.parameters()]
    stored = sum(sum(pool.count(name)) for name in pool.names) + sum(t.numel() for t in own)
    memory = peak_memory_bytes(run.state.device)
    return {
        "name": task.name,
        "fingerprint": fingerprint,
        "labels": list(task.labels),
        "n_train": len(task.train),
        "n_test": len(task.test),
        "truncated": run.truncated[task.name],
        "cost": asdict(cost)
        | {"forward_passes": round(cost.forward_passes, 2)}
        | {"stored_parameters": stored, "peak_memory_bytes": memory},
    }


def _commit(
    run: OpenRun,
    stream: Stream,
    index: int,
    row: list[float | None],
    record: dict[str, Any],
) -> None:
    """Write the task's data and the matrix, then all else; the last rename makes it count."""
    folder, config = run.folder, run.config
    save_task(history_path(folder, index), stream.tasks[index])
    rows = read_json(folder.matrix)["values"] if folder.matrix.exists() else []
    names = [task.name for task in stream.tasks[: len(row)]]
    write_json_atomic(folder.matrix, {"tasks": names, "values": [*rows[:index], row]})
    run.store.commit(
        run.state,
        [*run.store.tasks, record],
        method=config.label,
        stream=stream.name,
        backbone=config.backbone.name,
        seed=config.seed,
        settings=config.identity(),
        stream_fingerprint=stream.fingerprint,
        planned=len(stream.tasks),
    )
    assert run.data is not None
    run.data.append(stream.tasks[index])


def _warnings(run: OpenRun) -> Iterator[str]:
    yield from run.method.warnings(run.state)
    specs = [phase.spec for phase in run.method.phases(run.state)]
    if not len(run.state.task.valid) and any(s.select == "best" and s.epochs for s in specs):
        yield "it has no validation examples; the last state is kept instead of the best"


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM only raise a flag, which training asks for after each step.

    A second one does not wait: what the last checkpoint holds is safe.
    """
    seen: list[int] = []

    def note(number: int, _: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
