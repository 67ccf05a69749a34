"""Rows into examples: columns, labels and entity spans of a user's table or of a named stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from typing import Any

from conpet.errors import DataError, did_you_mean
from conpet.streams.base import Kind
from conpet.streams.checks import SPLITS, Split
from conpet.streams.readers import Row
from conpet.streams.schema import Fields
from conpet.types import Example, Span

SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class Record:
    """An example with what its row says beside it."""

    example: Example
    split: Split | None
    task: str | None
    source: str


@dataclass(frozen=True, slots=True)
class Layout:
    """What the rows hold, decided by the first of them: later rows must agree."""

    kind: Kind
    has_id: bool
    has_split: bool
    has_task: bool

    @staticmethod
    def of(row: Row, fields: Fields) -> Layout:
        def has(role: str) -> bool:
            column = getattr(fields, role)
            if column is not None and role in fields.model_fields_set:
                _cell(row, column, role)
            return column in row.values

        if has("mentions"):
            kind: Kind = "typing"
        elif has("head") and has("tail"):
            kind = "relation"
        else:
            kind = "text"
        return Layout(kind, has("id"), has("split"), has("task"))


def read_records(
    rows: Sequence[Row], fields: Fields, layout: Layout, split: Split | None = None
) -> Iterator[Record]:
    """The labelled examples of ``rows``; one per mention where the rows hold mentions.

    Args:
        split: the split that all rows belong to, where the file says it; else the split column.

    Raises:
        DataError: with the row's place, for anything in it that cannot be used.
    """
    for row in rows:
        own_split = split if split or not layout.has_split else _split(row, fields)
        task = _word(row, fields.task, "task") if layout.has_task else None
        for example in _examples(row, fields, layout, own_split or "", labelled=True):
            yield Record(example, own_split, task, row.source)


def read_unlabelled(rows: Sequence[Row], fields: Fields) -> list[Example]:
    """Examples to be predicted: labels are not read. Ids are the id column, else the row's number.

    Raises:
        DataError: with the row's place, for a row without text or with a wrong span.
    """
    layout = Layout.of(rows[0], fields)
    return [
        example
        for number, row in enumerate(rows, start=1)
        for example in _examples(row, fields, layout, "", labelled=False, number=number)
    ]


def _examples(
    row: Row, fields: Fields, layout: Layout, split: str, *, labelled: bool, number: int = 0
) -> Iterator[Example]:
    """The examples of one row; the k-th mention of a row with an id gets the id with "#k"."""
    text = _cell(row, fields.text, "text")
    if not isinstance(text, str):
        raise DataError(f"{row.source}: the text is {text!r}; allowed: a string; mend the row")
    _check_unicode(row, text, "text")
    answers = list(_answers(row, fields, layout, text, labelled))
    name = _word(row, fields.id, "id") if layout.has_id else str(number or "")
    for k, (entities, label) in enumerate(answers):
        if name:
            example_id = f"{name}#{k + 1}" if layout.kind == "typing" else name
        else:
            content = json.dumps([split, text, entities, label])
            example_id = sha256(content.encode()).hexdigest()[:16]
        try:
            yield Example(example_id, text, label, entities)
        except DataError as error:
            raise DataError(f"{row.source}: {error}") from None


def _answers(
    row: Row, fields: Fields, layout: Layout, text: str, labelled: bool
) -> Iterator[tuple[tuple[Span, ...], str | None]]:
    """(entities, label) of each example in the row."""
    if layout.kind == "typing":
        mentions = _sequence(row, fields.mentions, "mentions")
        for mention in mentions:
            if not isinstance(mention, list) or len(mention) not in ((3,) if labelled else (2, 3)):
                raise DataError(
                    f"{row.source}: mention {mention!r}; allowed: [start, end, label], "
                    'e.g. [0, 4, "PERSON"]'
                )
            label = _label(row, mention[2]) if labelled else None
            yield (_span(row, mention[:2], text, fields),), label
        return
    entities: tuple[Span, ...] = ()
    if layout.kind == "relation":
        entities = (
            _span(row, _sequence(row, fields.head, "head"), text, fields),
            _span(row, _sequence(row, fields.tail, "tail"), text, fields),
        )
    yield entities, _label(row, _cell(row, fields.label, "label")) if labelled else None


def _cell(row: Row, column: str | None, role: str) -> Any:
    if column not in row.values:
        names = list(row.values)
        raise DataError(
            f"{row.source} has no field '{column}' for the {role}."
            f"{did_you_mean(str(column), names)} Its fields: {', '.join(map(str, names))}; name "
            f"the right one with fields: {{{role}: NAME}}"
        )
    return row.values[column]


def _word(row: Row, column: str | None, role: str) -> str:
    """A string or whole number that is not empty, as a string."""
    value = _cell(row, column, role)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(
            f"{row.source}: the {role} is {value!r}; allowed: text or a whole number; mend the row"
        )
    _check_unicode(row, str(value), role)
    return str(value)


def _check_unicode(row: Row, value: str, role: str) -> None:
    """JSON can hold half of a surrogate pair ("\\ud83d"), which no tokenizer and no file takes."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{row.source}: the {role} has half a surrogate pair at character {error.start}; "
            "allowed: whole characters; drop it or mend the row"
        ) from error


def _label(row: Row, value: Any) -> str:
    return _word(Row(row.source, {"label": value}), "label", "label")


def _split(row: Row, fields: Fields) -> Split:
    word = _word(row, fields.split, "split").lower()
    if word not in SPLIT_WORDS:
        raise DataError(
            f"{row.source}: the split is '{word}'.{did_you_mean(word, SPLIT_WORDS)} "
            f"Allowed: {', '.join(SPLITS)}"
        )
    return SPLIT_WORDS[word]


def _sequence(row: Row, column: str | None, role: str) -> list[Any]:
    """A list; a CSV cell holds it as JSON."""
    value = _cell(row, column, role)
    if isinstance(value, str):
        with suppress(json.JSONDecodeError):  # the refusal below shows the cell as it is
            value = json.loads(value)
    if not isinstance(value, list):
        raise DataError(f"{row.source}: the {role} is {value!r}; allowed: a list, e.g. [0, 4]")
    return value


def _span(row: Row, value: list[Any], text: str, fields: Fields) -> Span:
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
