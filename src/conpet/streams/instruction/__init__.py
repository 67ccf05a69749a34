"""Instruction tasks as their owners distribute them: a folder of tasks, each with its definition.

A reader makes rows of them, the same rows that a user's table of inputs and answers holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from conpet.streams.extraction.parts import Parts
from conpet.streams.instruction import folders, natural
from conpet.streams.instruction.places import format_of

READERS: dict[str, Callable[[Path, Mapping[str, str] | None], Parts]] = {
    "natural-instructions": natural.read,
    "instruction-folders": folders.read,
}


def read_tasks(name: str, place: Path, tasks: Mapping[str, str] | None = None) -> Parts:
    """The rows of a folder of tasks in the format ``name`` (a key of READERS).

    Args:
        tasks: those to read, name -> folder or file below ``place``; None for all.

    Raises:
        DataError: no task, a task without its training part, a file that is not in the format.
    """
    return READERS[name](place, tasks)


__all__ = ["READERS", "format_of", "read_tasks"]
