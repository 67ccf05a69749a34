"""Replay from the full history: ConPET's dynamic replay, the unlimited form, and none."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np

from conpet.replay.base import (
    KeepsNothing,
    Rows,
    Tasks,
    draw_old,
    endless,
    plain_epoch,
    split_batch,
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
    """

    batch_limit: int
    new_to_old: float = 1.0

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
        n_new, n_old = split_batch(batch_size, self.new_to_old)
        if not old:
            return plain_epoch(new, lengths, batch_size, rng)
        stream = endless(new, rng)
        return [
            rng.permutation(
                np.concatenate(
                    [np.fromiter(islice(stream, n_new), np.int64), draw_old(old, n_old, rng)]
                )
            )
            for _ in range(self.train_batches)
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
