"""Processes, several at once: each with a log, none of which is in the way of the others.

Nothing here knows of studies; a benchmark that makes runs can use it as it is.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conpet.config import diff, load_config
from conpet.errors import CheckpointError
from conpet.runtime import RunFolder, read_json

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One process: ``python -m`` with ``words``.

    Attributes:
        log: where its standard output and error go.
        finished: whether its result is there already; asked before it is started.
    """

    name: str
    words: tuple[str, ...]
    log: Path
    finished: Callable[[], bool]


@dataclass(frozen=True)
class Failure:
    """A job that did not end well: its exit code, its log, and the last line of that.

    Code 0: it ended well, and what it left behind cannot be read.
    """

    name: str
    code: int
    log: Path
    message: str

    def __str__(self) -> str:
        how = f"failed (exit code {self.code})" if self.code else "cannot be read"
        return f"{self.name} {how}: {self.message} (log: {self.log})"


def run_job(name: str, words: Sequence[str], folder: Path) -> Job:
    """The job of one ``conpet run``: ``words`` as key=value, without ``out``."""
    settings = [*words, f"out={folder}"]
    return Job(
        name,
        ("conpet.cli", "run", "--quiet", *settings),
        folder.with_name(f"{folder.name}.log"),
        lambda: run_finished(folder, words),
    )


def run_finished(folder: Path, words: Sequence[str]) -> bool:
    """Whether a folder holds the finished run of these words.

    Raises:
        CheckpointError: it holds a run with other settings.
        ConfigError: the words are no configuration.
    """
    wanted, run = load_config(None, words), RunFolder(folder)
    if not (run.state.exists() or run.checkpoint.exists()):
        return False
    other = diff(load_config(run.config), wanted)
    if other:
        raise CheckpointError(
            f"'{folder}' was made with other settings: {'; '.join(other[:4])}. Nothing was "
            "touched. Give another --out, or remove that folder to have it made again"
        )
    if not run.state.exists():
        return False
    state = read_json(run.state)
    return len(state["tasks"]) >= int(state["planned"])


def run_jobs(
    jobs: Sequence[Job], *, at_once: int = 1, tell: Tell = lambda _: None
) -> list[Failure]:
    """Run what is not finished; those that fail, when all others are done.

    On SIGINT and SIGTERM each process is asked once to stop, which a run does with all progress
    saved, and is waited for.

    Raises:
        CheckpointError, ConfigError: by ``finished`` of any job; then none was started.
        KeyboardInterrupt: stopped by a signal.
    """
    waiting = [job for job in jobs if not job.finished()]
    tell(f"{len(jobs)} processes, {len(jobs) - len(waiting)} of them finished before")
    running: list[_Running] = []
    failures: list[Failure] = []
    n, done = len(waiting), 0
    with _sigterm_is_sigint():
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(_Running(waiting.pop(0)))
                time.sleep(0.05)
                for one in [r for r in running if r.process.poll() is not None]:
                    running.remove(one)
                    done += 1
                    failure = one.failure()
                    failures += [failure] if failure else []
                    tell(f"[{done}/{n}] {failure or f'{one.job.name}: {one.seconds:.0f} s'}")
        except KeyboardInterrupt:
            for one in running:
                one.process.terminate()
            for one in running:
                one.process.wait()
            raise
    return failures


class _Running:
    """A process that was started, in a group of its own: a terminal's Ctrl-C reaches us alone."""

    def __init__(self, job: Job) -> None:
        self.job, self.began = job, time.perf_counter()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *job.words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def failure(self) -> Failure | None:
        code = self.process.returncode
        if not code:
            return None
        text = self.job.log.read_text(encoding="utf-8", errors="replace").strip()
        message = text.splitlines()[-1] if text else "it said nothing"
        return Failure(self.job.name, code, self.job.log, message)


@contextmanager
def _sigterm_is_sigint() -> Iterator[None]:
    """Inside, SIGTERM raises KeyboardInterrupt; only a main thread can ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
