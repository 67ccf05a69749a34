"""Natural Instructions (v2, SuperNI): a JSON object a file.

    {"Definition": ["..."], "Instances": [{"id": "...", "input": "...", "output": ["..."]}], ...}

A task is one file (its own repository: test and valid are carved then), or a folder with a file of
this form for each part. Of several definitions the first counts. "output" is a text or a list of
right answers; ids get the task's name in front, as some files hold those of another task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from conpet.errors import DataError, did_you_mean
from conpet.streams.checks import Split
from conpet.streams.extraction.parts import Parts
from conpet.streams.instruction.places import task_files
from conpet.streams.instruction.rows import definition, task_row
from conpet.streams.readers import Row, read_json

FIELDS = (
    "Definition",
    "Instances",
    *("Contributors", "Source", "URL", "Categories", "Reasoning", "Domains"),
    *("Input_language", "Output_language", "Instruction_language"),
    *("Positive Examples", "Negative Examples", "Instance License"),
)
"""What a file may hold; only the first two are read."""

OF_INSTANCE = ("id", "input", "output")


def read(root: Path, tasks: Mapping[str, str] | None = None) -> Parts:
    """One row an instance."""
    parts = Parts()
    for task, files in task_files(root, ".json", tasks).items():
        for split, path in files.items():
            parts.rows.setdefault(split, []).extend(_rows(task, split, path))
    return parts


def _rows(task: str, split: Split | None, path: Path) -> Iterator[Row]:
    values = _object(read_json(path), str(path), FIELDS, ("Definition", "Instances"))
    instances = values["Instances"]
    if not isinstance(instances, list) or not instances:
        raise DataError(
            f"{path}: 'Instances' is {instances!r:.60}; allowed: a list of at least one object "
            'such as {"input": "...", "output": ["..."]}; leave the task out, or copy it again'
        )
    words = definition(values["Definition"], f"{path}: 'Definition'")
    for number, given in enumerate(instances, start=1):
        source = f"{path} instance {number}"
        instance = _object(given, source, OF_INSTANCE, ("input", "output"))
        yield task_row(source, task, split, words, instance)


def _object(
    value: Any, source: str, allowed: tuple[str, ...], needed: tuple[str, ...]
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"{source} holds a JSON {type(value).__name__}; allowed: an object with "
            f"{' and '.join(needed)}; it is no Natural-Instructions file: move it away"
        )
    for key in value:
        if key not in allowed:
            raise DataError(
                f"{source} has an unknown field '{key}'.{did_you_mean(key, allowed)} Allowed: "
                f"{', '.join(allowed)}; rename it or take it out"
            )
    for key in needed:
        if key not in value:
            raise DataError(
                f"{source} has no '{key}'; its fields: {', '.join(value) or 'none'}; needed: "
                f"{', '.join(needed)}; add it"
            )
    return value
