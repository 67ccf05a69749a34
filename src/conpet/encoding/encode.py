"""The examples of a run as token ids: encoded once, kept in files, handed out in batches.

Shapes: N examples in the store, n examples of a call, B batch, S longest sequence of a batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from conpet.encoding import blocks
from conpet.encoding.encoder import Encoder
from conpet.types import Batch, Example, Task, padded

__all__ = ["EncodedTask", "Encoder", "TokenStore", "length_buckets"]

_OPEN_FILES = 128  # an open file costs a handle of the process, and a run may have thousands
_SORTED_TOGETHER = 32  # batches; more waste less padding, fewer mix examples of all lengths better


@dataclass(frozen=True)
class EncodedTask:
    """A task as rows of a token store and columns of the label space.

    Attributes:
        index: position of the task in learning order, from 0.
        first_column: column of its first label; the columns go in learning order.
        train, valid, test: (n,) int64 rows of the store.
        train_labels, valid_labels, test_labels: (n,) int64 label columns; -1 without a label.
    """

    name: str
    labels: tuple[str, ...]
    index: int
    first_column: int
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    valid_labels: np.ndarray
    test_labels: np.ndarray

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, label columns) of train, valid and test."""
        yield self.train, self.train_labels
        yield self.valid, self.valid_labels
        yield self.test, self.test_labels


class TokenStore:
    """Every example of a run, tokenised once.

    One call of ``add`` makes one block. With a folder it is a file, named by encoder and content:
    the next run with the same content maps it instead of encoding anew.

    Attributes:
        lengths: (N,) int64, ids of each row.
    """

    def __init__(self, encoder: Encoder, folder: Path | None = None) -> None:
        self.encoder = encoder
        self.folder = folder
        self.lengths = np.zeros(0, np.int64)
        self._masks = np.zeros(0, np.int64)
        self._starts = np.zeros(0, np.int64)  # first row of each block
        self._rows: dict[str, np.ndarray] = {}  # block key -> its rows
        self._blocks: list[np.ndarray | Path] = []
        self._open = lru_cache(_OPEN_FILES)(blocks.open_block)

    def add(self, examples: Sequence[Example]) -> np.ndarray:
        """The rows (n,) int64 of examples; the same ones in the same order have the same rows."""
        key = self._key(examples)
        if key not in self._rows:
            self._rows[key] = self._append(key, examples)
        return self._rows[key]

    def add_task(self, task: Task, index: int, first_column: int) -> EncodedTask:
        """Add a task's examples, and number its labels from ``first_column`` on."""
        parts = (task.train, task.valid, task.test)
        column = {label: first_column + i for i, label in enumerate(task.labels)}
        rows = self.add([example for part in parts for example in part])
        train, valid, test = np.split(rows, np.cumsum([len(part) for part in parts])[:-1])
        labels = [
            np.array([-1 if e.label is None else column[e.label] for e in part], np.int64)
            for part in parts
        ]
        return EncodedTask(task.name, task.labels, index, first_column, train, valid, test, *labels)

    def batch(
        self, rows: np.ndarray, task: np.ndarray | None = None, label: np.ndarray | None = None
    ) -> Batch:
        """CPU tensors of rows (B,), padded to the longest; task and label default to -1."""
        lengths = self.lengths[rows]
        longest = int(lengths.max(initial=0))
        shape = (len(rows), max(longest, min(padded(longest), self.encoder.max_length)))
        input_ids = np.full(shape, self.encoder.pad_id, np.int64)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for i, (row, block) in enumerate(zip(rows.tolist(), which.tolist(), strict=True)):
            ids = blocks.ids_of(self._block(block), row - int(self._starts[block]))
            input_ids[i, : len(ids)] = ids
        mask = np.arange(shape[1])[None, :] < lengths[:, None]
        unknown = np.full(len(rows), -1)
        columns = (
            input_ids,
            mask,
            self._masks[rows],
            rows,
            unknown if task is None else task,
            unknown if label is None else label,
        )
        return Batch(*(torch.from_numpy(column.astype(np.int64)) for column in columns))

    def _append(self, key: str, examples: Sequence[Example]) -> np.ndarray:
        block, kept = self._stored(key, examples)
        truncated, lengths, masks = blocks.index(block)
        if kept:
            self.encoder.truncated += truncated
        first = len(self.lengths)
        self.lengths = np.concatenate([self.lengths, lengths])
        self._masks = np.concatenate([self._masks, masks])
        self._starts = np.append(self._starts, first)
        self._blocks.append(block if self.folder is None else self._path(key))
        return np.arange(first, len(self.lengths))

    def _stored(self, key: str, examples: Sequence[Example]) -> tuple[np.ndarray, bool]:
        """The block of a key, and whether it was there already."""
        block = None if self.folder is None else blocks.read(self._path(key))
        if block is not None:
            return block, True
        before = self.encoder.truncated
        encoded = self.encoder.encode_all(examples)
        block = blocks.pack(encoded, self.encoder.truncated - before)
        if self.folder is not None:
            blocks.write(self._path(key), block)
        return block, False

    def _block(self, number: int) -> np.ndarray:
        block = self._blocks[number]
        return self._open(block) if isinstance(block, Path) else block

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key[:32]}.npy"

    def _key(self, examples: Sequence[Example]) -> str:
        digest = hashlib.sha256(self.encoder.fingerprint.encode())
        for example in examples:  # the label is no part of the input
            digest.update(json.dumps([example.id, example.text, example.entities]).encode())
        return digest.hexdigest()


def length_buckets(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Positions 0..n-1 in batches of similar length; each once, and one batch may be smaller.

    Shuffled, sorted by length within groups of batches, and the batches shuffled.
    """
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for group in _cut(order, batch_size * _SORTED_TOGETHER):
        batches += _cut(group[np.argsort(lengths[group], kind="stable")], batch_size)
    return [batches[i] for i in rng.permutation(len(batches))]


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[i : i + size] for i in range(0, len(order), size)]
