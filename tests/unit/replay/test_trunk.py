"""States by texts: computed once, kept within bounds, sound after crashes and damage."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conpet.errors import ConfigError
from conpet.replay.trunk import ENTRY, TrunkCache
from conpet.types import Batch

WIDTH, TOKEN = 3, 12  # units, and bytes of a token in fp32


class Lower:
    """Stands for the layers: what it gives of a text depends on its tokens alone."""

    def __init__(self, dtype: torch.dtype = torch.float32, factor: float = 1 / 3) -> None:
        self.dtype, self.factor = dtype, factor
        self.seen: list[list[int]] = []

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        self.seen += [row[: int(n)].tolist() for row, n in zip(ids, mask.sum(dim=1), strict=True)]
        units = torch.arange(1, WIDTH + 1) * self.factor
        return (ids[:, :, None] * units).to(self.dtype)


def batch(*texts: list[int], rows: list[int] | None = None, length: int = 0) -> Batch:
    longest = max(length, *map(len, texts))
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
    at = torch.arange(longest)[None]
    mask = (at < torch.tensor([len(text) for text in texts])[:, None]).long()
    number = torch.tensor(rows if rows is not None else [*range(len(texts))])
    return Batch(ids, mask, number, number, number, number, torch.zeros(len(texts), 0))


def learning(folder: Path | None, counts: dict[str, int] | None = None, **how: Any) -> TrunkCache:
    """The cache of a process that learns."""
    cache = TrunkCache("key", folder, **{"most": 10_000, **how})
    cache.rollback(counts or {})
    return cache


def check(states: Tensor, b: Batch, factor: float = 1 / 3) -> None:
    wanted = Lower(factor=factor)(b.input_ids, b.attention_mask) * b.attention_mask[:, :, None]
    assert torch.equal(states, wanted)


def test_a_text_is_computed_once_wherever_it_comes(tmp_path: Path) -> None:
    cache, lower = learning(tmp_path), Lower()
    first = batch([5, 6, 7], [8], [5, 6, 7])
    states, computed = cache.get(first, lower)
    check(states, first)
    assert computed == 2, "the same text twice is one"
    other = batch([9, 9], [8], [5, 6, 7], rows=[30, 40, 50], length=8)
    states, computed = cache.get(other, lower)
    check(states, other)
    assert computed == 1
    assert lower.seen == [[5, 6, 7], [8], [9, 9]]
    again = TrunkCache("key", tmp_path)
    states, computed = again.get(other, lower)
    check(states, other)
    assert computed == 0


def test_another_key_finds_nothing(tmp_path: Path) -> None:
    cache = learning(tmp_path)
    cache.get(batch([1], [2]), Lower())
    assert TrunkCache("other", tmp_path).get(batch([1]), Lower())[1] == 1


def test_the_last_batch_is_at_hand_without_a_folder() -> None:
    cache, lower = learning(None), Lower()
    whole = batch([1, 2, 3], [4], [5, 6], rows=[-1, -1, -1])
    cache.get(whole, lower)
    for part in (batch([4], [5, 6], rows=[-1, -1]), batch([4], length=9), batch([1, 2, 3], [4])):
        states, computed = cache.get(part, lower)
        check(states, part)
        assert computed == 0
    assert cache.get(batch([4], [7]), lower)[1] == 2, "what is not kept goes with the batch"


def test_inputs_that_are_not_stored_are_not_kept(tmp_path: Path) -> None:
    cache, lower = learning(tmp_path), Lower()
    cache.get(batch([1], [2], rows=[-1, 4]), lower)
    cache.get(batch([3]), lower)
    assert cache.get(batch([1]), lower)[1] == 0, "a batch may take several passes, twice"
    for other in range(20):
        cache.get(batch([4, other]), lower)
    assert cache.get(batch([1]), lower)[1] == 1
    assert cache.get(batch([2]), lower)[1] == 0


def test_a_process_that_does_not_learn_writes_nothing(tmp_path: Path) -> None:
    cache = TrunkCache("key", tmp_path / "trunk", most=10_000)
    cache.get(batch([1], [2]), Lower())
    assert not (tmp_path / "trunk").exists()


def test_no_more_is_kept_than_was_allowed(tmp_path: Path) -> None:
    cache, lower = learning(tmp_path, most=5 * TOKEN), Lower()
    for text in ([1, 2], [3, 4, 5], [6], [7, 8]):
        cache.get(batch(text), lower)
    assert (tmp_path / "key.states").stat().st_size == 5 * TOKEN
    for other in range(20):  # what was last computed is at hand in any case
        cache.get(batch([9, other]), lower)
    known = [cache.get(batch(text), lower)[1] for text in ([1, 2], [3, 4, 5], [6], [7, 8])]
    assert known == [0, 0, 1, 1]
    check(cache.get(batch([6], [3, 4, 5]), lower)[0], batch([6], [3, 4, 5]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_used_from_the_first_time_on(tmp_path: Path, dtype: torch.dtype) -> None:
    cache, lower, b = learning(tmp_path, dtype=dtype), Lower(), batch([7, 11], [13])
    first, _ = cache.get(b, lower)
    again, computed = TrunkCache("key", tmp_path, dtype).get(b, lower)
    assert (tmp_path / "key.states").stat().st_size == 3 * TOKEN // 2
    assert computed == 0
    assert first.dtype == again.dtype == torch.float32
    assert torch.equal(first, again)
    exact = Lower()(b.input_ids, b.attention_mask) * b.attention_mask[:, :, None]
    assert torch.equal(first, exact.to(dtype).float())
    assert not torch.equal(first, exact)


def test_states_in_half_precision_are_kept_bit_by_bit(tmp_path: Path) -> None:
    b, lower = batch([7, 11], [13]), Lower(torch.bfloat16)
    first, _ = learning(tmp_path).get(b, lower)
    again, computed = TrunkCache("key", tmp_path).get(b, lower)
    assert computed == 0
    assert first.dtype == again.dtype == torch.bfloat16
    assert torch.equal(first, again)


def test_states_too_large_for_fp16_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"trunk_dtype is fp16.*use bf16"):
        learning(None, dtype=torch.float16).get(batch([9]), Lower(factor=1e5))


def test_rollback_drops_what_came_after_the_commit(tmp_path: Path) -> None:
    cache, lower = learning(tmp_path), Lower()
    cache.get(batch([1, 2], [3]), lower)
    counts = cache.commit()
    assert counts == {"key": 2}
    cache.get(batch([4]), lower)
    (tmp_path / "old.states").write_bytes(b"of another backbone")
    for torn in (b"", b"a write that was killed"):
        with (tmp_path / "key.states").open("ab") as states:
            states.write(torn)
        with (tmp_path / "key.index").open("ab") as index:
            index.write(torn)
        resumed = learning(tmp_path, counts)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["key.index", "key.states"]
        assert (tmp_path / "key.states").stat().st_size == 3 * TOKEN
        assert (tmp_path / "key.index").stat().st_size == 3 * ENTRY.itemsize
        b = batch([3], [1, 2], [4])
        states, computed = resumed.get(b, lower)
        check(states, b)
        assert computed == 1


def test_files_are_those_of_a_process_that_was_never_stopped(tmp_path: Path) -> None:
    whole, broken = learning(tmp_path / "whole"), learning(tmp_path / "broken")
    for cache in (whole, broken):
        cache.get(batch([1, 2], [3]), Lower())
    counts = broken.commit()
    broken.get(batch([9, 9]), Lower())
    resumed = learning(tmp_path / "broken", counts)
    for cache in (whole, resumed):
        cache.get(batch([3], [4]), Lower())
    for name in ("key.states", "key.index"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()


def _overwrite(path: Path, at: int, value: int) -> None:
    data = bytearray(path.read_bytes())
    assert data[at] != value
    data[at] = value
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "name", "computed"),
    [
        (partial(_overwrite, at=TOKEN + 5, value=99), "key.states", 1),
        (_cut, "key.states", 1),
        (_cut, "key.index", 1),
        (Path.unlink, "key.states", 2),
        (Path.unlink, "key.index", 2),
        (lambda path: path.write_bytes(b""), "key.index", 2),
        (partial(_overwrite, at=3, value=255), "key.index", 2),
        (partial(_overwrite, at=ENTRY.itemsize + 19, value=255), "key.index", 2),
        (partial(_overwrite, at=ENTRY.itemsize + 16, value=1), "key.index", 2),
        (partial(_overwrite, at=ENTRY.itemsize + 21, value=99), "key.index", 1),
    ],
)
def test_what_is_damaged_is_computed_anew(
    tmp_path: Path, damage: Any, name: str, computed: int
) -> None:
    cache, b = learning(tmp_path), batch([1, 2], [3])
    cache.get(b, Lower())
    counts = cache.commit()
    damage(tmp_path / name)
    resumed = learning(tmp_path, counts)
    states, n = resumed.get(b, Lower())
    check(states, b)
    assert n == computed
    later = TrunkCache("key", tmp_path)
    states, n = later.get(b, Lower())
    check(states, b)
    assert n == 0
