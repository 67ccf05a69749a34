"""``events.jsonl``: one JSON object a line, the record of a run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conpet.events.base import Level, Observer
from conpet.runtime.files import disk_errors


class Events(Observer):
    """Appends to a file, line by line, unbuffered; a resumed run goes on below what is there.

    A line is ``{"time": seconds since 1970, "event": name, ...}``. A number that is not finite is
    written as null, for JSON has none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            torn = path.exists() and not _ends_with_newline(path)
            self._file = path.open("ab", buffering=0)  # nothing waits to be written at a crash
        if torn:  # the process was killed inside a line
            self._file.write(b"\n")

    def close(self) -> None:
        self._file.close()

    def write(self, event: str, **values: Any) -> None:
        """Append one event."""
        line = {"time": round(time.time(), 3), "event": event} | _finite(values)
        with disk_errors(self.path):
            self._file.write((json.dumps(line) + "\n").encode())

    def run_started(self, stream: str, n_tasks: int, done: int) -> None:
        self.write("run_started", stream=stream, n_tasks=n_tasks, done=done)

    def task_started(self, index: int, total: int, name: str) -> None:
        self.write("task_started", index=index, total=total, task=name)

    def phase_started(self, name: str, steps: int, done: int = 0, epochs: int = 1) -> None:
        self.write("phase_started", phase=name, steps=steps, done=done, epochs=epochs)

    def step(self, step: int, terms: Mapping[str, float], examples: int) -> None:
        self.write("step", step=step, terms=dict(terms), examples=examples)

    def validated(self, score: float) -> None:
        self.write("validated", score=score)

    def phase_ended(self, name: str) -> None:
        self.write("phase_ended", phase=name)

    def task_ended(
        self, row: Sequence[float | None], averages: Mapping[str, Any], cost: Mapping[str, Any]
    ) -> None:
        self.write("task_ended", row=list(row), averages=dict(averages), cost=dict(cost))

    def run_ended(self) -> None:
        self.write("run_ended")

    def note(self, level: Level, text: str) -> None:
        self.write("note", level=level, text=text)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a file; lines that a crash cut short are left out."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell() == 0:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n"
