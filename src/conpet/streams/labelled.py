"""Tasks of labels: as a card groups them, by lot, by the task column, or one of all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from conpet.errors import DataError, did_you_mean
from conpet.streams.checks import Split
from conpet.streams.divide import divide
from conpet.streams.extraction import without_long_tails
from conpet.streams.readers import read_json
from conpet.streams.schema import Card
from conpet.streams.sources import Find
from conpet.streams.splits import group_labels
from conpet.streams.tabular import Record
from conpet.types import Example, Task


def labelled_tasks(
    records: Sequence[Record], groups: Mapping[str, Sequence[str]], card: Card, seed: int
) -> tuple[tuple[Task, ...], Counter[str]]:
    """The tasks, and what was left out of their training parts: reason -> number.

    All tasks are divided at once, as one sentence may have examples in several.
    """
    splits = divide(records, card, seed)
    left_out: Counter[str] = Counter()
    if card.max_tail_words is not None:
        kept = without_long_tails(splits["train"], card.max_tail_words)
        reason = f"training examples with more than {card.max_tail_words} prompt words"
        left_out[reason] = len(splits["train"]) - len(kept)
        splits["train"] = kept
    return _tasks(groups, splits), left_out


def label_groups(card: Card, records: Sequence[Record], find: Find) -> Mapping[str, Sequence[str]]:
    """Task name -> labels."""
    labels = dict.fromkeys(record.example.label or "" for record in records)
    if card.groups is not None:
        return _given_groups(card, labels, find)
    if card.n_tasks is not None:
        return group_labels(labels, card.n_tasks, card.seed)
    if records and records[0].task is None:
        return {card.name: list(labels)}
    return _column_groups(records)


def _given_groups(
    card: Card, labels: Mapping[str, None], find: Find
) -> Mapping[str, Sequence[str]]:
    groups, source = card.groups, f"the groups of {card.name}"
    if isinstance(groups, str):
        path = find(groups)
        groups, source = read_json(path), str(path)
    if not isinstance(groups, dict) or not all(
        isinstance(group, list) and all(isinstance(label, str) for label in group)
        for group in groups.values()
    ):
        raise DataError(f'{source} must hold an object of lists: {{"task": ["label", ...], ...}}')
    named = {label for group in groups.values() for label in group}
    for label in labels:
        if label not in named:
            raise DataError(
                f"label '{label}' is in none of {source}.{did_you_mean(label, named)} "
                "Put it into one task, or drop its rows"
            )
    for label in sorted(named):
        if label not in labels and not card.groups_partial:
            raise DataError(
                f"{source} names the label '{label}', which the data lack."
                f"{did_you_mean(label, labels)} Drop it from the groups"
            )
    return {task: [label for label in group if label in labels] for task, group in groups.items()}


def _column_groups(records: Sequence[Record]) -> Mapping[str, Sequence[str]]:
    """Tasks of the task column, in the order of their first rows."""
    groups: dict[str, list[str]] = defaultdict(list)
    first: dict[str, Record] = {}
    for record in records:
        label, task = record.example.label or "", record.task or ""
        before = first.setdefault(label, record)
        if before is record:
            groups[task].append(label)
        elif before.task != task:
            raise DataError(
                f"{record.source}: label '{label}' lies in two tasks, '{task}' here and "
                f"'{before.task}' in {before.source}; a label belongs to one task: merge the tasks "
                "or rename the label"
            )
    return groups


def _tasks(
    groups: Mapping[str, Sequence[str]], splits: Mapping[Split, Sequence[Example]]
) -> tuple[Task, ...]:
    task_of = {label: task for task, labels in groups.items() for label in labels}
    parts: dict[tuple[str, Split], list[Example]] = defaultdict(list)
    for split, examples in splits.items():
        for example in examples:
            parts[task_of[example.label or ""], split].append(example)
    return tuple(
        Task(
            name=task,
            labels=tuple(labels),
            train=tuple(parts[task, "train"]),
            valid=tuple(parts[task, "valid"]),
            test=tuple(parts[task, "test"]),
        )
        for task, labels in groups.items()
    )
