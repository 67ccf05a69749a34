"""The kept data of a task: the same again, or a clear error."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from conpet.errors import CheckpointError
from conpet.testing import synthetic_stream
from conpet.testing.instruction import instruction_stream
from conpet.training.history import load_task, save_task
from conpet.types import Task

TASK = synthetic_stream(n_tasks=1).tasks[0]


@pytest.mark.parametrize(
    "task",
    [TASK, synthetic_stream("relation", 1).tasks[0], *instruction_stream(4, train=2).tasks],
    ids=lambda task: task.name,
)
def test_a_task_comes_back(tmp_path: Path, task: Task) -> None:
    save_task(tmp_path / "01.jsonl.gz", task)
    assert load_task(tmp_path / "01.jsonl.gz") == task


def test_a_task_without_answers_is_kept_as_ever(tmp_path: Path) -> None:
    """Run folders of older versions hold such lines."""
    path = tmp_path / "01.jsonl.gz"
    save_task(path, TASK)
    line = json.loads(gzip.decompress(path.read_bytes()).splitlines()[1])
    example = TASK.train[0]
    assert line == ["train", example.id, example.text, example.label, []]


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


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "[1, 2]",
        '["train", "a", "text", "x", [[1]]]',
        "7",
        '["train", "a", "text", null, [], "do it"]',
        '["train", "a", "text", null, [], "do it", "answer"]',
        '["train", "a", "text", null, [], "do it", [3]]',
    ],
)
def test_a_foreign_line_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "01.jsonl.gz"
    path.write_bytes(gzip.compress(f'{{"name": "a", "labels": ["x"]}}\n{line}'.encode()))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_task(path)
