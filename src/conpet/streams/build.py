"""A stream out of a card and its files: splits given or carved, tasks given or drawn."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from conpet.errors import DataError
from conpet.registry import METRICS
from conpet.streams.base import Stream
from conpet.streams.divide import without_valid
from conpet.streams.free import answered, check_card, check_valid, free_tasks, template_of
from conpet.streams.labelled import label_groups, labelled_tasks
from conpet.streams.schema import TASK_FORMATS, Card
from conpet.streams.sources import Find, read
from conpet.streams.tabular import Record

logger = logging.getLogger(__name__)


def build(card: Card, find: Find, seed: int) -> Stream:
    """Read the card's files and make its stream.

    Args:
        seed: decides what is carved where the data have no valid or test part.
    """
    if card.metric is not None:
        METRICS.entry(card.metric)  # raises, with the closest name
    found = read(card, find)
    free = found.kind == "instruction"
    check_card(card, free)
    metric = card.metric or ("rouge-l" if free else "accuracy")
    METRICS.entry(metric)
    left_out = found.left_out
    records, others = without_valid(found.records, card)
    left_out.update(others)
    if free:
        records, others = answered(records)
        left_out.update(others)
        check_valid(records)
    unique = _drop_duplicates(records)
    dropped = len(records) - len(unique)
    _check_ids(unique, card)
    if free:
        tasks = free_tasks(unique, card, seed)
    else:
        groups = label_groups(card, records, find)
        tasks, others = labelled_tasks(unique, groups, card, seed)
        left_out.update(others)
    reasons = tuple((reason, n) for reason, n in left_out.items() if n)
    for reason, n in (("exact duplicates", dropped), *reasons):
        if n:
            logger.info("stream %s: left out %d %s", card.name, n, reason)
    stream = Stream(
        name=card.name,
        kind=found.kind,
        tasks=tasks,
        metric=metric,
        attribution="; ".join(part for part in (card.attribution, card.licence) if part),
        dropped=dropped,
        left_out=reasons,
        template=template_of(card, found) if free else "",
    )
    if card.orders:
        stream = stream.reorder(next(iter(card.orders.values())))
    if card.train_per_class is None:
        return stream
    return stream.cut(train=card.train_per_class, seed=card.seed)


def _drop_duplicates(records: Sequence[Record]) -> list[Record]:
    """The first of all that agree in split, text, entities and label; of free answers, of those
    that agree in task, split, instruction, text and first answer."""
    first: dict[object, Record] = {}
    for record in records:
        e = record.example
        free = (record.task, e.instruction, e.answers[0]) if e.answers else ()
        first.setdefault((record.split, e.text, e.entities, e.label, *free), record)
    return list(first.values())


def _check_ids(records: Sequence[Record], card: Card) -> None:
    way_out = "" if card.format in TASK_FORMATS else ", or switch ids off with fields: {id: null}"
    seen: dict[str, str] = {}
    for record in records:
        name = record.example.id
        if name in seen:
            raise DataError(
                f"{record.source}: duplicate id '{name}', used before in {seen[name]}; ids are "
                f"unique over all splits: rename one{way_out}"
            )
        seen[name] = record.source
