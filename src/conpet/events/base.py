"""The one interface through which a run tells what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Level = Literal["info", "warning"]


class Observer:
    """Is told what happens, in this order; never answers, never changes anything.

    An observer that cares for some events only inherits the silence of the others from here.
    """

    def run_started(self, stream: str, n_tasks: int, done: int) -> None:
        """A run begins or goes on; ``done`` of its tasks are learned."""

    def task_started(self, index: int, total: int, name: str) -> None:
        """The task number ``index``, counted from 1."""

    def phase_started(self, name: str, steps: int, done: int = 0, epochs: int = 1) -> None:
        """A phase begins or goes on after ``done`` of its ``steps``, which make ``epochs``."""

    def step(self, step: int, terms: Mapping[str, float], examples: int) -> None:
        """A batch of ``examples`` is done; ``step`` counts from 1 in its phase."""

    def validated(self, score: float) -> None:
        """Score on validation data, 0..100."""

    def phase_ended(self, name: str) -> None:
        """Its best state is in place."""

    def task_ended(
        self, row: Sequence[float | None], averages: Mapping[str, Any], cost: Mapping[str, Any]
    ) -> None:
        """The new row of the accuracy matrix, its averages, and what learning took."""

    def run_ended(self) -> None:
        """All tasks are learned."""

    def note(self, level: Level, text: str) -> None:
        """Something a person should know."""

    def close(self) -> None:
        """Let go of files and of the screen; nothing is told afterwards."""
