"""Sentences of an SGML document whose annotation counts characters without tags."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from xml.sax.saxutils import unescape

from conpet.types import Span

_TAG = re.compile(r"<[^<>]+>")
_BLANK_LINE = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"""(\S*[.!?])["')\]]*\s+(?=["'(\[]*[A-Z0-9])""")
_NO_END = re.compile(
    r"""["'(\[]*((Mr|Mrs|Ms|Dr|Prof|Gen|Lt|Col|Capt|Maj|Sgt|Adm|Sen|Rep|Gov|Pres|Rev|St|Jr|Sr|"""
    r"""vs|No|Inc|Corp|Co|Ltd|Jan|Feb|Aug|Sept|Oct|Nov|Dec)\.|([A-Za-z]\.)+)"""
)


def clean(text: str) -> str:
    """White space as single blanks, and characters instead of their escapes ("&amp;")."""
    return unescape(re.sub(r"\s+", " ", text), {"&quot;": '"', "&apos;": "'"})


class Document:
    """The text of an .sgm file without its tags, cut into sentences.

    A sentence ends at a tag, at a blank line, and behind ".", "!" or "?" before a capital letter or
    a digit, but never inside one of ``kept``. So each of these lies in one sentence, and no two
    sentences overlap: what is split by sentence shares no text.

    Args:
        markup: the file.
        kept: the extents [start, end) that stay whole, in characters of the text without tags; an
            escape such as "&amp;" counts as it is written.
    """

    def __init__(self, markup: str, kept: Sequence[Span] = ()) -> None:
        pieces: list[str] = []
        ends: set[int] = {0}
        size = 0
        for piece in _TAG.split(markup):
            pieces.append(piece)
            size += len(piece)
            ends.add(size)
        self.text = "".join(pieces)
        ends.update(match.end() for match in _BLANK_LINE.finditer(self.text))
        for match in _SENTENCE_END.finditer(self.text):
            if not _NO_END.fullmatch(match[1]):
                ends.add(match.end())
        self._cuts = sorted(
            end for end in ends if not any(start < end < stop for start, stop in kept)
        )

    def sentence(self, spans: Sequence[Span]) -> tuple[str, list[Span]]:
        """The cleaned sentence around ``spans``, and where they are in it.

        Spans outside of the document come out empty.
        """
        first, last = min(start for start, _ in spans), max(end for _, end in spans)
        left = self._cuts[max(0, bisect_right(self._cuts, first) - 1)]
        right = self._cuts[min(len(self._cuts) - 1, bisect_left(self._cuts, last))]
        while left < right and self.text[left].isspace():
            left += 1
        text = clean(self.text[left:right]).rstrip()
        return text, [self._inside(left, *span) for span in spans]

    def _inside(self, left: int, start: int, end: int) -> Span:
        while start < end and self.text[start : start + 1].isspace():
            start += 1
        while start < end and self.text[end - 1 : end].isspace():
            end -= 1
        return len(clean(self.text[left:start])), len(clean(self.text[left:end]))
