"""Drawn tasks and carved parts, over random data."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conpet.errors import ConfigError
from conpet.streams.splits import carve, choose, group_labels
from conpet.types import Example

rows = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("XYZ")), max_size=60)
seeds = st.integers(0, 1000)


def examples(pairs: list[tuple[str, str]]) -> list[Example]:
    return [Example(str(i), text, label) for i, (text, label) in enumerate(pairs)]


@given(st.sets(st.text(min_size=1, max_size=4), min_size=1, max_size=20), st.data(), seeds)
def test_groups_are_a_balanced_partition(labels: set[str], data: st.DataObject, seed: int) -> None:
    n = data.draw(st.integers(1, len(labels)))
    groups = group_labels(labels, n, seed)
    assert len(groups) == n
    assert sorted(label for group in groups.values() for label in group) == sorted(labels)
    sizes = [len(group) for group in groups.values()]
    assert max(sizes) - min(sizes) <= 1


def test_groups_depend_on_the_seed_only() -> None:
    labels = [f"label {i}" for i in range(12)]
    assert group_labels(labels, 3, 7) == group_labels(labels[::-1], 3, 7)
    assert group_labels(labels, 3, 7) != group_labels(labels, 3, 8)
    assert list(group_labels(labels, 3, 7)) == ["task-01", "task-02", "task-03"]


def test_groups_golden() -> None:
    """The draw may never change: named streams and finished runs rest on it."""
    assert group_labels("abcdef", 2, 100) == {
        "task-01": ("a", "b", "e"),
        "task-02": ("c", "d", "f"),
    }


@pytest.mark.parametrize("n_tasks", [0, 4])
def test_more_tasks_than_labels(n_tasks: int) -> None:
    with pytest.raises(ConfigError, match=f"n_tasks is {n_tasks}; allowed: 1 to 3"):
        group_labels("abc", n_tasks, 0)


@given(rows, st.floats(0.01, 0.99), seeds)
def test_carve_is_a_partition_and_never_parts_a_sentence(
    pairs: list[tuple[str, str]], share: float, seed: int
) -> None:
    all_of_them = examples(pairs)
    rest, carved = carve(all_of_them, share, seed)
    assert sorted(rest + carved, key=lambda e: int(e.id)) == all_of_them
    assert not {e.text for e in rest} & {e.text for e in carved}
    assert {e.label for e in rest} == {e.label for e in all_of_them}  # no class is emptied


@given(st.lists(st.sampled_from("XYZ"), max_size=60), st.floats(0.01, 0.99), seeds)
def test_carve_is_stratified(labels: list[str], share: float, seed: int) -> None:
    _, carved = carve(examples([(str(i), label) for i, label in enumerate(labels)]), share, seed)
    count = Counter(e.label for e in carved)
    for label, n in Counter(labels).items():
        assert count[label] == min(n - 1, max(1, round(share * n)))


def test_carve_of_a_class_whose_texts_are_larger_than_its_goal() -> None:
    _, carved = carve(examples([("a", "X")] * 3 + [("b", "X")] * 3), 0.1, 0)
    assert len(carved) == 3


def test_carve_does_not_depend_on_order_or_on_other_classes() -> None:
    old = [Example(f"x{i}", f"old {i}", "X") for i in range(30)]
    new = [Example(f"y{i}", f"new {i}", "Y") for i in range(30)]
    alone = {e.id for e in carve(old, 0.2, 3)[1]}
    assert {e.id for e in carve(new + old[::-1], 0.2, 3)[1] if e.label == "X"} == alone
    assert {e.id for e in carve(old, 0.2, 4)[1]} != alone


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_carve_share_out_of_range(share: float) -> None:
    with pytest.raises(ConfigError, match="share to carve out is .*; allowed: between 0 and 1"):
        carve([], share, 0)


@given(rows, st.integers(1, 9), seeds)
def test_choose_keeps_order_and_takes_n_of_each(
    pairs: list[tuple[str, str]], n: int, seed: int
) -> None:
    all_of_them = examples(pairs)
    kept = choose(all_of_them, n, seed)
    assert [e for e in all_of_them if e in set(kept)] == list(kept)
    total = Counter(e.label for e in all_of_them)
    assert Counter(e.label for e in kept) == {label: min(n, m) for label, m in total.items()}
