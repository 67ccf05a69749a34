"""Streams by name, by card, or from a user's data; and where the files of named streams lie."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conpet.errors import ConfigError, DataError, did_you_mean
from conpet.registry import STREAMS
from conpet.streams.base import Stream
from conpet.streams.build import build
from conpet.streams.cards import read_card
from conpet.streams.instruction import format_of
from conpet.streams.readers import is_saved_dataset, read_rows, stem_of
from conpet.streams.schema import Card, Fields, Valid, parse
from conpet.streams.sources import Find
from conpet.streams.tabular import read_unlabelled
from conpet.types import Example

SHIPPED = Path(__file__).parent / "shipped"

Sizes = tuple[int | None, int | None, int | None]

PRESETS: dict[str, Sizes] = {"none": (None, None, None), "small": (40, 10, 20)}
"""Examples per class in train, valid and test; None keeps all."""

FREE_PRESETS: dict[str, Sizes] = {"none": (None, None, None), "small": (320, 40, 100)}
"""The same where answers are free text: examples per task."""


def load_stream(
    source: str | Path,
    *,
    data: str | Path | None = None,
    preset: str | None = None,
    seed: int = 100,
    train_per_class: int | None = None,
    valid_per_class: int | None = None,
    test_per_class: int | None = None,
    n_tasks: int | None = None,
    groups: str | Path | Mapping[str, Sequence[str]] | None = None,
    order: str | Sequence[str] | None = None,
    fields: Mapping[str, Any] | None = None,
    valid: Valid = "auto",
    only: Sequence[str] | None = None,
) -> Stream:
    """Load and check a stream.

    Args:
        source: a registered name; the path of a card (.yaml); or a data file, a folder of train,
            valid and test files, or a saved ``datasets`` folder; or a folder of instruction tasks.
        data: folder under which a named stream's files lie (else CONPET_DATA, the user cache, the
            files shipped with the package).
        preset: "small" cuts to 40 train, 10 valid and 20 test examples a class; where answers are
            free text, to 320, 40 and 100 a task.
        seed: decides drawn tasks (where a card has no seed of its own), carved splits and cuts.
        train_per_class, valid_per_class, test_per_class: at most so many a class, or a task of free
            answers; they win over the preset.
        n_tasks: draw so many tasks of equal size.
        groups: task -> labels, or a JSON file that holds this.
        order: all task names in the order in which they are to be learned; or the name of one of
            the orders of the stream's card.
        fields: names of columns that differ from the defaults, e.g. {"label": "intent"}.
        valid: "carve" takes validation examples from train even where the data have some; "test"
            validates on the test part, as some published results do: they have seen the test.
        only: the tasks to keep, by name; None keeps all.

    Raises:
        ConfigError: unknown name, preset, field, task or order; a value out of range.
        DataError: files that are missing or cannot be used.
    """
    preset = preset or "none"
    if preset not in PRESETS:
        raise ConfigError(
            f"unknown preset '{preset}'.{did_you_mean(preset, PRESETS)} "
            f"Allowed: {', '.join(PRESETS)}"
        )
    card, near = _card(source, seed)
    card = _changed(card, n_tasks, groups, fields, seed, valid)
    own_order = _order(card, order)
    stream = build(card, _finder(card, data, near), seed)
    train, most_valid, test = (FREE_PRESETS if stream.free else PRESETS)[preset]
    stream = stream.cut(
        train if train_per_class is None else train_per_class,
        most_valid if valid_per_class is None else valid_per_class,
        test if test_per_class is None else test_per_class,
        seed,
    )
    if own_order is not None:
        stream = stream.reorder(own_order)
    return stream if only is None else stream.subset(only)


def load_inputs(source: str | Path, *, fields: Mapping[str, Any] | None = None) -> list[Example]:
    """Examples to be predicted, from a JSONL, CSV or Parquet file; no labels are needed or read.

    Ids are those of the id column, else the numbers of the rows, from 1.
    """
    return read_unlabelled(read_rows(Path(source)), parse(Fields, fields or {}, "fields"))


def fields_of(source: str | Path, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The columns in which a stream differs from the defaults, by its card and by ``fields``."""
    path, own = Path(source), {}
    if isinstance(source, str) and source in STREAMS:
        own = STREAMS.load(source).fields.model_dump(exclude_unset=True)
    elif path.suffix.lower() in (".yaml", ".yml") and path.is_file():
        own = read_card(path).fields.model_dump(exclude_unset=True)
    return own | dict(fields or {})


def _card(source: str | Path, seed: int) -> tuple[Card, Path | None]:
    """The card that ``source`` means, and the folder where its files are looked for first."""
    path = Path(source).expanduser()
    if isinstance(source, str) and source in STREAMS:
        return STREAMS.load(source), None
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_card(path), path.parent
    if not path.exists():
        if isinstance(source, str) and path.name == source and not path.suffix:
            STREAMS.entry(source)  # raises, with the closest name
        raise DataError(f"no such file: {source}; check the path, or see: conpet ls streams")
    values = {"name": stem_of(path), "file": str(path.resolve()), "seed": seed}
    tasks = None if path.is_dir() and is_saved_dataset(path) else format_of(path)
    if tasks is not None:
        values |= {"name": path.name.removesuffix(".gz").removesuffix(".json"), "format": tasks}
    return parse(Card, values, str(path)), path.parent


def _order(card: Card, order: str | Sequence[str] | None) -> Sequence[str] | None:
    """The tasks of a named order, or the order itself."""
    if not isinstance(order, str):
        return order
    orders = card.orders or {}
    if order not in orders:
        allowed = ", ".join(orders) or "none, its card has no orders"
        raise ConfigError(
            f"stream '{card.name}' has no order '{order}'.{did_you_mean(order, orders)} Allowed: "
            f"{allowed}; or name all tasks with stream.tasks"
        )
    return orders[order]


def _changed(
    card: Card,
    n_tasks: int | None,
    groups: str | Path | Mapping[str, Sequence[str]] | None,
    fields: Mapping[str, Any] | None,
    seed: int,
    valid: Valid,
) -> Card:
    """The card with another grouping, other columns or another validation part; a grouping replaces
    the card's own, and its orders."""
    changes: dict[str, Any] = {}
    if n_tasks is not None or groups is not None:
        changes = {"n_tasks": n_tasks, "groups": None, "groups_partial": False, "seed": seed}
        changes["orders"] = None
    if valid != "auto":
        changes["valid"] = valid
    if isinstance(groups, Mapping):
        changes["groups"] = {task: list(labels) for task, labels in groups.items()}
    elif groups is not None:
        changes["groups"] = str(Path(groups).expanduser().resolve())
    if fields is not None:
        changes["fields"] = card.fields.model_dump(exclude_unset=True) | dict(fields)
    if not changes:
        return card
    return parse(Card, card.model_dump(exclude_unset=True) | changes, f"stream '{card.name}'")


def _finder(card: Card, data: str | Path | None, near: Path | None) -> Find:
    """Look for a card's file in ``near`` and the data roots, as it is called or with ``.gz``."""
    if data is not None and not Path(data).expanduser().is_dir():
        raise DataError(f"the data folder {data} is no folder; check --data")
    places = [*([near] if near else []), *data_roots(data)]

    def find(file: str) -> Path:
        for place in places:
            for candidate in (place / file, place / f"{file}.gz"):
                if candidate.exists():
                    return candidate
        looked = ", ".join(str(place / file) for place in places)
        if card.obtain and file == card.file:
            raise DataError(
                f"the data of stream '{card.name}' are missing; they are not shipped. "
                f"{card.obtain}. Put them into FOLDER/{file}, then give --data FOLDER or set "
                f"CONPET_DATA to it; looked at: {looked}"
            )
        raise DataError(
            f"the file {file} of stream '{card.name}' is missing; looked at: {looked}; give the "
            f"folder that holds {file} with --data FOLDER, or set CONPET_DATA to it"
        )

    return find


def data_roots(data: str | Path | None = None) -> list[Path]:
    """Where files of named streams are looked for, first to last; the shipped ones come last."""
    given = [data, os.environ.get("CONPET_DATA")]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "conpet" / "data"
    return [Path(root).expanduser() for root in (*given, cache) if root] + [SHIPPED]
