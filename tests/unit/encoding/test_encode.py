"""The token store: rows, batches, files; and batches by length."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conpet.backbones.base import Backbone
from conpet.encoding import encode
from conpet.encoding.encode import Encoder, TokenStore, length_buckets, length_chunks
from conpet.errors import CheckpointError, DataError
from conpet.types import Example, Task, padded

TEXTS = ["one", "this is a longer sentence", "and a third", "in between", "x " * 90]
EXAMPLES = [Example(str(i), text, label=text[0]) for i, text in enumerate(TEXTS)]
RELATION = Example("r", "Paris lies in France.", entities=((0, 5), (14, 20)))


@pytest.fixture
def encoder(backbones: dict[str, Backbone]) -> Encoder:
    return Encoder(backbones["tiny-bert"].tokenizer, max_length=48)


@pytest.fixture(params=["memory", "files"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "tokens" if request.param == "files" else None


def test_rows_hold_what_the_encoder_gives(encoder: Encoder, folder: Path | None) -> None:
    store = TokenStore(encoder, folder)
    first, second = store.add(EXAMPLES[:3]), store.add([RELATION, *EXAMPLES[3:]])
    assert first.tolist() == [0, 1, 2] and second.tolist() == [3, 4, 5]
    every = [*EXAMPLES[:3], RELATION, *EXAMPLES[3:]]
    batch = store.batch(np.arange(6))
    for i, (ids, mask) in enumerate(encoder.encode_all(every)):
        n = len(ids)
        assert store.lengths[i] == n == batch.attention_mask[i].sum()
        assert batch.input_ids[i, :n].tolist() == ids
        assert (batch.input_ids[i, n:] == encoder.pad_id).all()
        assert batch.mask_position[i] == mask
    assert batch.input_ids.shape[1] == max(store.lengths)


def test_batch_keeps_the_order_and_the_answers(encoder: Encoder) -> None:
    store = TokenStore(encoder)
    rows = store.add(EXAMPLES)[[3, 0, 3]]
    batch = store.batch(rows, np.array([1, 0, 1]), np.array([5, 2, 5]))
    assert batch.rows.tolist() == [3, 0, 3]
    assert batch.task.tolist() == [1, 0, 1] and batch.label.tolist() == [5, 2, 5]
    assert torch.equal(batch.input_ids[0], batch.input_ids[2])
    assert {t.dtype for t in (batch.input_ids, batch.attention_mask, batch.rows)} == {torch.int64}
    unknown = store.batch(rows)
    assert unknown.task.tolist() == unknown.label.tolist() == [-1] * 3


def test_the_same_examples_have_the_same_rows(encoder: Encoder, folder: Path | None) -> None:
    store = TokenStore(encoder, folder)
    rows = store.add(EXAMPLES)
    assert store.add([]).shape == (0,)
    assert np.array_equal(store.add(list(EXAMPLES)), rows) and len(store.lengths) == 5
    assert store.add(EXAMPLES[::-1]).tolist() == [5, 6, 7, 8, 9]
    assert len(store.batch(rows[:0])) == 0


def test_files_are_reused(
    encoder: Encoder,
    backbones: dict[str, Backbone],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = TokenStore(encoder, tmp_path)
    expected = before.batch(before.add(EXAMPLES))
    assert encoder.truncated == 1 and len(list(tmp_path.iterdir())) == 1
    again = Encoder(backbones["tiny-bert"].tokenizer, max_length=48)
    monkeypatch.setattr(again, "encode_all", None)  # calling it would fail
    store = TokenStore(again, tmp_path)
    found = store.batch(store.add(EXAMPLES))
    assert torch.equal(found.input_ids, expected.input_ids)
    assert torch.equal(found.mask_position, expected.mask_position)
    assert again.truncated == 1, "what was cut is counted, encoded now or before"


def test_other_settings_or_texts_make_other_files(
    encoder: Encoder, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    TokenStore(encoder, tmp_path).add(EXAMPLES)
    TokenStore(Encoder(backbones["tiny-bert"].tokenizer, max_length=49), tmp_path).add(EXAMPLES)
    TokenStore(encoder, tmp_path).add([*EXAMPLES[:4], Example("4", "y " * 50)])
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_a_damaged_file_is_made_anew(encoder: Encoder, tmp_path: Path, damage: str) -> None:
    store = TokenStore(encoder, tmp_path)
    expected = store.batch(store.add(EXAMPLES))
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    bad = {"cut": good[:-40], "flip": bytes(flipped), "empty": b"", "foreign": b"no array"}
    path.write_bytes(bad[damage])
    repaired = TokenStore(encoder, tmp_path)
    found = repaired.batch(repaired.add(EXAMPLES))
    assert torch.equal(found.input_ids, expected.input_ids)
    assert path.read_bytes() == good and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="cannot write"):
        TokenStore(encoder, tmp_path / "tokens").add(EXAMPLES)


def test_an_example_that_cannot_fit_adds_nothing(encoder: Encoder, folder: Path | None) -> None:
    store = TokenStore(encoder, folder)
    with pytest.raises(DataError, match="'bad'"):
        store.add([*EXAMPLES, Example("bad", "word " * 40, entities=((0, 190),))])
    assert store.add(EXAMPLES).tolist() == [0, 1, 2, 3, 4]
    assert folder is None or len(list(folder.iterdir())) == 1


def test_more_blocks_than_open_files(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "_OPEN_FILES", 3)
    store = TokenStore(encoder, tmp_path)
    for i in range(9):
        store.add([Example(str(i), f"this is {i}")])
    batch = store.batch(np.arange(9))
    assert len({tuple(row) for row in batch.input_ids.tolist()}) == 9
    assert store._open.cache_info().currsize == 3


def test_add_task(encoder: Encoder) -> None:
    def part(*labels: str | None) -> tuple[Example, ...]:
        return tuple(Example(str(i), "text", label) for i, label in enumerate(labels))

    store = TokenStore(encoder)
    store.add(EXAMPLES)
    task = Task("t", ("p", "q"), part("q", "p", "q"), (), part("p", None))
    encoded = store.add_task(task, index=2, first_column=10)
    assert (encoded.name, encoded.labels, encoded.index) == ("t", ("p", "q"), 2)
    assert encoded.first_column == 10
    assert encoded.train.tolist() == [5, 6, 7] and encoded.train_labels.tolist() == [11, 10, 11]
    assert encoded.valid.shape == encoded.valid_labels.shape == (0,)
    assert encoded.test.tolist() == [8, 9] and encoded.test_labels.tolist() == [10, -1]
    assert [len(rows) for rows, _ in encoded.parts()] == [3, 0, 2]


@given(
    st.lists(st.integers(1, 128), max_size=300),
    st.integers(1, 40),
    st.integers(0, 9),
)
def test_buckets_hold_every_position_once(lengths: list[int], batch_size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    buckets = length_buckets(np.array(lengths, np.int64), batch_size, rng)
    together = [int(i) for bucket in buckets for i in bucket]
    assert sorted(together) == list(range(len(lengths)))
    assert len(buckets) == -(-len(lengths) // batch_size)


def test_buckets_save_padding_and_are_seeded() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, 2000)

    def padded(batches: list[np.ndarray]) -> int:
        return sum(int(lengths[b].max()) * len(b) for b in batches)

    once, again, other = (length_buckets(lengths, 32, np.random.default_rng(s)) for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(once, other, strict=True))
    assert padded(once) < 1.1 * lengths.sum()
    means = [lengths[b].mean() for b in once]
    assert means != sorted(means), "the batches themselves come in random order"


def cost(lengths: np.ndarray, chunks: Sequence[np.ndarray], of_a_pass: int) -> int:
    """Tokens with their padding, and ``of_a_pass`` a chunk."""
    return sum(padded(int(lengths[c].max())) * len(c) + of_a_pass for c in chunks)


@given(st.lists(st.integers(1, 128), max_size=200), st.integers(1, 600), st.integers(0, 200))
def test_chunks_hold_every_position_once_and_fit(
    lengths: list[int], budget: int, of_a_pass: int
) -> None:
    values = np.array(lengths, np.int64)
    chunks = list(length_chunks(values, lambda width: max(1, budget // width), of_a_pass))
    assert sorted(int(i) for chunk in chunks for i in chunk) == list(range(len(lengths)))
    assert all(len(c) <= max(1, budget // padded(int(values[c].max()))) for c in chunks)
    longest = [int(values[chunk].max()) for chunk in chunks]
    assert longest == sorted(longest, reverse=True), "where memory is short, it is so at once"


@given(st.lists(st.integers(1, 64), min_size=1, max_size=7), st.integers(0, 100))
def test_no_other_cut_is_cheaper(lengths: list[int], of_a_pass: int) -> None:
    values = np.array(lengths, np.int64)
    chunks = list(length_chunks(values, lambda _: len(values), of_a_pass))
    order = np.argsort(values)
    cuts = (np.split(order, at) for n in range(7) for at in combinations(range(1, len(order)), n))
    assert cost(values, chunks, of_a_pass) == min(cost(values, cut, of_a_pass) for cut in cuts)


def test_chunks_follow_the_price_of_a_pass() -> None:
    lengths = np.array([40, 40, 33, 17, 16, 9, 8])  # padded: 40 40 40 24 16 16 8

    def sizes(of_a_pass: int) -> list[int]:
        return [len(c) for c in length_chunks(lengths, lambda _: 100, of_a_pass)]

    assert [sizes(0), sizes(16), sizes(30)] == [[3, 1, 2, 1], [3, 1, 3], [4, 3]]
    assert sizes(1000) == [7]
