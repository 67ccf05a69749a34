"""The logits that frozen adapters gave: computed at first use, kept, and never computed again.

One adapter has two append-only files: the rows (int64) and their logits (float32). The key holds
the adapter's fingerprint, so an adapter that changes starts an empty cache. Writes are journalled:
what lies behind the counts of the last ``commit`` is dropped by ``rollback``, so that a resumed run
finds exactly what an uninterrupted one had at this point.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path

import numpy as np

from conpet.runtime.files import disk_errors

_OPEN_FILES = 128  # an open file costs a handle of the process, and a run may have thousands


class LogitCache:
    """Logits of (adapter, example) pairs; in memory only where ``folder`` is None."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._tables: dict[str, _Table] = {}
        self._unopened: dict[str, int] = {}  # entries of what a rollback kept and nobody asked for
        self._open = lru_cache(_OPEN_FILES)(_mapped)

    def get(self, key: str, rows: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Look up rows (n,): the logits (n, C), and which of them are known (n,) bool."""
        return self._table(key, n_classes).get(rows)

    def put(self, key: str, rows: np.ndarray, logits: np.ndarray) -> None:
        """Add logits (n, C) of rows (n,); negative rows stand for inputs that are not stored."""
        self._table(key, logits.shape[1]).put(rows, logits)

    def keep_only(self, keys: Collection[str]) -> None:
        """Forget every adapter whose key is not given, e.g. those that were trained further."""
        self._tables = {key: table for key, table in self._tables.items() if key in keys}
        self._unopened = {key: n for key, n in self._unopened.items() if key in keys}
        if self.folder is not None:
            with disk_errors(self.folder):
                for path in self.folder.glob("*"):
                    if path.stem not in keys:
                        path.unlink()
        self._open.cache_clear()

    def commit(self) -> dict[str, int]:
        """Write what is pending; the number of entries of each adapter, for ``rollback``."""
        if self.folder is not None:
            with disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                for key in self._tables:
                    self._tables[key].flush(self._paths(key))
        return self._unopened | {key: len(table.position) for key, table in self._tables.items()}

    def rollback(self, counts: dict[str, int]) -> None:
        """Forget all that was added since the commit that returned ``counts``."""
        self._tables.clear()
        self._unopened.clear()
        self._open.cache_clear()
        if self.folder is None or not self.folder.exists():
            return
        with disk_errors(self.folder):
            for rows_path in self.folder.glob("*.rows"):
                self._cut(rows_path.stem, counts.get(rows_path.stem, 0))
            for values_path in self.folder.glob("*.logits"):  # of a first write that was cut short
                if not values_path.with_suffix(".rows").exists():
                    values_path.unlink()

    def _cut(self, key: str, kept: int) -> None:
        """Leave the first ``kept`` entries; none where the files are damaged: compute them anew."""
        rows_path, values_path = self._paths(key)
        width = _width(rows_path)
        if kept and min(_count(rows_path, 8) - 1, _count(values_path, 4 * width)) >= kept:
            os.truncate(rows_path, 8 * (kept + 1))
            os.truncate(values_path, 4 * width * kept)
            self._unopened[key] = kept
        else:
            rows_path.unlink()
            values_path.unlink(missing_ok=True)

    def _paths(self, key: str) -> tuple[Path, Path]:
        assert self.folder is not None
        return self.folder / f"{key}.rows", self.folder / f"{key}.logits"

    def _table(self, key: str, n_classes: int) -> _Table:
        if key not in self._tables:
            table = _Table(n_classes, self._open)
            if self.folder is not None:
                table.load(self._paths(key))
            self._tables[key] = table
            self._unopened.pop(key, None)
        return self._tables[key]


def _width(rows_path: Path) -> int:
    """Classes C of the rows file's head; 0 where it has none."""
    with rows_path.open("rb") as f:
        head = f.read(8)
    return int(np.frombuffer(head, np.int64)[0]) if len(head) == 8 else 0


def _count(path: Path, size: int) -> int:
    """How many whole entries of ``size`` bytes a file holds."""
    return path.stat().st_size // size if size > 0 and path.exists() else 0


class _Table:
    """One adapter's entries. The rows file begins with one number: the classes C."""

    def __init__(self, n_classes: int, mapped: Callable[[Path, int, int], np.ndarray]) -> None:
        self.n_classes = n_classes
        self.mapped = mapped
        self.position: dict[int, int] = {}
        self.stored: tuple[Path, int] | None = None  # on disk: where, and how many
        self.pending: list[np.ndarray] = []  # each (C,)
        self.pending_rows: list[int] = []

    def get(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = np.zeros((len(rows), self.n_classes), np.float32)
        known = np.zeros(len(rows), bool)
        stored = np.empty((0, self.n_classes), np.float32)
        if self.stored is not None:
            stored = self.mapped(*self.stored, self.n_classes)
        n = len(stored)
        for i, row in enumerate(rows):
            at = self.position.get(int(row))
            if at is not None:
                known[i] = True
                values[i] = stored[at] if at < n else self.pending[at - n]
        return values, known

    def put(self, rows: np.ndarray, logits: np.ndarray) -> None:
        for row, value in zip(rows, logits, strict=True):
            if row >= 0 and int(row) not in self.position:
                self.position[int(row)] = len(self.position)
                self.pending.append(np.asarray(value, np.float32).copy())
                self.pending_rows.append(int(row))

    def load(self, paths: tuple[Path, Path]) -> None:
        """Take what both files hold whole."""
        rows_path, values_path = paths
        n = min(_count(rows_path, 8) - 1, _count(values_path, 4 * self.n_classes))
        if n < 1:
            return
        rows = np.fromfile(rows_path, np.int64, n + 1)[1:]
        self.position = {int(row): i for i, row in enumerate(rows)}
        self.stored = values_path, n

    def flush(self, paths: tuple[Path, Path]) -> None:
        if not self.pending:
            return
        rows_path, values_path = paths
        header = b"" if rows_path.exists() else np.int64(self.n_classes).tobytes()
        _append(values_path, np.stack(self.pending).tobytes())
        _append(rows_path, header + np.array(self.pending_rows, np.int64).tobytes())
        self.pending, self.pending_rows = [], []
        self.stored = values_path, len(self.position)


def _mapped(path: Path, n: int, n_classes: int) -> np.ndarray:
    return np.memmap(path, np.float32, "r", shape=(n, n_classes))


def _append(path: Path, data: bytes) -> None:
    """Add to a file; no fsync, for what a power cut takes is seen by its size and computed anew."""
    with path.open("ab") as f:
        f.write(data)
