"""Replay from the full history: ConPET's dynamic replay, the unlimited form, and none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import numpy as np

from conpet.replay.base import (
    KeepsNothing,
    Rows,
    Tasks,
    draw_old,
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

    def reference(self, tasks: Tasks, drawn: Rows, rng: np.random.Generator) -> Rows:
        """What was drawn, with at least ``at_least`` examples of each class (or all it has).

        Never more rows than were drawn: extra ones of rare classes take the place of others. Where
        that is not enough for all, every class gets one before any gets two.
        """
        drawn = np.unique(drawn)
        picks = [
            rng.permutation(task.train[task.train_labels == column])[: self.at_least]
            for task in tasks
            for column in np.unique(task.train_labels)
        ]
        turns = zip_longest(*picks, fillvalue=-1)
        first = np.array([row for turn in turns for row in turn if row >= 0], np.int64)
        rest = rng.permutation(np.setdiff1d(drawn, first))
        return np.sort(np.concatenate([first, rest])[: len(drawn)])

    def rehearsal(
        self,
        tasks: Tasks,
        rows: Rows,
        lengths: np.ndarray,
        batch_size: int,
        rng: np.random.Generator,
    ) -> list[Rows]:
        """As ``batches``, from the reference rows."""
        return self.batches(within(tasks, rows), lengths, batch_size, rng)

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
