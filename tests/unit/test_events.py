"""Events: the file, the console, the trackers."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from conpet import fit
from conpet.errors import CheckpointError, MissingDependencyError
from conpet.events import Console, Events, Observer, Observers, TrackerObserver, read_events
from conpet.runtime import RunFolder
from conpet.testing import synthetic_stream


def tell(observer: Observer, *, task: int = 2, steps: int = 6) -> None:
    """A short run."""
    observer.run_started("banking77", 3, 1)
    observer.task_started(task, 3, "cards")
    observer.phase_started("adapter", steps, 0, 3)
    for step in range(1, steps + 1):
        observer.step(step, {"adapter": 1.0 / step}, 32)
    observer.validated(87.5)
    observer.phase_ended("adapter")
    observer.note("warning", "it has one label")
    observer.task_ended([90.0, None], {"average": 80.25, "whole": float("nan")}, {"steps": steps})
    observer.run_ended()


# The file


def test_every_event_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Observers(Events(path)) as observers:
        tell(observers)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names[:3] == ["run_started", "task_started", "phase_started"]
    assert names[3:9] == ["step"] * 6
    assert names[9:] == ["validated", "phase_ended", "note", "task_ended", "run_ended"]
    assert events[4]["terms"] == {"adapter": 0.5}
    assert events[-2]["averages"] == {"average": 80.25, "whole": None}
    assert all(a["time"] <= b["time"] for a, b in pairwise(events))


def test_events_are_on_disk_before_the_file_is_closed(tmp_path: Path) -> None:
    events = Events(tmp_path / "events.jsonl")
    events.step(1, {"adapter": 0.5}, 8)
    assert [e["step"] for e in read_events(events.path)] == [1]
    events.close()


def test_a_resumed_run_goes_on_below_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "step", "step": 1}\n{"event": "st')
    events = Events(path)
    events.step(2, {}, 8)
    events.close()
    assert [event["step"] for event in read_events(path)] == [1, 2]


def test_no_place_to_write_is_said_in_our_words(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write"):
        Events(tmp_path / "none" / "events.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_in_our_words() -> None:
    events = Events(Path("/dev/full"))
    with pytest.raises(CheckpointError, match="free some space"):
        events.run_ended()
    events.close()


# The fan-out


class Listener(Observer):
    """Hears scores alone; the rest is silence."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.closed = False

    def validated(self, score: float) -> None:
        self.scores.append(score)

    def close(self) -> None:
        self.closed = True


def test_observers_tell_all_and_close_all(tmp_path: Path) -> None:
    folder, first, second = RunFolder(tmp_path), Listener(), Listener()
    with (
        pytest.raises(KeyError),
        Observers.of_run(folder, observer=Observers(first, second)) as all_,
    ):
        tell(all_)
        raise KeyError
    assert first.scores == second.scores == [87.5]
    assert first.closed and second.closed
    assert sum(event["event"] == "step" for event in read_events(folder.events)) == 6


# The console


def test_plain_lines_say_where_the_run_is() -> None:
    out = io.StringIO()
    tell(Console(out, every=0.0))
    lines = out.getvalue().splitlines()
    assert lines[0] == "banking77: 3 tasks, 1 of them learned already"
    assert re.fullmatch(
        r"task 2/3 cards · adapter · epoch 2/3 · step 3/6 · loss adapter 0\.333 · "
        r"\d+ examples/s · \d+:\d\d left",
        lines[3],
    )
    assert lines[-2] == "warning: it has one label"
    assert re.fullmatch(r"task 2/3 cards · average 80\.2 · 0:00 · about 0:00 left", lines[-1])


def test_plain_lines_are_rare() -> None:
    out = io.StringIO()
    console = Console(out, every=60.0)
    tell(console, steps=500)
    assert len(out.getvalue().splitlines()) == 4  # the run, one step, the warning, the task


def test_quiet_lets_warnings_through() -> None:
    out = io.StringIO()
    tell(Console(out, quiet=True))
    assert out.getvalue() == "warning: it has one label\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_one_moving_line() -> None:
    import pty

    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        console = Console(terminal)
        assert console.live
        tell(console)
        console.close()
        terminal.flush()
        shown = b""
        while b"average" not in shown:  # a terminal hands out what it has piece by piece
            shown += os.read(master, 100_000)
    os.close(master)
    assert "task 2/3 cards · adapter" in shown.decode()
    assert "average 80.2" in shown.decode()


# Trackers


@pytest.fixture
def accelerator(tmp_path: Path) -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True, log_with=["tensorboard"], project_dir=str(tmp_path))
    AcceleratorState._reset_state(reset_partial_state=True)


def scalars(folder: Path) -> Mapping[str, list[tuple[int, float]]]:
    """Every scalar that TensorBoard finds below a folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = {}
    for file in sorted(folder.rglob("events.out.*")):
        reader = accumulator.EventAccumulator(str(file))
        reader.Reload()
        for tag in reader.Tags()["scalars"]:
            found[tag] = [(event.step, event.value) for event in reader.Scalars(tag)]
    return found


def test_tensorboard_gets_losses_scores_and_averages(
    tmp_path: Path, accelerator: Accelerator
) -> None:
    folder = RunFolder(tmp_path)
    with Observers.of_run(folder, accelerator, ["tensorboard"]) as observers:
        tell(observers)
    found = scalars(tmp_path)
    assert [step for step, _ in found["loss/adapter"]] == [1, 2, 3, 4, 5, 6]
    assert found["loss/adapter"][1][1] == 0.5
    assert found["validation/adapter"] == [(6, 87.5)]
    assert found["test/average"] == [(2, 80.25)]


def test_a_run_keeps_what_trackers_write_in_a_folder_of_its_own(tmp_path: Path) -> None:
    options = {"trackers": ["tensorboard"], "train__epochs": 1, "threads": 1, "device": "cpu"}
    fit(
        synthetic_stream(n_tasks=1),
        out=tmp_path,
        method="sequential",
        backbone="tiny-bert",
        **options,
    )
    assert list((tmp_path / "trackers").rglob("events.out.tfevents.*"))
    assert not [path for path in tmp_path.rglob("*.tfevents.*") if "trackers" not in path.parts]


def test_trackers_go_on_counting_after_a_resume(tmp_path: Path, accelerator: Accelerator) -> None:
    folder = RunFolder(tmp_path)
    with Observers(Events(folder.events)) as observers:
        tell(observers)
    with Observers.of_run(folder, accelerator, ["tensorboard"]) as observers:
        observers.step(1, {"adapter": 0.25}, 32)
    assert scalars(tmp_path)["loss/adapter"] == [(7, 0.25)]


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, accelerator: Accelerator) -> None:
    with pytest.raises(MissingDependencyError, match="pip install no_such_tracker"):
        TrackerObserver(accelerator, ["no_such_tracker"], "run", tmp_path / "events.jsonl")
