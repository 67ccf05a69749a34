"""Several observers as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from conpet.events.base import Level, Observer
from conpet.events.jsonl import Events
from conpet.events.trackers import TrackerObserver

if TYPE_CHECKING:
    from accelerate import Accelerator

    from conpet.runtime import RunFolder


class Observers(Observer):
    """Tells several observers. A context manager: closes them at its end."""

    def __init__(self, *members: Observer) -> None:
        self.members = members

    @classmethod
    def of_run(
        cls,
        folder: RunFolder,
        accelerator: Accelerator | None = None,
        trackers: Sequence[str] = (),
        observer: Observer | None = None,
    ) -> Observers:
        """The observers of a run: its events file, its trackers, and one from outside."""
        members: list[Observer] = [Events(folder.events)]
        if accelerator is not None and trackers:
            members.append(TrackerObserver(accelerator, trackers, folder.path.name, folder.events))
        return cls(*members, *([observer] if observer is not None else []))

    def __enter__(self) -> Observers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run_started(self, stream: str, n_tasks: int, done: int) -> None:
        for member in self.members:
            member.run_started(stream, n_tasks, done)

    def task_started(self, index: int, total: int, name: str) -> None:
        for member in self.members:
            member.task_started(index, total, name)

    def phase_started(self, name: str, steps: int, done: int = 0, epochs: int = 1) -> None:
        for member in self.members:
            member.phase_started(name, steps, done, epochs)

    def step(self, step: int, terms: Mapping[str, float], examples: int) -> None:
        for member in self.members:
            member.step(step, terms, examples)

    def validated(self, score: float) -> None:
        for member in self.members:
            member.validated(score)

    def phase_ended(self, name: str) -> None:
        for member in self.members:
            member.phase_ended(name)

    def task_ended(
        self, row: Sequence[float | None], averages: Mapping[str, Any], cost: Mapping[str, Any]
    ) -> None:
        for member in self.members:
            member.task_ended(row, averages, cost)

    def run_ended(self) -> None:
        for member in self.members:
            member.run_ended()

    def note(self, level: Level, text: str) -> None:
        for member in self.members:
            member.note(level, text)

    def close(self) -> None:
        for member in self.members:
            member.close()
