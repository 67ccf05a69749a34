"""Progress for people, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from conpet.events.base import Level, Observer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Console(Observer):
    """One moving line on a terminal; elsewhere a plain line now and then.

    Args:
        stream: where to write; standard error by default.
        quiet: write warnings alone.
        every: seconds between two plain lines, at least.
    """

    def __init__(
        self, stream: TextIO | None = None, *, quiet: bool = False, every: float = 5.0
    ) -> None:
        self.stream = stream or sys.stderr
        self.quiet = quiet
        self.every = every
        self.live = not quiet and self.stream.isatty()
        self._bar: tuple[Progress, TaskID] | None = None
        self._shown = float("-inf")
        self._task = self._phase = ""
        self._tasks_left = 0
        self._steps = self._epochs = 1
        self._done = self._examples = 0
        self._score: float | None = None
        self._started = self._task_started = time.perf_counter()

    def run_started(self, stream: str, n_tasks: int, done: int) -> None:
        self._tasks_left = n_tasks - done
        resumed = f", {done} of them learned already" if done else ""
        self._say(f"{stream}: {n_tasks} tasks{resumed}")

    def task_started(self, index: int, total: int, name: str) -> None:
        self._task = f"task {index}/{total} {name}"
        self._task_started = time.perf_counter()

    def phase_started(self, name: str, steps: int, done: int = 0, epochs: int = 1) -> None:
        self._phase, self._steps, self._epochs = name, max(steps, 1), epochs
        self._done, self._examples, self._score = done, 0, None
        self._started = time.perf_counter()
        self._close_bar()
        if self.live:
            self._open_bar(done)

    def step(self, step: int, terms: Mapping[str, float], examples: int) -> None:
        self._examples += examples
        if self.quiet:
            return
        now = time.perf_counter()
        if self._bar:
            progress, bar = self._bar
            progress.update(bar, completed=step, detail=self._detail(step, terms, now))
        elif now - self._shown >= self.every:
            self._shown = now
            self._say(f"{self._where} · {self._detail(step, terms, now)}")

    def validated(self, score: float) -> None:
        self._score = score

    def phase_ended(self, name: str) -> None:
        self._close_bar()

    def task_ended(
        self, row: Sequence[float | None], averages: Mapping[str, Any], cost: Mapping[str, Any]
    ) -> None:
        figures = [f"{k} {v:.1f}" for k, v in averages.items() if isinstance(v, float) and v == v]
        seconds = time.perf_counter() - self._task_started
        self._tasks_left -= 1
        left = f" · about {_clock(seconds * self._tasks_left)} left" if self._tasks_left else ""
        self._say(" · ".join([self._task, *figures, f"{_clock(seconds)}{left}"]))

    def note(self, level: Level, text: str) -> None:
        if level == "warning" or not self.quiet:
            self._write(f"{level}: {text}")

    def close(self) -> None:
        self._close_bar()

    @property
    def _where(self) -> str:
        return " · ".join(part for part in (self._task, self._phase) if part)

    def _detail(self, step: int, terms: Mapping[str, float], now: float) -> str:
        """``epoch 2/6 · step 40/120 · adapter 0.312 · 214 examples/s · 0:12 left``."""
        seconds = max(now - self._started, 1e-9)
        parts = [f"step {step}/{self._steps}"]
        if self._epochs > 1:
            epoch = min(self._epochs, (step - 1) * self._epochs // self._steps + 1)
            parts.insert(0, f"epoch {epoch}/{self._epochs}")
        parts += [f"loss {name} {value:.3f}" for name, value in terms.items()]
        if self._score is not None:
            parts.append(f"valid {self._score:.1f}")
        parts.append(f"{self._examples / seconds:.0f} examples/s")
        left = (self._steps - step) * seconds / max(step - self._done, 1)
        return " · ".join([*parts, f"{_clock(left)} left"])

    def _say(self, text: str) -> None:
        if not self.quiet:
            self._write(text)

    def _write(self, text: str) -> None:
        if self._bar:
            self._bar[0].console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self.stream, flush=True)

    def _open_bar(self, done: int) -> None:
        from rich.console import Console as Screen
        from rich.progress import BarColumn, Progress, TextColumn

        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[detail]}", markup=False),
            console=Screen(file=self.stream),
            transient=True,
        )
        bar = progress.add_task(self._where, total=self._steps, completed=done, detail="")
        progress.start()
        self._bar = (progress, bar)

    def _close_bar(self) -> None:
        if self._bar:
            self._bar[0].stop()
            self._bar = None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
