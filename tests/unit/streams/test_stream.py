"""Stream: what it refuses, its fingerprints, and the streams made from it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from conpet.errors import ConfigError, DataError
from conpet.streams import Stream, task_fingerprint
from conpet.types import Example, Task


def task(name: str, *labels: str, n: int = 3) -> Task:
    def part(split: str) -> tuple[Example, ...]:
        return tuple(
            Example(f"{name}-{split}-{label}-{i}", f"{split} {label} number {i}", label)
            for label in labels
            for i in range(n)
        )

    return Task(name, labels, part("train"), part("valid"), part("test"))


@pytest.fixture
def stream() -> Stream:
    return Stream("s", "text", (task("a", "x", "y"), task("b", "z"), task("c", "w")))


def test_labels_follow_the_tasks(stream: Stream) -> None:
    assert stream.labels == ("x", "y", "z", "w")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "-a", "a b", "ü", "a.", "a\n", "x" * 65, "a:b"]
)
def test_unsafe_task_name(name: str) -> None:
    with pytest.raises(DataError, match="no safe folder name; allowed: 1 to 64 of letters"):
        Stream("s", "text", (task(name, "x"),))


def test_task_names_that_differ_in_case_only() -> None:
    with pytest.raises(DataError, match="two tasks are called 'A'"):
        Stream("s", "text", (task("a", "x"), task("A", "y")))


def test_label_in_two_tasks() -> None:
    with pytest.raises(DataError, match="label 'x' lies in two tasks, 'a' and 'b'.*merge"):
        Stream("s", "text", (task("a", "x"), task("b", "x")))


@pytest.mark.parametrize("split", ["train", "test"])
def test_task_without_examples(split: str) -> None:
    with pytest.raises(DataError, match=f"task 'a' has no {split} examples; .*at least one"):
        Stream("s", "text", (replace(task("a", "x"), **{split: ()}),))


def test_task_may_lack_valid_and_have_one_example() -> None:
    lone = task("a", "x", n=1)
    assert Stream("s", "text", (replace(lone, valid=()),)).labels == ("x",)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_unseen_label(split: str) -> None:
    strange = replace(task("a", "x"), **{split: (Example("1", "text", "new"),)})
    with pytest.raises(DataError, match=f"label 'new' of {split} example '1' is unseen: task 'a'"):
        Stream("s", "text", (strange,))


def test_label_without_train_examples() -> None:
    with pytest.raises(DataError, match="task 'a': labels without train examples.*: ghost;"):
        Stream("s", "text", (replace(task("a", "x"), labels=("x", "ghost")),))


def test_duplicate_ids_over_tasks() -> None:
    other = task("b", "y")
    first = replace(other.train[0], id="a-test-x-0")
    with pytest.raises(DataError, match="duplicate id 'a-test-x-0'; ids are unique"):
        Stream("s", "text", (task("a", "x"), replace(other, train=(first, *other.train[1:]))))


def test_wrong_number_of_entities() -> None:
    with pytest.raises(DataError, match="has 0 entities; each of this stream needs 2"):
        Stream("s", "relation", (task("a", "x"),))


def test_no_tasks_and_unknown_kind() -> None:
    with pytest.raises(DataError, match="no tasks"):
        Stream("s", "text", ())
    with pytest.raises(DataError, match="kind is 'image'; allowed: text, typing, relation"):
        Stream("s", "image", (task("a", "x"),))  # type: ignore[arg-type]


def test_fingerprint_sees_every_part_of_a_task() -> None:
    base = task("a", "x", "y")
    moved = replace(base.train[0], text="another text")
    changed = [
        replace(base, name="b"),
        replace(base, labels=("y", "x")),
        replace(base, train=base.train[::-1]),
        replace(base, train=(moved, *base.train[1:])),
        replace(base, train=(replace(base.train[0], entities=((0, 2),)), *base.train[1:])),
        replace(base, train=(replace(base.train[0], label="y"), *base.train[1:])),
        replace(base, valid=base.valid[1:]),
        replace(base, test=base.test[1:]),
        replace(base, train=base.train + base.valid, valid=()),
    ]
    prints = {task_fingerprint(each) for each in [base, *changed]}
    assert len(prints) == len(changed) + 1
    assert task_fingerprint(task("a", "x", "y")) == task_fingerprint(base)


def test_stream_fingerprint_sees_order_kind_and_metric_but_not_the_name(stream: Stream) -> None:
    assert replace(stream, name="t", attribution="me").fingerprint == stream.fingerprint
    assert stream.reorder(["b", "a", "c"]).fingerprint != stream.fingerprint
    assert replace(stream, metric="other").fingerprint != stream.fingerprint


def test_extends(stream: Stream) -> None:
    first = stream.subset(["a", "b"])
    assert stream.extends(first) and stream.extends(stream)
    assert stream.extends(json.loads(json.dumps(first.fingerprints)))
    assert not first.extends(stream)
    assert not stream.extends(first.reorder(["b", "a"]))
    assert not stream.extends(stream.subset(["b"]))
    assert not stream.cut(train=1).extends(first)


def test_subset_keeps_the_order_and_reorder_changes_it(stream: Stream) -> None:
    assert [t.name for t in stream.subset(["c", "a"]).tasks] == ["a", "c"]
    assert [t.name for t in stream.reorder(["c", "a", "b"]).tasks] == ["c", "a", "b"]
    with pytest.raises(ConfigError, match=r"stream 's' has no task 'd'\. Its tasks: a, b, c"):
        stream.subset(["d"])
    for order in (["a", "b"], ["a", "b", "b"]):
        with pytest.raises(ConfigError, match="name each of these once: a, b, c"):
            stream.reorder(order)


def test_cut_is_per_class_seeded_and_nested(stream: Stream) -> None:
    two = stream.cut(train=2, valid=0, test=1, seed=1)
    for each in two.tasks:
        assert [len(each.train), len(each.valid), len(each.test)] == [
            2 * len(each.labels),
            0,
            len(each.labels),
        ]
    one = stream.cut(train=1, seed=1)
    assert set(one.tasks[0].train) < set(two.tasks[0].train)
    assert stream.cut(train=2, valid=0, test=1, seed=1).fingerprint == two.fingerprint
    assert len({stream.cut(train=1, seed=seed).fingerprint for seed in range(8)}) > 1
    assert stream.cut(seed=5).fingerprint == stream.fingerprint
    assert two.extends(stream.subset(["a"]).cut(2, 0, 1, seed=1))


@pytest.mark.parametrize("sizes", [{"train": 0}, {"test": 0}, {"valid": -1}])
def test_cut_out_of_range(stream: Stream, sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(sizes))} examples per class is .*; allowed"):
        stream.cut(**sizes)


def test_describe_counts_and_is_plain_json() -> None:
    tasks = (task("a", "x", "y"), task("b", "z"))
    leak = replace(tasks[1].train[0], id="leak")
    tasks = (tasks[0], replace(tasks[1], test=(*tasks[1].test, leak)))
    told = json.loads(
        json.dumps(Stream("s", "text", tasks, attribution="me", dropped=4).describe())
    )
    assert told["n_tasks"] == 2 and told["n_labels"] == 3
    assert (told["train"], told["valid"], told["test"]) == (9, 9, 10)
    assert told["tasks"][0] == {
        "name": "a",
        "labels": ["x", "y"],
        "train": 6,
        "valid": 6,
        "test": 6,
    }
    assert told["words"] == {"min": 4, "median": 4.0, "max": 4}
    assert told["duplicates_train_test"] == 1 and told["duplicates_dropped"] == 4
    assert told["attribution"] == "me"
