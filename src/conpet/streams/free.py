"""Tasks whose answers are free text: each is a task of the data, and is divided by itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from conpet.errors import ConfigError, DataError, did_you_mean
from conpet.streams.checks import Split
from conpet.streams.divide import divide
from conpet.streams.schema import Card
from conpet.streams.sources import Found
from conpet.streams.splits import Key, its_text
from conpet.streams.tabular import Record
from conpet.streams.template import INPUT_ONLY, INSTRUCTION, PLAIN
from conpet.types import Example, Task

OF_LABELS = ("groups", "n_tasks", "max_tail_words")
OF_FREE = ("template", "tasks", "group_by")
PARTS: dict[Split | None, str] = {
    "train": "training examples",
    "valid": "validation examples",
    "test": "test examples",
    None: "examples",
}


def check_card(card: Card, free: bool) -> None:
    """ConfigError where a card says what has no meaning for its kind of answers."""
    for key in OF_LABELS if free else OF_FREE:
        if getattr(card, key) is not None:
            has, others = ("free answers", "labels") if free else ("labels", "free answers")
            raise ConfigError(
                f"stream '{card.name}' has {has}, and '{key}' is for streams of {others}; allowed "
                f"of such keys here: {', '.join(OF_FREE if free else OF_LABELS)}; leave it out"
            )


def template_of(card: Card, found: Found) -> str:
    """The card's template, or the plain one.

    Raises:
        DataError: it has a place for an instruction, and the data have none.
    """
    if card.template is None:
        return PLAIN if found.has_instruction else INPUT_ONLY
    if INSTRUCTION in card.template and not found.has_instruction:
        raise DataError(
            f"{found.records[0].source} has no field '{card.fields.instruction}' for the "
            f"instruction, and the template of stream '{card.name}' has a place for one; name the "
            "column with fields: {instruction: NAME}, or take "
            f"{INSTRUCTION} out of the template"
        )
    return card.template


def answered(records: Sequence[Record]) -> tuple[list[Record], Counter[str]]:
    """Those with an answer that is not empty, and how many have none: reason -> number.

    Raises:
        DataError: a task that has no answer in one of its parts.
    """
    kept = [record for record in records if record.example.answers]
    before = Counter((record.task, record.split) for record in records)
    after = Counter((record.task, record.split) for record in kept)
    for (task, split), n in before.items():
        if not after[task, split]:
            name = f"task '{task}'" if task else "the data"
            raise DataError(
                f"{name}: the answers of all {n} {PARTS[split]} are empty; at least one is needed: "
                "check the file, or leave the task out"
            )
    missing: Counter[str] = Counter()
    for key, n in before.items():
        missing[f"{PARTS[key[1]]} without an answer"] += n - after[key]
    return kept, missing


def check_valid(records: Sequence[Record]) -> None:
    """DataError where the validation part of a task is its test part, as in some public data."""
    inputs: dict[str | None, dict[Split | None, set[tuple[str, str]]]] = {}
    for record in records:
        parts = inputs.setdefault(record.task, {"valid": set(), "test": set()})
        e = record.example
        parts.setdefault(record.split, set()).add((e.instruction, e.text))
    for task, parts in inputs.items():
        if parts["valid"] and parts["valid"] <= parts["test"]:
            raise DataError(
                f"all {len(parts['valid'])} validation inputs of task '{task or 'all'}' are in its "
                "test part too, so that what is selected would have seen the test; take others "
                "from train with stream.valid=carve, or say stream.valid=test if it is to be so"
            )


def free_tasks(records: Sequence[Record], card: Card, seed: int) -> tuple[Task, ...]:
    """The tasks of the data, in the order of the card's ``tasks`` or of their first rows."""
    members: dict[str, list[Record]] = {task: [] for task in card.tasks or ()}
    for record in records:
        members.setdefault(record.task or card.name, []).append(record)
    patterns = card.group_by or {}
    for task in patterns:
        if task not in members:
            raise ConfigError(
                f"group_by of stream '{card.name}' names the task '{task}', which the data lack."
                f"{did_you_mean(task, members)} Its tasks: {', '.join(members)}"
            )
    tasks = []
    for name, own in members.items():
        key = _found_by(patterns[name], name) if name in patterns else its_text
        splits = divide(own, card, seed, key)
        tasks.append(Task(name, (), *(tuple(splits[part]) for part in ("train", "valid", "test"))))
    return tuple(tasks)


def _found_by(pattern: str, task: str) -> Key:
    """What ``pattern`` finds in a text: its first group, else all of it."""
    compiled = re.compile(pattern, re.DOTALL)

    def key(example: Example) -> str:
        found = compiled.search(example.text)
        if found is None:
            raise DataError(
                f"group_by finds nothing in example '{example.id}' of task '{task}', which begins "
                f"{example.text[:60]!r}; the pattern is {pattern!r}: mend it"
            )
        return found[min(1, compiled.groups)] or ""

    return key
