"""Rows into examples: columns, labels, answers and entity spans of a table or a named stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from conpet.errors import DataError
from conpet.streams.base import Kind
from conpet.streams.cells import cell, sequence, span, split_of, string, strings, word
from conpet.streams.checks import Split
from conpet.streams.readers import Row
from conpet.streams.schema import Fields
from conpet.types import Example, Span

OTHER_NAMES = {"text": ("input",), "answers": ("output", "outputs")}
"""Columns that count as well, where the data have none of the first name and none is named."""


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
    has_instruction: bool
    text: str
    answers: str | None

    @staticmethod
    def of(row: Row, fields: Fields, *, labelled: bool = True) -> Layout:
        """The layout of ``row``; where it is not ``labelled``, labels and answers do not count.

        Raises:
            DataError: a field that is named and not there; a label beside answers.
        """

        def has(role: str) -> bool:
            column = getattr(fields, role)
            if column is not None and role in fields.model_fields_set:
                cell(row, column, role)
            return column in row.values

        answers = _answers_column(row, fields) if labelled else None
        if has("mentions"):
            kind: Kind = "typing"
        elif has("head") and has("tail"):
            kind = "relation"
        else:
            kind = "text" if answers is None else "instruction"
        return Layout(
            kind,
            has("id"),
            has("split"),
            has("task"),
            has("instruction"),
            _column(row, fields, "text") or fields.text,
            answers,
        )


def _column(row: Row, fields: Fields, role: str) -> str | None:
    """The column of ``role``: as it is named, else the first of its usual names that is there."""
    column: str | None = getattr(fields, role)
    if column is None or column in row.values or role in fields.model_fields_set:
        return column
    return next((name for name in OTHER_NAMES[role] if name in row.values), None)


def _answers_column(row: Row, fields: Fields) -> str | None:
    column = _column(row, fields, "answers")
    if column is not None:
        cell(row, column, "answers")
    if fields.label not in row.values:
        return column
    if column is not None and column == fields.answers:
        raise DataError(
            f"{row.source} has the label '{fields.label}' and the answers '{column}'; allowed: "
            "either a label, one of a few classes, or answers in free text; drop one of the "
            "columns, or switch the answers off with fields: {answers: null}"
        )
    return None  # a column that happens to be called "output", beside a label


def read_records(
    rows: Sequence[Row], fields: Fields, layout: Layout, split: Split | None = None
) -> Iterator[Record]:
    """The examples of ``rows``, with label or answers; one per mention where the rows hold
    mentions. An example whose answers are all empty comes without answers.

    Args:
        split: the split that all rows belong to, where the file says it; else the split column.

    Raises:
        DataError: with the row's place, for anything in it that cannot be used.
    """
    for row in rows:
        own_split = split if split or not layout.has_split else split_of(row, fields)
        task = word(row, fields.task, "task") if layout.has_task else None
        for example in _examples(row, fields, layout, (own_split or "", task or "")):
            yield Record(example, own_split, task, row.source)


def read_unlabelled(rows: Sequence[Row], fields: Fields) -> list[Example]:
    """Examples to be predicted: labels and answers are not read, an instruction is where a row has
    one. Ids are the id column, else the row's number.

    Raises:
        DataError: with the row's place, for a row without text or with a wrong span.
    """
    layout = Layout.of(rows[0], fields, labelled=False)
    return [
        example
        for number, row in enumerate(rows, start=1)
        for example in _examples(row, fields, layout, number=number)
    ]


def _examples(
    row: Row,
    fields: Fields,
    layout: Layout,
    place: tuple[str, str] | None = None,
    number: int = 0,
) -> Iterator[Example]:
    """The examples of one row; the k-th mention of a row with an id gets the id with "#k".

    Args:
        place: (split, task); None where labels are not read.
    """
    text = string(row, layout.text, "text")
    name = word(row, fields.id, "id") if layout.has_id else str(number or "")
    instruction = ""
    answers: tuple[str, ...] = ()
    if place is None or layout.kind == "instruction":
        instruction = _instruction(row, fields, layout, labelled=place is not None)
    if place is not None and layout.kind == "instruction":
        answers = strings(row, layout.answers, "answers")
        name = name or made_id(*place, text, instruction, answers)
    for k, (entities, label) in enumerate(
        list(_labels(row, fields, layout, text, labelled=place is not None))
    ):
        if name:
            own = f"{name}#{k + 1}" if layout.kind == "typing" else name
        else:
            own = made_id(place[0] if place else "", text, entities, label)
        try:
            yield Example(own, text, label, entities, instruction, answers)
        except DataError as error:
            raise DataError(f"{row.source}: {error}") from None


def made_id(*content: object) -> str:
    """An id out of what an example holds: the same wherever its row stands."""
    return sha256(json.dumps(content).encode()).hexdigest()[:16]


def _instruction(row: Row, fields: Fields, layout: Layout, *, labelled: bool) -> str:
    """The instruction, without white space around it; empty where there is none."""
    if not layout.has_instruction or (not labelled and fields.instruction not in row.values):
        return ""
    if cell(row, fields.instruction, "instruction") is None:
        return ""
    return string(row, fields.instruction, "instruction").strip()


def _labels(
    row: Row, fields: Fields, layout: Layout, text: str, *, labelled: bool
) -> Iterator[tuple[tuple[Span, ...], str | None]]:
    """(entities, label) of each example in the row."""
    if layout.kind == "typing":
        for mention in sequence(row, fields.mentions, "mentions"):
            if not isinstance(mention, list) or len(mention) not in ((3,) if labelled else (2, 3)):
                raise DataError(
                    f"{row.source}: mention {mention!r}; allowed: [start, end, label], "
                    'e.g. [0, 4, "PERSON"]'
                )
            label = _label(row, mention[2]) if labelled else None
            yield (span(row, mention[:2], text, fields),), label
        return
    entities: tuple[Span, ...] = ()
    if layout.kind == "relation":
        entities = (
            span(row, sequence(row, fields.head, "head"), text, fields),
            span(row, sequence(row, fields.tail, "tail"), text, fields),
        )
    if not labelled or layout.kind == "instruction":
        yield entities, None
    else:
        yield entities, _label(row, cell(row, fields.label, "label"))


def _label(row: Row, value: Any) -> str:
    return word(Row(row.source, {"label": value}), "label", "label")
