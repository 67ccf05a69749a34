"""Plain text as documents: articles of Wikipedia, parts of novels, and their normalised words."""

from __future__ import annotations

import lzma
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conpet.errors import DataError

WIKIPEDIA = "text/enwiki2015_30pct.txt.xz"
NOVELS = "text/novels_sample.txt"
PART_WORDS = 1000
"""Words after which a part of a novel ends, at the next end of a paragraph."""

_OPENING = re.compile(r'<doc id="([^"]*)".* title="([^"]*)">')
_NEGATION = re.compile(r"n['’]t\b")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Document:
    """A stretch of text that is kept or dropped whole; no training example leaves it.

    Attributes:
        name: where it is from, unique.
        paragraphs: its text, none of them empty.
    """

    name: str
    paragraphs: tuple[str, ...]


def documents(data: Path) -> Iterator[Document]:
    """All documents below the data folder, in the order of the files.

    Raises:
        DataError: a file is missing or holds no document.
    """
    for path, read in ((data / WIKIPEDIA, articles), (data / NOVELS, parts)):
        if not path.is_file():
            raise DataError(
                f"the text is missing: no file '{path}'. Name the folder that holds "
                f"{WIKIPEDIA} and {NOVELS}: --data DIR, or set CONPET_DATA"
            )
        found = read(path)
        first = next(found, None)
        if first is None:
            raise DataError(f"'{path}' holds no document; expected is the text of {path.name}")
        yield first
        yield from found


def articles(path: Path) -> Iterator[Document]:
    """Articles between ``<doc id= title=>`` and ``</doc>``, without the line of their title."""
    name, title, paragraphs = None, "", list[str]()
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in map(str.strip, lines):
            if opening := _OPENING.match(line):
                name, title, paragraphs = f"wikipedia/{opening[1]}", opening[2], []
            elif line == "</doc>" and name is not None:
                if paragraphs:
                    yield Document(name, tuple(paragraphs))
                name = None
            elif line and (paragraphs or line != title):
                paragraphs.append(line)


def parts(path: Path) -> Iterator[Document]:
    """Stretches of at least ``PART_WORDS`` words; paragraphs lie between blank lines."""
    paragraphs, n_words, n_parts = list[str](), 0, 0
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8-sig")):
        words = block.split()
        if words:
            paragraphs.append(" ".join(words))
            n_words += len(words)
        if n_words >= PART_WORDS:
            yield Document(f"novels/{n_parts}", tuple(paragraphs))
            paragraphs, n_words, n_parts = [], 0, n_parts + 1
    if paragraphs:
        yield Document(f"novels/{n_parts}", tuple(paragraphs))


def words(text: str) -> list[str]:
    """The text's words in lower case, letters and digits only, without accents.

    "don't" and the "do n't" of tokenised corpora come out alike; so do texts that differ in
    punctuation, blanks, ligatures or invisible characters.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in text if unicodedata.category(c) not in ("Mn", "Cf"))
    return _WORD.findall(_NEGATION.sub(" nt", text.lower()))
