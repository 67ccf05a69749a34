"""Free answers that were written before: what did not change is not written again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from conpet.runtime import read_json, write_json_atomic

Text = tuple[str, float]
"""An answer and its score."""


@dataclass(frozen=True)
class Way:
    """How an example is answered.

    Attributes:
        adapters: cache keys (name and fingerprint) of the adapters whose outputs are added.
        weights: theirs, in the same order.
        decoding: all settings of it.
    """

    adapters: tuple[str, ...]
    weights: tuple[float, ...]
    decoding: Mapping[str, Any]

    @property
    def key(self) -> str:
        rounded = [float(f"{weight:.6g}") for weight in self.weights]
        values = [self.adapters, rounded, dict(self.decoding)]
        return sha256(json.dumps(values).encode()).hexdigest()[:32]


class AnswerMemo:
    """Answers by example and way of answering.

    Args:
        path: its file; None to keep nothing beyond this object's life.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._adapters: dict[str, list[str]] = {}  # key of a way -> its adapters
        self._texts: dict[str, dict[str, Text]] = {}  # key of a way -> row -> answer
        if path is not None and path.exists():
            for key, kept in read_json(path).items():
                self._adapters[key] = kept["adapters"]
                self._texts[key] = {row: (text, p) for row, (text, p) in kept["answers"].items()}

    def get(self, way: Way, row: int) -> Text | None:
        """None where it is not known; a row of -1 is an example without a name."""
        return self._texts.get(way.key, {}).get(str(row))

    def put(self, way: Way, row: int, text: Text) -> None:
        if row >= 0:
            self._adapters[way.key] = list(way.adapters)
            self._texts.setdefault(way.key, {})[str(row)] = text

    def save(self, adapters: Collection[str]) -> None:
        """Write down what rests on ``adapters`` (cache keys) alone, and forget the rest."""
        kept = sorted(k for k, used in self._adapters.items() if set(used) <= set(adapters))
        self._texts = {k: self._texts[k] for k in kept}
        self._adapters = {k: self._adapters[k] for k in kept}
        if self.path is not None and (kept or self.path.exists()):
            values = {k: {"adapters": self._adapters[k], "answers": self._texts[k]} for k in kept}
            write_json_atomic(self.path, values)
