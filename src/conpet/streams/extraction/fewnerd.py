"""Few-NERD, supervised setting: a token and its label a line, an empty line after a sentence.

    London<TAB>art-music
    is<TAB>O

The labels are in the IO scheme (no B- and I-), so an entity is a maximal run of equal labels; two
entities of one type side by side count as one, as for its owners.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from conpet.errors import DataError
from conpet.streams.checks import Split
from conpet.streams.extraction.parts import Parts, TokenText, part_files
from conpet.streams.readers import Row, read_text

FILES: dict[Split, tuple[str, ...]] = {
    "train": ("train.txt",),
    "valid": ("dev.txt",),
    "test": ("test.txt",),
}
OUTSIDE = "O"


def read(folder: Path) -> Parts:
    """One row a sentence that has entities; ids are "train-17", 17 the sentence's number."""
    parts = Parts()
    for split, path in part_files(folder, FILES).items():
        parts.rows[split] = [
            row
            for number, (source, tokens, labels) in enumerate(_sentences(path), start=1)
            if (row := _row(source, f"{split}-{number}", tokens, labels)).values["mentions"]
        ]
    return parts


def _sentences(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """(place of the first line, tokens, labels) of each sentence."""
    tokens: list[str] = []
    labels: list[str] = []
    for number, line in enumerate([*read_text(path).split("\n"), ""], start=1):
        if line.strip():
            cells = line.rstrip("\r").split("\t")
            if len(cells) != 2 or not all(cell.strip() for cell in cells):
                raise DataError(
                    f"{path} line {number} is {line[:60]!r}; allowed: a token, a tab and its "
                    "label, or nothing between sentences; copy the file again from its owners"
                )
            tokens.append(cells[0])
            labels.append(cells[1].strip())
        elif tokens:
            yield f"{path} line {number - len(tokens)}", tokens, labels
            tokens, labels = [], []


def _row(source: str, name: str, tokens: list[str], labels: list[str]) -> Row:
    joined = TokenText(tokens, source)
    mentions, end = [], 0
    for label, run in groupby(labels):
        start, end = end, end + len(list(run))
        if label != OUTSIDE:
            mentions.append([*joined.span(start, end), label])
    return Row(source, {"id": name, "text": joined.text, "mentions": mentions})
