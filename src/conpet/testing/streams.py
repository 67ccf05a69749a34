"""A small stream that any method can learn."""

from __future__ import annotations

from collections.abc import Iterator

from conpet.runtime import rng
from conpet.streams import Stream
from conpet.streams.base import Kind
from conpet.types import Example, Task

_SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "to", "vi", "xe")
_FILLERS = ("here", "this", "is", "was", "by", "with", "from", "that")


def synthetic_stream(
    kind: Kind = "text",
    n_tasks: int = 3,
    labels_per_task: int = 2,
    *,
    train: int = 6,
    valid: int = 2,
    test: int = 3,
    seed: int = 0,
) -> Stream:
    """Labels that a word gives away, so that even a random backbone can tell them apart.

    Each label has a word of its own, which every one of its texts holds twice, among fillers. A
    stream with more tasks begins with the tasks of a shorter one.

    Args:
        kind: ``text``; ``typing``: that word is the entity; ``relation``: it is the head, and an
            entity of no meaning the tail.
        train, valid, test: examples a label.
    """
    tasks = []
    for t in range(n_tasks):
        labels = tuple(f"label-{t * labels_per_task + i}" for i in range(labels_per_task))
        parts = {
            split: tuple(
                _example(kind, f"{split}-{label}-{i}", label, seed)
                for label in labels
                for i in range(n)
            )
            for split, n in (("train", train), ("valid", valid), ("test", test))
        }
        tasks.append(Task(f"task-{t + 1}", labels, **parts))
    return Stream("synthetic", kind, tuple(tasks))


def _example(kind: Kind, id_: str, label: str, seed: int) -> Example:
    word, draw = _word(int(label.removeprefix("label-"))), rng(seed, id_)
    fillers = [str(filler) for filler in draw.choice(_FILLERS, 3)]
    pieces = [word, fillers[0], word, fillers[1], f"it{draw.integers(10**6)}", fillers[2]]
    text = " ".join(pieces)
    spans = [(0, len(word)), (text.index(pieces[4]), text.index(pieces[4]) + len(pieces[4]))]
    return Example(id_, text, label, tuple(spans[: ("text", "typing", "relation").index(kind)]))


def _word(number: int) -> str:
    """A word of two or more syllables, another one for each number."""
    return "".join(_SYLLABLES[digit] for digit in _digits(number + len(_SYLLABLES)))


def _digits(number: int) -> Iterator[int]:
    while number:
        number, digit = divmod(number, len(_SYLLABLES))
        yield digit
