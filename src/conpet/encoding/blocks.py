"""One file of encoded examples: written once, whole, and mapped into memory.

A block is a flat int32 array: ``[n, truncated, offsets (n + 1), mask positions (n), ids,
sha256 (8)]``. The ids of example i are ``ids[offsets[i]:offsets[i + 1]]``. The checksum covers all
that stands before it, so a damaged file is known when it is opened.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conpet.runtime.files import write_bytes_atomic

_DIGEST = 8  # int32 words of a sha256


def pack(encoded: Sequence[tuple[list[int], int]], truncated: int) -> np.ndarray:
    """A block of (ids, mask position) pairs, ``truncated`` of which were cut."""
    lengths = np.array([len(ids) for ids, _ in encoded], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    masks = np.array([mask for _, mask in encoded], np.int32)
    ids = np.fromiter((i for row, _ in encoded for i in row), np.int32, int(offsets[-1]))
    body = np.concatenate([[len(encoded), truncated], offsets, masks, ids]).astype(np.int32)
    return np.concatenate([body, _digest(body)])


def write(path: Path, block: np.ndarray) -> None:
    """All or nothing; CheckpointError where the disk is full or may not be written."""
    buffer = io.BytesIO()
    np.save(buffer, block)
    write_bytes_atomic(path, buffer.getvalue())


def read(path: Path) -> np.ndarray | None:
    """The block of a file, mapped; None where the file is missing or damaged."""
    try:
        block = open_block(path)
    except (OSError, ValueError, EOFError):
        return None
    sound = block.dtype == np.int32 and block.ndim == 1 and len(block) > _DIGEST
    if not sound or not np.array_equal(_digest(block[:-_DIGEST]), block[-_DIGEST:]):
        return None
    return block


def open_block(path: Path) -> np.ndarray:
    """Map a file that ``read`` has found sound."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def index(block: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """(truncated, lengths (n,), mask positions (n,)) of a block."""
    n = int(block[0])
    offsets = block[2 : n + 3]
    return (
        int(block[1]),
        np.diff(offsets).astype(np.int64),
        np.array(block[n + 3 : 2 * n + 3], np.int64),
    )


def ids_of(block: np.ndarray, i: int) -> np.ndarray:
    """The ids of example i, a view."""
    n = int(block[0])
    start = 2 * n + 3
    return block[start + int(block[2 + i]) : start + int(block[3 + i])]


def _digest(body: np.ndarray) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(np.ascontiguousarray(body).data).digest(), np.int32)
