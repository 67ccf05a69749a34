"""Which documents share text with a stream: hashed word n-grams, compared in numpy.

Two texts overlap where they have ten normalised words in a row in common. A text of the streams
that has five to nine words overlaps where all of them occur in a row. A shorter one is a phrase
that any author may use, and is not looked for.

Words are 64-bit hashes, and the hash of an n-gram is a polynomial in them modulo 2^64. With
millions of n-grams on both sides a chance collision has a probability of about 10^-5; it would
drop a document without need, and never keep one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from text import words

from conpet.errors import DataError

LONG, SHORT = 10, 5
"""Words of the n-grams that are compared, and of the shortest text that is looked for."""
STREAMS = ("re/*.json*", "et/*.json*", "intent/*.json*", "instr/*/*/*.json*")
"""Files of the data folder whose every string is a text of a stream, whatever its part."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_LABEL = re.compile(r"^[\w ]{1,20}:\s*")
Hashes = NDArray[np.uint64]


class WordHashes(dict[str, int]):
    """Word -> its hash, worked out once."""

    def __missing__(self, word: str) -> int:
        digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little")
        return value

    def of(self, text: list[str]) -> Hashes:
        return np.fromiter(map(self.__getitem__, text), np.uint64, len(text))


class Index:
    """The n-grams of the streams' texts.

    Attributes:
        grams: n -> sorted hashes: of all n-grams for n = ``LONG``, of whole texts below.
        n_texts: texts and lines of texts of at least ``SHORT`` words.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.hashes = WordHashes()
        self.n_texts = 0
        found: dict[int, list[Hashes]] = {n: [] for n in range(SHORT, LONG + 1)}
        for text in texts:
            sequence = self.hashes.of(words(text))
            if len(sequence) >= SHORT:
                self.n_texts += 1
                n = min(len(sequence), LONG)
                found[n].append(ngrams(sequence, n))
        self.grams = {n: np.unique(np.concatenate(parts)) for n, parts in found.items() if parts}

    def overlaps(self, text: str) -> bool:
        """Whether a stream's text occurs in ``text``, or ten words of one."""
        sequence = self.hashes.of(words(text))
        return any(_any_in(ngrams(sequence, n), grams) for n, grams in self.grams.items())


def ngrams(sequence: Hashes, n: int) -> Hashes:
    """The hashes of all n-grams of a sequence (W,) of words: (max(W - n + 1, 0),)."""
    count = max(len(sequence) - n + 1, 0)
    result = np.zeros(count, np.uint64)
    for place in range(n):
        result = result * _MULTIPLIER + sequence[place : place + count]
    return result


def stream_files(data: Path) -> list[Path]:
    """The files of all streams below the data folder.

    Raises:
        DataError: a pattern of ``STREAMS`` has no file.
    """
    files = []
    for pattern in STREAMS:
        found = sorted(data.glob(pattern))
        if not found:
            raise DataError(
                f"no file '{data / pattern}': the texts of the streams are needed, to keep them "
                "out of the training text. Name a complete data folder: --data DIR"
            )
        files += found
    return files


def stream_texts(files: Iterable[Path]) -> Iterator[str]:
    """Every string in the files, and every line of the strings that have several.

    A line is taken without the label of its field ("Title: ", "sentence 2: ").
    """
    for path in files:
        with path.open(encoding="utf-8") as lines:
            records = map(json.loads, lines) if path.suffix == ".jsonl" else [json.load(lines)]
            for text in (t for record in records for t in _strings(record)):
                yield text
                yield from (_LABEL.sub("", line) for line in text.split("\n"))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _any_in(hashes: Hashes, ordered: Hashes) -> bool:
    places = np.searchsorted(ordered, hashes)
    places[places == len(ordered)] = 0
    return bool((ordered[places] == hashes).any())
