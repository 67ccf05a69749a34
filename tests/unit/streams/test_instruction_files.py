"""Folders of instruction tasks in their owners' formats, and every way in which one can be bad."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from conpet.errors import ConfigError, DataError
from conpet.registry import STREAMS
from conpet.streams import PLAIN, Stream, load_stream
from conpet.streams.instruction.places import DEFINITION
from conpet.testing.instruction import (
    TASKS,
    write_instruction_folders,
    write_natural_instructions,
)

NAMES = list(TASKS)


def sizes(stream: Stream) -> list[tuple[int, int, int]]:
    return [(len(task.train), len(task.valid), len(task.test)) for task in stream.tasks]


@pytest.fixture
def natural(tmp_path: Path) -> Path:
    return write_natural_instructions(tmp_path / "mine", 4, train=20)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return write_instruction_folders(tmp_path / "mine", 4, train=20)


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None takes one out."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def edit_instance(path: Path, **changes: Any) -> None:
    instances = json.loads(path.read_text())["Instances"]
    values = instances[1] | changes
    instances[1] = {key: value for key, value in values.items() if value is not ...}
    edit(path, Instances=instances)


# Natural Instructions


def test_a_folder_of_tasks(natural: Path) -> None:
    stream = load_stream(natural)
    assert (stream.name, stream.kind, stream.metric) == ("mine", "instruction", "rouge-l")
    assert stream.template == PLAIN
    assert [task.name for task in stream.tasks] == sorted(NAMES[:4])
    assert sizes(stream) == [(18, 2, 6)] * 4  # valid is carved from train
    for task in stream.tasks:
        assert {e.instruction for e in task.train} == {TASKS[task.name][0]}
    (either,) = (task for task in stream.tasks if task.name == "either")
    assert all(len(e.answers) == 2 for e in either.train)


def test_ids_have_the_task_in_front(natural: Path) -> None:
    edit_instance(natural / "even" / "train.json", id="task195-1")  # as of another task
    edit_instance(natural / "swap" / "train.json", id=7)
    for name in ("train", "test"):  # files without ids
        path = natural / "mood" / f"{name}.json"
        instances = json.loads(path.read_text())["Instances"]
        edit(path, Instances=[{k: v for k, v in i.items() if k != "id"} for i in instances])
    stream = load_stream(natural)
    ids = {e.id for task in stream.tasks for e in (*task.train, *task.valid, *task.test)}
    assert {"even/task195-1", "swap/7", "swap/train-2", "either/test-5"} <= ids
    made = [i for i in ids if i.startswith("mood/")]
    assert len(made) == 26 and all(len(i.removeprefix("mood/")) == 16 for i in made)
    edit_instance(natural / "even" / "train.json", id="train-2")
    with pytest.raises(
        DataError, match="train.json instance 3: duplicate id 'even/train-2'"
    ) as info:
        load_stream(natural)
    assert "fields" not in str(info.value)  # there are none to switch off


def test_a_dev_part_is_used_unless_it_is_to_be_carved(tmp_path: Path) -> None:
    root = write_natural_instructions(tmp_path / "mine", 2, train=20, valid=5)
    assert sizes(load_stream(root)) == [(20, 5, 6)] * 2
    carved = load_stream(root, valid="carve")
    assert sizes(carved) == [(18, 2, 6)] * 2
    assert dict(carved.left_out) == {"validation examples of the data, as valid is 'carve'": 10}
    for name in ("even", "swap"):  # as in the public files of SAPT
        (root / name / "dev.json").write_bytes((root / name / "test.json").read_bytes())
    with pytest.raises(
        DataError, match="all 6 validation inputs of task 'even' are in its test .*carve"
    ):
        load_stream(root)
    assert load_stream(root, valid="carve").fingerprint == carved.fingerprint
    assert load_stream(root, valid="test").describe()["duplicates_valid_test"] == 12


def test_a_file_for_each_task(tmp_path: Path) -> None:
    root = write_natural_instructions(tmp_path / "tasks", 3, train=20, valid=4, one_file=True)
    (root / "README.md").write_text("A list of tasks")
    stream = load_stream(root)
    assert [task.name for task in stream.tasks] == ["either", "even", "swap"]
    assert sizes(stream) == [(22, 2, 6)] * 3  # a fifth of 30, then a tenth of the rest
    alone = load_stream(root / "swap.json")
    assert (alone.name, [task.name for task in alone.tasks]) == ("swap", ["swap"])
    assert alone.fingerprints["swap"] == stream.fingerprints["swap"]
    packed = tmp_path / "swap.json.gz"
    packed.write_bytes(gzip.compress((root / "swap.json").read_bytes()))
    assert load_stream(packed).fingerprint == alone.fingerprint


def test_the_folder_of_one_task(natural: Path) -> None:
    stream = load_stream(natural / "even")
    assert [task.name for task in stream.tasks] == ["even"] and sizes(stream) == [(18, 2, 6)]


def test_tasks_are_sorted_by_their_numbers(tmp_path: Path) -> None:
    root = write_natural_instructions(tmp_path / "mine", 3)
    for old, new in (("even", "task10_b"), ("swap", "task2_a"), ("either", "task002_c")):
        (root / old).rename(root / new)
    (root / ".git").mkdir()
    assert [t.name for t in load_stream(root).tasks] == ["task2_a", "task002_c", "task10_b"]


def test_tasks_of_a_card_are_read_alone_and_renamed(natural: Path) -> None:
    (natural / "mood" / "train.json").write_text("broken")
    card = natural.parent / "card.yaml"
    tasks = {"b": "swap", "a": "even"}
    values: dict[str, Any] = {"format": "natural-instructions", "file": "mine", "tasks": tasks}
    card.write_text(json.dumps(values))
    assert [task.name for task in load_stream(card).tasks] == ["b", "a"]
    card.write_text(json.dumps(values | {"orders": {"a-first": ["a", "b"], "b-first": ["b", "a"]}}))
    assert [task.name for task in load_stream(card).tasks] == ["a", "b"]
    assert [t.name for t in load_stream(card, order="b-first").tasks] == ["b", "a"]
    card.write_text(json.dumps(values | {"tasks": {"a": "evne"}}))
    with pytest.raises(DataError, match="mine has no task 'evne'. Did you mean 'even'"):
        load_stream(card)
    card.write_text(json.dumps(values | {"orders": {"one": ["a"]}}))
    with pytest.raises(ConfigError, match="order 'one' names a; each order names .*: b, a"):
        load_stream(card)
    card.write_text(json.dumps({"file": "mine", "tasks": tasks}))
    with pytest.raises(
        ConfigError, match="tasks names folders .*'table' are not; allowed with: nat"
    ):
        load_stream(card)


def test_empty_answers_of_a_task(natural: Path) -> None:
    edit_instance(natural / "even" / "train.json", output=[""])
    edit_instance(natural / "even" / "test.json", output="")
    stream = load_stream(natural)
    assert dict(stream.left_out) == {
        "training examples without an answer": 1,
        "test examples without an answer": 1,
    }
    assert sum(len(task.test) for task in stream.tasks) == 23
    path = natural / "swap" / "test.json"
    instances = json.loads(path.read_text())["Instances"]
    edit(path, Instances=[i | {"output": [" "]} for i in instances])
    with pytest.raises(
        DataError, match="task 'swap': the answers of all 6 test examples are empty"
    ):
        load_stream(natural)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"Defintion": "x"},
            "unknown field 'Defintion'. Did you mean 'Definition'. Allowed: Defin",
        ),
        ({"Definition": None}, "train.json has no 'Definition'; its fields: .*needed: Definition"),
        ({"Definition": 3}, "train.json: 'Definition' is 3; allowed: a text or a list of texts"),
        ({"Definition": [3]}, r"train.json: 'Definition' is \[3\]; allowed"),
        ({"Instances": []}, r"train.json: 'Instances' is \[\]; allowed: a list of at least one"),
        ({"Instances": {}}, "train.json: 'Instances' is {}; allowed: a list"),
        ({"Instances": [3]}, "train.json instance 1 holds a JSON int; allowed: an object with inp"),
    ],
)
def test_bad_files(natural: Path, changes: dict[str, Any], message: str) -> None:
    edit(natural / "even" / "train.json", **changes)
    with pytest.raises(DataError, match=message):
        load_stream(natural)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": 3}, "instance 2: the answers are 3; allowed: a string or a list of strings"),
        ({"output": [["a"]]}, r"instance 2: the answers are \[\['a'\]\]; allowed"),
        ({"output": ...}, "instance 2 has no 'output'; its fields: id, input; needed: input, outp"),
        ({"inptu": "x"}, "instance 2 has an unknown field 'inptu'. Did you mean 'input'"),
        ({"input": 3}, "instance 2: the text is 3; allowed: a string"),
        ({"input": ""}, "instance 2: example 'even/train-1' has an empty text"),
        ({"id": [1]}, r"instance 2: the id is \[1\]; allowed: text or a whole number"),
    ],
)
def test_bad_instances(natural: Path, changes: dict[str, Any], message: str) -> None:
    edit_instance(natural / "even" / "train.json", **changes)
    with pytest.raises(DataError, match=rf"even.train\.json {message}"):
        load_stream(natural)


def test_bad_folders(natural: Path, tmp_path: Path) -> None:
    (natural / "even" / "train.json").rename(natural / "even" / "trian.json")
    with pytest.raises(
        DataError, match=r"even has no train\.json; it holds: test\.json, trian\.js"
    ):
        load_stream(natural)
    (natural / "even" / "trian.json").rename(natural / "even" / "train.json")
    (natural / "even" / "dev.json").write_text("{}")
    (natural / "even" / "valid.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"even has two valid files, dev\.json and valid\.json; kee"
    ):
        load_stream(natural)
    (natural / "even" / "dev.json").unlink()
    (natural / "even" / "valid.json").write_text("[]")
    with pytest.raises(
        DataError, match=r"valid\.json holds a JSON list; allowed: an object with D"
    ):
        load_stream(natural)
    (natural / "even" / "valid.json").unlink()
    (natural / "even").rename(natural / "even numbers")
    with pytest.raises(DataError, match="'even numbers' is no safe folder name"):
        load_stream(natural)
    card = tmp_path / "card.yaml"
    (tmp_path / "empty").mkdir()
    card.write_text("{format: natural-instructions, file: empty}")
    with pytest.raises(DataError, match="empty holds no task; put a folder for each task into it"):
        load_stream(card)
    (tmp_path / "no.json").write_text('{"text": "a"}')
    with pytest.raises(DataError, match=r"no\.json has an unknown field 'text'.*Allowed: Definit"):
        load_stream(tmp_path / "no.json")


# Folders of JSONL files


def test_folders_with_a_definition(folders: Path) -> None:
    stream = load_stream(folders)
    assert [task.name for task in stream.tasks] == sorted(NAMES[:4])
    assert sizes(stream) == [(18, 2, 6)] * 4
    assert {t.name: t.train[0].instruction for t in stream.tasks} == {
        name: TASKS[name][0] for name in sorted(NAMES[:4])
    }
    assert [t.name for t in load_stream(folders / "mood").tasks] == ["mood"]
    for task in stream.tasks:  # ids do not depend on the place of a row
        path = folders / task.name / "train.jsonl"
        path.write_text("\n".join(path.read_text().splitlines()[::-1]))
    again = load_stream(folders)
    assert [set(t.train) for t in again.tasks] == [set(t.train) for t in stream.tasks]


@pytest.mark.parametrize("content", ["[]", '{"definitions": []}', '{"definition": 3}', '"text"'])
def test_bad_definitions(folders: Path, content: str) -> None:
    (folders / "even" / DEFINITION).write_text(content)
    with pytest.raises(DataError, match=r"even.definition\.json.* is .*; allowed: "):
        load_stream(folders)


def test_bad_jsonl_folders(folders: Path) -> None:
    definition = folders / "even" / DEFINITION
    words = definition.read_text()
    definition.unlink()
    with pytest.raises(DataError, match=r'has no definition\.json; .*\{"definition": \[\]\}'):
        load_stream(folders)
    definition.write_text(words)
    path = folders / "even" / "train.jsonl"
    lines = path.read_text()
    path.write_text(lines + '{"input": "x", "outptu": "y"}\n')
    with pytest.raises(DataError, match="line 21 has no 'output'. Did you mean 'outptu'"):
        load_stream(folders)
    path.rename(path.with_name("old"))
    with pytest.raises(DataError, match=r"even has no train\.jsonl; it holds: definition\.json, o"):
        load_stream(folders)
    card = folders.parent / "card.yaml"
    card.write_text("{format: instruction-folders, file: mine/even/old}")
    with pytest.raises(DataError, match="old is a file; data in the format 'instruction-folders'"):
        load_stream(card)


def test_a_card_reads_the_other_format_too(natural: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.yaml"
    card.write_text("{format: instruction-folders, file: mine}")
    assert load_stream(card).fingerprints == load_stream(natural).fingerprints
    card.write_text("{format: natural-instructions, file: other}")
    other = write_instruction_folders(tmp_path / "other")
    assert load_stream(card).fingerprints == load_stream(other).fingerprints


def test_a_table_folder_stays_a_table(tmp_path: Path) -> None:
    row = json.dumps({"text": "a", "label": "b"})
    (tmp_path / "train.jsonl").write_text(row)
    (tmp_path / "test.jsonl").write_text(row)
    (tmp_path / "groups.json").write_text('{"one": ["b"]}')
    (tmp_path / "broken.json").write_text("{")
    assert load_stream(tmp_path).kind == "text"


def test_what_is_said_when_the_data_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONPET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, place in (("superni", "github.com/circle-hit/SAPT"), ("long-sequence", "O-LoRA")):
        with pytest.raises(DataError, match=f"not shipped. .*{place}.*FOLDER/instr/"):
            load_stream(name)


# The named streams on their data

REAL = pytest.mark.skipif("CONPET_DATA" not in os.environ, reason="the data lie under CONPET_DATA")
FULL = (900, 100, 100)
COUNTS = {
    "superni": {
        "samsum": (144, 16, 20),
        "outcome": (304, 34, 43),
        "multi-woz": (128, 14, 18),
        "commonsenseqa": (877, 98, 100),
        "diplomacy": (113, 13, 16),
        "reddit-tifu": (895, 99, 100),  # of 994 with an answer
    },
    "superni-mini": {},
    "long-sequence": {
        "yelp": (3690, 410, 1000),
        "amazon": (4500, 500, 1500),
        "mnli": (2700, 300, 1500),
        "cb": (225, 25, 56),
        "copa": (360, 40, 100),
        "qqp": (1800, 200, 1500),
        "rte": (1798, 200, 277),  # of 1,998 different ones
        "imdb": (1530, 170, 400),
        "sst2": (1800, 200, 872),
        "dbpedia": (9849, 1094, 1500),
        "agnews": (3600, 400, 1500),
        "yahoo": (8365, 930, 1500),
        "multirc": (1800, 200, 1000),
        "boolq": (1800, 200, 1500),
        "wic": (1800, 200, 638),
    },
}


@REAL
@pytest.mark.parametrize("name", COUNTS)
def test_named_streams_on_their_data(name: str) -> None:
    stream = load_stream(name)
    n_tasks = 5 if name == "superni-mini" else 15
    assert len({task.name for task in stream.tasks}) == n_tasks == len(stream.tasks)
    for task, found in zip(stream.tasks, sizes(stream), strict=True):
        assert found == COUNTS[name].get(task.name, FULL), task.name
        inputs = [{e.text for e in part} for part in (task.train, task.valid, task.test)]
        assert not inputs[1] & inputs[2] and not inputs[0] & (inputs[1] | inputs[2])
        assert len({e.instruction for e in task.train}) == 1
        assert bool(task.train[0].instruction) == (task.name != "copa")
    told = stream.describe()
    assert told["duplicates_train_test"] == told["duplicates_valid_test"] == 0
    assert told["duplicates_dropped"] == (2 if name == "long-sequence" else 0)
    empty = {"training examples without an answer": 6} if name == "superni" else {}
    assert told["left_out"] == empty


@REAL
@pytest.mark.parametrize("name", ["superni", "long-sequence"])
def test_both_orders_hold_the_same_fifteen_tasks(name: str) -> None:
    orders = STREAMS.load(name).orders
    assert len(orders) == 2
    one, other = (load_stream(name, order=order) for order in orders)
    assert [task.name for task in one.tasks] != [task.name for task in other.tasks]
    assert one.fingerprints == other.fingerprints and len(one.tasks) == 15
    assert all(order.startswith(names[0]) for order, names in orders.items())


@REAL
def test_passages_of_multirc_do_not_cross() -> None:
    (task,) = load_stream("long-sequence").subset(["multirc"]).tasks
    passages = [
        {e.text.partition("\nquestion: ")[0] for e in part}
        for part in (task.train, task.valid, task.test)
    ]
    assert sum(len(found) for found in passages) == 417 + 83 == len(set().union(*passages))


@REAL
def test_faults_of_the_data_are_met() -> None:
    stream = load_stream("superni")
    by_name = {task.name: task for task in stream.tasks}
    assert by_name["sentiment140"].train[0].id.startswith("sentiment140/task195-")
    several = {n: sum(len(e.answers) > 1 for e in t.test) for n, t in by_name.items()}
    assert {n: k for n, k in several.items() if k} == {"quoref": 17, "glucose": 23}
    leaking = load_stream("superni", valid="test")
    assert leaking.describe()["duplicates_valid_test"] == leaking.describe()["test"]
