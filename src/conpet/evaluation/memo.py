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
    """Answers by prompt (a digest of its tokens) and way of answering.

    Args:
        path: its file; None to keep nothing beyond this object's life.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._adapters: dict[str, list[str]] = {}  # key of a way -> its adapters
        self._texts: dict[str, dict[str, Text]] = {}  # key of a way -> prompt -> answer
        self._asked: set[str] = set()  # keys of ways that were of use since the last save
        if path is not None and path.exists():
            for key, kept in read_json(path).items():
                self._adapters[key] = kept["adapters"]
                texts = kept["answers"].items()
                self._texts[key] = {prompt: (text, p) for prompt, (text, p) in texts}

    def get(self, way: Way, prompt: str) -> Text | None:
        """None where it is not known."""
        key = way.key
        self._asked.add(key)
        return self._texts.get(key, {}).get(prompt)

    def put(self, way: Way, prompt: str, text: Text) -> None:
        key = way.key
        self._asked.add(key)
        self._adapters[key] = list(way.adapters)
        self._texts.setdefault(key, {})[prompt] = text

    def save(self, adapters: Collection[str]) -> None:
        """Write down what rests on ``adapters`` (cache keys) alone and was asked for since the last
        time, and forget the rest: weights that have moved do not come back."""
        whole = {k for k, used in self._adapters.items() if set(used) <= set(adapters)}
        kept = sorted(whole & self._asked)
        self._asked.clear()
        self._texts = {k: self._texts[k] for k in kept}
        self._adapters = {k: self._adapters[k] for k in kept}
        if self.path is not None and (kept or self.path.exists()):
            values = {k: {"adapters": self._adapters[k], "answers": self._texts[k]} for k in kept}
            write_json_atomic(self.path, values)
