"""Memory replay: what is kept of a class, and that old examples come from the memory alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from conpet.encoding.encode import EncodedTask
from conpet.errors import ConfigError
from conpet.replay.dynamic import DynamicReplay
from conpet.replay.memory import Budget, MemoryReplay, n_validating, replay_frequency
from conpet.replay.selection import herding, kmeans

MakeTasks = Callable[..., list[EncodedTask]]


def no_features(rows: np.ndarray, kind: str) -> np.ndarray:
    raise AssertionError("features cost a forward pass and are not needed here")


def no_draws() -> np.ndarray:
    raise AssertionError("a memory has its exemplars, whatever was drawn")


def keep(replay: MemoryReplay, task: EncodedTask, features: Callable = no_features) -> list[int]:
    replay.keep([task], features, np.random.default_rng(0))
    return replay.kept[task.name]


@pytest.mark.parametrize("selection", ["random", "kmeans"])
def test_so_many_of_each_class_are_kept(make_tasks: MakeTasks, selection: str) -> None:
    (task,) = make_tasks([40], n_labels=4)
    points = np.random.default_rng(7).normal(size=(40, 3))
    kept = keep(MemoryReplay(Budget(3), selection), task, lambda rows, kind: points[rows])  # type: ignore[arg-type]
    assert len(set(kept)) == len(kept)
    columns, counts = np.unique(task.train_labels[kept], return_counts=True)
    assert columns.tolist() == [0, 1, 2, 3]
    assert counts.max() <= 3
    if selection == "random":
        assert counts.tolist() == [3, 3, 3, 3]


def test_a_class_with_fewer_keeps_all_it_has(make_tasks: MakeTasks) -> None:
    (task,) = make_tasks([5], n_labels=2)  # 3 and 2 examples
    assert sorted(keep(MemoryReplay(Budget(4), "kmeans"), task)) == [0, 1, 2, 3, 4]


def test_kmeans_keeps_the_examples_nearest_to_the_centroids(make_tasks: MakeTasks) -> None:
    (task,) = make_tasks([6], n_labels=1)
    # Two clusters with the centroids 1.1 and 101.9: nearest are 1 (place 1) and 102 (place 3).
    points = np.array([[0.0], [1.0], [2.3], [102.0], [100.2], [103.5]])
    assert keep(MemoryReplay(Budget(2), "kmeans"), task, lambda rows, kind: points[rows]) == [1, 3]


def test_examples_that_look_the_same_are_kept_once_without_a_warning(make_tasks: MakeTasks) -> None:
    (task,) = make_tasks([6], n_labels=1)
    points = np.array([[0.0]] * 5 + [[9.0]])
    kept = keep(MemoryReplay(Budget(3), "kmeans"), task, lambda rows, kind: points[rows])
    assert 5 in kept
    assert len(kept) == 2


def test_old_examples_come_from_the_memory_alone(make_tasks: MakeTasks) -> None:
    *old, new = tasks = make_tasks([40, 40, 14])
    replay = MemoryReplay(Budget(2), "random")
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
    drawn = MemoryReplay(Budget(2)).batches(tasks, np.ones(14), 8, np.random.default_rng(0))
    assert sorted(len(rows) for rows in drawn) == [6, 8]
    assert sorted(np.concatenate(drawn).tolist()) == tasks[0].train.tolist()


def test_what_is_held_is_restored(make_tasks: MakeTasks) -> None:
    *old, _ = tasks = make_tasks([40, 40, 14])
    replay = MemoryReplay(Budget(2), "random")
    for task in old:
        keep(replay, task)
    restored = MemoryReplay(Budget(2), "random")
    restored.hold(replay.held())
    a, b = (r.batches(tasks, np.zeros(0), 8, np.random.default_rng(5)) for r in (replay, restored))
    assert np.array_equal(np.concatenate(a), np.concatenate(b))
    replay.held()["task-0"].clear()
    assert replay.kept["task-0"], "what was handed out is a copy"


def test_a_batch_of_one_cannot_hold_new_and_old(make_tasks: MakeTasks) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size"):
        MemoryReplay(Budget(2)).batches(make_tasks([14]), np.zeros(0), 1, np.random.default_rng(0))


# Budgets ------------------------------------------------------------------------------------------


def test_a_total_budget_is_shared_by_all_classes_seen(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([40, 40, 40])
    replay = MemoryReplay(Budget(total=12))
    first: list[int] = []
    for n, expected in zip((1, 2, 3), ([6, 6], [3] * 4, [2] * 6), strict=True):
        replay.keep(tasks[:n], no_features, np.random.default_rng(n))
        kept = [task.train_labels[replay.kept[task.name]] for task in tasks[:n]]
        assert np.unique(np.concatenate(kept), return_counts=True)[1].tolist() == expected
        first = first or replay.kept["task-0"]
    assert [p for p in first if p in replay.kept["task-0"]] == replay.kept["task-0"]


def test_a_share_keeps_at_least_one(make_tasks: MakeTasks) -> None:
    (task,) = make_tasks([40])
    for share, expected in ((0.001, 1), (0.25, 5), (1.0, 20)):
        replay = MemoryReplay(Budget(share=share))
        keep(replay, task)
        assert np.bincount(task.train_labels[replay.kept["task-0"]]).tolist() == [expected] * 2


def test_a_budget_below_the_number_of_classes_is_refused() -> None:
    MemoryReplay(Budget(total=6)).check(6)
    MemoryReplay(Budget(per_class=1)).check(600)
    with pytest.raises(ConfigError, match=r"replay\.total is 5.*\(6\); give 6 or more"):
        MemoryReplay(Budget(total=5)).check(6)


# Epochs -------------------------------------------------------------------------------------------


def stage(make_tasks: MakeTasks, **options: object) -> tuple[MemoryReplay, list[EncodedTask]]:
    """Two old tasks with four exemplars a class, and a new one of 14 examples."""
    tasks = make_tasks([40, 40, 14])
    replay = MemoryReplay(Budget(4), valid_share=0.0, **options)  # type: ignore[arg-type]
    for n in (1, 2):
        replay.keep(tasks[:n], no_features, np.random.default_rng(n))
    return replay, tasks


def test_with_a_limit_an_epoch_has_as_many_batches_as_dynamic_replay(make_tasks: MakeTasks) -> None:
    replay, tasks = stage(make_tasks, batch_limit=12)
    drawn = replay.batches(tasks, np.ones(94), 8, np.random.default_rng(0))
    dynamic = DynamicReplay(12).batches(tasks, np.ones(94), 8, np.random.default_rng(0))
    assert len(drawn) == len(dynamic) == 9
    new = [int(np.isin(rows, tasks[-1].train).sum()) for rows in drawn]
    assert new == [4] * 9


def test_with_a_frequency_an_epoch_is_the_new_data_and_copies_of_the_memory(
    make_tasks: MakeTasks,
) -> None:
    replay, tasks = stage(make_tasks, frequency=3)
    rows = np.concatenate(replay.batches(tasks, np.ones(94), 8, np.random.default_rng(0)))
    values, counts = np.unique(rows, return_counts=True)
    memory = replay.reference(tasks[:2], no_draws, np.random.default_rng(0))
    assert len(memory) == 16
    assert set(counts[np.isin(values, memory)]) == {3}
    assert sorted(rows[~np.isin(rows, memory)].tolist()) == tasks[-1].train.tolist()


@pytest.mark.parametrize(
    ("sizes", "classes", "per_class", "limit", "base", "expected"),
    [  # the authors' tables: sizes and classes of tasks, at batches of 8, from the second task on
        (
            [30415, 24780, 51816, 101875, 34443, 29988, 12912, 24075, 15163, 14916],
            [7] * 6 + [6] * 4,
            100,
            2500,
            10,
            [10, 10, 10, 10, 10, 1, 10, 1, 1],
        ),
        (
            [17932, 27842, 16288, 34221, 21156, 25248, 31235, 7818, 18138, 11645],
            [9] * 6 + [8] * 4,
            100,
            1250,
            10,
            [10] * 6 + [1, 10, 10],
        ),
        (
            [4822, 6210, 2738, 5120, 46199, 7373, 5260, 6751, 2264, 2628],
            [5] * 6 + [4] * 4,
            50,
            500,
            5,
            [5, 2, 5, 5, 5, 5, 5, 1, 1],
        ),
        ([4480] * 10, [8] * 10, 50, 400, 5, [5] * 9),
        (
            [651, 341, 2313, 2509, 667, 976, 1083, 248, 1469, 2755],
            [5] + [4] * 9,
            20,
            100,
            5,
            [4, 5, 5, 5, 5, 5, 1, 5, 5],
        ),
        ([2507, 1013, 724, 777, 627], [4, 4, 4, 3, 3], 20, 100, 5, [5, 5, 5, 1]),
    ],
)
def test_replay_frequencies_are_those_of_the_authors(
    sizes: list[int], classes: list[int], per_class: int, limit: int, base: int, expected: list[int]
) -> None:
    found = [
        replay_frequency(limit, 8, sizes[k], math.ceil(0.8 * per_class) * sum(classes[:k]), base)
        for k in range(1, len(sizes))
    ]
    assert found == expected


def test_exemplars_that_validate_never_train(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([40, 40, 14], n_valid=4)
    replay = MemoryReplay(Budget(5), valid_share=0.2)
    for n in (1, 2):
        replay.keep(tasks[:n], no_features, np.random.default_rng(n))
    trained = np.concatenate(replay.batches(tasks, np.ones(200), 8, np.random.default_rng(0)))
    valid = replay.validation(tasks, 8, np.random.default_rng(0))
    old = valid[~np.isin(valid, tasks[-1].valid)]
    assert len(old) == 4  # one of five, of each of four classes
    assert not np.isin(old, trained).any()


def test_an_empty_memory_leaves_the_new_data(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([40, 14])
    replay = MemoryReplay(Budget(2))
    replay.hold({"task-0": []})
    rows = np.concatenate(replay.batches(tasks, np.ones(54), 8, np.random.default_rng(0)))
    assert sorted(rows.tolist()) == tasks[-1].train.tolist()


@pytest.mark.parametrize(("n", "share", "validate"), [(10, 0.7, 7), (5, 0.2, 1), (4, 0.2, 0)])
def test_the_share_that_validates_is_rounded_down(n: int, share: float, validate: int) -> None:
    assert n_validating(n, share) == validate


# Selection ----------------------------------------------------------------------------------------


def test_herding_follows_the_mean_by_hand() -> None:
    """Unit vectors at 0, 90 and 60 degrees have the mean (0.50, 0.62): 60 is nearest to it. Then
    the mean of 60 and 0, (0.75, 0.43), lies 0.31 from it, and that of 60 and 90 lies 0.40."""
    angles = np.deg2rad([0.0, 90.0, 60.0])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array([[3.0], [1.0], [2.0]])
    assert herding(points, 1).tolist() == [2]
    assert herding(points, 2).tolist() == [2, 0]
    assert herding(points, 9).tolist() == [2, 0, 1]


def test_kmeans_names_the_largest_cluster_first() -> None:
    points = np.array([[0.0], [10.0], [10.2], [9.9], [30.0], [30.1]])
    chosen = kmeans(points, 3, np.random.default_rng(0)).tolist()
    assert [round(float(points[i, 0]), -1) for i in chosen] == [10.0, 30.0, 0.0]


def test_selection_looks_at_what_it_is_told_to(make_tasks: MakeTasks) -> None:
    (task,) = make_tasks([40])
    asked: list[str] = []

    def look(rows: np.ndarray, kind: str) -> np.ndarray:
        asked.append(kind)
        return np.random.default_rng(0).normal(size=(len(rows), 2))

    MemoryReplay(Budget(2), "herding", "logits").keep([task], look, np.random.default_rng(0))
    assert asked == ["logits", "logits"]
