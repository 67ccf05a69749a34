"""ACE 2005 files into rows: offsets, sentences, and every damage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from conpet.errors import DataError
from conpet.streams.extraction import read_folder
from conpet.streams.extraction.sgm import Document
from conpet.streams.readers import Row
from conpet.testing.licensed import write_ace

Relation = tuple[str, str, str, str]


def entities(row: Row) -> list[str]:
    """Head and tail."""
    text = row.values["text"]
    spans = [row.values["head"], row.values["tail"]]
    return [text[start:end] for start, end in spans]


def ace(root: Path, relations: Sequence[Relation]) -> Path:
    """The relations in the source "bc", one of another kind in each other source."""
    for source in ("bc", "bn", "cts", "nw", "un", "wl"):
        stem = root / "English" / source / "timex2norm" / f"{source}.1"
        stem.parent.mkdir(parents=True)
        write_ace(
            stem, relations if source == "bc" else [("Near", "Rome is near.", "Rome", "near")]
        )
    return root


def ace_rows(root: Path, relations: Sequence[Relation]) -> tuple[list[Row], Counter[str]]:
    parts = read_folder("ace", ace(root, relations))
    return [row for row in parts.rows[None] if row.values["label"] != "Near"], parts.left_out


def test_ace_entities_are_the_extents_of_the_arguments(tmp_path: Path) -> None:
    rows, left_out = ace_rows(
        tmp_path,
        [
            ("Family", "Ann's\n brother  left. He slept.", "Ann's\n brother", "Ann"),
            ("Employment", "In 2003 she ran AT&T <fast> in Iowa.", "she", "AT&T"),
            ("METONYMY", "Paris said no.", "Paris", "no"),
            ("Located", "The men of Rome met.", "men of", "of Rome"),
        ],
    )
    first, second = rows
    assert first.values["text"] == "Ann's brother left."
    assert entities(first) == ["Ann's brother", "Ann"]
    assert (first.values["label"], first.values["id"]) == ("Family", "bc.1-R0-1")
    assert second.values["text"] == "In 2003 she ran AT&T <fast> in Iowa."
    assert entities(second) == ["she", "AT&T"]
    assert left_out == {"METONYMY": 1, "pairs of entities that overlap in part": 1}


def test_ace_adjudicated_files_alone_are_read(tmp_path: Path) -> None:
    ace(tmp_path, [("Family", "Ann has Bob.", "Ann", "Bob")])
    other = tmp_path / "English" / "bc" / "fp1" / "bc.1"
    other.parent.mkdir()
    write_ace(other, [("Family", "Ann has Eve.", "Ann", "Eve")])
    assert len(read_folder("ace", tmp_path).rows[None]) == 6


def test_ace_documents_that_are_there_twice(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "data"):
        ace(folder, [])
    with pytest.raises(DataError, match=r"two files bc\.1\.apf\.xml, in .* and .*; keep one"):
        read_folder("ace", tmp_path)


def test_ace_offsets_of_another_text(tmp_path: Path) -> None:
    relations = [("Family", f"Ann has Bob{i}.", "Ann", f"Bob{i}") for i in range(200)]
    ace(tmp_path, relations)
    text = next(tmp_path.glob("English/bc/*/*.sgm"))
    good = text.read_text()
    text.write_text(good.replace("Bob7.", "Pat7."))
    parts = read_folder("ace", tmp_path)
    assert parts.left_out == {"entities that are not at their offsets": 1}
    text.write_text(good.replace("\n", "\r\n"), newline="")
    with pytest.raises(DataError, match=r"200 of 205 relation mentions .* line ends were changed"):
        read_folder("ace", tmp_path)


def test_ace_with_missing_files(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="no .apf.xml files of bc, bn, cts, nw, un, wl; needed are "
    ):
        read_folder("ace", tmp_path)
    ace(tmp_path, [])
    next(tmp_path.glob("English/wl/*/*.apf.xml")).unlink()
    with pytest.raises(DataError, match="has no .apf.xml files of wl; needed are English/"):
        read_folder("ace", tmp_path)
    write_ace(tmp_path / "English/wl/timex2norm/wl.1", [])
    next(tmp_path.glob("English/cts/*/*.sgm")).unlink()
    with pytest.raises(DataError, match=r"cts\.1\.apf\.xml has no cts\.1\.sgm beside it"):
        read_folder("ace", tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</relation>", "", r"bc\.1\.apf\.xml line \d+: broken XML"),
        (' SUBTYPE="Family"', "", "'bc.1-R0-1' lacks an ID, a SUBTYPE"),
        ('ROLE="Arg-2"', 'ROLE="Time"', "'bc.1-R0-1' lacks .*Arg-1 or Arg-2"),
        ("START=", "FROM=", "'bc.1-R0-1': Arg-1 has no extent with START and END"),
        ("charseq", "words", r"Arg-1 has no extent .*\(no extent\)"),
    ],
)
def test_damaged_ace(old: str, new: str, message: str, tmp_path: Path) -> None:
    ace(tmp_path, [("Family", "Ann has Bob.", "Ann", "Bob")])
    path = next(tmp_path.glob("English/bc/*/*.apf.xml"))
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        read_folder("ace", tmp_path)


TEXT = (
    '<DOC>\n<SPEAKER> Mr. Smith </SPEAKER>\n<TURN>\nHe met Gen. Lee in the U.S. Army. "Why?" she '
    "asked.\nAt 5 p.m. on Monday I left\n\nAnd so on.\n</TURN></DOC>"
)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("Smith", "Mr. Smith"),
        ("Lee", "He met Gen. Lee in the U.S. Army."),
        ("she", '"Why?" she asked.'),
        ("Monday", "At 5 p.m. on Monday I left"),
        ("so", "And so on."),
    ],
)
def test_sentences(word: str, sentence: str) -> None:
    document = Document(TEXT)
    start = document.text.index(word)
    text, (span,) = document.sentence([(start, start + len(word))])
    assert text == sentence and text[slice(*span)] == word


def test_no_sentence_ends_inside_what_is_kept() -> None:
    plain = Document(TEXT).text
    one, other, third = (plain.index(word) for word in ("Army", "she", "Lee"))
    document = Document(TEXT, kept=[(one, other + 3)])
    both, _ = document.sentence([(one, one + 4), (other, other + 3)])
    assert both == 'He met Gen. Lee in the U.S. Army. "Why?" she asked.'
    assert document.sentence([(third, third + 3)])[0] == both, "one sentence, one text"
