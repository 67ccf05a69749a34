"""Fine-grained entity typing (OntoNotes, BBN): a text file with tabs, or a JSON object a line.

``train.txt``, the form of ConPET and of Ding et al. (arXiv 2108.10604): a mention a line, first
token, last token (excluded), the tokens joined by blanks, and its type.

    0<TAB>2<TAB>Ada Lovelace wrote it .<TAB>/person/artist/author

``train.json``, the form of AFET (Ren et al. 2016): a sentence a line.

    {"tokens": [...], "mentions": [{"start": 0, "end": 2, "labels": ["/person", "/person/artist"]}]}

A mention has one class here. Where it has several types (``labels``; in the text form parted by
blanks) and they lie on one path, the deepest counts: /person, /person/artist -> /person/artist.
With types on two paths, or with none, it has no one class: it is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from conpet.errors import DataError
from conpet.streams.checks import Split
from conpet.streams.extraction.parts import Parts, TokenText, part_files
from conpet.streams.readers import Row, read_jsonl, read_text

FILES: dict[Split, tuple[str, ...]] = {
    "train": ("train.txt", "train.json"),
    "valid": ("dev.txt", "dev.json"),
    "test": ("test.txt", "test.json"),
}
UNCLEAR = "mentions without one most specific type"


def read(folder: Path) -> Parts:
    """One row a line; ids are "train-17", 17 the line's number."""
    parts = Parts()
    for split, path in part_files(folder, FILES).items():
        as_json = path.name.removesuffix(".gz").endswith(".json")
        rows: list[Row] = []
        for source, tokens, mentions in _json_lines(path) if as_json else _tab_lines(path):
            joined = TokenText(tokens, source)
            kept = []
            for start, end, types in mentions:
                label = deepest(types)
                if label is None:
                    parts.left_out[UNCLEAR] += 1
                else:
                    kept.append([*joined.span(start, end), label])
            if kept:
                name = f"{split}-{source.rpartition(' ')[2]}"
                rows.append(Row(source, {"id": name, "text": joined.text, "mentions": kept}))
        parts.rows[split] = rows
    return parts


def deepest(types: Sequence[str]) -> str | None:
    """The type that all others are ancestors of; None if there is no such type."""
    last = max(types, key=len, default="")
    if not last:
        return None
    return last if all(f"{last}/".startswith(f"{label}/") for label in types) else None


Mention = tuple[int, int, list[str]]


def _tab_lines(path: Path) -> Iterator[tuple[str, list[str], list[Mention]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        types = cells[-1].split()
        if len(cells) != 4 or not all(re.fullmatch(r"\d+", cell) for cell in cells[:2]):
            raise _refusal(f"{path} line {number}", "start, end, tokens and type between tabs")
        if not types or not _are_types(types):
            raise _refusal(f"{path} line {number}", 'a type such as "/person/artist" last')
        yield (
            f"{path} line {number}",
            cells[2].split(" "),
            [(int(cells[0]), int(cells[1]), types)],
        )


def _json_lines(path: Path) -> Iterator[tuple[str, list[str], list[Mention]]]:
    for source, values in read_jsonl(path):
        tokens: Any = values.get("tokens")
        mentions: Any = values.get("mentions")
        if not _are_strings(tokens) or not isinstance(mentions, list):
            raise _refusal(source, 'an object with "tokens", a list, and "mentions", a list')
        for mention in mentions:
            if not (
                isinstance(mention, dict)
                and type(mention.get("start")) is int
                and type(mention.get("end")) is int
                and _are_types(mention.get("labels"))
            ):
                raise _refusal(
                    source,
                    'mentions with "start", "end" (a token number, excluded) and "labels" such as '
                    '["/person"]',
                )
        yield source, tokens, [(m["start"], m["end"], m["labels"]) for m in mentions]


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _are_types(value: Any) -> bool:
    return _are_strings(value) and all(label.startswith("/") for label in value)


def _refusal(source: str, allowed: str) -> DataError:
    return DataError(
        f"{source} is no line of fine-grained typing; allowed: {allowed}; copy the file again, or "
        "bring it into this form"
    )
