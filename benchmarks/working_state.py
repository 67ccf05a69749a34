"""A run folder with many learned tasks, made without training: what growth is measured on.

Every task has the same texts in the same order, under other ids and labels, so that a batch of one
state has its twin, token for token, in a state with another number of tasks. Adapters, heads and
cached logits are random; everything lies in the folder as a run leaves it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import begin_run

from conpet.api.opened import OpenRun, history_path, open_run
from conpet.config import load_config
from conpet.methods.base import RowBatches, State
from conpet.methods.conpet_dynamic import SELECTOR
from conpet.runtime import RunFolder, rng
from conpet.streams import load_stream
from conpet.training.history import save_task
from conpet.types import Example, Task

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

    def batches(self, state: State, n: int) -> RowBatches:
        """``n`` batches for the newest task: half new, half old, no example twice.

        The old half takes the learned tasks in turn. Twins in all states.
        """
        assert n * HALF <= self.n_train
        newest = len(state.history) - 1
        draw = rng(1, "batches")
        new, old = draw.permutation(self.n_train), draw.permutation(self.n_train)
        rows = [
            np.concatenate(
                [
                    newest * self.size + new[start : start + HALF],
                    np.arange(start, start + HALF) % newest * self.size + old[start : start + HALF],
                ]
            )
            for start in range(0, n * HALF, HALF)
        ]
        return RowBatches(state, task=rows)


def build(path: Path, n: int, tasks: EqualTasks, words: Sequence[str]) -> None:
    """A run folder that has learned ``n`` tasks with conpet-dynamic."""
    run = begin_run(path, words)
    records: list[dict[str, Any]] = []
    for index in range(n):
        task = tasks.task(index)
        run.add_task(task)
        _add_frozen(run.state, task.name, len(task.labels), "task")
        save_task(history_path(run.folder, index), task)
        record = {"name": task.name, "fingerprint": task.name, "labels": list(task.labels)}
        records.append(record | {"n_train": len(task.train), "n_test": len(task.test)})
        known = run.state.task.valid
        logits = torch.randn(len(known), len(task.labels)).numpy()
        run.state.logits.put(run.state.cache_key(task.name), known, logits)
    if n > 1:
        _add_frozen(run.state, SELECTOR, n, "selector")
    run.store.commit(run.state, records, planned=n + 1)


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

    logit_t = -|h - h_t|^2 / 2 up to a constant, with h_t the feature of task t's text. Without
    ``newest`` the newest task is never named.
    """
    n = len(state.history)
    rows = state.task.train[np.linspace(0, len(state.task.train) - 1, n).astype(int)]
    h = torch.from_numpy(state.features(rows, SELECTOR))  # (T, d)
    tensors = state.pool.tensors(SELECTOR)
    tensors["head.weight"], tensors["head.bias"] = h, -h.square().sum(dim=1) / 2
    if not newest:
        tensors["head.bias"][-1] = -1e4
    state.pool.load_tensors(SELECTOR, tensors)


def _add_frozen(state: State, name: str, n_classes: int, role: str) -> None:
    """An adapter as if it were trained: its second factors are not zero any more."""
    state.pool.add(name, seed=1, n_classes=n_classes, role=role)
    tensors = state.pool.tensors(name)
    for key in tensors:
        if key.endswith(".B"):
            tensors[key].normal_(std=0.01)
    state.pool.load_tensors(name, tensors)
    state.pool.freeze(name)
