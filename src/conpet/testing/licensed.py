"""Made-up files in the formats of the licensed data sets, whose own files cannot be shipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from conpet.registry import STREAMS

PARTS = {"train": "train", "valid": "dev", "test": "test"}
ACE_SOURCES = ("bc", "bn", "cts", "nw", "un", "wl")


def write_licensed(
    name: str, root: Path, n: int = 10, *, classes: Sequence[str] | None = None
) -> Path:
    """Write files of the stream ``name`` below the data folder ``root``; returns their folder.

    Args:
        name: fewnerd, ontonotes, bbn, tacred or ace.
        n: examples a class: in each part where the stream keeps its parts, else in all.
        classes: other classes than those of the stream.
    """
    card = STREAMS.load(name)
    labels = classes or [label for group in card.groups.values() for label in group]
    folder = root / card.file
    folder.mkdir(parents=True)
    write = {"fewnerd": _fewnerd, "typing": _typing, "tacred": _tacred, "ace": _ace}[card.format]
    write(folder, labels, n)
    return folder


def _words(label: str) -> list[str]:
    """Two words that give the label away."""
    return [f"The{sum(map(ord, label))}", "".join(filter(str.isalnum, label))]


def _fewnerd(folder: Path, labels: Sequence[str], n: int) -> None:
    for split, stem in PARTS.items():
        lines = []
        for label in labels:
            for i in range(n):
                lines += [f"{split}{i}\tO", "saw\tO", *(f"{w}\t{label}" for w in _words(label)), ""]
        (folder / f"{stem}.txt").write_text("\n".join(lines), encoding="utf-8")


def _typing(folder: Path, labels: Sequence[str], n: int) -> None:
    parts = list(PARTS.values())
    lines: dict[str, list[str]] = {stem: [] for stem in parts}
    for label in labels:
        for i in range(n):
            text = " ".join([f"day{i}", "saw", *_words(label), "."])
            lines[parts[i % 3]].append(f"2\t4\t{text}\t{label}\n")
    for stem in parts:
        (folder / f"{stem}.txt").write_text("".join(lines[stem]), encoding="utf-8")


def _tacred(folder: Path, labels: Sequence[str], n: int) -> None:
    for split, stem in PARTS.items():
        items = [
            {
                "id": f"{split}-{k}-{i}",
                "relation": label,
                "token": [*_words(label), "met", f"{split}{i}", "-LRB-", "he", "-RRB-"],
                "subj_start": 0,
                "subj_end": 1,
                "obj_start": 3,
                "obj_end": 3,
            }
            for k, label in enumerate(["no_relation", *labels])
            for i in range(n)
        ]
        (folder / f"{stem}.json").write_text(json.dumps(items), encoding="utf-8")


def _ace(folder: Path, labels: Sequence[str], n: int) -> None:
    """One document a source, the examples dealt out to them in turn."""
    pairs = [(label, i) for label in labels for i in range(n)]
    for s, source in enumerate(ACE_SOURCES):
        place = folder / "English" / source / "timex2norm"
        place.mkdir(parents=True)
        write_ace(
            place / f"{source}.1",
            [
                (
                    label,
                    f"{' '.join(_words(label))} works for firm{i}.",
                    _words(label)[1],
                    f"firm{i}",
                )
                for label, i in pairs[s :: len(ACE_SOURCES)]
            ],
        )


def write_ace(stem: Path, relations: Sequence[tuple[str, str, str, str]]) -> None:
    """Write ``stem``.sgm and ``stem``.apf.xml.

    Args:
        relations: (subtype, sentence, head, tail), one relation mention each; the entities are
            parts of their sentences. The subtype "METONYMY" makes a relation without one.
    """
    text = f"\n {stem.name} \n\n\n"
    markup = f"<DOC>\n<DOCID> {stem.name} </DOCID>\n<BODY>\n<TEXT>\n"
    found = []
    for k, (subtype, sentence, *entities) in enumerate(relations):
        sides = []
        for side, entity in enumerate(entities, start=1):
            start = len(text) + escape(sentence).index(escape(entity))
            sides.append(
                f'<relation_mention_argument REFID="E{k}-{side}" ROLE="Arg-{side}"><extent>'
                f'<charseq START="{start}" END="{start + len(escape(entity)) - 1}">'
                f"{escape(entity)}</charseq></extent></relation_mention_argument>"
            )
        kind = (
            'TYPE="METONYMY"' if subtype == "METONYMY" else f'TYPE="X" SUBTYPE={quoteattr(subtype)}'
        )
        found.append(
            f'<relation ID="{stem.name}-R{k}" {kind}>\n<relation_mention ID="{stem.name}-R{k}-1">\n'
            + "\n".join(sides)
            + "\n</relation_mention>\n</relation>"
        )
        text += f"{escape(sentence)}\n\n"
        markup += f"{escape(sentence)}\n\n"
    stem.with_name(f"{stem.name}.sgm").write_text(
        f"{markup}</TEXT>\n</BODY>\n</DOC>\n", encoding="utf-8"
    )
    body = "\n".join(found)
    stem.with_name(f"{stem.name}.apf.xml").write_text(
        '<?xml version="1.0"?>\n<!DOCTYPE source_file SYSTEM "apf.v5.1.1.dtd">\n'
        f'<source_file><document DOCID="{stem.name}">\n{body}\n</document></source_file>\n',
        encoding="utf-8",
    )
