"""A run folder with many learned tasks, made without training: what growth is measured on.

Every task has the same texts in the same order, under other ids and labels, so that a batch of one
state has its twin, token for token, in a state with another number of tasks. Adapters, heads and
cached logits are random; everything lies in the folder as a run leaves it there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import begin_run
from torch.nn import functional

from conpet.api.opened import OpenRun, history_path, open_run
from conpet.config import load_config
from conpet.methods.base import RowBatches, State
from conpet.methods.conpet_dynamic import SELECTOR
from conpet.runtime import RunFolder, rng
from conpet.streams import load_stream
from conpet.training.history import save_task
from conpet.types import Batch, Example, Task

HALF = 16  # new examples of a batch, and old ones


class EqualTasks:
    """As many tasks as wanted, all with the texts of BANKING77's first task (11 labels).

    Attributes:
        size: examples of a task.
        n_train: how many of them are for training; they come first.
    """

    def __init__(self, train: int, valid: int, test: int) -> None:
        """So many examples a class."""
        stream = load_stream(
            "banking77", train_per_class=train, valid_per_class=valid, test_per_class=test
        )
        self.first = stream.tasks[0]
        self.n_train = len(self.first.train)
        self.size = self.n_train + len(self.first.valid) + len(self.first.test)

    def task(self, index: int) -> Task:
        """The ``index``-th task, from 0."""

        def renamed(examples: Sequence[Example]) -> tuple[Example, ...]:
            return tuple(
                replace(e, id=f"{index}-{e.id}", label=f"{index}-{e.label}") for e in examples
            )

        return Task(
            f"task-{index:04d}",
            tuple(f"{index}-{label}" for label in self.first.labels),
            renamed(self.first.train),
            renamed(self.first.valid),
            renamed(self.first.test),
        )

    def batches(self, state: State, n: int, *, old: bool = True) -> RowBatches:
        """``n`` batches for the newest task: half new, half old, or all new; no example twice.

        The old half takes the learned tasks in turn. Twins in all states.
        """
        newest, width = len(state.history) - 1, HALF if old else 2 * HALF
        assert n * width <= self.n_train
        draw = rng(1, "batches")
        new, known = draw.permutation(self.n_train), draw.permutation(self.n_train)
        rows = []
        for start in range(0, n * width, width):
            chosen = [newest * self.size + new[start : start + width]]
            if old:
                turn = np.arange(start, start + HALF) % newest
                chosen.append(turn * self.size + known[start : start + HALF])
            rows.append(np.concatenate(chosen))
        return RowBatches(state, task=rows)


def build(path: Path, n: int, tasks: EqualTasks, words: Sequence[str]) -> None:
    """A run folder that has learned ``n`` tasks with conpet-dynamic."""
    run = begin_run(path, words)
    records: list[dict[str, Any]] = []
    with unsynced():
        for index in range(n):
            task = tasks.task(index)
            run.add_task(task)
            _add_frozen(run.state, task.name, len(task.labels), "task")
            save_task(history_path(run.folder, index), task)
            records.append(record_of(task))
            known = run.state.task.valid
            logits = torch.randn(len(known), len(task.labels)).numpy()
            run.state.logits.put(run.state.cache_key(task.name), known, logits)
        if n > 1:
            _add_frozen(run.state, SELECTOR, n, "selector")
        run.store.commit(run.state, records, planned=n + 1)


def grow(path: Path, n: int, tasks: EqualTasks, words: Sequence[str]) -> None:
    """A run folder that has learned ``n`` tasks with any method: all that its phases begin and end
    with, and no step between."""
    run = begin_run(path, words)
    records: list[dict[str, Any]] = []
    with unsynced():
        for index in range(n):
            task = tasks.task(index)
            run.add_task(task)
            for phase in run.method.phases(run.state):
                phase.begin(run.state)
                phase.end(run.state)
            save_task(history_path(run.folder, index), task)
            records.append(record_of(task))
        run.store.commit(run.state, records, planned=n + 1)


@contextmanager
def unsynced() -> Iterator[None]:
    """While it is open, files are not forced to the disk: a folder that is thrown away."""
    sync = os.fsync
    os.fsync = lambda handle: None
    try:
        yield
    finally:
        os.fsync = sync


def record_of(task: Task) -> dict[str, Any]:
    """What a run's state says of a learned task."""
    record = {"name": task.name, "fingerprint": task.name, "labels": list(task.labels)}
    return record | {"n_train": len(task.train), "n_test": len(task.test)}


def learning(path: Path, tasks: EqualTasks) -> OpenRun:
    """The folder as a run opens it to learn one task more, which is the newest of its history."""
    folder = RunFolder(path)
    run = open_run(folder, load_config(folder.config), with_data=True)
    task = tasks.task(len(run.state.history))
    run.add_task(task)
    run.store.load_checkpoint(run.state, task.name)
    return run


def commit(run: OpenRun) -> None:
    """Make the newest task a learned one."""
    task = run.state.task
    record = {"name": task.name, "fingerprint": task.name, "labels": list(task.labels)}
    run.store.commit(run.state, [*run.store.tasks, record], planned=len(run.state.history))


def spread_selector(state: State, *, newest: bool) -> None:
    """Give the selector a text of its own for each task: it then names many tasks in a batch.

    Without ``newest`` the newest task is never named.
    """
    n = len(state.history)
    rows = state.task.train[np.linspace(0, len(state.task.train) - 1, n).astype(int)]
    name_by_text(state, rows if newest else rows[:-1])


def name_by_text(state: State, rows: np.ndarray) -> None:
    """Let the selector name the t-th task where an input is nearest to the text of the t-th row.

    logit_t = -|h - h_t|^2 / 2 up to a constant, with h_t the feature of task t's text. A task
    without a row is never named.
    """
    h = torch.from_numpy(state.features(rows, SELECTOR))  # (n, d)
    missing = len(state.history) - len(h)
    tensors = state.pool.tensors(SELECTOR)
    tensors["head.weight"] = functional.pad(h, (0, 0, 0, missing))
    tensors["head.bias"] = functional.pad(-h.square().sum(dim=1) / 2, (0, missing), value=-1e4)
    state.pool.load_tensors(SELECTOR, tensors)


def unknown(batch: Batch) -> Batch:
    """The same examples as if they were not stored: no cache knows them."""
    return replace(batch, rows=torch.full_like(batch.rows, -1))


def _add_frozen(state: State, name: str, n_classes: int, role: str) -> None:
    """An adapter as if it were trained: its second factors are not zero any more."""
    state.pool.add(name, seed=1, n_classes=n_classes, role=role)
    tensors = state.pool.tensors(name)
    for key in tensors:
        if key.endswith(".B"):
            tensors[key].normal_(std=0.01)
    state.pool.load_tensors(name, tensors)
    state.pool.freeze(name)
