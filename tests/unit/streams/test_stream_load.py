"""Whole streams: tasks and splits of a user's data, cards, named streams and their files."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conpet.errors import ConfigError, DataError
from conpet.registry import STREAMS
from conpet.streams import Card, Stream, load_stream
from conpet.streams.cards import FOLDER
from conpet.streams.load import SHIPPED

LABELS = ("a", "b", "c", "d")


def rows(labels: tuple[str, ...] = LABELS, n: int = 10, **extra: Any) -> list[dict[str, Any]]:
    return [
        {"text": f"{label} {extra.get('split', '')} {i}", "label": label} | extra
        for label in labels
        for i in range(n)
    ]


def write(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "mine.jsonl", rows())


def sizes(stream: Stream) -> list[tuple[int, int, int]]:
    return [(len(task.train), len(task.valid), len(task.test)) for task in stream.tasks]


def test_without_splits_test_and_valid_are_carved_from_train(data: Path) -> None:
    stream = load_stream(data)
    assert sizes(stream) == [(28, 4, 8)]  # of ten a class: two test, then one of eight valid
    assert load_stream(data).fingerprint == stream.fingerprint
    assert load_stream(data, seed=1).fingerprint != stream.fingerprint


def test_given_splits_are_kept_and_valid_is_never_taken_from_test(tmp_path: Path) -> None:
    test = rows(split="test", n=5)
    path = write(tmp_path / "mine.jsonl", rows(split="train") + test)
    (task,) = load_stream(path).tasks
    assert {e.text for e in task.test} == {row["text"] for row in test}
    assert len(task.valid) == 4 and all(" train " in e.text for e in task.valid)


def test_tasks_by_group_mapping_and_file(data: Path, tmp_path: Path) -> None:
    groups = {"one": ["d", "a"], "two": ["b", "c"]}
    stream = load_stream(data, groups=groups)
    assert [(task.name, task.labels) for task in stream.tasks] == [
        ("one", ("d", "a")),
        ("two", ("b", "c")),
    ]
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    assert load_stream(data, groups=tmp_path / "groups.json").fingerprint == stream.fingerprint
    assert [task.name for task in load_stream(data, groups=groups, order=["two", "one"]).tasks] == [
        "two",
        "one",
    ]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"one": ["a", "b", "c"]}, "label 'd' is in none of the groups of mine"),
        ({"one": ["a", "b", "c", "d", "e"]}, "names the label 'e', which the data lack"),
        ({"one": ["a", "b"], "two": ["b", "c", "d"]}, "label 'b' lies in two tasks, 'one' and 't"),
        ({"../up": ["a", "b", "c", "d"]}, r"task name '\.\./up' is no safe folder name"),
    ],
)
def test_bad_groups(data: Path, groups: dict[str, list[str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_stream(data, groups=groups)


def test_bad_group_files(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "groups.json"
    with pytest.raises(DataError, match=r"groups\.json of stream 'mine' is missing"):
        load_stream(data, groups=path)
    path.write_text('["a"]')
    with pytest.raises(DataError, match=r"groups\.json must hold an object of lists"):
        load_stream(data, groups=path)


def test_drawn_tasks(data: Path) -> None:
    stream = load_stream(data, n_tasks=2, seed=3)
    assert [len(task.labels) for task in stream.tasks] == [2, 2]
    assert sorted(stream.labels) == list(LABELS)
    with pytest.raises(ConfigError, match="n_tasks is 5; allowed: 1 to 4"):
        load_stream(data, n_tasks=5)
    with pytest.raises(ConfigError, match="'n_tasks' is 0; .*greater than or equal to 1"):
        load_stream(data, n_tasks=0)
    with pytest.raises(ConfigError, match="groups and n_tasks are both given"):
        load_stream(data, n_tasks=2, groups={"one": list(LABELS)})


def test_tasks_of_a_column_extend_when_rows_are_added(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", rows(("b", "a"), task="first"))
    first = load_stream(path)
    longer = load_stream(write(path, rows(("b", "a"), task="first") + rows(("c",), task="next")))
    assert [task.name for task in longer.tasks] == ["first", "next"]
    assert longer.tasks[0].labels == ("b", "a")
    assert longer.extends(first) and not first.extends(longer)


def test_label_in_two_tasks_of_a_column(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", rows(("a",), task="one") + rows(("a",), n=2, task="two"))
    with pytest.raises(
        DataError, match=r"line 11: label 'a' lies in two tasks, 'two' here and 'on"
    ):
        load_stream(path)


def test_unseen_label_in_test(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", rows(split="train") + rows(("new",), split="test"))
    with pytest.raises(DataError, match="label 'new' of test example '.*' is unseen"):
        load_stream(path)


def test_task_called_after_an_unsafe_file_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'new labels' is no safe folder name; .*or the file"):
        load_stream(write(tmp_path / "new labels.jsonl", rows()))


def test_folder_of_split_files(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder / "train.jsonl", rows(split="train"))
    write(folder / "dev.jsonl", rows(split="valid", n=2))
    (folder / "test.csv").write_text("text,label,split\n" + "".join(f"{c},{c},-\n" for c in LABELS))
    (folder / "README.md").write_text("ignored")
    assert sizes(load_stream(folder)) == [(40, 8, 4)]
    write(folder / "validation.jsonl", rows())
    with pytest.raises(DataError, match=r"two valid files, dev\.jsonl and validation\.jsonl"):
        load_stream(folder)
    with pytest.raises(DataError, match="has no train file; put train, valid and test files"):
        load_stream(tmp_path)


def test_preset_and_numbers_per_class(data: Path) -> None:
    assert sizes(load_stream(data, preset="small", train_per_class=2)) == [(8, 4, 8)]
    with pytest.raises(ConfigError, match=r"unknown preset 'smal'\. Did you mean 'small'\?"):
        load_stream(data, preset="smal")
    with pytest.raises(ConfigError, match="test examples per class is 0; allowed: 1 or more"):
        load_stream(data, test_per_class=0)


CARD = """
file: {train: rows.jsonl, test: held.jsonl}
groups: {one: [a, b], two: [c, d, absent]}
groups_partial: true
valid_share: 0.3
train_per_class: 5
licence: CC0
attribution: Me
"""


def test_card_of_a_user_beside_its_files(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", rows())
    write(tmp_path / "held.jsonl", rows(n=2))
    (tmp_path / "own.yaml").write_text(CARD)
    stream = load_stream(tmp_path / "own.yaml")
    assert stream.name == "own" and stream.attribution == "Me; CC0"
    assert sizes(stream) == [(10, 6, 4), (10, 6, 4)]
    drawn = load_stream(tmp_path / "own.yaml", n_tasks=4)
    assert [len(task.labels) for task in drawn.tasks] == [1] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file: a.jsonl\nn_task: 3",
            r"unknown key 'n_task' in .*own\.yaml\. Did you mean 'n_tasks'",
        ),
        (
            "file: a.jsonl\nfields: {labl: x}",
            r"unknown key 'fields\.labl' .*Did you mean 'label'\?",
        ),
        ("file: a.jsonl\nn_tasks: many", "'n_tasks' is 'many'; Input should be a valid integer"),
        ("file: a.jsonl\nvalid_share: 1.5", "'valid_share' is 1.5; .*less than 1"),
        ("n_tasks: 3", "has no 'file'; add it"),
        ("file: [a", "is broken YAML"),
        ("file: a.jsonl\nseed: 2024-13-45", "is broken YAML: month must be"),
        ("file: a.jsonl\nmetric: acuracy", "unknown metric 'acuracy'.*Did you mean 'accuracy'"),
        ("- a", "is no card; a card is a mapping"),
    ],
)
def test_bad_cards(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_stream(tmp_path / "own.yaml")


def test_card_whose_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.yaml").write_text("file: gone.jsonl")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"gone\.jsonl of stream 'own' is missing; looked at: .*"):
        load_stream(tmp_path / "own.yaml")
    with pytest.raises(DataError, match="no such file: .*other.yaml"):
        load_stream(tmp_path / "other.yaml")


def test_named_stream_without_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONPET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DataError) as caught:
        load_stream("clinc150", data=tmp_path)
    text = str(caught.value)
    assert f"looked at: {tmp_path / 'intent/clinc150.jsonl'}" in text
    assert str(tmp_path / "cache/conpet/data/intent/clinc150.jsonl") in text
    assert "--data FOLDER, or set CONPET_DATA" in text
    with pytest.raises(DataError, match="the data folder .* is no folder; check --data"):
        load_stream("clinc150", data=tmp_path / "gone")


@pytest.mark.parametrize("place", ["argument", "environment", "cache"])
def test_where_named_files_are_found(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONPET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = tmp_path / "conpet" / "data" if place == "cache" else tmp_path / "root"
    if place == "environment":
        monkeypatch.setenv("CONPET_DATA", str(root))
    (root / "intent").mkdir(parents=True)
    labels = tuple(f"label{i}" for i in range(30))
    write(root / "intent" / "clinc150.jsonl", rows(labels))
    stream = load_stream("clinc150-mixed", data=root if place == "argument" else None)
    assert [len(task.labels) for task in stream.tasks] == [2] * 15


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown stream 'fewrell'\. Did you mean 'fewrel'\?"):
        load_stream("fewrell")


def test_a_path_object_is_never_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "banking77").mkdir()
    write(tmp_path / "banking77" / "train.jsonl", rows())
    assert len(load_stream(Path("banking77")).labels) == 4
    assert len(load_stream("./banking77").labels) == 4


@pytest.fixture
def banking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stream:
    monkeypatch.delenv("CONPET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return load_stream("banking77")


def test_shipped_stream_needs_no_other_file(banking: Stream) -> None:
    told = banking.describe()
    assert [len(task.labels) for task in banking.tasks] == [11] * 7
    assert (told["train"], told["valid"], told["test"]) == (8977, 997, 3079)
    assert told["duplicates_train_test"] == 0 and told["duplicates_dropped"] == 5
    assert "CC BY 4.0" in banking.attribution
    texts = [
        {e.text for task in banking.tasks for e in getattr(task, s)} for s in ("train", "valid")
    ]
    assert not texts[0] & texts[1]
    assert "CC BY 4.0" in (SHIPPED / "intent" / "ATTRIBUTION.md").read_text()


BANKING77 = "e41d4684525f1aa5fa369b16a0fea180809e83111df7e1367fb4d2a521a1e223"


def test_shipped_stream_is_the_same_everywhere(banking: Stream) -> None:
    """Finished runs rest on this value; it changes only when the data or the draw changes."""
    assert banking.fingerprint == BANKING77


def test_shipped_stream_small() -> None:
    stream = load_stream("banking77", preset="small", seed=2)
    train = Counter(e.label for task in stream.tasks for e in task.train)
    test = Counter(e.label for task in stream.tasks for e in task.test)
    assert len(train) == 77 and max(train.values()) == 40 and min(train.values()) > 25
    assert set(test.values()) == {20}


def test_every_registered_stream_has_a_card_and_every_card_is_registered() -> None:
    own = {path.stem for path in FOLDER.glob("*.yaml")}
    assert own == {
        "fewrel",
        "fewrel-lower",
        "clinc150",
        "clinc150-mixed",
        "banking77",
        "multiconer",
        "fewnerd",
        "ontonotes",
        "bbn",
        "tacred",
        "ace",
        "superni",
        "superni-mini",
        "long-sequence",
    }
    for name in own:
        card = STREAMS.load(name)
        assert isinstance(card, Card) and card.name == name
        assert card.licence and card.attribution


EXPECTED = {
    # name: kind, labels per task, train/valid/test, exact duplicates that were dropped
    "fewrel": ("relation", [7, 7, 8, 7, 7, 7, 4, 8, 8, 6], (28912, 9731, 9615)),
    "fewrel-lower": ("relation", [8] * 10, (8706, 2962, 2815)),
    "clinc150": ("text", [15] * 10, (14966, 3000, 4500)),
    "clinc150-mixed": ("text", [10] * 15, (14966, 3000, 4500)),
    "multiconer": ("typing", [3] * 11, (4904, 2758, 5322)),
}


@pytest.mark.skipif("CONPET_DATA" not in os.environ, reason="the data lie under CONPET_DATA")
@pytest.mark.parametrize("name", EXPECTED)
def test_named_streams_on_their_data(name: str) -> None:
    stream = load_stream(name)
    kind, n_labels, counts = EXPECTED[name]
    told = stream.describe()
    assert stream.kind == kind
    assert [len(task.labels) for task in stream.tasks] == n_labels
    assert (told["train"], told["valid"], told["test"]) == counts
    assert told["duplicates_train_test"] == 0


def test_preset_none_keeps_all(data: Path) -> None:
    assert load_stream(data, preset="none").fingerprint == load_stream(data).fingerprint
