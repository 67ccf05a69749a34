"""Tasks of given sizes, as rows of a token store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from conpet.encoding.encode import EncodedTask

MakeTasks = Callable[..., list[EncodedTask]]


@pytest.fixture
def make_tasks() -> MakeTasks:
    """``make_tasks(sizes, n_labels=2, n_valid=0)``: rows go up, labels take turns in a task."""

    def make(sizes: Sequence[int], n_labels: int = 2, n_valid: int = 0) -> list[EncodedTask]:
        tasks: list[EncodedTask] = []
        first = 0
        for index, size in enumerate(sizes):
            rows = np.arange(first, first + size + n_valid)
            columns = index * n_labels + np.arange(size + n_valid) % n_labels
            labels = tuple(f"label-{index}-{i}" for i in range(n_labels))
            none = np.zeros(0, np.int64)
            train, valid = np.split(rows, [size])
            y_train, y_valid = np.split(columns, [size])
            tasks.append(
                EncodedTask(
                    f"task-{index}",
                    labels,
                    index,
                    index * n_labels,
                    train,
                    valid,
                    none,
                    y_train,
                    y_valid,
                    none,
                )
            )
            first += size + n_valid
        return tasks

    return make
