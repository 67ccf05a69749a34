"""Rows into examples: columns, labels and spans, and every way in which a row can be bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conpet.errors import ConfigError, DataError
from conpet.streams import Fields, Stream, load_inputs, load_stream
from conpet.streams.readers import Row
from conpet.streams.tabular import read_unlabelled


def load(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Stream:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_stream(path, **options)


def both(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The row in train and in test, which makes the smallest stream."""
    return [row | {"split": "train"}, row | {"split": "test"}]


def only(stream: Stream) -> Any:
    (example,) = stream.tasks[0].train
    return example


def marked(example: Any) -> list[str]:
    return [example.text[start:end] for start, end in example.entities]


def test_text(tmp_path: Path) -> None:
    stream = load(tmp_path, both({"text": "hello there", "label": "greet"}))
    assert (stream.name, stream.kind, stream.labels) == ("data", "text", ("greet",))
    assert only(stream).entities == () and stream.tasks[0].name == "data"


def test_relation_by_characters_and_by_tokens(tmp_path: Path) -> None:
    row = {"text": "Ann Lee met Bob .", "label": "met", "head": [0, 7], "tail": [12, 15]}
    stream = load(tmp_path, both(row))
    assert stream.kind == "relation" and marked(only(stream)) == ["Ann Lee", "Bob"]
    row |= {"head": [0, 2], "tail": [3, 4]}
    stream = load(tmp_path, both(row), fields={"spans": "tokens"})
    assert marked(only(stream)) == ["Ann Lee", "Bob"]


def test_one_typing_example_a_mention(tmp_path: Path) -> None:
    row = {"text": "Ann met Bob", "mentions": [[0, 3, "A"], [8, 11, "B"]]}
    stream = load(tmp_path, both(row | {"id": "r"}), fields={"id": None})
    assert stream.kind == "typing" and stream.labels == ("A", "B")
    assert [marked(e) for e in stream.tasks[0].train] == [["Ann"], ["Bob"]]
    rows = [row | {"id": "r", "split": "train"}, row | {"id": "s", "split": "test"}]
    stream = load(tmp_path, rows)
    assert [e.id for e in stream.tasks[0].train + stream.tasks[0].test] == [
        "r#1",
        "r#2",
        "s#1",
        "s#2",
    ]


@given(st.lists(st.text(st.characters(exclude_characters=" "), max_size=4), min_size=1), st.data())
def test_token_spans_mark_the_same_tokens(tokens: list[str], data: st.DataObject) -> None:
    text = " ".join(tokens)
    start = data.draw(st.integers(0, len(tokens) - 1))
    end = data.draw(st.integers(start + 1, len(tokens)))
    phrase = " ".join(tokens[start:end])
    if not text.strip() or not phrase or any(0xD800 <= ord(c) < 0xE000 for c in text):
        return
    row = Row("row", {"text": text, "mentions": [[start, end]]})
    (example,) = read_unlabelled([row], Fields(spans="tokens"))
    assert marked(example) == [phrase]


def test_csv_cells_hold_spans_as_json_and_numbers_as_labels(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    line = '"Ann met Bob",7,"[0, 3]","[8, 11]"'
    path.write_text(f"text,label,head,tail,split\n{line},train\n{line},test\n")
    stream = load_stream(path)
    assert marked(only(stream)) == ["Ann", "Bob"] and stream.labels == ("7",)


def test_named_fields_and_switched_off_fields(tmp_path: Path) -> None:
    rows = both({"utterance": "hi", "intent": "greet", "head": 1, "tail": 2})
    fields = {"text": "utterance", "label": "intent", "head": None}
    assert load(tmp_path, rows, fields=fields).kind == "text"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"label": "x"},
            r"line 3 has no field 'text' for the text\. Its fields: split, label; nam",
        ),
        ({"texts": "a", "label": "x"}, r"no field 'text' .*Did you mean 'texts'\?"),
        ({"text": "a"}, "line 3 has no field 'label' for the label"),
        ({"text": None, "label": "x"}, "line 3: the text is None; allowed: a string"),
        ({"text": 3, "label": "x"}, "line 3: the text is 3; allowed: a string"),
        ({"text": "", "label": "x"}, "line 3: example '.*' has an empty text"),
        ({"text": " \n", "label": "x"}, "line 3: example '.*' has an empty text"),
        ({"text": "a\ud83d", "label": "x"}, r"line 3: the text has half a surrogate.*character 1"),
        ({"text": "a", "label": "\ud83d"}, "line 3: the label has half a surrogate"),
        ({"text": "a", "label": None}, "line 3: the label is None; allowed: text or a whole num"),
        ({"text": "a", "label": ""}, "line 3: the label is ''; allowed"),
        ({"text": "a", "label": 1.5}, "line 3: the label is 1.5; allowed"),
        ({"text": "a", "label": True}, "line 3: the label is True; allowed"),
        ({"text": "a", "label": "x", "split": "tset"}, "the split is 'tset'.*Did you mean 'test'"),
        ({"text": "a", "label": "x", "split": None}, "line 3: the split is None"),
    ],
)
def test_bad_rows_say_their_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    rows = [*both({"text": "fine", "label": "x"}), {"split": "train"} | row]
    with pytest.raises(DataError, match=message):
        load(tmp_path, rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"head": [0, 99]},
            r"line 1: .*span \[0, 99\) is out of range; allowed is 0 <= start < end",
        ),
        ({"head": [-1, 2]}, r"line 1: .*span \[-1, 2\) is out of range"),
        ({"head": [2, 2]}, r"line 1: .*span \[2, 2\) is out of range"),
        ({"head": [0, 5], "tail": [3, 8]}, r"line 1: .*spans \[0, 5\) and \[3, 8\) cross"),
        ({"head": 4}, "line 1: the head is 4; allowed: a list"),
        ({"head": "4 to 7"}, "line 1: the head is '4 to 7'; allowed: a list"),
        ({"head": [1]}, r"line 1: span \[1\]; allowed: two whole numbers"),
        ({"head": [0, 1.5]}, r"line 1: span \[0, 1.5\]; allowed: two whole numbers"),
        ({"head": [0, True]}, r"line 1: span \[0, True\]; allowed: two whole numbers"),
    ],
)
def test_bad_spans(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    row = {"text": "Ann met Bob", "label": "met", "head": [0, 3], "tail": [8, 11]}
    with pytest.raises(DataError, match=message):
        load(tmp_path, both(row | change))


@pytest.mark.parametrize("span", [[0, 4], [3, 4], [-1, 1], [1, 1]])
def test_bad_token_spans(tmp_path: Path, span: list[int]) -> None:
    rows = both({"text": "Ann met Bob", "mentions": [[*span, "A"]]})
    with pytest.raises(DataError, match=r"line 1: span .* is out of range; .*<= 3 \(tokens betwee"):
        load(tmp_path, rows, fields={"spans": "tokens"})


@pytest.mark.parametrize("mention", [[0, 3], 5, [0, 3, "A", 1]])
def test_bad_mentions(tmp_path: Path, mention: Any) -> None:
    with pytest.raises(DataError, match=r"line 1: mention .*; allowed: \[start, end, label\]"):
        load(tmp_path, both({"text": "Ann met Bob", "mentions": [mention]}))


def test_a_field_that_is_named_must_be_there(tmp_path: Path) -> None:
    rows = both({"text": "a", "label": "x"})
    with pytest.raises(DataError, match=r"line 1 has no field 'part' for the split"):
        load(tmp_path, rows, fields={"split": "part"})


def test_unknown_and_wrong_field_settings(tmp_path: Path) -> None:
    rows = both({"text": "a", "label": "x"})
    with pytest.raises(ConfigError, match=r"unknown key 'fields\.txt' .*Did you mean 'text'\?"):
        load(tmp_path, rows, fields={"txt": "text"})
    with pytest.raises(
        ConfigError, match=r"'fields\.spans' is 'words'; .*'characters' or 'tokens'"
    ):
        load(tmp_path, rows, fields={"spans": "words"})


def test_duplicate_ids_name_both_places(tmp_path: Path) -> None:
    rows = [{"id": 7, "text": text, "label": "x"} for text in ("a", "b")]
    with pytest.raises(DataError, match=r"line 2: duplicate id '7', used before in .* line 1"):
        load(tmp_path, rows)


def test_exact_duplicates_within_a_split_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = both({"text": "a", "label": "x"}) * 2 + both({"text": "a", "label": "y"})
    stream = load(tmp_path, rows)
    assert stream.dropped == 2
    assert [len(stream.tasks[0].train), len(stream.tasks[0].test)] == [2, 2]
    assert stream.describe()["duplicates_train_test"] == 1


def test_made_ids_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "x"} for i in range(9)]
    one, two = load(tmp_path, rows).tasks[0], load(tmp_path, rows[::-1]).tasks[0]
    assert set(one.train) == set(two.train) and set(one.test) == set(two.test)


def test_inputs_need_no_label(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a b"}\n\n{"text": "a b"}\n')
    assert [(e.id, e.label) for e in load_inputs(path)] == [("1", None), ("2", None)]
    path.write_text('{"text": "a b", "mentions": [[0, 1], [2, 3, "X"]], "id": "q"}\n')
    examples = load_inputs(path)
    assert [(e.id, e.label, e.entities) for e in examples] == [
        ("q#1", None, ((0, 1),)),
        ("q#2", None, ((2, 3),)),
    ]
    path.write_text('{"text": ""}\n')
    with pytest.raises(DataError, match="line 1: .*empty text"):
        load_inputs(path)
    with pytest.raises(ConfigError, match=r"unknown key 'txt' in fields"):
        load_inputs(path, fields={"txt": "a"})
