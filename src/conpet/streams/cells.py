"""The cells of a row, each checked; every refusal says where the row stands."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import accumulate
from typing import Any

from conpet.errors import DataError, did_you_mean
from conpet.streams.checks import SPLITS, Split
from conpet.streams.readers import Row
from conpet.streams.schema import Fields
from conpet.types import Span

SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}


def cell(row: Row, column: str | None, role: str) -> Any:
    if column not in row.values:
        names = list(row.values)
        raise DataError(
            f"{row.source} has no field '{column}' for the {role}."
            f"{did_you_mean(str(column), names)} Its fields: {', '.join(map(str, names))}; name "
            f"the right one with fields: {{{role}: NAME}}"
        )
    return row.values[column]


def word(row: Row, column: str | None, role: str) -> str:
    """A string or whole number that is not empty, as a string."""
    value = cell(row, column, role)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(
            f"{row.source}: the {role} is {value!r}; allowed: text or a whole number; mend the row"
        )
    return whole(row, str(value), role)


def string(row: Row, column: str | None, role: str) -> str:
    """A string, empty or not."""
    value = cell(row, column, role)
    if not isinstance(value, str):
        raise DataError(f"{row.source}: the {role} is {value!r}; allowed: a string; mend the row")
    return whole(row, value, role)


def strings(row: Row, column: str | None, role: str) -> tuple[str, ...]:
    """A string or a list of strings, without white space around them; empty ones and repeats are
    left out."""
    value = cell(row, column, role)
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise DataError(
            f"{row.source}: the {role} are {value!r:.80}; allowed: a string or a list of strings; "
            "mend the row"
        )
    found = dict.fromkeys(whole(row, item, role).strip() for item in given)
    return tuple(item for item in found if item)


def whole(row: Row, value: str, role: str) -> str:
    """JSON can hold half of a surrogate pair ("\\ud83d"), which no tokenizer and no file takes."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{row.source}: the {role} has half a surrogate pair at character {error.start}; "
            "allowed: whole characters; drop it or mend the row"
        ) from error
    return value


def split_of(row: Row, fields: Fields) -> Split:
    name = word(row, fields.split, "split").lower()
    if name not in SPLIT_WORDS:
        raise DataError(
            f"{row.source}: the split is '{name}'.{did_you_mean(name, SPLIT_WORDS)} "
            f"Allowed: {', '.join(SPLITS)}"
        )
    return SPLIT_WORDS[name]


def sequence(row: Row, column: str | None, role: str) -> list[Any]:
    """A list; a CSV cell holds it as JSON."""
    value = cell(row, column, role)
    if isinstance(value, str):
        with suppress(json.JSONDecodeError):  # the refusal below shows the cell as it is
            value = json.loads(value)
    if not isinstance(value, list):
        raise DataError(f"{row.source}: the {role} is {value!r}; allowed: a list, e.g. [0, 4]")
    return value


def span(row: Row, value: list[Any], text: str, fields: Fields) -> Span:
    """The span in characters. Ranges of character spans are checked by Example itself."""
    if len(value) != 2 or any(type(bound) is not int for bound in value):
        raise DataError(
            f"{row.source}: span {value!r}; allowed: two whole numbers [start, end), end excluded"
        )
    start, end = value
    if fields.spans == "characters":
        return start, end
    tokens = text.split(" ")
    if not 0 <= start < end <= len(tokens):
        raise DataError(
            f"{row.source}: span [{start}, {end}) is out of range; allowed is 0 <= start < end <= "
            f"{len(tokens)} (tokens between blanks); for character spans say fields: "
            "{spans: characters}"
        )
    starts = list(accumulate((len(token) + 1 for token in tokens), initial=0))
    return starts[start], starts[end] - 1
