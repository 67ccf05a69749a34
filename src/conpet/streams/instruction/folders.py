"""A folder a task: train.jsonl, test.jsonl and definition.json (the Long Sequence benchmark).

    agnews/definition.json    {"definition": ["What is the topic of this article?"]}
    agnews/train.jsonl        {"input": "...", "output": "..."} a line

Of several definitions the first counts; an empty list says that the task has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from conpet.errors import DataError, did_you_mean
from conpet.streams.checks import Split
from conpet.streams.extraction.parts import Parts
from conpet.streams.instruction.places import DEFINITION, task_files
from conpet.streams.instruction.rows import definition, task_row
from conpet.streams.readers import Row, read_json, read_rows


def read(root: Path, tasks: Mapping[str, str] | None = None) -> Parts:
    """One row a line; the fields "input", "output" and, where it has one, "id" are read."""
    if root.is_file():
        raise DataError(
            f"{root} is a file; data in the format 'instruction-folders' are a folder with a "
            "folder for each task: give that one"
        )
    parts = Parts()
    for task, files in task_files(root, ".jsonl", tasks).items():
        words = _definition(files["train"].parent)
        for split, path in files.items():
            parts.rows.setdefault(split, []).extend(_rows(task, split, words, path))
    return parts


def _definition(folder: Path) -> str:
    path = folder / DEFINITION
    if not path.is_file():
        raise DataError(
            f'task folder {folder} has no {DEFINITION}; needed is an object with "definition", a '
            'list of texts; for a task without one write {"definition": []}'
        )
    values = read_json(path)
    if not isinstance(values, dict) or "definition" not in values:
        raise DataError(
            f'{path} is {values!r:.60}; allowed: {{"definition": ["..."]}}, the list may be empty'
        )
    return definition(values["definition"], f"{path}: 'definition'")


def _rows(task: str, split: Split | None, words: str, path: Path) -> Iterator[Row]:
    for source, values in read_rows(path):
        for key in ("input", "output"):
            if key not in values:
                raise DataError(
                    f"{source} has no '{key}'.{did_you_mean(key, values)} Its fields: "
                    f"{', '.join(values) or 'none'}; needed: input, output"
                )
        yield task_row(source, task, split, words, values)
