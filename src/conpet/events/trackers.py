"""TensorBoard, Weights & Biases and MLflow, through accelerate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conpet.errors import MissingDependencyError
from conpet.events.base import Observer
from conpet.events.jsonl import read_events

if TYPE_CHECKING:
    from accelerate import Accelerator


class TrackerObserver(Observer):
    """Sends loss terms, validation scores and averages to the trackers of an Accelerator.

    The horizontal axis counts batches over the run for losses, and learned tasks for averages.

    Args:
        accelerator: made with ``log_with=[...]`` and a ``project_dir``.
        trackers: their names.
        name: what the run is called in the tracker.
        events: the run's events file: a resumed run goes on counting where it stopped.

    Raises:
        MissingDependencyError: a tracker's package is not installed.
    """

    def __init__(
        self, accelerator: Accelerator, trackers: Sequence[str], name: str, events: Path
    ) -> None:
        for tracker in trackers:
            if find_spec(tracker) is None:
                raise MissingDependencyError(
                    f"tracker '{tracker}' was asked for and is not installed; "
                    f"pip install {tracker}, or leave it out of trackers"
                )
        accelerator.init_trackers(name)
        self.accelerator = accelerator
        self.batches = 0
        if events.exists():
            self.batches = sum(event["event"] == "step" for event in read_events(events))
        self.task = 0
        self.phase = ""

    def close(self) -> None:
        self.accelerator.end_training()

    def task_started(self, index: int, total: int, name: str) -> None:
        self.task = index

    def phase_started(self, name: str, steps: int, done: int = 0, epochs: int = 1) -> None:
        self.phase = name

    def step(self, step: int, terms: Mapping[str, float], examples: int) -> None:
        self.batches += 1
        self.log({f"loss/{name}": value for name, value in terms.items()}, self.batches)

    def validated(self, score: float) -> None:
        self.log({f"validation/{self.phase}": score}, self.batches)

    def task_ended(
        self, row: Sequence[float | None], averages: Mapping[str, Any], cost: Mapping[str, Any]
    ) -> None:
        numbers = {f"test/{k}": v for k, v in averages.items() if isinstance(v, int | float)}
        self.log(numbers, self.task)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values to every tracker."""
        if values:
            self.accelerator.log(dict(values), step=step)
