"""Dynamic replay: its counts, its uniform draws, and its fixed validation chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chisquare

from conpet.encoding.encode import EncodedTask
from conpet.errors import ConfigError
from conpet.replay.base import Rows, split_batch
from conpet.replay.dynamic import DynamicReplay, FullReplay, NoReplay

MakeTasks = Callable[..., list[EncodedTask]]

PAPER = [(2500, 2000, 500), (1250, 1000, 250), (500, 400, 100), (400, 320, 80), (100, 80, 20)]
"""(limit, training, validation batches) of FewNERD, OntoNotes, BBN, FewRel, and TACRED and ACE."""


def batches(
    replay: DynamicReplay | FullReplay | NoReplay,
    tasks: list[EncodedTask],
    batch_size: int = 8,
    seed: int = 0,
) -> list[Rows]:
    lengths = np.full(10_000, 7)
    return replay.batches(tasks, lengths, batch_size, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("limit", "train", "valid"),
    [*PAPER, (7, 5, 1), (2, 1, 1)],
)
def test_batches_an_epoch_are_those_of_the_paper(limit: int, train: int, valid: int) -> None:
    replay = DynamicReplay(limit)
    assert (replay.train_batches, replay.valid_batches) == (train, valid)


@pytest.mark.parametrize(
    ("batch_size", "new_to_old", "expected"),
    [
        (8, 1.0, (4, 4)),
        (9, 1.0, (4, 5)),
        (8, 3.0, (6, 2)),
        (9, 0.5, (3, 6)),
        (2, 1.0, (1, 1)),
        (8, 100.0, (7, 1)),
        (8, 0.01, (1, 7)),
    ],
)
def test_a_batch_is_split_by_the_ratio_and_never_one_sided(
    batch_size: int, new_to_old: float, expected: tuple[int, int]
) -> None:
    assert split_batch(batch_size, new_to_old) == expected


def test_a_batch_of_one_cannot_hold_new_and_old(make_tasks: MakeTasks) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size"):
        batches(DynamicReplay(10), make_tasks([10]), batch_size=1)


def test_every_batch_is_half_new_and_half_old(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([30, 50, 11])
    drawn = batches(DynamicReplay(100), tasks)
    assert len(drawn) == 80
    assert {len(rows) for rows in drawn} == {8}
    assert {int(np.isin(rows, tasks[-1].train).sum()) for rows in drawn} == {4}


def test_new_examples_all_come_before_one_comes_again(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([30, 12])
    drawn = np.concatenate(batches(DynamicReplay(100), tasks))
    new = drawn[np.isin(drawn, tasks[-1].train)]
    counts = Counter(new.tolist())
    assert set(counts) == set(tasks[-1].train.tolist())
    assert max(counts.values()) - min(counts.values()) <= 1


def test_old_examples_are_uniform_over_tasks_and_then_within_a_task(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([5, 50, 500, 40])  # sizes far apart: uniform over examples would show
    drawn = np.concatenate(batches(DynamicReplay(5000), tasks))
    old = [drawn[np.isin(drawn, task.train)] for task in tasks[:-1]]
    assert chisquare([len(rows) for rows in old]).pvalue > 1e-3
    within = np.bincount(old[1] - tasks[1].train[0], minlength=50)
    assert chisquare(within).pvalue > 1e-3


def test_new_and_old_do_not_keep_to_places_in_the_batch(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([30, 30])
    is_new = np.isin(np.stack(batches(DynamicReplay(500), tasks)), tasks[-1].train)
    assert (np.abs(is_new.mean(axis=0) - 0.5) < 0.1).all()


def test_the_same_seed_gives_the_same_batches(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([30, 50, 11])
    a, b, c = (np.stack(batches(DynamicReplay(100), tasks, seed=seed)) for seed in (3, 3, 4))
    assert (a == b).all()
    assert (a != c).any()


def test_the_first_task_is_seen_whole(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([30])
    drawn = batches(DynamicReplay(2), tasks)
    assert sorted(np.concatenate(drawn).tolist()) == tasks[0].train.tolist()
    assert [len(rows) for rows in drawn].count(8) == 3


def test_validation_is_one_chunk_half_new_half_old(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([10, 10, 10], n_valid=100)
    replay = DynamicReplay(20)  # 4 batches of 8
    chunk = replay.validation(tasks, 8, np.random.default_rng(1))
    assert len(chunk) == 32
    assert np.isin(chunk, tasks[-1].valid).sum() == 16
    assert np.isin(chunk, np.concatenate([t.valid for t in tasks])).all()
    assert (chunk == replay.validation(tasks, 8, np.random.default_rng(1))).all()


def test_validation_takes_no_new_example_twice(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([10, 10], n_valid=5)
    chunk = DynamicReplay(20).validation(tasks, 8, np.random.default_rng(1))
    assert sorted(chunk[np.isin(chunk, tasks[-1].valid)].tolist()) == tasks[-1].valid.tolist()


def test_validation_of_the_first_task_and_of_tasks_without_any(make_tasks: MakeTasks) -> None:
    (first,) = make_tasks([10], n_valid=5)
    replay, rng = DynamicReplay(20), np.random.default_rng(1)
    assert (replay.validation([first], 8, rng) == first.valid).all()
    assert len(replay.validation(make_tasks([10, 10]), 8, rng)) == 0


def test_full_replay_visits_everything_once(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([9, 5, 7], n_valid=3)
    drawn = batches(FullReplay(), tasks)
    everything = np.concatenate([t.train for t in tasks])
    assert sorted(np.concatenate(drawn).tolist()) == everything.tolist()
    valid = FullReplay().validation(tasks, 8, np.random.default_rng(0))
    assert valid.tolist() == np.concatenate([t.valid for t in tasks]).tolist()


def test_no_replay_visits_the_newest_task_alone(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([9, 5], n_valid=3)
    drawn = batches(NoReplay(), tasks)
    assert sorted(np.concatenate(drawn).tolist()) == tasks[-1].train.tolist()
    valid = NoReplay().validation(tasks, 8, np.random.default_rng(0))
    assert valid.tolist() == tasks[-1].valid.tolist()


# Reference rows -----------------------------------------------------------------------------------


def test_reference_rows_are_what_was_drawn_and_more_of_poor_classes(
    make_tasks: MakeTasks,
) -> None:
    tasks = make_tasks([60, 60, 60])
    drawn = np.concatenate([tasks[0].train[:1], tasks[2].train[:50]])
    replay = DynamicReplay(10, at_least=4)
    rows = replay.reference(tasks, lambda: np.tile(drawn, 2), np.random.default_rng(0))
    assert len(rows) == len(set(rows.tolist()))
    assert set(drawn.tolist()) <= set(rows.tolist())
    columns = np.concatenate([t.train_labels for t in tasks])
    assert np.bincount(columns[rows], minlength=6).tolist() == [4, 4, 4, 4, 25, 25]


def test_there_are_no_more_reference_rows_than_draws_but_for_one_of_each_class(
    make_tasks: MakeTasks,
) -> None:
    tasks = make_tasks([60, 60, 60])
    columns = np.concatenate([t.train_labels for t in tasks])
    for draws, expected in ((tasks[2].train[:8], 12), (np.tile(tasks[2].train[:8], 2), 16)):
        rows = DynamicReplay(10).reference(tasks, lambda d=draws: d, np.random.default_rng(0))
        counts = np.bincount(columns[rows], minlength=6)
        assert len(rows) == expected
        assert counts.min() >= 1
        assert counts[4:].tolist() == [4, 4]
        assert np.ptp(counts[:4]) <= 1


def test_rehearsal_draws_from_the_reference_rows_alone(make_tasks: MakeTasks) -> None:
    tasks = make_tasks([60, 60, 60])
    pool = np.concatenate([tasks[0].train[:3], tasks[2].train[:5]])
    drawn = DynamicReplay(10).rehearsal(tasks, pool, np.ones(180), 8, np.random.default_rng(0))
    assert len(drawn) == 8
    assert set(np.concatenate(drawn).tolist()) == set(pool.tolist())
    assert all(int(np.isin(rows, tasks[2].train).sum()) == 4 for rows in drawn)


def test_a_first_task_is_rehearsed_in_as_many_batches(make_tasks: MakeTasks) -> None:
    (task,) = make_tasks([20])
    drawn = DynamicReplay(10).rehearsal(
        [task], task.train, np.ones(20), 8, np.random.default_rng(0)
    )
    assert [len(rows) for rows in drawn] == [8] * 8
