"""Memory replay: what is kept of a class, and that old examples come from the memory alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from conpet.encoding.encode import EncodedTask
from conpet.errors import ConfigError
from conpet.replay.memory import MemoryReplay

MakeTasks = Callable[..., list[EncodedTask]]


def no_features(rows: np.ndarray) -> np.ndarray:
    raise AssertionError("features cost a forward pass and are not needed here")


def keep(replay: MemoryReplay, task: EncodedTask, features: Callable = no_features) -> list[int]:
    replay.keep(task, features, np.random.default_rng(0))
    return replay.kept[task.name]


@pytest.mark.parametrize("selection", ["random", "kmeans"])
def test_so_many_of_each_class_are_kept(make_tasks: MakeTasks, selection: str) -> None:
    (task,) = make_tasks([40], n_labels=4)
    points = np.random.default_rng(7).normal(size=(40, 3))
    kept = keep(MemoryReplay(3, selection), task, lambda rows: points[rows])  # type: ignore[arg-type]
    assert len(set(kept)) == len(kept)
    columns, counts = np.unique(task.train_labels[kept], return_counts=True)
    assert columns.tolist() == [0, 1, 2, 3]
    assert counts.max() <= 3
    if selection == "random":
        assert counts.tolist() == [3, 3, 3, 3]


def test_a_class_with_fewer_keeps_all_it_has(make_tasks: MakeTasks) -> None:
    (task,) = make_tasks([5], n_labels=2)  # 3 and 2 examples
    assert sorted(keep(MemoryReplay(4, "kmeans"), task)) == [0, 1, 2, 3, 4]


def test_kmeans_keeps_the_examples_nearest_to_the_centroids(make_tasks: MakeTasks) -> None:
    (task,) = make_tasks([6], n_labels=1)
    # Two clusters with the centroids 1.1 and 101.9: nearest are 1 (place 1) and 102 (place 3).
    points = np.array([[0.0], [1.0], [2.3], [102.0], [100.2], [103.5]])
    assert keep(MemoryReplay(2, "kmeans"), task, lambda rows: points[rows]) == [1, 3]


def test_examples_that_look_the_same_are_kept_once_without_a_warning(make_tasks: MakeTasks) -> None:
    (task,) = make_tasks([6], n_labels=1)
    points = np.array([[0.0]] * 5 + [[9.0]])
    kept = keep(MemoryReplay(3, "kmeans"), task, lambda rows: points[rows])
    assert 5 in kept
    assert len(kept) == 2


def test_old_examples_come_from_the_memory_alone(make_tasks: MakeTasks) -> None:
    *old, new = tasks = make_tasks([40, 40, 14])
    replay = MemoryReplay(2, "random")
    for task in old:
        keep(replay, task)
    drawn = replay.batches(tasks, np.zeros(0), 8, np.random.default_rng(0))
    memory = np.concatenate([task.train[replay.kept[task.name]] for task in old])
    rows = np.concatenate(drawn)
    assert [int(np.isin(b, memory).sum()) for b in drawn] == [4, 4, 4, 4]
    assert sorted(rows[~np.isin(rows, memory)].tolist()) == new.train.tolist()
    assert set(memory.tolist()) <= set(rows.tolist())


def test_the_first_task_is_seen_whole(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([14])
    drawn = MemoryReplay(2).batches(tasks, np.zeros(0), 8, np.random.default_rng(0))
    assert [len(rows) for rows in drawn] == [8, 6]
    assert sorted(np.concatenate(drawn).tolist()) == tasks[0].train.tolist()


def test_what_is_held_is_restored(make_tasks: MakeTasks) -> None:
    *old, _ = tasks = make_tasks([40, 40, 14])
    replay = MemoryReplay(2, "random")
    for task in old:
        keep(replay, task)
    restored = MemoryReplay(2, "random")
    restored.hold(replay.held())
    a, b = (r.batches(tasks, np.zeros(0), 8, np.random.default_rng(5)) for r in (replay, restored))
    assert np.array_equal(np.concatenate(a), np.concatenate(b))
    replay.held()["task-0"].clear()
    assert replay.kept["task-0"], "what was handed out is a copy"


def test_a_batch_of_one_cannot_hold_new_and_old(make_tasks: MakeTasks) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size"):
        MemoryReplay(2).batches(make_tasks([14]), np.zeros(0), 1, np.random.default_rng(0))
