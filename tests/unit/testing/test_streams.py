"""The synthetic stream is small, can be told apart, and grows."""

from __future__ import annotations

import pytest

from conpet.streams.base import Kind
from conpet.testing import synthetic_stream


@pytest.mark.parametrize("kind", ["text", "typing", "relation"])
def test_each_label_has_a_word_of_its_own(kind: Kind) -> None:
    stream = synthetic_stream(kind, n_tasks=20, labels_per_task=15)
    words: dict[str, set[str]] = {}
    for task in stream.tasks:
        for example in (*task.train, *task.valid, *task.test):
            first, _, again, *_ = example.text.split()
            assert first == again
            words.setdefault(str(example.label), set()).add(first)
            assert [example.text[a:b] for a, b in example.entities][:1] in ([], [first])
    assert all(len(found) == 1 for found in words.values())
    assert len(set.union(*words.values())) == 300


def test_sizes_are_by_label() -> None:
    stream = synthetic_stream(n_tasks=2, labels_per_task=3, train=4, valid=2, test=5)
    for task in stream.tasks:
        assert (len(task.train), len(task.valid), len(task.test)) == (12, 6, 15)
        assert len(task.labels) == 3


def test_more_tasks_extend_fewer_and_the_seed_changes_the_texts() -> None:
    assert synthetic_stream(n_tasks=5).extends(synthetic_stream(n_tasks=2))
    assert synthetic_stream().fingerprint == synthetic_stream().fingerprint
    assert synthetic_stream(seed=1).fingerprint != synthetic_stream().fingerprint
