"""Prove that no text of a stream occurs in the tokens that ``make.py`` trains on.

    python recipes/nano/prove.py --out runs/nano --data DIR

It shares no code with the screening. The prepared tokens are put together to words again, the
streams' texts go through the same tokenizer and come back the same way, and the words themselves
are compared: strings, not hashes. Looked for are ten words in a row of any string in any file of
the streams, and the whole of a string, or of a line of one, that has five to nine words.

Exit code 0: nothing found. 1: something is found, with examples. 2: there is nothing to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from conpet.backbones.nano import encoder_folder

FOLDERS = ("re", "et", "intent", "instr")
ROW, LEAST = 10, 5
SHOWN = 10
AT_A_TIME = 2000


class Reader:
    """Token ids -> the words that they spell.

    Tokens without a letter or digit are left out; a word that the vocabulary cannot spell stays
    as the unknown token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.unknown = tokenizer.unk_token

    def words(self, ids: Iterable[int]) -> list[str]:
        found: list[str] = []
        inside = False
        for number in ids:
            piece = self._pieces[number]
            if piece.startswith("##") and inside:
                found[-1] += piece[2:]
                continue
            inside = piece == self.unknown or (piece[0] != "[" and any(map(str.isalnum, piece)))
            if inside:
                found.append(piece)
        return found

    def words_of(self, texts: Sequence[str]) -> Iterator[list[str]]:
        encoded = self._tokenizer(
            list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False
        )
        yield from map(self.words, encoded.input_ids)


class Wanted:
    """What must not be found.

    Attributes:
        rows: every ten words in a row, parted by blanks.
        whole: the first five words of a short text -> the whole of each such text.
    """

    def __init__(self, unknown: str) -> None:
        self.rows: set[str] = set()
        self.whole: dict[str, set[str]] = defaultdict(set)
        self._unknown = unknown

    def add(self, words: list[str]) -> None:
        if len(words) >= ROW:
            self.rows.update(" ".join(words[i : i + ROW]) for i in range(len(words) - ROW + 1))
        elif len(words) >= LEAST and self._unknown not in words:
            self.whole[" ".join(words[:LEAST])].add(" ".join(words))

    def found_in(self, words: list[str]) -> Iterator[str]:
        """What occurs in a document, except rows with a word that could be any word."""
        for i in range(len(words) - LEAST + 1):
            row = " ".join(words[i : i + ROW])
            if row in self.rows and self._unknown not in row:
                yield row
            for text in self.whole.get(" ".join(words[i : i + LEAST]), ()):
                if f"{row} ".startswith(f"{text} "):
                    yield text


def wanted_of(data: Path, reader: Reader) -> Wanted:
    """All that the streams' files below the data folder hold."""
    wanted = Wanted(reader.unknown)
    for path in sorted(p for folder in FOLDERS for p in (data / folder).rglob("*.json*")):
        content = path.read_text(encoding="utf-8")
        records = content.strip().split("\n") if path.suffix == ".jsonl" else [content]
        texts = [t for record in records for text in strings(record) for t in (text, *lines(text))]
        for begin in range(0, len(texts), AT_A_TIME):
            for words in reader.words_of(texts[begin : begin + AT_A_TIME]):
                wanted.add(words)
    return wanted


def strings(record: str) -> list[str]:
    """Every string value in a JSON text."""
    found, left = [], [json.loads(record)]
    while left:
        value: Any = left.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, list):
            left.extend(value)
        elif isinstance(value, dict):
            left.extend(value.values())
    return found


def lines(text: str) -> Iterator[str]:
    """The lines of a text, without a field's label such as "Title:"."""
    for line in text.split("\n"):
        label, colon, rest = line.partition(":")
        named = colon and len(label) <= 20 and label.replace(" ", "").isalnum()
        yield rest if named else line


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/nano"))
    parser.add_argument("--data", type=Path, default=os.environ.get("CONPET_DATA"))
    options = parser.parse_args(words)
    if options.data is None or not (options.out / "prepare" / "prepare.json").is_file():
        print("name a data folder (--data) and a folder that make.py prepared (--out)")
        return 2
    reader = Reader(AutoTokenizer.from_pretrained(encoder_folder()))
    wanted = wanted_of(options.data, reader)
    if not wanted.rows:
        print(f"no text of a stream below '{options.data}'")
        return 2
    n_whole = sum(map(len, wanted.whole.values()))
    print(f"streams: {len(wanted.rows):,} rows of {ROW} words, {n_whole:,} short texts", flush=True)
    return 1 if search(options.out / "prepare", reader, wanted) else 0


def search(folder: Path, reader: Reader, wanted: Wanted) -> int:
    """Look through all prepared documents; print and return how many things were found."""
    n_found = 0
    for part in ("train", "valid"):
        tokens = np.load(folder / f"{part}_tokens.npy", mmap_mode="r")
        bounds = np.load(folder / f"{part}_offsets.npy").tolist()
        n_words = 0
        for number, (begin, end) in enumerate(pairwise(bounds)):
            words = reader.words(tokens[begin:end].tolist())
            n_words += len(words)
            for text in wanted.found_in(words):
                n_found += 1
                if n_found <= SHOWN:
                    print(f"found in {part} document {number}: {text}")
        print(
            f"{part}: {n_words:,} words, {len(tokens):,} tokens in {len(bounds) - 1:,} documents",
            flush=True,
        )
    print(f"FOUND: {n_found:,} texts of streams" if n_found else "no text of a stream was found")
    return n_found


if __name__ == "__main__":
    sys.exit(main())
