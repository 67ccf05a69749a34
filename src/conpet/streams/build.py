"""A stream out of a card and its files: splits given or carved, tasks given or drawn."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

from conpet.errors import DataError, did_you_mean
from conpet.registry import METRICS
from conpet.streams.base import Stream
from conpet.streams.checks import SPLITS, Split
from conpet.streams.extraction import without_long_tails
from conpet.streams.readers import read_json
from conpet.streams.schema import Card
from conpet.streams.sources import Find, read
from conpet.streams.splits import carve, carve_overall, group_labels
from conpet.streams.tabular import Record
from conpet.types import Example, Task

logger = logging.getLogger(__name__)


def build(card: Card, find: Find, seed: int) -> Stream:
    """Read the card's files and make its stream.

    Args:
        seed: decides what is carved where the data have no valid or test part.
    """
    METRICS.entry(card.metric)  # raises, with the closest name
    kind, records, left_out = read(card, find)
    groups = _groups(card, records, find)
    unique = _drop_duplicates(records)
    dropped = len(records) - len(unique)
    _check_ids(unique)
    splits = _divide(unique, card, seed)
    if card.max_tail_words is not None:
        kept = without_long_tails(splits["train"], card.max_tail_words)
        long = len(splits["train"]) - len(kept)
        left_out[f"training examples with more than {card.max_tail_words} prompt words"] = long
        splits["train"] = kept
    reasons = tuple((reason, n) for reason, n in left_out.items() if n)
    for reason, n in (("exact duplicates", dropped), *reasons):
        if n:
            logger.info("stream %s: left out %d %s", card.name, n, reason)
    stream = Stream(
        name=card.name,
        kind=kind,
        tasks=_tasks(groups, splits),
        metric=card.metric,
        attribution="; ".join(part for part in (card.attribution, card.licence) if part),
        dropped=dropped,
        left_out=reasons,
    )
    if card.train_per_class is None:
        return stream
    return stream.cut(train=card.train_per_class, seed=card.seed)


def _drop_duplicates(records: Sequence[Record]) -> list[Record]:
    """The first of all that agree in split, text, entities and label."""
    first: dict[object, Record] = {}
    for record in records:
        example = record.example
        key = (record.split, example.text, example.entities, example.label)
        first.setdefault(key, record)
    return list(first.values())


def _check_ids(records: Sequence[Record]) -> None:
    seen: dict[str, str] = {}
    for record in records:
        name = record.example.id
        if name in seen:
            raise DataError(
                f"{record.source}: duplicate id '{name}', used before in {seen[name]}; ids are "
                "unique over all splits: rename one, or switch ids off with fields: {id: null}"
            )
        seen[name] = record.source


def _groups(card: Card, records: Sequence[Record], find: Find) -> Mapping[str, Sequence[str]]:
    """Task name -> labels, from the card's groups, by lot, from the task column, or one task."""
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


def _divide(records: Sequence[Record], card: Card, seed: int) -> dict[Split, Sequence[Example]]:
    """Examples by split. What the data lack is carved from train, never from test; pooled data
    are all train at first.

    Carving looks at all tasks at once, as one sentence may have examples in several.
    """
    given: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    for record in records:
        given[record.split or "train"].append(record.example)
    splits: dict[Split, Sequence[Example]] = dict(given)
    take = carve_overall if card.pool == "overall" else carve
    if not given["test"]:
        splits["train"], splits["test"] = take(splits["train"], card.test_share, seed)
    if not given["valid"]:
        splits["train"], splits["valid"] = take(splits["train"], card.valid_share, seed)
    return splits


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
