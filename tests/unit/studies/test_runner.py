"""Processes: logs, failures that stop nothing else, what is finished, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import conpet
from conpet.errors import CheckpointError, ConfigError
from conpet.studies.runner import Job, run_finished, run_job, run_jobs

QUICK = ("timeit", "-n", "1", "-r", "1", "pass")
WRONG = ("timeit", "-n", "1", "-r", "1", "no such thing")


def job(name: str, folder: Path, words: tuple[str, ...], finished: bool = False) -> Job:
    return Job(name, words, folder / f"{name}.log", lambda: finished)


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_failure_stops_nothing_else(tmp_path: Path, at_once: int) -> None:
    lines: list[str] = []
    jobs = [job("good", tmp_path, QUICK), job("bad", tmp_path, WRONG), job("last", tmp_path, QUICK)]
    failures = run_jobs(jobs, at_once=at_once, tell=lines.append)
    (failure,) = failures
    assert (failure.name, failure.code) == ("bad", 1)
    assert failure.message.startswith("SyntaxError")
    assert str(failure.log) in str(failure)
    assert "best of 1" in (tmp_path / "last.log").read_text()
    assert lines[0] == "3 processes, 0 of them finished before"
    assert len(lines) == 4 and any("bad failed (exit code 1)" in line for line in lines)


def test_what_is_finished_is_not_started(tmp_path: Path) -> None:
    assert run_jobs([job("done", tmp_path, WRONG, finished=True)]) == []
    assert list(tmp_path.iterdir()) == []


def test_nothing_starts_where_one_would_be_refused(tmp_path: Path) -> None:
    jobs = [job("good", tmp_path, QUICK), run_job("x", ["stream=banking7"], tmp_path / "x")]
    run = Job("refused", QUICK, tmp_path / "x.log", lambda: run_finished(tmp_path, ["sed=1"]))
    with pytest.raises(ConfigError, match="sed"):
        run_jobs([*jobs[:1], run])
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    words = ["stream=banking77", "train.epochs=2"]
    assert not run_finished(tmp_path, words)
    (tmp_path / "config.yaml").write_text("stream: banking77\ntrain: {epochs: 3}\n")
    assert not run_finished(tmp_path, words), "nothing is learned there yet"
    (tmp_path / "state.json").write_text('{"tasks": [1], "planned": 2}')
    with pytest.raises(CheckpointError, match=r"train.epochs: 3 is now 2.*Nothing was touched"):
        run_finished(tmp_path, words)
    assert not run_finished(tmp_path, ["stream=banking77", "train.epochs=3"])
    (tmp_path / "state.json").write_text('{"tasks": [1, 2], "planned": 2}')
    assert run_finished(tmp_path, ["stream=banking77", "train.epochs=3", "threads=1"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    """The process that was started is asked to stop, and is gone when we are."""
    sleep = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    code = (
        "import signal\nfrom pathlib import Path\nfrom conpet.studies.runner import Job, run_jobs\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background shell ignores
        f"words = ('timeit', '-n', '1', '-r', '1', '-s', {sleep!r}, 'time.sleep(60)')\n"
        f"run_jobs([Job('slow', words, Path({str(tmp_path / 'log')!r}), lambda: False)])\n"
    )
    source = str(Path(conpet.__file__).parents[1])
    ours = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        stderr=subprocess.DEVNULL,
    )
    started = tmp_path / "pid"
    _wait(lambda: started.exists() and bool(started.read_text()))
    ours.send_signal(number)
    assert ours.wait(timeout=30) != 0
    theirs = int(started.read_text())
    _wait(lambda: not Path(f"/proc/{theirs}").exists())


def _wait(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.05)
