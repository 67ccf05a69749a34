"""Few-NERD, fine typing and TACRED files into rows: entities to the letter, and every damage."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from conpet.errors import DataError
from conpet.streams.extraction import read_folder
from conpet.streams.extraction.fine_typing import deepest
from conpet.streams.readers import Row


def entities(row: Row) -> list[tuple[str, ...]]:
    """The texts of a row's entities, each with its label where it has one of its own."""
    text = row.values["text"]
    spans = row.values.get("mentions") or [row.values["head"], row.values["tail"]]
    return [(text[start:end], *label) for start, end, *label in spans]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


FEWNERD = """Ada\tperson-scholar
Lovelace\tperson-scholar
London\tlocation-GPE
saw\tO
it\tO

Nobody\tO
came\tO


the\tO
Zoë\u2028\tperson-actor"""


def fewnerd(folder: Path, train: str) -> Path:
    for stem, text in (("train", train), ("dev", FEWNERD), ("test", FEWNERD)):
        write(folder / f"{stem}.txt", text)
    return folder


@pytest.mark.parametrize("text", [FEWNERD, FEWNERD.replace("\n", "\r\n"), FEWNERD + "\n\n"])
def test_fewnerd_entities_are_runs_of_a_label(text: str, tmp_path: Path) -> None:
    first, last = read_folder("fewnerd", fewnerd(tmp_path, text)).rows["train"]
    assert first.values["text"] == "Ada Lovelace London saw it"
    assert entities(first) == [("Ada Lovelace", "person-scholar"), ("London", "location-GPE")]
    assert entities(last) == [("Zoë\u2028", "person-actor")]
    assert [first.values["id"], last.values["id"]] == ["train-1", "train-3"]
    assert first.source.endswith("train.txt line 1") and last.source.endswith("line 11")


def test_packed_parts_are_read(tmp_path: Path) -> None:
    fewnerd(tmp_path, FEWNERD)
    (tmp_path / "train.txt").unlink()
    (tmp_path / "train.txt.gz").write_bytes(gzip.compress(FEWNERD.encode()))
    assert len(read_folder("fewnerd", tmp_path).rows["train"]) == 2


@pytest.mark.parametrize("line", ["London", "London\t", "\tart-film", "London art-film", "a\tO\tO"])
def test_damaged_fewnerd(line: str, tmp_path: Path) -> None:
    fewnerd(tmp_path, f"a\tO\n\n{line}\n")
    with pytest.raises(DataError, match=r"train\.txt line 3 is '.*'; allowed: a token, a tab"):
        read_folder("fewnerd", tmp_path)


TYPING = (
    "0\t2\tAda Lovelace saw London\t/person/artist\n\n3\t4\tAda Lovelace saw London\t/location\n"
)
TYPING_JSON = json.dumps(
    {
        "tokens": ["Ada", "Lovelace", "saw", "London"],
        "mentions": [
            {"start": 0, "end": 2, "labels": ["/person/artist", "/person"]},
            {"start": 3, "end": 4, "labels": ["/location", "/organization"]},
            {"start": 3, "end": 4, "labels": []},
            {"start": 3, "end": 4, "labels": ["/location"]},
        ],
        "senid": 0,
        "fileid": "x",
    }
)


def typing_folder(folder: Path, train: str, suffix: str = "txt") -> Path:
    for stem, text in (("train", train), ("dev", ""), ("test", "")):
        write(folder / f"{stem}.{suffix}", text or (TYPING if suffix == "txt" else TYPING_JSON))
    return folder


def test_typing_of_a_mention_a_line(tmp_path: Path) -> None:
    several = "0\t1\tLondon calls\t/location /location/city\n0\t1\tLondon calls\t/location /other\n"
    parts = read_folder("typing", typing_folder(tmp_path, TYPING + several))
    assert [entities(row) for row in parts.rows["train"]] == [
        [("Ada Lovelace", "/person/artist")],
        [("London", "/location")],
        [("London", "/location/city")],
    ]
    assert [row.values["id"] for row in parts.rows["train"]] == ["train-1", "train-3", "train-4"]
    assert parts.left_out == {"mentions without one most specific type": 1}


def test_typing_of_a_sentence_a_line(tmp_path: Path) -> None:
    parts = read_folder("typing", typing_folder(tmp_path, f"{TYPING_JSON}\n", "json"))
    (row,) = parts.rows["train"]
    assert entities(row) == [("Ada Lovelace", "/person/artist"), ("London", "/location")]
    assert parts.left_out == {"mentions without one most specific type": 6}  # two in each part


@pytest.mark.parametrize(
    ("types", "label"),
    [
        (["/a"], "/a"),
        (["/a/b/c", "/a", "/a/b"], "/a/b/c"),
        (["/a/b", "/a/c"], None),
        (["/a", "/ab"], None),
        (["/a/b", "/other"], None),
        ([], None),
    ],
)
def test_deepest_type(types: list[str], label: str | None) -> None:
    assert deepest(types) == label


@pytest.mark.parametrize(
    ("suffix", "line", "message"),
    [
        ("txt", "0\t2\tAda Lovelace", "start, end, tokens and type between tabs"),
        ("txt", "0\t2\tAda Lovelace\tx\t/person", "start, end, tokens and type between tabs"),
        ("txt", "0\t-2\tAda Lovelace\t/person", "start, end, tokens and type between tabs"),
        ("txt", "0\t2\tAda Lovelace\tperson", "a type such as"),
        ("txt", "0\t2\tAda Lovelace\t", "a type such as"),
        ("txt", "0\t3\tAda Lovelace\t/person", r"tokens \[0, 3\) are out of range; .* <= 2"),
        ("txt", "1\t1\tAda Lovelace\t/person", r"tokens \[1, 1\) are out of range"),
        ("json", '{"tokens": ["a"]', "broken JSON"),
        ("json", '{"tokens": "a", "mentions": []}', 'an object with "tokens", a list'),
        ("json", '{"sentence": ["a"], "mentions": []}', 'an object with "tokens", a list'),
        ("json", '{"tokens": ["a"], "mentions": [[0, 1, "/person"]]}', 'mentions with "start"'),
        (
            "json",
            '{"tokens": ["a"], "mentions": [{"start": 0, "end": 1, "labels": ["person"]}]}',
            'mentions with "start"',
        ),
        (
            "json",
            '{"tokens": ["a"], "mentions": [{"start": 0, "end": 2, "labels": ["/person"]}]}',
            r"tokens \[0, 2\) are out of range",
        ),
    ],
)
def test_damaged_typing(suffix: str, line: str, message: str, tmp_path: Path) -> None:
    good = TYPING if suffix == "txt" else f"{TYPING_JSON}\n\n\n"
    typing_folder(tmp_path, f"{good}{line}\n", suffix)
    with pytest.raises(DataError, match=rf"train\.{suffix} line 4.*{message}"):
        read_folder("typing", tmp_path)


def tacred_item(**changes: Any) -> dict[str, Any]:
    """The entities are [1, 2] and [4, 4], the ends included."""
    return {
        "id": "e1",
        "docid": "d",
        "relation": "org:founded_by",
        "token": ["the", "Basotho", "Convention", "of", "Thabane", "."],
        "subj_start": 1,
        "subj_end": 2,
        "obj_start": 4,
        "obj_end": 4,
    } | changes


def tacred(folder: Path, *items: Any) -> Path:
    for stem in ("train", "dev", "test"):
        write(folder / f"{stem}.json", json.dumps([tacred_item(), *items]))
    return folder


def test_tacred_head_is_the_subject_and_ends_are_included(tmp_path: Path) -> None:
    items = [
        tacred_item(id="e2", relation="no_relation"),
        tacred_item(id="e3", obj_start=2, obj_end=3),
        tacred_item(id="e4", token=["a b", "", "c", "d\u00a0e", "f"], obj_start=3, obj_end=3),
    ]
    parts = read_folder("tacred", tacred(tmp_path, *items))
    first, last = parts.rows["train"]
    assert entities(first) == [("Basotho Convention",), ("Thabane",)]
    assert first.values["text"] == "the Basotho Convention of Thabane ."
    assert first.values["label"] == "org:founded_by" and first.values["id"] == "e1"
    assert entities(last) == [(" c",), ("d\u00a0e",)]  # a token with a blank moves no span
    assert parts.left_out == {"no_relation": 3, "pairs of entities that overlap in part": 3}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (["e2"], r"item 2 is \['e2'\]; allowed: an object"),
        ({"id": "e2", "tokens": []}, "item 2 lacks relation, subj_start, subj_end, obj_start, obj"),
        (tacred_item(subj_end="2"), "item 2 lacks subj_end, or it is of another type"),
        (tacred_item(token="a b"), "item 2 lacks token, or it is of another type"),
        (tacred_item(obj_end=6), r"item 2: tokens \[4, 7\) are out of range; .* <= 6"),
    ],
)
def test_damaged_tacred(item: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"train\.json {message}"):
        read_folder("tacred", tacred(tmp_path, item))


def test_tacred_that_is_no_list(tmp_path: Path) -> None:
    tacred(tmp_path)
    write(tmp_path / "dev.json", '{"data": []}')
    with pytest.raises(DataError, match=r"dev\.json holds a JSON dict; TACRED is a list of obj"):
        read_folder("tacred", tmp_path)
    write(tmp_path / "dev.json", '[\n{"id": "e1",\n')
    with pytest.raises(DataError, match=r"dev\.json line 3: broken JSON"):
        read_folder("tacred", tmp_path)
