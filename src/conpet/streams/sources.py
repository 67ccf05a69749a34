"""The examples of a card's files, with what was left out on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from conpet.errors import DataError, did_you_mean
from conpet.streams.base import Kind
from conpet.streams.cells import SPLIT_WORDS
from conpet.streams.checks import SPLITS, Split
from conpet.streams.extraction import check_classes, read_folder
from conpet.streams.instruction import format_of, read_tasks
from conpet.streams.readers import (
    SUFFIXES,
    Row,
    is_saved_dataset,
    read_rows,
    read_saved_dataset,
    stem_of,
    suffix_of,
)
from conpet.streams.schema import TASK_FORMATS, Card, Fields
from conpet.streams.tabular import Layout, Record, read_records

Find = Callable[[str], Path]
"""Turns a path as a card says it into one that exists, or raises DataError."""


@dataclass(frozen=True)
class Found:
    """What a card's files hold.

    Attributes:
        kind: of every example.
        records: the examples with their parts.
        has_instruction: whether there is a place for instructions in the data.
        left_out: what was left out on the way: reason -> number.
    """

    kind: Kind
    records: list[Record]
    has_instruction: bool
    left_out: Counter[str] = field(default_factory=Counter)


def read(card: Card, find: Find) -> Found:
    """All examples of a card's files."""
    if card.format in TASK_FORMATS:
        place = find(str(card.file))  # in the card's format, or in the other one
        tasks = read_tasks(format_of(place) or card.format, place, card.tasks)
        return _records(card, list(tasks.rows.items()), Fields())
    if card.format != "table":
        return _read_folder(card, find)
    parts: list[tuple[Split | None, list[Row]]] = []
    if isinstance(card.file, str):
        parts = _open(find(card.file))
    else:
        parts = [(split, read_rows(find(file))) for split, file in card.file.items()]
    return _records(card, parts, card.fields)


def _read_folder(card: Card, find: Find) -> Found:
    """The same of a folder as its owner distributes it, with the classes checked."""
    folder = find(str(card.file))
    parts = read_folder(card.format, folder)
    found = _records(card, list(parts.rows.items()), Fields())
    if isinstance(card.groups, dict) and not card.groups_partial:
        named = [label for group in card.groups.values() for label in group]
        check_classes(named, {r.example.label or "" for r in found.records}, str(folder))
        trained = {r.example.label or "" for r in found.records if r.split in (None, "train")}
        check_classes(named, trained, f"the train part of {folder}")
    return replace(found, left_out=parts.left_out)


def _records(card: Card, parts: Sequence[tuple[Split | None, list[Row]]], fields: Fields) -> Found:
    layout = Layout.of(parts[0][1][0], fields)
    records = [
        record for split, rows in parts for record in read_records(rows, fields, layout, split)
    ]
    if card.pool is not None:
        records = [replace(record, split=None) for record in records]
    return Found(layout.kind, records, layout.has_instruction)


def _open(path: Path) -> list[tuple[Split | None, list[Row]]]:
    """Rows by split of a file, a folder of split files, or a saved ``datasets`` folder."""
    if not path.is_dir():
        return [(None, read_rows(path))]
    if is_saved_dataset(path):
        saved = read_saved_dataset(path)
        return [(_split_called(name, path) if name else None, rows) for name, rows in saved.items()]
    files: dict[Split, Path] = {}
    for file in sorted(path.iterdir()):
        if suffix_of(file) and stem_of(file).lower() in SPLIT_WORDS:
            split = SPLIT_WORDS[stem_of(file).lower()]
            if split in files:
                raise DataError(
                    f"{path} has two {split} files, {files[split].name} and {file.name}; keep one"
                )
            files[split] = file
    if "train" not in files:
        raise DataError(
            f"folder {path} has no train file; put train, valid and test files into it, each "
            f"ending in one of {', '.join(SUFFIXES)}, or give one file"
        )
    return [(split, read_rows(files[split])) for split in SPLITS if split in files]


def _split_called(name: str, path: Path) -> Split:
    if name.lower() not in SPLIT_WORDS:
        raise DataError(
            f"{path} has a split '{name}'.{did_you_mean(name, SPLIT_WORDS)} "
            f"Allowed: {', '.join(SPLITS)}; save it without the others"
        )
    return SPLIT_WORDS[name.lower()]
