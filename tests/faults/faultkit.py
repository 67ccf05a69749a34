"""Commands that can be killed, a small stream, and what a run leaves."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DRIVER = Path(__file__).with_name("driver.py")
TINY = (
    "--backbone=tiny-bert",
    "--quiet",
    "adapter.dropout=0.2",
    "train.batch_size=8",
    "train.epochs=3",
    "replay.batch_limit=8",
    "checkpoint_every=3",
    "precision=fp32",
    "threads=1",
    "device=cpu",
)


Fault = Mapping[str, Any]
"""What goes wrong in a command: the arguments of ``plant`` in ``driver.py``."""


@dataclass(frozen=True)
class Result:
    """How a command ended. ``code`` is minus the signal that ended it."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass
class Command:
    """A command at work."""

    pid: int
    folder: Path
    ask: Callable[[Mapping[str, Any]], Any]

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    @property
    def ended(self) -> bool:
        return self.ask({"poll": self.pid})["ended"]

    def wait_until_stopped(self) -> None:
        """Until a SIGSTOP holds it still."""
        assert self.ask({"pause": self.pid})["stopped"], "it went on to its end"

    def wait(self) -> Result:
        code = self.ask({"wait": self.pid})["code"]
        return Result(code, *(self.folder.joinpath(name).read_text() for name in ("out", "err")))


@dataclass
class Conpet:
    """Runs commands of conpet in processes of their own; see ``driver.py``."""

    driver: subprocess.Popen[str]
    folder: Path
    started: int = field(default=0)

    def start(
        self,
        *arguments: object,
        fault: Fault | None = None,
        room: int | None = None,
        humble: bool = False,
    ) -> Command:
        self.started += 1
        place = self.folder / str(self.started)
        place.mkdir()
        order = {
            "arguments": [str(argument) for argument in arguments],
            "out": str(place / "out"),
            "err": str(place / "err"),
            "fault": fault,
            "room": room,
            "humble": humble,
        }
        return Command(self._ask({"start": order})["pid"], place, self._ask)

    def __call__(
        self,
        *arguments: object,
        fault: Fault | None = None,
        room: int | None = None,
        humble: bool = False,
    ) -> Result:
        return self.start(*arguments, fault=fault, room=room, humble=humble).wait()

    def _ask(self, order: Mapping[str, Any]) -> Any:
        assert self.driver.stdin and self.driver.stdout
        self.driver.stdin.write(json.dumps(order) + "\n")
        self.driver.stdin.flush()
        return json.loads(self.driver.stdout.readline())


# Data ---------------------------------------------------------------------------------------------

SOUNDS = ("ba", "ku", "mi", "ro", "te", "zo", "li", "fa", "nu", "si")


def rows(tasks: Sequence[str], per_label: int = 14, seed: int = 1) -> list[dict[str, str]]:
    """Rows of a stream: three labels a task, the words of a text lean towards its label."""
    draw = random.Random(f"{seed} {tasks}")
    found = []
    for task in tasks:
        for label in (f"{task}-{i}" for i in range(3)):
            own = [draw.choice(SOUNDS) + draw.choice(SOUNDS) for _ in range(3)]
            for i in range(per_label):
                words = [draw.choice(own + list(SOUNDS)) for _ in range(draw.randint(3, 9))]
                text = " ".join([*words, str(i)])
                found.append({"text": text, "label": label, "task": task})
    return found


def write_rows(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# What a run leaves --------------------------------------------------------------------------------


def outcome(folder: Path) -> dict[str, Any]:
    """All that must be bitwise the same however often a run was killed: weights, matrix,
    predictions, and what was counted."""
    found: dict[str, Any] = {}
    for part in ("adapters", "router", "learner", "predictions", "logits", "trunk"):
        for path in sorted((folder / part).rglob("*")):
            if path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path.relative_to(folder))] = content
    found["matrix"] = json.loads((folder / "matrix.json").read_text())
    state = json.loads((folder / "state.json").read_text())
    for task in state["tasks"]:
        del task["cost"]["seconds"], task["cost"]["peak_memory_bytes"]
    return found | {"state": state}


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the lock, to show that nothing was touched."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def refused(result: Result, *words: str) -> None:
    """An error that its reader can mend: exit 2, one message with these words, no traceback."""
    assert result.code == 2, (result.code, result.err)
    assert "Traceback" not in result.err
    (line,) = result.err.splitlines()
    assert re.match(r"[A-Z]\w+Error: ", line), line
    for word in words:
        assert word in line, line


def left_over(folder: Path) -> list[str]:
    """Temporary files and checkpoints, of which a finished run has none."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if _is_temporary(p)]


def _is_temporary(path: Path) -> bool:
    return path.name.endswith((".tmp", ".new", ".old")) or path.name == "task.safetensors"


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def count_events(folder: Path) -> int:
    path = folder / "events.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
