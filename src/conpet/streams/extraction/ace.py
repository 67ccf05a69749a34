"""ACE 2005 (LDC2006T06), English: relation mentions of the .apf.xml files, in the .sgm texts.

    English/{bc,bn,cts,nw,un,wl}/timex2norm/NAME.sgm, NAME.apf.xml

Arg-1 is the head, Arg-2 the tail, each with its full extent (not the head word); the class is the
subtype, e.g. "Employment". METONYMY relations have none: they are left out and counted. So are
pairs that overlap in part, and those few whose text is not what the .sgm has at their offsets; if
more than one in a hundred is elsewhere, the files do not belong together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from conpet.errors import DataError
from conpet.streams.extraction.parts import Parts, crossing, relation_row
from conpet.streams.extraction.sgm import Document, clean
from conpet.streams.readers import read_text
from conpet.types import Span

SOURCES = ("bc", "bn", "cts", "nw", "un", "wl")
LAYOUT = "English/{bc,bn,cts,nw,un,wl}/timex2norm/*.sgm and *.apf.xml"
NO_SUBTYPE = "METONYMY"
CROSSING = "pairs of entities that overlap in part"
ELSEWHERE = "entities that are not at their offsets"
MOST_ELSEWHERE = 0.01


class Argument(NamedTuple):
    """One side of a relation: characters [start, end) of the document, and its text."""

    start: int
    end: int
    text: str


class Mention(NamedTuple):
    """A relation mention."""

    name: str
    label: str
    head: Argument
    tail: Argument

    @property
    def extent(self) -> Span:
        return min(self.head.start, self.tail.start), max(self.head.end, self.tail.end)


def read(folder: Path) -> Parts:
    """One row a relation mention, under the owner's ids; the owner gives no parts."""
    parts = Parts(rows={None: []})
    n_mentions = 0
    for annotation in _annotations(folder):
        text = annotation.with_name(annotation.name.removesuffix(".apf.xml") + ".sgm")
        if not text.is_file():
            raise DataError(
                f"{annotation} has no {text.name} beside it; needed are {LAYOUT}; copy it there"
            )
        mentions = list(_mentions(annotation, parts))
        n_mentions += len(mentions)
        document = Document(read_text(text), [mention.extent for mention in mentions])
        for mention in mentions:
            _add(parts, document, mention, str(annotation))
    if parts.left_out[ELSEWHERE] > MOST_ELSEWHERE * n_mentions:
        raise DataError(
            f"{parts.left_out[ELSEWHERE]} of {n_mentions} relation mentions below {folder} have "
            "another text than the .sgm files at their offsets: the files do not belong together, "
            "or their line ends were changed; copy them again from LDC2006T06"
        )
    return parts


def _annotations(folder: Path) -> list[Path]:
    found = sorted(folder.glob("**/English/*/timex2norm/*.apf.xml"))
    there = {path.parents[1].name for path in found}
    missing = [source for source in SOURCES if source not in there]
    if missing:
        raise DataError(
            f"{folder} has no .apf.xml files of {', '.join(missing)}; needed are {LAYOUT}; copy "
            "the whole folder data/English of LDC2006T06 there"
        )
    first: dict[str, Path] = {}
    for path in found:
        if first.setdefault(path.name, path) is not path:
            raise DataError(
                f"{folder} has two files {path.name}, in {first[path.name].parent} and "
                f"{path.parent}; keep one copy of the folder English"
            )
    return found


def _mentions(path: Path, parts: Parts) -> Iterator[Mention]:
    try:
        root = ElementTree.fromstring(read_text(path))
    except ElementTree.ParseError as error:
        raise DataError(
            f"{path} line {error.position[0]}: broken XML ({error}); copy it again from LDC2006T06"
        ) from error
    for relation in root.iter("relation"):
        label = relation.get("SUBTYPE")
        for mention in relation.iter("relation_mention"):
            name = mention.get("ID", "")
            sides = {
                argument.get("ROLE"): _argument(argument, f"{path}: relation mention '{name}'")
                for argument in mention.iter("relation_mention_argument")
                if argument.get("ROLE") in ("Arg-1", "Arg-2")
            }
            if label is None and relation.get("TYPE") == NO_SUBTYPE:
                parts.left_out[NO_SUBTYPE] += 1
            elif not label or not name or len(sides) != 2:
                raise DataError(
                    f"{path}: relation mention '{name}' lacks an ID, a SUBTYPE of its relation, "
                    "Arg-1 or Arg-2; allowed: APF of ACE 2005; copy it again from LDC2006T06"
                )
            else:
                yield Mention(name, label, sides["Arg-1"], sides["Arg-2"])


def _argument(element: ElementTree.Element, source: str) -> Argument:
    """Offsets count the characters of the text without tags; END is the last character's."""
    words = element.find("extent/charseq")
    try:
        if words is None:
            raise ValueError("no extent")
        start, end = int(words.get("START", "")), int(words.get("END", "")) + 1
    except ValueError as error:
        raise DataError(
            f"{source}: {element.get('ROLE')} has no extent with START and END ({error}); allowed: "
            "APF of ACE 2005; copy it again from LDC2006T06"
        ) from error
    return Argument(start, end, clean("".join(words.itertext())).strip())


def _add(parts: Parts, document: Document, mention: Mention, source: str) -> None:
    sides = (mention.head, mention.tail)
    text, (head, tail) = document.sentence([(side.start, side.end) for side in sides])
    if [text[slice(*head)], text[slice(*tail)]] != [side.text for side in sides]:
        parts.left_out[ELSEWHERE] += 1
    elif crossing(head, tail):
        parts.left_out[CROSSING] += 1
    else:
        where = f"{source} relation mention '{mention.name}'"
        row = relation_row(where, mention.name, text, head, tail, mention.label)
        parts.rows[None].append(row)
