"""A run that is killed, wherever it is, and started again ends as if nothing had happened."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from faultkit import (
    TINY,
    Conpet,
    Fault,
    count_events,
    events_of,
    left_over,
    outcome,
)

MOMENTS = 10
RUNS = {
    "conpet-dynamic": ("--method=conpet-dynamic", "method.top_k=2"),
    "sequential": ("--method=sequential", "train.accumulate=2"),
    "full tuning": ("--method=sequential", "adapter.kind=full"),
    "memory": ("--method=conpet-dynamic", "replay.kind=memory", "replay.selection=kmeans"),
    "trunk": ("--method=conpet-dynamic", "adapter.layers=1"),
    "joint": ("--method=joint", "method.steps=25"),
    "lda": ("--method=lda",),
}


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbed: its command without ``--out``, what it left, what it took."""

    command: tuple[str, ...]
    outcome: dict[str, Any]
    seconds: float


@pytest.fixture(scope="session")
def undisturbed(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Undisturbed]:
    """Name -> its run, made by a process of its own as a user makes it."""

    @cache
    def make(name: str) -> Undisturbed:
        folder = tmp_path_factory.mktemp("undisturbed") / "run"
        command = ("run", f"--stream={data}", *TINY, *RUNS[name])
        done = subprocess.run(
            [sys.executable, "-m", "conpet.cli", *command, f"--out={folder}"],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        assert left_over(folder) == []
        events = events_of(folder)
        return Undisturbed(command, outcome(folder), events[-1]["time"] - events[0]["time"])

    return make


@pytest.fixture(params=["conpet-dynamic", "sequential"])
def each(request: pytest.FixtureRequest, undisturbed: Callable[[str], Undisturbed]) -> Undisturbed:
    """A run with many adapters, and one whose shared adapter is thawed for each task."""
    return undisturbed(request.param)


def finish(conpet: Conpet, run: Undisturbed, folder: Path) -> None:
    """Start the same command again, and compare."""
    result = conpet(*run.command, f"--out={folder}")
    assert result.code == 0, result.err
    assert outcome(folder) == run.outcome
    assert left_over(folder) == []


def kill_after(
    conpet: Conpet, run: Undisturbed, folder: Path, *, events: int = 1, seconds: float = 0.0
) -> int:
    """Run the command, and kill it ``seconds`` after so many events; its exit code."""
    before = count_events(folder)
    command = conpet.start(*run.command, f"--out={folder}")
    while count_events(folder) < before + events and not command.ended:
        time.sleep(0.002)
    time.sleep(seconds)
    command.kill()
    return command.wait().code


# Moments in time


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_killed_at_a_moment(conpet: Conpet, each: Undisturbed, tmp_path: Path, moment: int) -> None:
    """Ten moments, uniform over the time of training: one draw from each tenth of it."""
    share = (moment + random.Random(moment).random()) / MOMENTS
    code = kill_after(conpet, each, tmp_path / "run", seconds=share * each.seconds)
    assert code in (-signal.SIGKILL, 0)  # the machine may have been faster than before
    finish(conpet, each, tmp_path / "run")


def test_killed_again_and_again(conpet: Conpet, each: Undisturbed, tmp_path: Path) -> None:
    """One run, killed after every dozen events until there is nothing left to do."""
    folder, kills = tmp_path / "run", 0
    while kill_after(conpet, each, folder, events=12) != 0:
        kills += 1
        assert kills < 100, "it makes no progress"
    assert kills >= 3
    finish(conpet, each, folder)


# Moments inside a step of the work

DYNAMIC: dict[str, Fault] = {
    "the beginning of the run, before its configuration is there": {
        "target": "os:replace",
        "argument": "config.yaml",
    },
    "begin of the first task's phase": {
        "target": "conpet.methods.conpet_dynamic:NewAdapter.begin",
        "when": "after",
    },
    "begin of the selector that grows": {
        "target": "conpet.methods.tune:Tune.begin",
        "call": 2,
        "when": "after",
    },
    "begin of the third task's adapter, between adapter and head": {
        "target": "conpet.adapters.head:Head.__init__",
        "argument": "three",
    },
    "end of the selector": {"target": "conpet.methods.tune:Tune.end", "when": "after"},
    "end of an adapter": {
        "target": "conpet.methods.conpet_dynamic:NewAdapter.end",
        "call": 2,
        "when": "after",
    },
    "a validation": {"target": "conpet.methods.tune:Tune.validate", "call": 3},
    "a checkpoint, not yet whole": {
        "target": "safetensors.torch:save_file",
        "argument": "task.safetensors",
        "call": 5,
        "when": "torn",
    },
    "a checkpoint, before it is renamed": {
        "target": "os:replace",
        "argument": "task.safetensors",
        "call": 9,
    },
    "the logits, between values and rows": {
        "target": "conpet.replay.logits:_append",
        "argument": ".rows",
        "call": 4,
    },
    "the logits, between the first values and their rows": {
        "target": "conpet.replay.logits:_append",
        "argument": ".rows",
        "call": 1,
    },
    "the logits, a row not yet whole": {
        "target": "conpet.replay.logits:_append",
        "argument": ".rows",
        "call": 4,
        "when": "torn",
    },
    "the evaluation": {"target": "conpet.evaluation.evaluator:_oracle", "call": 3},
    "a commit, half of an adapter written": {
        "target": "conpet.adapters.io:save_file",
        "call": 3,
    },
    "a commit, after the first of its adapters": {
        "target": "conpet.adapters.io:new_folder",
        "call": 3,
    },
    "a commit, before it counts": {
        "target": "os:replace",
        "argument": "state.json",
        "call": 2,
    },
    "a commit, before the checkpoint is removed": {
        "target": "os:replace",
        "argument": "state.json",
        "call": 2,
        "when": "after",
    },
    "the last commit, before the checkpoint is removed": {
        "target": "os:replace",
        "argument": "state.json",
        "call": 3,
        "when": "after",
    },
    "a commit, before the old selector is removed": {
        "target": "conpet.training.store:RunStore._clean",
        "call": 3,
    },
}
SEQUENTIAL: dict[str, Fault] = {
    "begin of the second task, the shared adapter thawed": {
        "target": "conpet.methods.tune:Tune.begin",
        "call": 2,
        "when": "after",
    },
    "a step of the second task": {
        "target": "conpet.training.trainer:Trainer.step",
        "call": 30,
    },
    "end of the second task": {
        "target": "conpet.methods.tune:Tune.end",
        "call": 2,
        "when": "after",
    },
    "a commit, before the older state of the adapter is removed": {
        "target": "conpet.training.store:RunStore._clean",
        "call": 2,
    },
}
TRUNK: dict[str, Fault] = {
    "between the first states and their index": {
        "target": "conpet.replay.trunk:_write",
        "argument": ".index",
    },
    "between states and their index": {
        "target": "conpet.replay.trunk:_write",
        "argument": ".index",
        "call": 9,
    },
    "states not yet whole": {
        "target": "conpet.replay.trunk:_write",
        "argument": ".states",
        "call": 9,
        "when": "torn",
    },
    "an index not yet whole": {
        "target": "conpet.replay.trunk:_write",
        "argument": ".index",
        "call": 9,
        "when": "torn",
    },
    "the states of a test in the evaluation": {
        "target": "conpet.evaluation.evaluator:_oracle",
        "call": 3,
    },
}
OTHERS: dict[str, Fault] = {
    "full tuning": {"target": "conpet.training.trainer:Trainer.step", "call": 20},
    "memory": {"target": "conpet.replay.memory:MemoryReplay.keep", "call": 2, "when": "after"},
    "joint": {"target": "conpet.training.trainer:Trainer.step", "call": 20},
    "lda": {"target": "conpet.training.store:RunStore._clean", "call": 2},
}
POINTS = [
    *(pytest.param("conpet-dynamic", fault, id=name) for name, fault in DYNAMIC.items()),
    *(pytest.param("sequential", fault, id=f"sequential: {n}") for n, fault in SEQUENTIAL.items()),
    *(pytest.param("trunk", fault, id=f"trunk: {name}") for name, fault in TRUNK.items()),
    *(pytest.param(name, fault, id=name) for name, fault in OTHERS.items()),
]


@pytest.mark.parametrize(("name", "fault"), POINTS)
def test_killed_inside(
    conpet: Conpet,
    undisturbed: Callable[[str], Undisturbed],
    tmp_path: Path,
    name: str,
    fault: Fault,
) -> None:
    run, folder = undisturbed(name), tmp_path / "run"
    result = conpet(*run.command, f"--out={folder}", fault={**fault, "signal_name": "SIGKILL"})
    assert result.code == -signal.SIGKILL, result.err or "the point was never reached"
    finish(conpet, run, folder)


# Signals that ask


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    conpet: Conpet, each: Undisturbed, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    fault = {"target": "conpet.training.trainer:Trainer.step", "call": 30}
    stopped = conpet(
        *each.command,
        f"--out={folder}",
        "--json",
        fault={**fault, "signal_name": number.name},
    )
    assert stopped.code == 130
    assert "Traceback" not in stopped.err
    assert "same command again" in stopped.document["error"]["message"]
    steps = [event for event in events_of(folder) if event["event"] == "step"]
    assert len(steps) in (30, 31)  # the step at hand is done, and no more of them are begun
    finish(conpet, each, folder)
    steps = [event for event in events_of(folder) if event["event"] == "step"]
    assert len(steps) == len({(e["time"], e["step"]) for e in steps})
