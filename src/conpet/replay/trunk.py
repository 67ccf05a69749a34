"""The states that the frozen layers below the adapters gave: computed once for each text, and kept.

They are the same for every adapter, and depend on a text's token ids alone: by these they are kept.
What they depend on beside is in the name of the files. Only real tokens have states here; what
stands at padding has no effect on them.

Two append-only files: ``KEY.states`` holds them, ``KEY.index`` an entry for each text (digest of
its ids, tokens, crc32 of its states) behind one that says their form. Writes are journalled: what
lies behind the count of the last ``commit`` is dropped by ``rollback``, so that a resumed run finds
exactly what an uninterrupted one had at this point. What is damaged is computed anew.

Shapes: B batch, S sequence, d width of the states, n real tokens of a text.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from conpet.errors import ConfigError
from conpet.runtime.files import disk_errors
from conpet.types import Batch, padded

Lower = Callable[[Tensor, Tensor], Tensor]
"""Ids and mask (B, S) to states (B, S, d)."""

_AT_HAND = 8  # passes: those of one batch, so that what goes through it again starts from them
ENTRY = np.dtype([("ids", "V16"), ("length", "<i4"), ("crc", "<u4")])
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # numbered in files


@dataclass(frozen=True)
class Form:
    """Of states: their width, in what type they lie in the file, and in what they are computed."""

    width: int
    kept: torch.dtype
    computed: torch.dtype

    @property
    def size(self) -> int:
        """Bytes of one token."""
        return self.width * self.kept.itemsize

    def entry(self) -> tuple[bytes, int, int]:
        """As the first of an index."""
        kept, computed = map(_DTYPES.index, (self.kept, self.computed))
        code = len(_DTYPES) * kept + computed
        return _digest(np.array([self.width, code])), self.width, code

    @staticmethod
    def of(entry: np.void) -> Form | None:
        """None for a damaged entry."""
        width, code = int(entry["length"]), int(entry["crc"])
        if entry["ids"].tobytes() != _digest(np.array([width, code])):
            return None
        kept, computed = divmod(code, len(_DTYPES))
        return Form(width, _DTYPES[kept], _DTYPES[computed])


@dataclass(slots=True)
class _Place:
    """Where the states of a text lie; ``sound`` once their checksum was seen to be right."""

    offset: int
    length: int
    crc: int
    sound: bool = False


class TrunkCache:
    """States by texts; those of the last passes are at hand in any case.

    Args:
        key: what they depend on beside the ids.
        folder: where they are kept; None: not at all.
        dtype: type in which they are kept; None: as they are computed. What is used is what would
            be kept, always: the same text never has other states the first time.
        most: bytes that may be kept; texts beyond are computed whenever they come.
    """

    def __init__(
        self,
        key: str = "",
        folder: Path | None = None,
        dtype: torch.dtype | None = None,
        most: int = 0,
    ) -> None:
        self.key, self.folder, self.dtype, self.most = key, folder, dtype, most
        self._form: Form | None = None
        self._places: dict[bytes, _Place] | None = None  # None: the index is yet to be read
        self._entries = self._bytes = 0
        self._mapped: np.ndarray = np.zeros(0, np.uint8)
        self._recent: deque[tuple[dict[bytes, int], Tensor]] = deque(maxlen=_AT_HAND)
        self._writes = False

    def get(self, batch: Batch, lower: Lower) -> tuple[Tensor, int]:
        """States (B, S, d) of a batch, zeros at padding; and how many texts had to be computed.

        Rows that are not stored (negative) are not kept beyond the next passes.
        """
        ids, lengths = batch.input_ids.cpu().numpy(), batch.attention_mask.sum(dim=1).tolist()
        keys = [_digest(row[:n]) for row, n in zip(ids, lengths, strict=True)]
        for at, recent in self._recent:
            if all(key in at for key in keys):
                return _as_long(recent[[at[key] for key in keys]], ids.shape[1]), 0
        fresh = {key: i for i, key in reversed([*enumerate(keys)]) if not self._holds(key)}
        places = sorted(fresh.values())
        computed = self._computed(batch, places, lower)
        row = {keys[i]: n for n, i in enumerate(places)}
        self._put(keys, places, lengths, batch.rows.tolist(), computed)
        assert self._form is not None
        out = torch.zeros(*ids.shape, self._form.width, dtype=self._form.kept)
        for i, (key, n) in enumerate(zip(keys, lengths, strict=True)):
            if key in row:
                out[i, :n] = computed[row[key], :n]
            else:
                out[i, :n].view(torch.uint8).numpy()[:] = self._bytes_of(key).reshape(n, -1)
        states = out.to(batch.input_ids.device, self._form.computed)
        self._recent.append(({key: i for i, key in enumerate(keys)}, states))
        return states, len(places)

    def commit(self) -> dict[str, int]:
        """The number of entries, for ``rollback``; they are written already."""
        self._recent.clear()  # as it will be in a process that goes on from here
        return {self.key: self._entries} if self._entries else {}

    def rollback(self, counts: dict[str, int]) -> None:
        """Forget all that was added since the commit that returned ``counts``; what is computed
        from now on is kept. For the one process that learns in this folder."""
        self._writes = True
        n = counts.get(self.key, 0)
        if self._places is not None and n == self._entries:
            return
        self._places = None
        self._recent.clear()
        if self.folder is None or not self.folder.exists():
            return
        with disk_errors(self.folder):
            for path in self.folder.glob("*"):
                if path.stem != self.key or not n:
                    path.unlink()
            self._load(n)
            if self._entries:
                os.truncate(self._index, ENTRY.itemsize * (self._entries + 1))
                os.truncate(self._states, self._bytes)

    # -- inside ---------------------------------------------------------------------------------

    def _computed(self, batch: Batch, places: Sequence[int], lower: Lower) -> Tensor:
        """States (U, S, d) of the texts at ``places``, as they are kept, on the CPU."""
        if not places:
            return torch.zeros(0)
        ids, mask = batch.input_ids, batch.attention_mask
        if len(places) < len(ids):
            at = torch.tensor(places, device=ids.device)
            longest = padded(int(mask[at].sum(dim=1).max()))
            ids, mask = ids[at, :longest], mask[at, :longest]
        states = lower(ids, mask)
        form = Form(states.shape[2], self.dtype or states.dtype, states.dtype)
        assert self._form in (None, form)  # else the key is not all that they depend on
        self._form = form
        kept = states.to(form.kept).cpu()
        if form.kept == torch.float16 and not bool(torch.isfinite(kept).all()):
            raise ConfigError(
                "backbone.trunk_dtype is fp16, which ends at 65504, and states of this backbone "
                "are larger; use bf16, or auto"
            )
        return kept

    def _put(
        self,
        keys: Sequence[bytes],
        places: Sequence[int],
        lengths: Sequence[int],
        rows: Sequence[int],
        computed: Tensor,
    ) -> None:
        """Keep what is new, of stored examples, as long as there is room."""
        if self.folder is None or not self._writes or not places:
            return
        assert self._form is not None and self._places is not None
        entries, parts = [], []
        for at, i in enumerate(places):
            size = lengths[i] * self._form.size
            if rows[i] < 0 or self._bytes + size > self.most:
                continue
            part = computed[at, : lengths[i]].contiguous().view(torch.uint8).numpy().tobytes()
            place = _Place(self._bytes, lengths[i], crc32(part), sound=True)
            self._places[keys[i]] = place
            self._bytes += size
            entries.append((keys[i], place.length, place.crc))
            parts.append(part)
        if not entries:
            return
        mode: Literal["ab", "wb"] = "ab" if self._entries else "wb"
        head = [] if self._entries else [self._form.entry()]
        self._entries += len(entries)
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self._states, mode, b"".join(parts))
            _write(self._index, mode, np.array([*head, *entries], ENTRY).tobytes())

    def _holds(self, key: bytes) -> bool:
        """Whether the states of a text lie in the file, undamaged."""
        if self._places is None:
            self._load()
        assert self._places is not None
        place = self._places.get(key)
        if place is None:
            return False
        if not place.sound:
            place.sound = crc32(self._bytes_of(key)) == place.crc
        if not place.sound:
            del self._places[key]
        return place.sound

    def _bytes_of(self, key: bytes) -> Any:
        assert self._places is not None and self._form is not None
        place = self._places[key]
        end = place.offset + place.length * self._form.size
        if end > len(self._mapped):
            self._mapped = np.memmap(self._states, np.uint8, "r")
        return self._mapped[place.offset : end]

    def _load(self, most: int | None = None) -> None:
        """Read the index: the texts whose states are in the file as a whole, the first ``most``."""
        self._forget()
        assert self._places is not None
        if self.folder is None or not self._index.exists() or not self._states.exists():
            return
        with disk_errors(self._index, "read"):
            whole = self._index.stat().st_size // ENTRY.itemsize
            index = np.fromfile(self._index, ENTRY, whole)
            there = self._states.stat().st_size
        self._form = Form.of(index[0]) if whole else None
        if self._form is None:
            return
        entries = index[1:][:most]
        ends = np.cumsum(entries["length"].astype(np.int64)) * self._form.size
        sound = np.logical_and.accumulate((entries["length"] > 0) & (ends <= there))
        self._entries = int(sound.sum())
        ids, columns = entries["ids"].tobytes(), (ends, entries["length"], entries["crc"])
        for i, (end, n, crc) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            if i < self._entries:
                key, self._bytes = ids[16 * i : 16 * i + 16], end
                self._places[key] = _Place(end - n * self._form.size, n, crc)

    def _forget(self) -> None:
        """Know nothing of the files."""
        self._places, self._form = {}, None
        self._entries = self._bytes = 0
        self._mapped = np.zeros(0, np.uint8)

    @property
    def _index(self) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.key}.index"

    @property
    def _states(self) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.key}.states"


def _digest(ids: np.ndarray) -> bytes:
    return blake2b(ids.tobytes(), digest_size=16).digest()


def _as_long(states: Tensor, length: int) -> Tensor:
    """States (B, S, d) cut, or filled up with zeros, to another length."""
    more = length - states.shape[1]
    return states[:, :length] if more <= 0 else functional.pad(states, (0, 0, 0, more))


def _write(path: Path, mode: Literal["ab", "wb"], data: bytes) -> None:
    """No fsync: what a power cut takes is seen by its size and checksum, and computed anew."""
    with path.open(mode) as f:
        f.write(data)
