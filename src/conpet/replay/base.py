"""The contract of replay, and the samplers that its kinds share.

Replay turns the tasks learned so far into batches of token-store rows. ``tasks[-1]`` is the task
that is being learned (new); the others are old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal, Protocol

import numpy as np

from conpet.encoding.encode import EncodedTask, length_buckets
from conpet.errors import ConfigError

Rows = np.ndarray
Tasks = Sequence[EncodedTask]
FeatureKind = Literal["hidden", "logits"]
Draws = Callable[[], Rows]
"""The rows of a stage's batches, repeats included; drawn when it is called."""
Look = Callable[[Rows, FeatureKind], np.ndarray]
"""Rows (n,) -> what the model makes of them: hidden states at the read-out (n, d), or the logits of
the head (n, C)."""


class Replay(Protocol):
    """Old and new examples, mixed. All draws depend on the given generator alone."""

    def check(self, n_classes: int) -> None:
        """Raise ConfigError where it cannot serve a stream of so many classes.

        Asked before anything is learned.
        """
        ...

    def batches(
        self, tasks: Tasks, lengths: np.ndarray, batch_size: int, rng: np.random.Generator
    ) -> list[Rows]:
        """The training batches of one epoch."""
        ...

    def validation(self, tasks: Tasks, batch_size: int, rng: np.random.Generator) -> Rows:
        """The rows that every epoch of this stage is validated on."""
        ...

    def reference(self, tasks: Tasks, drawn: Draws, rng: np.random.Generator) -> Rows:
        """The rows, each once, that stand for the classes of ``tasks``: prototypes and the like are
        made of them. The exemplars, or without a memory what is ``drawn`` in this stage."""
        ...

    def rehearsal(
        self,
        tasks: Tasks,
        rows: Rows,
        lengths: np.ndarray,
        batch_size: int,
        rng: np.random.Generator,
    ) -> list[Rows]:
        """Training batches of one epoch made of reference ``rows`` alone."""
        ...

    def keep(self, tasks: Tasks, look: Look, rng: np.random.Generator) -> None:
        """Called once the newest of ``tasks`` is learned: choose what is kept of it."""
        ...

    def held(self) -> dict[str, list[int]]:
        """What has to be saved: task name -> positions in the task's training part."""
        ...

    def hold(self, kept: dict[str, list[int]]) -> None:
        """Restore what ``held`` returned."""
        ...


class KeepsNothing:
    """The part of the contract of replay that needs no store of its own."""

    def check(self, n_classes: int) -> None:
        pass

    def reference(self, tasks: Tasks, drawn: Draws, rng: np.random.Generator) -> Rows:
        return np.unique(drawn())

    def rehearsal(
        self,
        tasks: Tasks,
        rows: Rows,
        lengths: np.ndarray,
        batch_size: int,
        rng: np.random.Generator,
    ) -> list[Rows]:
        return plain_epoch(rows, lengths, batch_size, rng)

    def keep(self, tasks: Tasks, look: Look, rng: np.random.Generator) -> None:
        pass

    def held(self) -> dict[str, list[int]]:
        return {}

    def hold(self, kept: dict[str, list[int]]) -> None:
        pass


def plain_epoch(
    rows: Rows, lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[Rows]:
    """Every row once, shuffled, in batches of similar length."""
    return [rows[b] for b in length_buckets(lengths[rows], batch_size, rng)]


def mixed_epoch(
    new: Rows,
    draw: Callable[[int], Rows],
    n_batches: int,
    sizes: tuple[int, int],
    rng: np.random.Generator,
) -> list[Rows]:
    """``n_batches`` shuffled batches of ``sizes`` = (n_new, n_old) rows.

    New rows come from shuffled passes over ``new``, old ones from ``draw(n)``.
    """
    stream, (n_new, n_old) = endless(new, rng), sizes
    return [
        rng.permutation(np.concatenate([np.fromiter(islice(stream, n_new), np.int64), draw(n_old)]))
        for _ in range(n_batches)
    ]


def draw_old(pools: Sequence[Rows], n: int, rng: np.random.Generator) -> Rows:
    """n rows with replacement: a pool uniformly, then a row of it uniformly, as ConPET does."""
    chosen = rng.integers(len(pools), size=n)
    return np.array([pools[t][rng.integers(len(pools[t]))] for t in chosen], dtype=np.int64)


def split_batch(batch_size: int, new_to_old: float) -> tuple[int, int]:
    """(n_new, n_old) of one batch: n_new = floor(b q / (q + 1)), at least one of each."""
    if batch_size < 2:
        raise ConfigError(
            f"train.batch_size is {batch_size}, and a batch of replay holds new and old examples; "
            "give 2 or more, or replay.kind=full or none"
        )
    n_new = int(batch_size * new_to_old / (new_to_old + 1))
    n_new = min(max(n_new, 1), batch_size - 1)
    return n_new, batch_size - n_new


def endless(rows: Rows, rng: np.random.Generator) -> Iterator[int]:
    """Rows in shuffled order, shuffled anew whenever all were seen."""
    while True:
        yield from rng.permutation(rows)


def within(tasks: Tasks, rows: Rows) -> list[EncodedTask]:
    """The tasks with those training examples alone that are among ``rows``; tasks without any are
    left out."""
    kept = [(task, np.isin(task.train, rows)) for task in tasks]
    return [
        replace(task, train=task.train[here], train_labels=task.train_labels[here])
        for task, here in kept
        if here.any()
    ]
