"""What must hold for the tasks of a stream; each failure is a DataError that says what to mend."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from conpet.errors import DataError
from conpet.types import Example, Task

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(?<!\.)")


def check_tasks(tasks: Sequence[Task], n_entities: int, *, free: bool = False) -> None:
    """Names, labels, splits, ids, and what every example holds.

    Args:
        n_entities: entities of every example.
        free: answers are free text, and no task has labels.
    """
    if not tasks:
        raise DataError("the stream has no tasks; it needs at least one")
    _check_names(tasks)
    _check_labels(tasks)
    for task in tasks:
        _check_splits(task)
        if not free:
            _check_trained(task)
        elif task.labels:
            raise DataError(
                f"task '{task.name}' names labels ({', '.join(task.labels[:5])}) in a stream of "
                "free answers; its labels are (): leave them out, or make it another kind"
            )
    _check_examples(tasks, n_entities, free)


def _check_names(tasks: Sequence[Task]) -> None:
    seen: set[str] = set()
    for task in tasks:
        if not _SAFE_NAME.fullmatch(task.name):
            raise DataError(
                f"task name {task.name!r} is no safe folder name; allowed: 1 to 64 of letters a-z, "
                "digits, '_', '-' and '.', a letter or digit first and no '.' last; rename "
                "the task, or the file where the task is called after it"
            )
        if task.name.lower() in seen:
            raise DataError(
                f"two tasks are called '{task.name}' (upper and lower case count as the same); "
                "give each task a name of its own"
            )
        seen.add(task.name.lower())


def _check_labels(tasks: Sequence[Task]) -> None:
    owner: dict[str, str] = {}
    for task in tasks:
        for label in task.labels:
            if label in owner:
                raise DataError(
                    f"label '{label}' lies in two tasks, '{owner[label]}' and '{task.name}' (or "
                    "twice in one); a label belongs to one task: merge the tasks or rename one"
                )
            owner[label] = task.name


def _check_splits(task: Task) -> None:
    for split in ("train", "test"):
        if not getattr(task, split):
            raise DataError(
                f"task '{task.name}' has no {split} examples; it needs at least one: add some, or "
                "leave the splits out of the data so that they are carved"
            )


def _check_trained(task: Task) -> None:
    trained = {example.label for example in task.train}
    for split in SPLITS:
        for example in getattr(task, split):
            if example.label not in trained:
                raise DataError(
                    f"label '{example.label}' of {split} example '{example.id}' is unseen: task "
                    f"'{task.name}' has no train example of it; add some or drop the example"
                )
    if trained != set(task.labels):
        wrong = sorted(str(label) for label in trained ^ set(task.labels))
        raise DataError(
            f"task '{task.name}': labels without train examples, or train examples of labels that "
            f"it does not name: {', '.join(wrong[:5])}; labels and train examples must agree"
        )


def _check_examples(tasks: Sequence[Task], n_entities: int, free: bool) -> None:
    seen: set[str] = set()
    for example in (e for task in tasks for split in SPLITS for e in getattr(task, split)):
        if example.id in seen:
            raise DataError(
                f"duplicate id '{example.id}'; ids are unique over all "
                "tasks and splits: rename one, or leave the ids out so that they are made"
            )
        seen.add(example.id)
        if len(example.entities) != n_entities:
            raise DataError(
                f"example '{example.id}' has {len(example.entities)} entities; each of this stream "
                f"needs {n_entities}: none in plain text, one in typing, two in a relation"
            )
        if free:
            _check_free(example)
        elif example.answers or example.instruction:
            raise DataError(
                f"example '{example.id}' has {'answers' if example.answers else 'an instruction'} "
                "in a stream of labels; allowed: a label alone, or, in a stream of kind "
                "'instruction', answers alone; make two streams of them"
            )


def _check_free(example: Example) -> None:
    if example.label is not None:
        raise DataError(
            f"example '{example.id}' has the label '{example.label}' in a stream of free answers; "
            "allowed: answers alone; put the label among its answers, or make two streams of them"
        )
    if not example.answers or not all(answer.strip() for answer in example.answers):
        raise DataError(
            f"example '{example.id}' has {'an empty answer' if example.answers else 'no answer'}; "
            "it needs one or more, none of them empty: drop it or answer it"
        )
