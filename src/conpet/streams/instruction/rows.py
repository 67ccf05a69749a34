"""Instances of a task as rows of a table, with the default columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conpet.errors import DataError
from conpet.streams.checks import Split
from conpet.streams.readers import Row
from conpet.streams.tabular import made_id


def task_row(
    source: str, task: str, split: Split | None, words: str, instance: Mapping[str, Any]
) -> Row:
    """The row of an instance with "input", "output" and perhaps "id".

    Its id is made of the content where it has none. The task's name stands in front, so that it is
    unique over all tasks.
    """
    text, answers, own = instance["input"], instance["output"], instance.get("id")
    if own is None:
        own = made_id(split, words, text, answers)
    elif not isinstance(own, str | int) or isinstance(own, bool) or not str(own).strip():
        raise DataError(
            f"{source}: the id is {own!r}; allowed: text or a whole number; mend it or drop it"
        )
    return Row(
        source,
        {
            "id": f"{task}/{own}",
            "task": task,
            "instruction": words,
            "text": text,
            "answers": answers,
        },
    )


def definition(value: Any, source: str) -> str:
    """A definition: a text, or the first of a list of texts; empty where there is none."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"{source} is {value!r:.60}; allowed: a text or a list of texts (it may be empty)"
        )
    return texts[0].strip() if texts else ""
