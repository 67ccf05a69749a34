"""Replay from a small memory: a few exemplars of every class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from conpet.encoding.encode import EncodedTask
from conpet.replay.base import Features, Rows, Tasks, endless, split_batch


@dataclass
class MemoryReplay:
    """New data once an epoch, each batch filled up with exemplars of old tasks.

    Attributes:
        per_class: exemplars kept of each class; a class with fewer keeps all it has.
        selection: ``random``, or ``kmeans``: of each class the examples nearest to ``per_class``
            centroids of its hidden states (EMR, arXiv 1903.02588; there of its logits).
        new_to_old: ratio of new examples to exemplars in a batch.
    """

    per_class: int
    selection: Literal["random", "kmeans"] = "random"
    new_to_old: float = 1.0
    kept: dict[str, list[int]] = field(default_factory=dict)

    def batches(
        self, tasks: Tasks, lengths: np.ndarray, batch_size: int, rng: np.random.Generator
    ) -> list[Rows]:
        *old, new = tasks
        pools = [t.train[self.kept[t.name]] for t in old]
        n_new, n_old = split_batch(batch_size, self.new_to_old)
        order = rng.permutation(new.train)
        if not old:
            return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        exemplars = endless(np.concatenate(pools), rng)
        return [
            np.concatenate(
                [order[i : i + n_new], np.array([next(exemplars) for _ in range(n_old)])]
            )
            for i in range(0, len(order), n_new)
        ]

    def validation(self, tasks: Tasks, batch_size: int, rng: np.random.Generator) -> Rows:
        return tasks[-1].valid

    def keep(self, task: EncodedTask, features: Features, rng: np.random.Generator) -> None:
        positions: list[int] = []
        for column in np.unique(task.train_labels):
            members = np.flatnonzero(task.train_labels == column)
            if len(members) > self.per_class:
                choose = self._nearest if self.selection == "kmeans" else self._random
                members = choose(task.train, members, features, rng)
            positions += [int(m) for m in members]
        self.kept[task.name] = positions

    def held(self) -> dict[str, list[int]]:
        return {name: list(positions) for name, positions in self.kept.items()}

    def hold(self, kept: dict[str, list[int]]) -> None:
        self.kept = {name: list(positions) for name, positions in kept.items()}

    def _random(
        self, rows: Rows, members: np.ndarray, features: Features, rng: np.random.Generator
    ) -> np.ndarray:
        return np.sort(rng.choice(members, self.per_class, replace=False))

    def _nearest(
        self, rows: Rows, members: np.ndarray, features: Features, rng: np.random.Generator
    ) -> np.ndarray:
        from sklearn.cluster import KMeans

        x = features(rows[members])
        n_clusters = min(self.per_class, len(np.unique(x, axis=0)))  # equal examples are one point
        kmeans = KMeans(n_clusters, n_init=1, random_state=int(rng.integers(2**31))).fit(x)
        distance = kmeans.transform(x)  # (n, n_clusters)
        return np.unique(members[distance.argmin(axis=0)])
