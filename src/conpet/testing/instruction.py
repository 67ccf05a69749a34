"""Small made-up tasks with instructions and free answers: as a stream, and as files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from conpet.runtime import rng
from conpet.streams import PLAIN, Stream
from conpet.types import Example, Task

SPLITS = ("train", "valid", "test")
_WORDS = ("bado", "fimu", "goni", "kelu", "lopa", "mira", "nuvo", "pesi", "ruka", "sote", "tavi")
_THINGS = ("soup", "road", "song", "chair", "garden", "letter")
_MOODS = {"blorful": "good", "zindy": "good", "wemmish": "good"} | {
    word: "bad" for word in ("grupty", "skavid", "nolsome")
}

Drawn = tuple[str, tuple[str, ...]]
"""An input and its right answers."""


def _even(draw: np.random.Generator) -> Drawn:
    number = int(draw.integers(100, 10_000))
    return f"The number is {number}.", ("no" if number % 2 else "yes",)


def _swap(draw: np.random.Generator) -> Drawn:
    one, other = _two(draw)
    return f"{one} {other}", (f"{other} {one}",)


def _either(draw: np.random.Generator) -> Drawn:
    one, other = _two(draw)
    return f"It is {one} or {other}.", (one, other)


def _mood(draw: np.random.Generator) -> Drawn:
    word, thing = str(draw.choice(list(_MOODS))), str(draw.choice(_THINGS))
    return f"Was the {thing} good or bad? It was {word} on day {draw.integers(999)}.", (
        _MOODS[word],
    )


def _first(draw: np.random.Generator) -> Drawn:
    words = [str(word) for word in draw.choice(_WORDS, 4)]
    return " ".join(words), (words[0],)


def _two(draw: np.random.Generator) -> tuple[str, str]:
    """Two different words with a number of their own, so that there are enough of them."""
    one, other = (str(word) for word in draw.choice(_WORDS, 2, replace=False))
    return f"{one}{draw.integers(10)}", f"{other}{draw.integers(10)}"


TASKS: dict[str, tuple[str, Callable[[np.random.Generator], Drawn]]] = {
    "even": ("Say yes if the number is even, and no if it is odd.", _even),
    "swap": ("Write the two words in the other order.", _swap),
    "either": ("Name one of the two things.", _either),  # two right answers
    "mood": ("", _mood),  # the input says it all
    "first": ("Repeat the first word.", _first),
}
"""Name -> instruction (one is empty) and what draws an input with its answers."""


def instruction_stream(
    n_tasks: int = 3,
    *,
    train: int = 12,
    valid: int = 4,
    test: int = 6,
    seed: int = 0,
    template: str = PLAIN,
    metric: str = "exact-match",
) -> Stream:
    """A stream of kind ``instruction`` with rules that are easy to learn.

    The tasks are those of ``TASKS``, over and over ("even-2" is another draw of "even"). A stream
    with more tasks begins with the tasks of a shorter one. No input stands twice in a task.

    Args:
        train, valid, test: examples a task.
    """
    tasks = []
    for t in range(n_tasks):
        sizes = (train, valid, test)
        name, parts = _task(t, sizes, seed)
        examples = {
            split: tuple(
                Example(f"{name}/{split}-{i}", text, None, (), TASKS[_kind(t)][0], answers)
                for i, (text, answers) in enumerate(part)
            )
            for split, part in parts.items()
        }
        tasks.append(Task(name, (), **examples))
    return Stream("instructions", "instruction", tuple(tasks), metric, template=template)


def write_natural_instructions(
    folder: Path,
    n_tasks: int = 3,
    *,
    train: int = 12,
    valid: int = 0,
    test: int = 6,
    one_file: bool = False,
    seed: int = 0,
) -> Path:
    """Write the tasks of ``instruction_stream`` as Natural Instructions below ``folder``.

    Args:
        valid: written as dev.json; 0 for none.
        one_file: a file a task, with all examples, as in the repository of Natural Instructions;
            else a folder a task with a file for each part.
    """
    for t in range(n_tasks):
        name, parts = _task(t, (train, valid, test), seed)
        if one_file:
            everything = [drawn for part in parts.values() for drawn in part]
            _write(folder / f"{name}.json", natural_instructions(_kind(t), everything, name))
            continue
        for split, stem in zip(SPLITS, ("train", "dev", "test"), strict=True):
            if parts[split]:
                path = folder / name / f"{stem}.json"
                _write(path, natural_instructions(_kind(t), parts[split], split))
    return folder


def natural_instructions(kind: str, drawn: list[Drawn], prefix: str) -> dict[str, Any]:
    """The content of a file in the format of Natural Instructions; ids begin with ``prefix``."""
    words = TASKS[kind][0]
    return {
        "Contributors": ["nobody"],
        "Source": ["made up"],
        "Categories": ["Test"],
        "Definition": [words] if words else [],
        "Input_language": ["English"],
        "Positive Examples": [],
        "Negative Examples": [],
        "Instances": [
            {"id": f"{prefix}-{i}", "input": text, "output": list(answers)}
            for i, (text, answers) in enumerate(drawn)
        ],
    }


def write_instruction_folders(
    folder: Path, n_tasks: int = 3, *, train: int = 12, test: int = 6, seed: int = 0
) -> Path:
    """Write the tasks of ``instruction_stream`` as folders of JSONL files with a definition."""
    for t in range(n_tasks):
        name, parts = _task(t, (train, 0, test), seed)
        words = TASKS[_kind(t)][0]
        _write(folder / name / "definition.json", {"definition": [words] if words else []})
        for split in ("train", "test"):
            rows = [{"input": text, "output": answers[0]} for text, answers in parts[split]]
            _write_rows(folder / name / f"{split}.jsonl", rows)
    return folder


def write_instruction_table(
    path: Path, n_tasks: int = 3, *, train: int = 12, test: int = 6, seed: int = 0
) -> Path:
    """Write the tasks of ``instruction_stream`` as one table, with columns as they are expected."""
    rows = []
    for t in range(n_tasks):
        name, parts = _task(t, (train, 0, test), seed)
        for split in ("train", "test"):
            own = {"task": name, "split": split, "instruction": TASKS[_kind(t)][0]}
            rows += [own | {"input": text, "answers": list(a)} for text, a in parts[split]]
    return _write_rows(path, rows)


def _kind(number: int) -> str:
    return list(TASKS)[number % len(TASKS)]


def _task(
    number: int, sizes: tuple[int, int, int], seed: int
) -> tuple[str, dict[str, list[Drawn]]]:
    """Name and parts of a task; the parts have no input in common."""
    turn = number // len(TASKS)
    name = f"{_kind(number)}-{turn + 1}" if turn else _kind(number)
    one, draw = TASKS[_kind(number)][1], rng(seed, name)
    found: dict[str, tuple[str, ...]] = {}
    while len(found) < sum(sizes):
        text, answers = one(draw)
        found.setdefault(text, answers)
    drawn = iter(found.items())
    return name, {
        split: [next(drawn) for _ in range(n)] for split, n in zip(SPLITS, sizes, strict=True)
    }


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
