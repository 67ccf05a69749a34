"""Prompt variants: how an example's text, its entities and a mask become one input.

A prompt makes a ``Layout``: the pieces of the sentence, which may be cut, and those of the head and
the tail, which never are. A piece is a text, one of the four entity markers, or the mask. The
wording of ``entity`` is that of ConPET (arXiv 2309.14763). ``entity-last`` ends with the mask: a
causal model reads out a position that has seen the whole prompt, both entities included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from conpet.errors import ConfigError, DataError, did_you_mean
from conpet.types import Example


class Mark(IntEnum):
    """The tokens of a prompt that are no text: M0 .. M3 around the entities, and the mask."""

    FIRST_OPEN = 0
    FIRST_CLOSE = 1
    SECOND_OPEN = 2
    SECOND_CLOSE = 3
    MASK = 4


Piece = str | Mark
"""A text starts with a space exactly where a space parts it from the text before it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The pieces of one input, in order."""

    sentence: tuple[Piece, ...]
    tail: tuple[Piece, ...] = ()
    head: tuple[Piece, ...] = ()


Prompt = Callable[[Example], Layout]


def plain(example: Example) -> Layout:
    """The text alone; entities, if any, are not marked."""
    return Layout(tuple(_words(example.text, 0, len(example.text))))


def entity(example: Example) -> Layout:
    """Marked entities, then "In this sentence, {entity} is a [MASK]." or, for a relation,
    "In this sentence, {tail} is the [MASK] of {head}."
    """
    names = _entity_texts(example)
    if len(names) == 1:
        return Layout(
            _marked(example), (" In this sentence,", f" {names[0]}", " is a", Mark.MASK, ".")
        )
    head, tail = (f" {name}" for name in names)
    return Layout(
        _marked(example), (" In this sentence,", tail, " is the", Mark.MASK, " of", head, ".")
    )


def entity_last(example: Example) -> Layout:
    """Marked entities, then "The type of {entity} here:" or "The relation between {head} and {tail}
    here:" with the mask behind it.
    """
    names = _entity_texts(example)
    if len(names) == 1:
        return Layout(_marked(example), (" The type of", f" {names[0]}", " here:", Mark.MASK))
    head, tail = (f" {name}" for name in names)
    return Layout(
        _marked(example), (" The relation between", head, " and", tail, " here:", Mark.MASK)
    )


PROMPTS: dict[str, Prompt] = {"plain": plain, "entity": entity, "entity-last": entity_last}


def instructed(template: str) -> Prompt:
    """``template`` with an example's instruction and input in the places of {instruction} and
    {input}: the input is the sentence, all else head and tail.

    Without an instruction the prompt starts with what follows its place.
    """
    before, _, cue = template.partition("{input}")

    def prompt(example: Example) -> Layout:
        head = before.replace("{instruction}", example.instruction.strip()).lstrip()
        text = example.text.strip()
        bare = head.rstrip(" ")
        sentence = f" {text}" if bare != head else text  # the space belongs to the word behind it
        return Layout((sentence,), (cue,), (bare,) if bare else ())

    return prompt


def choose_prompt(name: str, backbone_kind: str, template: str = "") -> Prompt:
    """The prompt called ``name``.

    ``auto`` is the ``template`` where there is one. Else it decides by example: ``plain`` without
    entities, else ``entity``, or ``entity-last`` on a decoder.
    """
    if name == "auto" and template:
        return instructed(template)
    if name == "auto":
        marked = entity_last if backbone_kind == "decoder" else entity
        return lambda example: marked(example) if example.entities else plain(example)
    if name not in PROMPTS:
        allowed = ("auto", *PROMPTS)
        raise ConfigError(
            f"unknown prompt '{name}'.{did_you_mean(name, allowed)} Allowed: {', '.join(allowed)}"
        )
    return PROMPTS[name]


def _entity_texts(example: Example) -> list[str]:
    if len(example.entities) not in (1, 2):
        raise DataError(
            f"example '{example.id}' has {len(example.entities)} entities; an entity prompt takes "
            "one (typing) or two (head and tail of a relation). Use prompt=plain to mark none"
        )
    names = [" ".join(example.text[start:end].split()) for start, end in example.entities]
    if not all(names):
        raise DataError(
            f"example '{example.id}': an entity span covers only white space; let it cover words"
        )
    return names


def _marked(example: Example) -> tuple[Piece, ...]:
    """The text with its entities between markers; spans may be nested or equal.

    Where markers meet, what closes comes before what opens, an outer entity opens first and closes
    last, and of two equal spans the first is the outer one.
    """
    marks: list[tuple[tuple[int, ...], Mark]] = []
    for i, (start, end) in enumerate(example.entities):
        marks.append(((start, 1, -end, i), Mark(2 * i)))
        marks.append(((end, 0, -start, -i), Mark(2 * i + 1)))
    marks.sort()
    pieces: list[Piece] = []
    text = example.text
    stops = [0, *(key[0] for key, _ in marks), len(text)]
    for (start, stop), mark in zip(pairwise(stops), [*(m for _, m in marks), None], strict=True):
        pieces += _words(text, start, stop)
        if mark is not None:
            pieces.append(mark)
    return tuple(pieces)


def _words(text: str, start: int, stop: int) -> Iterator[str]:
    """The text of a range without outer white space, after one space if it had any before it."""
    raw = text[start:stop]
    words = raw.strip()
    if words:
        first = start + len(raw) - len(raw.lstrip())
        yield " " + words if start and text[first - 1].isspace() else words
