"""The kept data of a task: the same again, or a clear error."""

from pathlib import Path

import pytest

from conpet.errors import CheckpointError
from conpet.testing import synthetic_stream
from conpet.training.history import load_task, save_task

TASK = synthetic_stream(n_tasks=1).tasks[0]


def test_a_task_comes_back(tmp_path: Path) -> None:
    save_task(tmp_path / "01.jsonl.gz", TASK)
    assert load_task(tmp_path / "01.jsonl.gz") == TASK


def test_no_damaged_byte_passes_for_data_or_ends_in_another_error(tmp_path: Path) -> None:
    path = tmp_path / "01.jsonl.gz"
    save_task(path, TASK)
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        try:
            assert load_task(path) == TASK  # some bytes of the gzip header say nothing
        except CheckpointError:
            refused += 1
    assert refused >= len(whole) - 10


@pytest.mark.parametrize("line", ["[]", "[1, 2]", '["train", "a", "text", "x", [[1]]]', "7"])
def test_a_foreign_line_is_refused(tmp_path: Path, line: str) -> None:
    import gzip

    path = tmp_path / "01.jsonl.gz"
    path.write_bytes(gzip.compress(f'{{"name": "a", "labels": ["x"]}}\n{line}'.encode()))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_task(path)
