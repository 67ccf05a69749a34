"""The examples of a card's files, with what was left out on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from conpet.errors import DataError, did_you_mean
from conpet.streams.base import Kind
from conpet.streams.checks import SPLITS, Split
from conpet.streams.extraction import check_classes, read_folder
from conpet.streams.readers import (
    SUFFIXES,
    Row,
    is_saved_dataset,
    read_rows,
    read_saved_dataset,
    stem_of,
    suffix_of,
)
from conpet.streams.schema import Card, Fields
from conpet.streams.tabular import SPLIT_WORDS, Layout, Record, read_records

Find = Callable[[str], Path]
"""Turns a path as a card says it into one that exists, or raises DataError."""


def read(card: Card, find: Find) -> tuple[Kind, list[Record], Counter[str]]:
    """All examples with their parts, and what was left out on the way: reason -> number."""
    if card.format != "table":
        return _read_folder(card, find)
    parts: list[tuple[Split | None, list[Row]]] = []
    if isinstance(card.file, str):
        parts = _open(find(card.file))
    else:
        parts = [(split, read_rows(find(file))) for split, file in card.file.items()]
    return *_records(card, parts, card.fields), Counter()


def _read_folder(card: Card, find: Find) -> tuple[Kind, list[Record], Counter[str]]:
    """The same of a folder as its owner distributes it, with the classes checked."""
    folder = find(str(card.file))
    parts = read_folder(card.format, folder)
    kind, records = _records(card, list(parts.rows.items()), Fields())
    if isinstance(card.groups, dict) and not card.groups_partial:
        named = [label for group in card.groups.values() for label in group]
        check_classes(named, {record.example.label or "" for record in records}, str(folder))
        trained = {r.example.label or "" for r in records if r.split in (None, "train")}
        check_classes(named, trained, f"the train part of {folder}")
    return kind, records, parts.left_out


def _records(
    card: Card, parts: Sequence[tuple[Split | None, list[Row]]], fields: Fields
) -> tuple[Kind, list[Record]]:
    layout = Layout.of(parts[0][1][0], fields)
    records = [
        record for split, rows in parts for record in read_records(rows, fields, layout, split)
    ]
    if card.pool is not None:
        records = [replace(record, split=None) for record in records]
    return layout.kind, records


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
