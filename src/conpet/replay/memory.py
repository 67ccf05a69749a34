"""Replay from a small memory: a few exemplars of every class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import numpy as np

from conpet.encoding.encode import EncodedTask
from conpet.errors import ConfigError
from conpet.replay.base import (
    Draws,
    FeatureKind,
    Look,
    Rows,
    Tasks,
    endless,
    mixed_epoch,
    plain_epoch,
    split_batch,
)
from conpet.replay.selection import herding, kmeans

Selection = Literal["random", "kmeans", "herding"]


@dataclass(frozen=True)
class Budget:
    """How many exemplars a class may keep. One of the three is given.

    Attributes:
        per_class: so many of every class.
        total: so many of all classes together, shared evenly; old classes give up their last ones
            when new classes come.
        share: this share (0..1) of the examples of a class, at least one.
    """

    per_class: int | None = None
    total: int | None = None
    share: float | None = None

    def of_class(self, n_examples: int, n_classes: int) -> int:
        """Exemplars of a class of ``n_examples``, one of ``n_classes`` seen; never more than it
        has."""
        if self.per_class is not None:
            return min(self.per_class, n_examples)
        if self.total is not None:
            return min(self.total // n_classes, n_examples)
        assert self.share is not None
        return min(max(1, round(self.share * n_examples)), n_examples)


@dataclass
class MemoryReplay:
    """Exemplars of old tasks beside the new task's data.

    Attributes:
        budget: how many are kept; a class with fewer keeps all it has.
        selection: ``random``, ``kmeans`` (EMR) or ``herding`` (iCaRL); the last two look at
            ``features``.
        features: hidden states, or the logits of the head as in the authors' EMR. Those of a head
            are of low rank and favour its own mistakes: the default is hidden.
        new_to_old: ratio of new examples to exemplars in a batch.
        frequency: None, or f: an epoch is the new data and f copies of the memory, shuffled
            together (EMR), instead of batches of ``new_to_old``.
        batch_limit: None: an epoch is one pass over the new data. Or a limit as dynamic replay
            has it: floor(0.8 limit) batches; with ``frequency``, as many copies as come near it.
        valid_share: share of the exemplars of a class, its last ones, that validate and are in no
            batch.
    """

    budget: Budget
    selection: Selection = "random"
    features: FeatureKind = "hidden"
    new_to_old: float = 1.0
    frequency: int | None = None
    batch_limit: int | None = None
    valid_share: float = 0.2
    kept: dict[str, list[int]] = field(default_factory=dict)

    def check(self, n_classes: int) -> None:
        if self.budget.total is not None and self.budget.total < n_classes:
            raise ConfigError(
                f"replay.total is {self.budget.total}, fewer exemplars than the stream has classes "
                f"({n_classes}); give {n_classes} or more, or replay.per_class"
            )

    # Batches -------------------------------------------------------------------------------------

    def batches(
        self, tasks: Tasks, lengths: np.ndarray, batch_size: int, rng: np.random.Generator
    ) -> list[Rows]:
        *old, new = tasks
        memory = self._rows(old, valid=False)
        sizes = split_batch(batch_size, self.new_to_old)
        if not len(memory):
            return plain_epoch(new.train, lengths, batch_size, rng)
        if self.frequency is not None:
            copies = np.tile(memory, self._copies(len(new.train), len(memory), batch_size))
            return plain_epoch(np.concatenate([new.train, copies]), lengths, batch_size, rng)
        exemplars = endless(memory, rng)

        def draw(n: int) -> Rows:
            return np.fromiter(islice(exemplars, n), np.int64)

        if self.batch_limit is not None:
            return mixed_epoch(new.train, draw, self.batch_limit * 8 // 10, sizes, rng)
        order, (n_new, n_old) = rng.permutation(new.train), sizes
        return [
            np.concatenate([order[i : i + n_new], draw(n_old)]) for i in range(0, len(order), n_new)
        ]

    def _copies(self, n_new: int, n_memory: int, batch_size: int) -> int:
        """How often the memory is seen in an epoch."""
        assert self.frequency is not None
        if self.batch_limit is None:
            return self.frequency
        return replay_frequency(self.batch_limit, batch_size, n_new, n_memory, self.frequency)

    def validation(self, tasks: Tasks, batch_size: int, rng: np.random.Generator) -> Rows:
        *old, new = tasks
        return np.concatenate([new.valid, self._rows(old, valid=True)])

    def reference(self, tasks: Tasks, drawn: Draws, rng: np.random.Generator) -> Rows:
        parts = [t.train[self.kept[t.name]] for t in tasks if t.name in self.kept]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)

    def rehearsal(
        self,
        tasks: Tasks,
        rows: Rows,
        lengths: np.ndarray,
        batch_size: int,
        rng: np.random.Generator,
    ) -> list[Rows]:
        """``frequency`` passes over the rows; with a limit, shuffled passes until it is reached."""
        if self.batch_limit is None:
            return plain_epoch(np.tile(rows, self.frequency or 1), lengths, batch_size, rng)
        stream = endless(rows, rng)
        return [
            np.fromiter(islice(stream, batch_size), np.int64)
            for _ in range(self.batch_limit * 8 // 10)
        ]

    def _rows(self, tasks: Tasks, *, valid: bool) -> Rows:
        """The exemplars of ``tasks`` that validate, or those that train."""
        positions = [self._split(task)[valid] for task in tasks]
        parts = [task.train[at] for task, at in zip(tasks, positions, strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _split(self, task: EncodedTask) -> tuple[list[int], list[int]]:
        """Kept positions of a task that train, and those that validate."""
        train: list[int] = []
        valid: list[int] = []
        for members in self._by_class(task).values():
            n = len(members) - n_validating(len(members), self.valid_share)
            train += members[:n]
            valid += members[n:]
        return train, valid

    def _by_class(self, task: EncodedTask) -> dict[int, list[int]]:
        """Kept positions by label column, the most telling first."""
        found: dict[int, list[int]] = {}
        for position in self.kept[task.name]:
            found.setdefault(int(task.train_labels[position]), []).append(position)
        return found

    # What is kept --------------------------------------------------------------------------------

    def keep(self, tasks: Tasks, look: Look, rng: np.random.Generator) -> None:
        *old, new = tasks
        n_classes = sum(task.n_classes for task in tasks)
        for task in old:
            self.kept[task.name] = [
                position
                for column, members in self._by_class(task).items()
                for position in members[: self._allowed(task, column, n_classes)]
            ]
        self.kept[new.name] = [
            int(position)
            for column in np.unique(new.train_labels)
            for position in self._choose(
                new, column, self._allowed(new, column, n_classes), look, rng
            )
        ]

    def _allowed(self, task: EncodedTask, column: int, n_classes: int) -> int:
        return self.budget.of_class(int((task.train_labels == column).sum()), n_classes)

    def _choose(
        self, task: EncodedTask, column: int, m: int, look: Look, rng: np.random.Generator
    ) -> Sequence[int]:
        members = np.flatnonzero(task.train_labels == column)
        if self.selection == "random":
            return rng.permutation(members)[:m].tolist()
        if m == len(members) and self.budget.total is None:  # no order is needed
            return members.tolist()
        points = look(task.train[members], self.features)
        places = kmeans(points, m, rng) if self.selection == "kmeans" else herding(points, m)
        return members[places].tolist()

    def held(self) -> dict[str, list[int]]:
        return {name: list(positions) for name, positions in self.kept.items()}

    def hold(self, kept: dict[str, list[int]]) -> None:
        self.kept = {name: list(positions) for name, positions in kept.items()}


def n_validating(n_exemplars: int, valid_share: float) -> int:
    """How many exemplars of a class validate: floor(share * n), so that at least one trains."""
    return math.floor(valid_share * n_exemplars + 1e-9)


def replay_frequency(limit: int, batch_size: int, n_new: int, n_memory: int, base: int) -> int:
    """Copies of a memory that make an epoch about as long as dynamic replay's (the authors' rule).

    f = ceil(room / n_memory) with room = ceil(0.8 limit) b - n_new; ``base`` where no room is left.
    """
    room = math.ceil(0.8 * limit) * batch_size - n_new
    return base if room <= 0 else math.ceil(room / n_memory)
