import resource
from pathlib import Path

import numpy as np

from conpet.replay.logits import LogitCache


def filled(folder: Path | None, rows: list[int], offset: float = 0.0) -> LogitCache:
    cache = LogitCache(folder)
    cache.put("a-1", np.array(rows), np.array([[row + offset, -row] for row in rows], np.float32))
    return cache


def test_known_and_unknown_rows_are_told_apart() -> None:
    values, known = filled(None, [3, 5]).get("a-1", np.array([5, 4, 3]), 2)
    assert known.tolist() == [True, False, True]
    assert values.tolist() == [[5, -5], [0, 0], [3, -3]]


def test_an_entry_is_written_once_and_never_replaced() -> None:
    cache = filled(None, [3])
    cache.put("a-1", np.array([3]), np.array([[9, 9]], np.float32))
    assert cache.get("a-1", np.array([3]), 2)[0].tolist() == [[3, -3]]


def test_another_fingerprint_finds_nothing() -> None:
    assert not filled(None, [3]).get("a-2", np.array([3]), 2)[1].any()


def test_inputs_without_a_row_are_never_kept() -> None:
    cache = filled(None, [3])
    cache.put("a-1", np.array([-1]), np.array([[9, 9]], np.float32))
    assert not cache.get("a-1", np.array([-1]), 2)[1].any()


def test_reopening_gives_the_same_bits(tmp_path: Path) -> None:
    cache = filled(tmp_path, [3, 5], offset=1 / 3)
    before = cache.get("a-1", np.array([3, 5]), 2)[0]
    cache.commit()
    after, known = LogitCache(tmp_path).get("a-1", np.array([3, 5]), 2)
    assert known.all()
    assert before.tobytes() == after.tobytes()


def test_rollback_drops_what_came_after_the_commit(tmp_path: Path) -> None:
    cache = filled(tmp_path, [3])
    counts = cache.commit()
    cache.put("a-1", np.array([7]), np.array([[7, 7]], np.float32))
    cache.put("b-1", np.array([7]), np.array([[1, 2, 3]], np.float32))
    cache.commit()
    reopened = LogitCache(tmp_path)
    reopened.rollback(counts)
    assert reopened.get("a-1", np.array([3, 7]), 2)[1].tolist() == [True, False]
    assert not reopened.get("b-1", np.array([7]), 3)[1].any()
    reopened.put("a-1", np.array([8]), np.array([[8, 8]], np.float32))
    reopened.commit()
    assert LogitCache(tmp_path).get("a-1", np.array([3, 8]), 2)[0].tolist() == [[3, -3], [8, 8]]


def test_values_whose_rows_were_never_written_are_dropped(tmp_path: Path) -> None:
    filled(tmp_path, [1, 2, 3]).commit()
    (tmp_path / "a-1.rows").unlink()
    cache = LogitCache(tmp_path)
    cache.rollback({})
    cache.put("a-1", np.array([7]), np.array([[7, -7]], np.float32))
    cache.commit()
    assert LogitCache(tmp_path).get("a-1", np.array([7]), 2)[0].tolist() == [[7, -7]]


def test_thousands_of_adapters_do_not_use_up_the_file_handles(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    cache = LogitCache(tmp_path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        for i in range(300):
            cache.put(f"{i}-1", np.array([3]), np.array([[i]], np.float32))
        cache.commit()
        for i in range(300):
            assert cache.get(f"{i}-1", np.array([3]), 1)[0].tolist() == [[i]]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_damaged_file_is_computed_anew_instead_of_believed(tmp_path: Path) -> None:
    counts = filled(tmp_path, [3, 5, 6]).commit()
    with (tmp_path / "a-1.logits").open("r+b") as f:
        f.truncate(8)
    cache = LogitCache(tmp_path)
    cache.rollback(counts)
    assert not cache.get("a-1", np.array([3, 5, 6]), 2)[1].any()


def test_a_commit_counts_what_nobody_asked_for_since_the_rollback(tmp_path: Path) -> None:
    """Else a second crash would forget the logits of adapters that the first hour did not use."""
    counts = filled(tmp_path, [3, 5]).commit()
    first = LogitCache(tmp_path)
    first.rollback(counts)
    again = first.commit()
    assert again == counts
    second = LogitCache(tmp_path)
    second.rollback(again)
    assert second.get("a-1", np.array([3, 5]), 2)[1].all()


def test_files_without_a_whole_entry_hold_nothing(tmp_path: Path) -> None:
    counts = filled(tmp_path, [3]).commit()
    (tmp_path / "a-1.rows").write_bytes(b"\x02")
    assert not LogitCache(tmp_path).get("a-1", np.array([3]), 2)[1].any()
    cache = LogitCache(tmp_path)
    cache.rollback(counts)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_longer_asked_for_is_forgotten_on_disk_too(tmp_path: Path) -> None:
    cache = filled(tmp_path, [3])
    cache.put("b-1", np.array([7]), np.array([[1, 2, 3]], np.float32))
    cache.commit()
    cache.keep_only({"b-1"})
    assert cache.commit() == {"b-1": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b-1.logits", "b-1.rows"]
    assert not cache.get("a-1", np.array([3]), 2)[1].any()
