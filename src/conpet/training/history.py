"""The learned tasks' data, kept in the run folder: evaluation and replay need no other file."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from conpet.errors import CheckpointError, DataError
from conpet.runtime import write_bytes_atomic
from conpet.types import Example, Task

SPLITS = ("train", "valid", "test")


def save_task(path: Path, task: Task) -> None:
    """Write a task as gzip-compressed JSONL: a header line, then one line an example.

    A line is [part, id, text, label, entities], and for free answers instruction and answers too.
    """
    lines = [json.dumps({"name": task.name, "labels": task.labels})]
    for split in SPLITS:
        for e in getattr(task, split):
            facts: list[Any] = [split, e.id, e.text, e.label, e.entities]
            if e.answers:
                facts += [e.instruction, e.answers]
            lines.append(json.dumps(facts, ensure_ascii=False))
    content = "\n".join(lines).encode()
    write_bytes_atomic(path, gzip.compress(content, compresslevel=3, mtime=0))


def load_task(path: Path) -> Task:
    """Read what ``save_task`` wrote; CheckpointError if it is damaged."""
    try:
        header, *lines = gzip.decompress(path.read_bytes()).decode().split("\n")
        facts = json.loads(header)
        parts: dict[str, list[Example]] = {split: [] for split in SPLITS}
        for line in lines:
            split, id_, text, label, entities, *free = json.loads(line)
            instruction, answers = free or ("", [])
            spans = tuple((a, b) for a, b in entities)
            (instruction,) = _texts([instruction])
            parts[split].append(Example(id_, text, label, spans, instruction, _texts(answers)))
    except (OSError, EOFError, ValueError, TypeError, KeyError, zlib.error, DataError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); it holds the data of a learned task, as gzip JSONL. "
            "Restore the file from a copy of the run folder; predictions work without it"
        ) from error
    train, valid, test = (tuple(parts[split]) for split in SPLITS)
    return Task(facts["name"], tuple(facts["labels"]), train, valid, test)


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{values!r:.60} stands where a list of answers should")
    return tuple(values)
