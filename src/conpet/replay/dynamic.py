"""Replay from the full history: ConPET's dynamic replay, the unlimited form, and none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from conpet.replay.base import (
    Draws,
    KeepsNothing,
    Rows,
    Tasks,
    draw_old,
    endless,
    mixed_epoch,
    plain_epoch,
    split_batch,
    within,
)


@dataclass(frozen=True)
class DynamicReplay(KeepsNothing):
    """Half new, half old, at a number of steps that does not depend on the number of tasks.

    One epoch has floor(0.8 limit) training batches; validation is one fixed chunk of
    floor(0.2 limit) batches a stage. The old half draws a task uniformly, then one of its examples
    uniformly. The first task has no history and sees all of its data. (arXiv 2309.14763, dynamic
    replay.) Where we differ: new examples go through shuffled permutations instead of independent
    draws, and the validation chunk stays the same over the epochs of a stage, so epochs compare.

    Attributes:
        batch_limit: batches an epoch, training and validation together.
        new_to_old: ratio of new to old examples in a batch.
        at_least: examples of a class among the reference rows of a stage.
    """

    batch_limit: int
    new_to_old: float = 1.0
    at_least: int = 10

    @property
    def train_batches(self) -> int:
        return max(1, self.batch_limit * 8 // 10)

    @property
    def valid_batches(self) -> int:
        return max(1, self.batch_limit * 2 // 10)

    def batches(
        self, tasks: Tasks, lengths: np.ndarray, batch_size: int, rng: np.random.Generator
    ) -> list[Rows]:
        *old, new = [t.train for t in tasks]
        sizes = split_batch(batch_size, self.new_to_old)
        if not old:
            return plain_epoch(new, lengths, batch_size, rng)
        draw = partial(draw_old, old, rng=rng)
        return mixed_epoch(new, draw, self.train_batches, sizes, rng)

    def reference(self, tasks: Tasks, drawn: Draws, rng: np.random.Generator) -> Rows:
        """What was drawn, and more of the classes with fewer than ``at_least`` examples among it.

        The poorest classes get more first, as long as there are no more rows than draws (repeats
        counted); one of each class is never missing.
        """
        draws = drawn()
        rows = set(np.unique(draws).tolist())
        room = len(draws) - len(rows)
        others: list[list[int]] = []  # of each class, what was not drawn
        have: list[int] = []
        for task in tasks:
            for column in np.unique(task.train_labels):
                members = rng.permutation(task.train[task.train_labels == column]).tolist()
                others.append([row for row in members if row not in rows])
                have.append(len(members) - len(others[-1]))
        extra: list[int] = []
        for level in range(self.at_least):
            for c in rng.permutation(len(have)).tolist():
                if have[c] == level and others[c] and (level == 0 or len(extra) < room):
                    extra.append(others[c].pop())
                    have[c] += 1
        return np.sort(np.array([*rows, *extra], np.int64))

    def rehearsal(
        self,
        tasks: Tasks,
        rows: Rows,
        lengths: np.ndarray,
        batch_size: int,
        rng: np.random.Generator,
    ) -> list[Rows]:
        """As ``batches``, from the reference rows; as many batches in the first task too."""
        known = within(tasks, rows)
        if len(known) > 1:
            return self.batches(known, lengths, batch_size, rng)
        stream = endless(rows, rng)
        return [
            np.fromiter(islice(stream, batch_size), np.int64) for _ in range(self.train_batches)
        ]

    def validation(self, tasks: Tasks, batch_size: int, rng: np.random.Generator) -> Rows:
        *old, new = [t.valid for t in tasks]
        old = [rows for rows in old if len(rows)]
        if not old or not len(new):
            return new
        n_new, n_old = split_batch(batch_size * self.valid_batches, self.new_to_old)
        return np.concatenate([rng.permutation(new)[:n_new], draw_old(old, n_old, rng)])


@dataclass(frozen=True)
class FullReplay(KeepsNothing):
    """Every epoch visits all data of all tasks: the paper's "Limitless", whose cost grows."""

    def batches(
        self, tasks: Tasks, lengths: np.ndarray, batch_size: int, rng: np.random.Generator
    ) -> list[Rows]:
        return plain_epoch(np.concatenate([t.train for t in tasks]), lengths, batch_size, rng)

    def validation(self, tasks: Tasks, batch_size: int, rng: np.random.Generator) -> Rows:
        return np.concatenate([t.valid for t in tasks])


@dataclass(frozen=True)
class NoReplay(KeepsNothing):
    """The current task alone."""

    def batches(
        self, tasks: Tasks, lengths: np.ndarray, batch_size: int, rng: np.random.Generator
    ) -> list[Rows]:
        return plain_epoch(tasks[-1].train, lengths, batch_size, rng)

    def validation(self, tasks: Tasks, batch_size: int, rng: np.random.Generator) -> Rows:
        return tasks[-1].valid
