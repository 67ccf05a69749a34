"""Licensed data sets in their owners' formats, on made-up files: entities, splits, refusals."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conpet.errors import ConfigError, DataError
from conpet.registry import STREAMS
from conpet.streams import Stream, load_stream
from conpet.streams.checks import SPLITS
from conpet.streams.extraction import FORMATS, without_long_tails
from conpet.streams.instruction import READERS
from conpet.streams.schema import TASK_FORMATS, Format
from conpet.streams.splits import carve_overall
from conpet.testing.licensed import write_licensed
from conpet.types import Example

SIZES = {
    "fewnerd": [7] * 6 + [6] * 4,
    "ontonotes": [9] * 6 + [8] * 4,
    "bbn": [5] * 6 + [4] * 4,
    "tacred": [5] + [4] * 9,
    "ace": [4, 4, 4, 3, 3],
}
KINDS = {"fewnerd": "typing", "ontonotes": "typing", "bbn": "typing"}
NAMES = list(SIZES)


@pytest.fixture(autouse=True)
def no_data_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONPET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def examples(stream: Stream, split: str) -> list[Example]:
    return [example for task in stream.tasks for example in getattr(task, split)]


# The five streams


@pytest.mark.parametrize("name", NAMES)
def test_tasks_are_the_groups_of_conpet(name: str, tmp_path: Path) -> None:
    write_licensed(name, tmp_path)
    stream = load_stream(name, data=tmp_path)
    assert stream.kind == KINDS.get(name, "relation")
    assert [len(task.labels) for task in stream.tasks] == SIZES[name]
    assert [task.name for task in stream.tasks] == [f"p{i + 1}" for i in range(len(SIZES[name]))]
    assert all(list(task.labels) == sorted(task.labels) for task in stream.tasks)
    assert "LDC licence" in stream.attribution or name == "fewnerd"
    told = stream.describe()
    assert told["duplicates_train_test"] == told["duplicates_dropped"] == 0


@pytest.mark.parametrize(
    ("name", "seed", "drawn_before"), [("ace", 100, 0), ("bbn", 200, 0), ("ontonotes", 100, 264404)]
)
def test_groups_follow_from_the_shuffle_of_conpet(name: str, seed: int, drawn_before: int) -> None:
    """Its script for OntoNotes shuffles the 264,404 mentions first, with the same generator."""
    groups = STREAMS.load(name).groups
    labels = sorted(label for group in groups.values() for label in group)
    draw = random.Random(seed)
    draw.shuffle(list(range(drawn_before)))
    draw.shuffle(labels)
    for group, size in zip(groups.values(), SIZES[name], strict=True):
        assert sorted(labels[:size]) == group
        del labels[:size]


@pytest.mark.parametrize("name", ["fewnerd", "tacred"])
def test_given_parts_are_kept(name: str, tmp_path: Path) -> None:
    write_licensed(name, tmp_path, n=3)
    stream = load_stream(name, data=tmp_path)
    for split in SPLITS:
        found = examples(stream, split)
        assert set(Counter(example.label for example in found).values()) == {3}
        assert all(example.id.startswith(split) for example in found)


@pytest.mark.parametrize("name", ["bbn", "ace"])
def test_pooled_by_label(name: str, tmp_path: Path) -> None:
    write_licensed(name, tmp_path, n=20)
    stream = load_stream(name, data=tmp_path)
    for split, n in (("train", 16), ("valid", 2), ("test", 2)):
        counts = Counter(example.label for example in examples(stream, split))
        assert len(counts) == sum(SIZES[name]) and set(counts.values()) == {n}
    other = load_stream(name, data=tmp_path, seed=7)
    assert other.labels == stream.labels and other.fingerprint != stream.fingerprint


def test_pooled_overall(tmp_path: Path) -> None:
    write_licensed("ontonotes", tmp_path, n=20)
    stream = load_stream("ontonotes", data=tmp_path)
    assert [len(examples(stream, split)) for split in SPLITS] == [1376, 172, 172]  # of 1,720
    counts = Counter(example.label for example in examples(stream, "test"))
    assert len(set(counts.values())) > 1, "not label by label"


@pytest.mark.parametrize("name", ["ontonotes", "bbn"])
def test_pooled_data_are_split_by_sentence(name: str, tmp_path: Path) -> None:
    folder = write_licensed(name, tmp_path)
    labels = STREAMS.load(name).groups["p1"]
    lines = [
        f"{2 * k}\t{2 * k + 1}\tWe {i} met all of them\t{label}\n"
        for i in range(40)
        for k, label in enumerate(labels[:3])
    ]
    for stem, part in (("train", lines[::2]), ("dev", lines[1::4]), ("test", lines[3::4])):
        with (folder / f"{stem}.txt").open("a") as file:
            file.writelines(part)
    stream = load_stream(name, data=tmp_path)
    texts = [{example.text for example in examples(stream, split)} for split in SPLITS]
    assert sum(len(part) for part in texts) == len(set.union(*texts))


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("XYZ")), max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 1000),
)
def test_carve_overall(pairs: list[tuple[str, str]], share: float, seed: int) -> None:
    given_ones = [Example(str(i), text, label) for i, (text, label) in enumerate(pairs)]
    rest, carved = carve_overall(given_ones, share, seed)
    assert sorted(rest + carved, key=lambda e: int(e.id)) == given_ones
    assert not {e.text for e in rest} & {e.text for e in carved}
    assert {e.label for e in rest} == {e.label for e in given_ones}
    assert len(carved) <= round(share * len(given_ones))
    assert carve_overall(given_ones[::-1], share, seed)[1] == carved[::-1]


def test_carve_overall_takes_its_share() -> None:
    many = [Example(str(i), f"text {i}", "ab"[i % 2]) for i in range(200)]
    rest, carved = carve_overall(many, 0.1, seed=1)
    assert (len(rest), len(carved)) == (180, 20)
    with pytest.raises(ConfigError, match="the share to carve out is 1.5; allowed: between 0 and"):
        carve_overall(many, 1.5, seed=1)


def test_usual_arguments(tmp_path: Path) -> None:
    write_licensed("tacred", tmp_path, n=3)
    small = load_stream("tacred", data=tmp_path, preset="small", train_per_class=2)
    assert len(examples(small, "train")) == 2 * 41
    order = ["p3", "p1", "p2", *(f"p{i}" for i in range(4, 11))]
    assert [t.name for t in load_stream("tacred", data=tmp_path, order=order).tasks] == order
    drawn = load_stream("tacred", data=tmp_path, n_tasks=4)
    assert [len(task.labels) for task in drawn.tasks] == [11, 10, 10, 10]
    with pytest.raises(ConfigError, match="n_tasks is 42; allowed: 1 to 41"):
        load_stream("tacred", data=tmp_path, n_tasks=42)
    with pytest.raises(ConfigError, match="fields name the columns of a table; .* 'tacred' have n"):
        load_stream("tacred", data=tmp_path, fields={"text": "token"})


def test_a_card_of_ones_own_reads_another_version(tmp_path: Path) -> None:
    write_licensed("tacred", tmp_path, classes=["per:identity", "org:shareholders"])
    card = write(tmp_path / "re-tacred.yaml", "format: tacred\nfile: licensed/tacred\nn_tasks: 2\n")
    assert sorted(load_stream(card).labels) == ["org:shareholders", "per:identity"]
    write(card, "format: tacred\nfile: {train: a.json}\n")
    with pytest.raises(ConfigError, match="data in the format 'tacred' are one folder"):
        load_stream(card)


def test_formats_of_cards_are_those_that_are_read() -> None:
    assert list(get_args(Format)) == ["table", *FORMATS, *READERS]
    assert list(READERS) == list(TASK_FORMATS)


# What is left out, and what is refused


def long_fewnerd(folder: Path, n_words: int) -> None:
    sentence = "\n".join(["one\tO", *(f"w{i}\tart-film" for i in range(n_words)), "\n"])
    for stem in ("train", "dev", "test"):
        with (folder / f"{stem}.txt").open("a") as file:
            file.write(sentence)


@pytest.mark.parametrize(("n_words", "n_dropped"), [(44, 0), (45, 1)])
def test_long_prompt_tails_are_dropped_from_train(
    n_words: int, n_dropped: int, tmp_path: Path
) -> None:
    """ "In this sentence, ENTITY is a [MASK]." has six words beside the entity."""
    long_fewnerd(write_licensed("fewnerd", tmp_path, n=2), n_words)
    stream = load_stream("fewnerd", data=tmp_path)
    reason = "training examples with more than 50 prompt words"
    assert stream.left_out == (((reason, 1),) if n_dropped else ())
    assert stream.describe()["left_out"] == dict(stream.left_out)
    sizes = [len(examples(stream, split)) for split in SPLITS]
    assert sizes == [133 - n_dropped, 133, 133]


def test_prompt_tail_of_a_relation() -> None:
    """Seven words beside the two entities."""
    pair = Example("1", "a b c d", "x", ((0, 3), (4, 7)))
    assert without_long_tails([pair], 11) == (pair,) and not without_long_tails([pair], 10)
    plain = Example("2", "a b", "x")
    assert without_long_tails([plain], 1) == (plain,)


def test_no_relation_is_counted(tmp_path: Path) -> None:
    write_licensed("tacred", tmp_path, n=2)
    assert load_stream("tacred", data=tmp_path).describe()["left_out"] == {"no_relation": 6}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "fewnerd",
            ["Few-NERD", "https://ningding97.github.io/fewnerd", "CC BY-SA 4.0", "dev.txt"],
        ),
        ("ontonotes", ["OntoNotes 5.0", "LDC2013T19", "train.txt, dev.txt and test.txt"]),
        ("bbn", ["BBN Pronoun Coreference", "LDC2005T33", "train.txt, dev.txt and test.txt"]),
        ("tacred", ["LDC2018T24", "train.json, dev.json and test.json", "LDC's licence"]),
        ("ace", ["ACE 2005", "LDC2006T06", "data/English", ".sgm and .apf.xml"]),
    ],
)
def test_absent_data(name: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_stream(name, data=tmp_path)
    text = str(caught.value)
    assert f"the data of stream '{name}' are missing; they are not shipped. It is " in text
    assert f"Put them into FOLDER/licensed/{name}, then give --data FOLDER or set CONPET_D" in text
    assert f"looked at: {tmp_path / 'licensed' / name}" in text
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    ("name", "file", "needed"),
    [
        ("fewnerd", "dev.txt", "train.txt, dev.txt, test.txt"),
        ("bbn", "test.txt", "train.txt or train.json, dev.txt or dev.json, test.txt or test.json"),
        ("tacred", "train.json", "train.json, dev.json, test.json"),
    ],
)
def test_missing_part(name: str, file: str, needed: str, tmp_path: Path) -> None:
    folder = write_licensed(name, tmp_path, n=3)
    (folder / file).rename(folder / f"old-{file}")
    with pytest.raises(DataError) as caught:
        load_stream(name, data=tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{folder} has no {file}") and f"needed are all of: {needed}" in text
    assert f"old-{file}" in text and "copy the missing file there" in text


def test_file_in_place_of_the_folder_and_empty_part(tmp_path: Path) -> None:
    write(tmp_path / "licensed" / "ace", "x")
    with pytest.raises(DataError, match=r"licensed/ace is a file; data in the format 'ace' are a"):
        load_stream("ace", data=tmp_path)
    folder = write_licensed("fewnerd", tmp_path, n=1)
    write(folder / "dev.txt", "nothing\tO\n")
    with pytest.raises(DataError, match=r"the valid part of .*fewnerd has no example; it needs"):
        load_stream("fewnerd", data=tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_another_number_of_classes(name: str, tmp_path: Path) -> None:
    labels = [label for group in STREAMS.load(name).groups.values() for label in group]
    gone, *rest = labels
    new = [f"/new{i}" for i in range(7)]
    write_licensed(name, tmp_path, n=3, classes=[*rest, *new])
    with pytest.raises(DataError) as caught:
        load_stream(name, data=tmp_path)
    text, n = str(caught.value), len(labels)
    assert f"licensed/{name} has {n + 6} classes, the groups name {n}" in text
    assert "7 (/new0, /new1, /new2, /new3, /new4, ...) surplus" in text
    assert f"1 ({gone}) missing" in text and "another version" in text and "docs/data.md" in text
    own = load_stream(name, data=tmp_path, n_tasks=2)  # tasks of one's own need no fixed classes
    assert len(own.labels) == n + 6


def test_class_without_training_examples(tmp_path: Path) -> None:
    """As in the few-shot settings of Few-NERD, whose parts have different classes."""
    folder = write_licensed("fewnerd", tmp_path, n=2)
    path = folder / "train.txt"
    path.write_text(path.read_text().replace("\tart-film", "\tO"))
    with pytest.raises(DataError, match=r"the train part of .* has 65 classes, .* 1 \(art-film\)"):
        load_stream("fewnerd", data=tmp_path)
