"""What the readers of owners' formats share: the parts of a folder, and tokens into text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from conpet.errors import DataError
from conpet.streams.checks import Split
from conpet.streams.readers import Row
from conpet.types import Span


@dataclass(frozen=True)
class Parts:
    """What a folder holds: rows as a user's table has them, with the default columns.

    Attributes:
        rows: by part; None where the owner gives no parts.
        left_out: what was not made a row: reason -> number.
    """

    rows: dict[Split | None, list[Row]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def part_files(folder: Path, names: Mapping[Split, Sequence[str]]) -> dict[Split, Path]:
    """The file of each part: the first of its ``names`` that is there, plain or as ``.gz``.

    Raises:
        DataError: a part without a file.
    """
    files: dict[Split, Path] = {}
    for split, candidates in names.items():
        spelled = [f"{name}{end}" for name in candidates for end in ("", ".gz")]
        found = [folder / name for name in spelled if (folder / name).is_file()]
        if not found:
            here = sorted(path.name for path in folder.iterdir())
            needed = ", ".join(" or ".join(names[part]) for part in names)
            raise DataError(
                f"{folder} has no {' or '.join(candidates)}; needed are all of: {needed}, as their "
                f"owner distributes them; it holds: {', '.join(here[:8]) or 'nothing'}; copy the "
                "missing file there"
            )
        files[split] = found[0]
    return files


class TokenText:
    """Tokens joined by blanks, and where each of them stands in the text."""

    def __init__(self, tokens: Sequence[str], source: str) -> None:
        self.text = " ".join(tokens)
        self._tokens = tokens
        self._starts = list(accumulate((len(token) + 1 for token in tokens), initial=0))
        self._source = source

    def span(self, start: int, end: int) -> Span:
        """The characters [start, end) of the tokens [start, end); DataError if out of range."""
        if not 0 <= start < end <= len(self._tokens):
            raise DataError(
                f"{self._source}: tokens [{start}, {end}) are out of range; allowed is 0 <= start "
                f"< end <= {len(self._tokens)}, the end excluded; mend the line"
            )
        return self._starts[start], self._starts[end] - 1


def crossing(one: Span, other: Span) -> bool:
    """Whether two spans overlap in part, which no pair of markers can show."""
    (a, b), (c, d) = sorted((one, other))
    return a < c < b < d


def relation_row(source: str, name: str, text: str, head: Span, tail: Span, label: str) -> Row:
    """A relation as a row of a table."""
    values = {"id": name, "text": text, "head": list(head), "tail": list(tail), "label": label}
    return Row(source, values)
