"""The formats by name, and the checks that only an owner's data set needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from conpet.errors import DataError
from conpet.streams.extraction import ace, fewnerd, fine_typing, tacred
from conpet.streams.extraction.parts import Parts
from conpet.types import Example

FORMATS: dict[str, Callable[[Path], Parts]] = {
    "fewnerd": fewnerd.read,
    "typing": fine_typing.read,
    "tacred": tacred.read,
    "ace": ace.read,
}


def read_folder(name: str, folder: Path) -> Parts:
    """The rows of a folder in the format ``name`` (a key of FORMATS).

    Raises:
        DataError: no folder, a missing or damaged file, or a part without a single example.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is a file; data in the format '{name}' are a folder of files: put them into "
            "a folder of this name"
        )
    parts = FORMATS[name](folder)
    for split, rows in parts.rows.items():
        if not rows:
            raise DataError(
                f"the {split or 'data'} part of {folder} has no example; it needs at least one: "
                "copy the files again from their owner"
            )
    return parts


def check_classes(named: Collection[str], found: Collection[str], place: str) -> None:
    """Whether the data have the classes that the groups name, no more and no less.

    Raises:
        DataError: with both numbers and the classes in which they differ.
    """
    surplus, missing = sorted(set(found) - set(named)), sorted(set(named) - set(found))
    if surplus or missing:
        raise DataError(
            f"{place} has {len(set(found))} classes, the groups name {len(set(named))}: "
            f"{_listed(surplus)} surplus, {_listed(missing)} missing. It is a part of the data or "
            "another version: get the one that docs/data.md names, or make tasks of what is there "
            "with stream.n_tasks or stream.groups"
        )


def _listed(labels: Sequence[str]) -> str:
    names = ", ".join(labels[:5]) + (", ..." if len(labels) > 5 else "")
    return f"{len(labels)} ({names})" if labels else "0"


def without_long_tails(examples: Sequence[Example], limit: int) -> tuple[Example, ...]:
    """Those whose prompt tail has at most ``limit`` words, counted between single blanks.

    The tail is that of ConPET's prompt: "In this sentence, {entity} is a [MASK]." or "In this
    sentence, {tail} is the [MASK] of {head}."
    """
    return tuple(e for e in examples if len(_tail(e).split(" ")) <= limit)


def _tail(example: Example) -> str:
    names = [example.text[start:end] for start, end in example.entities]
    if len(names) == 1:
        return f"In this sentence, {names[0]} is a [MASK]."
    if len(names) == 2:
        return f"In this sentence, {names[1]} is the [MASK] of {names[0]}."
    return ""
