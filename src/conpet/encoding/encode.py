"""The examples of a run as token ids: encoded once, kept in files, handed out in batches.

Shapes: N examples in the store, n examples of a call, B batch, S longest sequence of a batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from conpet.encoding import blocks
from conpet.encoding.encoder import Encoded, Encoder
from conpet.types import NO_TOKEN, Batch, Example, Task, padded

__all__ = [
    "EncodedTask",
    "Encoder",
    "TokenStore",
    "length_buckets",
    "length_chunks",
]

_OPEN_FILES = 128  # an open file costs a handle of the process, and a run may have thousands
_SORTED_TOGETHER = 32  # batches; more waste less padding, fewer mix examples of all lengths better

_Kept = np.ndarray | Path | None
"""A block in memory or in its file; None where there is nothing to keep."""
_NONE = np.zeros(0, np.int32)


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

    @property
    def n_classes(self) -> int:
        """Its labels; free answers count as one class."""
        return max(1, len(self.labels))

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
        self._blocks: list[_Kept] = []
        self._answers: list[_Kept] = []
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
        width = min(padded(int(lengths.max(initial=0))), self.encoder.max_length)
        input_ids = self._filled(self._blocks, rows, self.encoder.pad_id, width)
        mask = np.arange(input_ids.shape[1])[None, :] < lengths[:, None]
        unknown = np.full(len(rows), -1)
        columns = (
            input_ids,
            mask,
            self._masks[rows],
            rows,
            unknown if task is None else task,
            unknown if label is None else label,
            self._filled(self._answers, rows, NO_TOKEN),  # few lengths: none is padded
        )
        return Batch(*(torch.from_numpy(column.astype(np.int64)) for column in columns))

    def _filled(
        self, stored: Sequence[_Kept], rows: np.ndarray, fill: int, least: int = 0
    ) -> np.ndarray:
        """(B, longest, or ``least``) the ids of rows, ``fill`` behind them."""
        which = np.searchsorted(self._starts, rows, side="right") - 1
        ids = [
            self._ids(stored[block], row - int(self._starts[block]))
            for row, block in zip(rows.tolist(), which.tolist(), strict=True)
        ]
        longest = max(map(len, ids), default=0)
        out = np.full((len(rows), max(longest, least)), fill, np.int64)
        for i, row_ids in enumerate(ids):
            out[i, : len(row_ids)] = row_ids
        return out

    def _append(self, key: str, examples: Sequence[Example]) -> np.ndarray:
        block, kept = self._stored(key, partial(self._encode, examples))
        truncated, lengths, masks = blocks.index(block)
        if kept:
            self.encoder.truncated += truncated
        first = len(self.lengths)
        self.lengths = np.concatenate([self.lengths, lengths])
        self._masks = np.concatenate([self._masks, masks])
        self._starts = np.append(self._starts, first)
        self._blocks.append(block if self.folder is None else self._path(key))
        self._answers.append(self._add_answers(examples))
        return np.arange(first, len(self.lengths))

    def _add_answers(self, examples: Sequence[Example]) -> _Kept:
        """The first answers of examples, in a block of their own; None where there are none."""
        if not any(example.answers for example in examples):
            return None
        firsts = [example.answers[0] if example.answers else "" for example in examples]
        digest = hashlib.sha256(f"answers {self.encoder.fingerprint}".encode())
        digest.update(json.dumps(firsts).encode())
        key = digest.hexdigest()
        block, _ = self._stored(
            key, lambda: ([(ids, -1) for ids in self.encoder.encode_answers(firsts)], 0)
        )
        return block if self.folder is None else self._path(key)

    def _encode(self, examples: Sequence[Example]) -> tuple[list[Encoded], int]:
        before = self.encoder.truncated
        return self.encoder.encode_all(examples), self.encoder.truncated - before

    def _stored(
        self, key: str, encode: Callable[[], tuple[list[Encoded], int]]
    ) -> tuple[np.ndarray, bool]:
        """The block of a key, and whether it was there already."""
        block = None if self.folder is None else blocks.read(self._path(key))
        if block is not None:
            return block, True
        block = blocks.pack(*encode())
        if self.folder is not None:
            blocks.write(self._path(key), block)
        return block, False

    def _ids(self, kept: _Kept, i: int) -> np.ndarray:
        """The ids of example i of a block."""
        if kept is None:
            return _NONE
        return blocks.ids_of(self._open(kept) if isinstance(kept, Path) else kept, i)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key[:32]}.npy"

    def _key(self, examples: Sequence[Example]) -> str:
        digest = hashlib.sha256(self.encoder.fingerprint.encode())
        for example in examples:  # the label is no part of the input
            given = [example.id, example.text, example.entities]
            given += [example.instruction] if example.instruction else []
            digest.update(json.dumps(given).encode())
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


def length_chunks(
    lengths: np.ndarray, room: Callable[[int], int], of_a_pass: int
) -> Iterator[np.ndarray]:
    """Positions 0..n-1 in chunks of similar length, the longest first; each once.

    Of all ways to cut the sorted texts the one that takes the fewest tokens, padding included,
    where each chunk takes ``of_a_pass`` more.

    Args:
        room: most rows of a chunk that is so many tokens wide, padding included.
    """
    order = np.argsort(lengths, kind="stable")[::-1]
    widths, counts = np.unique(-padded(lengths[order]), return_counts=True)
    widths, ends = -widths, np.cumsum([0, *counts])  # each width with the places of its texts
    n = len(widths)
    best, until = (
        [0.0] * (n + 1),
        [n] * n,
    )  # cost of the texts from a width on; where its group ends
    for i in reversed(range(n)):
        sizes = ends[i + 1 :] - ends[i]
        passes = -(-sizes // room(int(widths[i])))
        costs = sizes * widths[i] + passes * of_a_pass + best[i + 1 :]
        best[i], until[i] = float(costs.min()), i + 1 + int(costs.argmin())
    i = 0
    while i < n:
        group = order[ends[i] : ends[until[i]]]
        yield from _cut(group, room(int(widths[i])))
        i = until[i]


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[i : i + size] for i in range(0, len(order), size)]
