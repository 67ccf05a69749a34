"""The run folder: every path of a run in one place."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conpet.errors import CheckpointError
from conpet.runtime.files import disk_errors, write_bytes_atomic


@dataclass(frozen=True)
class RunFolder:
    """``runs/NAME``. Reading a path makes nothing; ``create`` makes the folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration, all values written out."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions and hardware."""
        return self.path / "environment.json"

    @property
    def stream(self) -> Path:
        """Names and fingerprints of the tasks."""
        return self.path / "stream.json"

    @property
    def events(self) -> Path:
        """What happened when, one JSON object a line."""
        return self.path / "events.jsonl"

    @property
    def matrix(self) -> Path:
        """The accuracy matrix."""
        return self.path / "matrix.json"

    @property
    def state(self) -> Path:
        """What is learned; its rename commits a task."""
        return self.path / "state.json"

    @property
    def adapters(self) -> Path:
        """A folder in PEFT format for each task's adapter."""
        return self.path / "adapters"

    @property
    def router(self) -> Path:
        """The adapter and head of the selector."""
        return self.path / "router"

    @property
    def learner(self) -> Path:
        """Buffers and modules of the method."""
        return self.path / "learner"

    @property
    def history(self) -> Path:
        """The examples of the learned tasks."""
        return self.path / "history"

    @property
    def logits(self) -> Path:
        """Cached logits of frozen adapters."""
        return self.path / "logits"

    @property
    def trunk(self) -> Path:
        """States that the layers below the adapters gave."""
        return self.path / "trunk"

    @property
    def predictions(self) -> Path:
        """Answers on the test data, one file a row of the matrix."""
        return self.path / "predictions"

    @property
    def answers(self) -> Path:
        """Free answers to the tests that need not be written again."""
        return self.path / "answers.json"

    @property
    def top_k(self) -> Path:
        """How good and how fast it answers with fewer or more adapters, where that was asked."""
        return self.path / "top_k.json"

    @property
    def unseen(self) -> Path:
        """Scores on tasks that it has not learned, a file a stream, where that was asked."""
        return self.path / "unseen"

    def unseen_of(self, stream: str) -> Path:
        """The file of one stream."""
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", stream).strip("-.")
        return self.unseen / f"{name or 'stream'}.json"

    @property
    def tokens(self) -> Path:
        """The encoded examples."""
        return self.path / "tokens"

    @property
    def checkpoint(self) -> Path:
        """The one file that holds training inside a task."""
        return self.path / "checkpoint" / "task.safetensors"

    @property
    def trackers(self) -> Path:
        """Files of TensorBoard and the like."""
        return self.path / "trackers"

    @property
    def parts(self) -> tuple[Path, ...]:
        """The folders that a run fills and tidies up."""
        kept = (self.adapters, self.router, self.learner, self.history)
        made = (self.logits, self.trunk, self.predictions, self.tokens)
        return (*kept, *made, self.checkpoint.parent)

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config.is_file()

    def create(self) -> RunFolder:
        """Make the folder, and see that it can be written to.

        Raises:
            CheckpointError: no permission, or the path is a file.
        """
        with disk_errors(self.path, "make the run folder"):
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".probe"
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)  # another process may have looked, too
        return self

    def write_text(self, path: Path, text: str) -> None:
        """Replace ``path`` by a text, atomically."""
        write_bytes_atomic(path, text.encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out; the lock falls with the process, however it ends.

        Raises:
            CheckpointError: another process is at work in this folder.
        """
        import fcntl

        with disk_errors(self.path / ".lock"):
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CheckpointError(
                    f"another process is at work in {self.path}; wait for it or stop it, "
                    "or choose another folder with --out"
                ) from None
            yield
        finally:
            os.close(handle)
