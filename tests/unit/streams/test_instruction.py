"""Streams of free answers: what they refuse, fingerprints, templates, tables and inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conpet.errors import ConfigError, DataError
from conpet.streams import PLAIN, Stream, load_inputs, load_stream
from conpet.streams.base import Kind
from conpet.streams.template import INPUT_ONLY, template_problem
from conpet.testing import synthetic_stream
from conpet.testing.instruction import instruction_stream, write_instruction_table
from conpet.types import Example, Task


def part(stream: Stream, **changes: Any) -> Stream:
    """The stream with its first training example changed."""
    task = stream.tasks[0]
    first = replace(task.train[0], **changes)
    changed = replace(task, train=(first, *task.train[1:]))
    return replace(stream, tasks=(changed, *stream.tasks[1:]))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(n: int = 10, **extra: Any) -> list[dict[str, Any]]:
    return [
        {"input": f"word {i}", "output": f"answer {i}", "split": split} | extra
        for split in ("train", "test")
        for i in range(n if split == "train" else 2)
    ]


# The stream itself


def test_free_answers_have_no_labels() -> None:
    stream = instruction_stream(4)
    assert stream.kind == "instruction" and stream.free and stream.labels == ()
    assert [task.labels for task in stream.tasks] == [()] * 4
    assert not synthetic_stream().free
    assert stream.reorder(["swap", "mood", "even", "either"]).template == stream.template


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "x"}, "example 'even/train-0' has the label 'x' in a stream of free answers"),
        ({"answers": ()}, "example 'even/train-0' has no answer; it needs one or more"),
        ({"answers": ("yes", " ")}, "example 'even/train-0' has an empty answer"),
        ({"entities": ((0, 2),)}, "has 1 entities; each of this stream needs 0"),
    ],
)
def test_examples_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        part(instruction_stream(), **changes)


def test_labels_of_a_task_of_free_answers() -> None:
    stream = instruction_stream()
    with pytest.raises(DataError, match=r"task 'even' names labels \(yes, no\) .*labels are \(\)"):
        replace(stream, tasks=(replace(stream.tasks[0], labels=("yes", "no")),))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_task_without_examples(split: str) -> None:
    stream = instruction_stream()
    with pytest.raises(DataError, match=f"task 'even' has no {split} examples"):
        replace(stream, tasks=(replace(stream.tasks[0], **{split: ()}),))


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"answers": ("x",)}, "answers"), ({"instruction": "do it"}, "an instruction")],
)
def test_labels_and_answers_do_not_mix(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(DataError, match=f"has {word} in a stream of labels; .*make two streams"):
        part(synthetic_stream(), **changes)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{instruction} {input}", r"has no answer cue: nothing stands behind \{input\}"),
        ("{instruction} {input} \n", "has no answer cue"),
        ("{instruction} Output:", r"holds \{input\} 0 times"),
        ("", r"holds \{input\} 0 times"),
        ("{input} {input} Output:", r"holds \{input\} 2 times"),
        ("{instruction} {instruction} {input} A:", r"holds \{instruction\} 2 times"),
        ("{input} {instruction} A:", r"has \{instruction\} behind \{input\}"),
        ("{definition} {input} A:", r"holds '\{definition\}', which stands for nothing"),
        ("{input} {A:", r"holds '\{', which stands for nothing"),
    ],
)
def test_bad_templates(template: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"the template .*{message}.*; allowed: .*e\.g\. "):
        instruction_stream(template=template)


def test_templates_that_are_in_order() -> None:
    for template in (PLAIN, INPUT_ONLY, "Do: {instruction}\n\n{input}\nA:"):
        assert template_problem(template) is None


def test_only_free_answers_have_a_template() -> None:
    with pytest.raises(DataError, match="kind 'text' has a template, .*only kind 'instruction'"):
        replace(synthetic_stream(), template=PLAIN)


def test_fingerprints_see_instruction_answers_and_template() -> None:
    stream = instruction_stream()
    others = [
        part(stream, instruction="Say no."),
        part(stream, answers=("maybe",)),
        part(stream, answers=(*stream.tasks[0].train[0].answers, "another")),
        part(stream, text="another text"),
        replace(stream, template="{instruction} {input} A:"),
    ]
    assert len({s.fingerprint for s in [stream, *others]}) == len(others) + 1
    assert others[-1].fingerprints == stream.fingerprints  # the data are the same


GOLDEN = {"text": "8ba159d835700ddd", "typing": "da8418630c5922a5", "relation": "cc8c9ad724f5ffaf"}


@pytest.mark.parametrize("kind", GOLDEN)
def test_fingerprints_of_labels_are_as_ever(kind: Kind) -> None:
    """Finished runs rest on them."""
    assert synthetic_stream(kind).fingerprint.startswith(GOLDEN[kind])


def test_cut_is_per_task() -> None:
    stream = instruction_stream().cut(train=5, valid=2, test=1, seed=3)
    assert [(len(t.train), len(t.valid), len(t.test)) for t in stream.tasks] == [(5, 2, 1)] * 3
    smaller = instruction_stream().cut(train=3, seed=3)
    assert set(smaller.tasks[0].train) < set(stream.tasks[0].train)


def test_describe_tells_of_answers_and_of_overlap_inside_a_task() -> None:
    stream = instruction_stream()
    told = json.loads(json.dumps(stream.describe()))
    assert told["n_labels"] == 0 and told["template"] == PLAIN
    assert told["answer_words"] == {"min": 1, "median": 1.0, "max": 2}
    assert told["several_answers"] == 12 + 4 + 6  # all of the task "either"
    assert told["duplicates_train_test"] == 0
    even, swap = stream.tasks[:2]
    seen = replace(even.test[0], id="seen")
    leaking = replace(even, train=(*even.train, seen), valid=(replace(seen, id="v"),))
    told = replace(stream, tasks=(leaking, swap)).describe()
    assert (told["duplicates_train_test"], told["duplicates_valid_test"]) == (1, 1)
    elsewhere = replace(swap, train=(*swap.train, seen))
    told = replace(stream, tasks=(even, elsewhere)).describe()
    assert told["duplicates_train_test"] == 0  # the same text under another instruction


# Tables


def test_a_table_of_inputs_and_answers(tmp_path: Path) -> None:
    stream = load_stream(write_instruction_table(tmp_path / "mine.jsonl", 4))
    assert (stream.kind, stream.metric, stream.template) == ("instruction", "rouge-l", PLAIN)
    assert [task.name for task in stream.tasks] == ["even", "swap", "either", "mood"]
    assert [(len(t.train), len(t.valid), len(t.test)) for t in stream.tasks] == [(11, 1, 6)] * 4
    assert all(len(e.answers) == 2 for e in stream.tasks[2].test)
    assert {e.instruction for e in stream.tasks[3].train} == {""}


def test_other_names_of_columns(tmp_path: Path) -> None:
    (task,) = load_stream(write(tmp_path / "mine.jsonl", rows())).tasks
    assert (task.name, task.test[0].answers) == ("mine", ("answer 0",))
    named = [
        {"q": r["input"], "a": [r["output"], " other "], "split": r["split"], "todo": "Ask."}
        for r in rows()
    ]
    fields = {"text": "q", "answers": "a", "instruction": "todo"}
    stream = load_stream(write(tmp_path / "m.jsonl", named), fields=fields)
    assert stream.tasks[0].test[0].answers == ("answer 0", "other")
    assert {e.instruction for e in stream.tasks[0].train} == {"Ask."}


def test_data_without_instructions_have_a_shorter_template(tmp_path: Path) -> None:
    assert load_stream(write(tmp_path / "mine.jsonl", rows())).template == INPUT_ONLY


def test_the_template_of_a_card_needs_its_instruction(tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", rows())
    card = tmp_path / "card.yaml"
    card.write_text('file: mine.jsonl\ntemplate: "{instruction} {input} Answer:"')
    with pytest.raises(DataError, match="line 1 has no field 'instruction' .*template .*name the"):
        load_stream(card)
    write(tmp_path / "mine.jsonl", rows(instruction=""))
    assert load_stream(card).template == "{instruction} {input} Answer:"
    card.write_text('file: mine.jsonl\ntemplate: "{input}"')
    with pytest.raises(ConfigError, match=r"card\.yaml: the template .* no answer cue"):
        load_stream(card)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": 3}, "line 13: the answers are 3; allowed: a string or a list of strings"),
        ({"output": {"a": 1}}, "line 13: the answers are .*; allowed: a string or a list"),
        ({"output": ["a", 1]}, r"line 13: the answers are \['a', 1\]; allowed"),
        ({"output": None}, "line 13: the answers are None"),
        ({"input": None}, "line 13: the text is None; allowed: a string"),
        ({"input": " "}, "line 13: example '.*' has an empty text"),
        ({"output": "\ud83d"}, "line 13: the answers has half a surrogate pair|line 13: the ans"),
    ],
)
def test_bad_rows(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    bad = [*rows(), {"input": "x", "output": "y", "split": "train"} | change]
    with pytest.raises(DataError, match=message):
        load_stream(write(tmp_path / "mine.jsonl", bad))


def test_a_label_beside_answers(tmp_path: Path) -> None:
    both = [{"text": r["input"], "label": "x", "answers": "y", "split": r["split"]} for r in rows()]
    path = write(tmp_path / "mine.jsonl", both)
    with pytest.raises(DataError, match="line 1 has the label 'label' and the answers 'answers'"):
        load_stream(path)
    assert load_stream(path, fields={"answers": None}).kind == "text"
    beside = [
        {"text": r["input"], "label": "x", "output": "y", "split": r["split"]} for r in rows()
    ]
    path = write(tmp_path / "other.jsonl", beside)
    assert load_stream(path).kind == "text"  # nobody said that these are the answers
    with pytest.raises(DataError, match="line 1 has the label 'label' and the answers 'output'"):
        load_stream(path, fields={"answers": "output"})


def test_empty_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    given = rows()
    given[0]["output"], given[1]["output"] = "", [" ", ""]
    given[2]["output"] = ["", "right"]
    given[-1]["output"] = []
    stream = load_stream(write(tmp_path / "mine.jsonl", given))
    assert dict(stream.left_out) == {
        "training examples without an answer": 2,
        "test examples without an answer": 1,
    }
    (task,) = stream.tasks
    assert (len(task.train) + len(task.valid), len(task.test)) == (8, 1)
    assert ("right",) in {e.answers for e in (*task.train, *task.valid)}
    for split, word in (("train", "training"), ("test", "test")):
        empty = [r | {"output": ""} if r["split"] == split else r for r in rows(task="t")]
        with pytest.raises(DataError, match=rf"task 't': the answers of all \d+ {word} examples a"):
            load_stream(write(tmp_path / "empty.jsonl", empty))


def test_repeats_are_told_by_task_instruction_input_and_first_answer(tmp_path: Path) -> None:
    given = rows(task="one")
    given += [given[0], given[0] | {"output": [given[0]["output"], "second"]}]  # dropped
    given += [given[0] | {"output": "other"}, given[0] | {"instruction": "Sing."}]  # kept
    given = [{"instruction": ""} | row for row in given + rows(task="two")]
    stream = load_stream(write(tmp_path / "mine.jsonl", given))
    assert stream.dropped == 2
    assert [len(t.train) + len(t.valid) for t in stream.tasks] == [12, 10]


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_tasks", 2), ("groups", {"a": ["b"]}), ("max_tail_words", 9)],
)
def test_keys_of_cards_for_labels(tmp_path: Path, key: str, value: Any) -> None:
    write(tmp_path / "mine.jsonl", rows())
    (tmp_path / "card.yaml").write_text(json.dumps({"file": "mine.jsonl", key: value}))
    with pytest.raises(ConfigError, match=f"has free answers, and '{key}' is for streams of label"):
        load_stream(tmp_path / "card.yaml")


@pytest.mark.parametrize(("key", "value"), [("template", PLAIN), ("group_by", {"a": "b"})])
def test_keys_of_cards_for_free_answers(tmp_path: Path, key: str, value: Any) -> None:
    write(tmp_path / "mine.jsonl", [{"text": "a", "label": "b"}] * 3)
    (tmp_path / "card.yaml").write_text(json.dumps({"file": "mine.jsonl", key: value}))
    with pytest.raises(ConfigError, match=f"has labels, and '{key}' is for streams of free answer"):
        load_stream(tmp_path / "card.yaml")


# Orders, validation parts and presets


def test_orders_by_name(tmp_path: Path) -> None:
    write_instruction_table(tmp_path / "mine.jsonl")
    card = tmp_path / "card.yaml"
    orders = {"swap-first": ["swap", "even", "either"], "either-first": ["either", "swap", "even"]}
    card.write_text(json.dumps({"file": "mine.jsonl", "orders": orders}))

    def names(**options: Any) -> list[str]:
        return [task.name for task in load_stream(card, **options).tasks]

    assert names() == orders["swap-first"]
    assert names(order="either-first") == orders["either-first"]
    assert names(order=["even", "swap", "either"]) == ["even", "swap", "either"]
    with pytest.raises(
        ConfigError, match="no order 'swap'. Did you mean 'swap-first'.*Allowed: sw"
    ):
        names(order="swap")
    with pytest.raises(ConfigError, match="has no order 'a'. Allowed: none, its card has no order"):
        load_stream(tmp_path / "mine.jsonl", order="a")


@pytest.mark.parametrize("order", [["a", "b", "b"], ["a"], []])
def test_orders_name_the_same_tasks(tmp_path: Path, order: list[str]) -> None:
    card = {"file": "mine.jsonl", "orders": {"one": ["a", "b"], "two": order}}
    (tmp_path / "card.yaml").write_text(json.dumps(card))
    with pytest.raises(
        ConfigError, match="order 'two' names .*; each order names the same tasks, "
    ):
        load_stream(tmp_path / "card.yaml")


def test_validation_examples_carved_or_taken_from_the_test(tmp_path: Path) -> None:
    given = rows() + [{"input": f"v{i}", "output": "v", "split": "dev"} for i in range(3)]
    path = write(tmp_path / "mine.jsonl", given)
    (own,) = load_stream(path).tasks
    assert {e.text for e in own.valid} == {"v0", "v1", "v2"} and len(own.train) == 10
    carved = load_stream(path, valid="carve")
    assert [len(carved.tasks[0].train), len(carved.tasks[0].valid)] == [9, 1]
    assert dict(carved.left_out) == {"validation examples of the data, as valid is 'carve'": 3}
    leaking = load_stream(path, valid="test")
    (task,) = leaking.tasks
    assert [e.text for e in task.valid] == [e.text for e in task.test] and len(task.train) == 10
    assert leaking.describe()["duplicates_valid_test"] == 2
    labels = [{"text": f"{i}", "label": "x", "split": s} for s in ("train", "test") for i in (1, 2)]
    (task,) = load_stream(write(tmp_path / "labels.jsonl", labels), valid="test").tasks
    assert [e.label for e in task.valid] == ["x", "x"]


def test_presets_are_per_task(tmp_path: Path) -> None:
    path = write_instruction_table(tmp_path / "mine.jsonl", 2, train=500, test=120)
    stream = load_stream(path, preset="small")
    assert [(len(t.train), len(t.valid), len(t.test)) for t in stream.tasks] == [(320, 40, 100)] * 2
    stream = load_stream(path, preset="small", test_per_class=7)
    assert [len(t.test) for t in stream.tasks] == [7, 7]


PASSAGES = [f"passage: {'ab'[i % 2]}{i // 4}\nquestion: {i}" for i in range(40)]


def test_examples_of_one_passage_stay_together(tmp_path: Path) -> None:
    given = [{"input": text, "output": "x"} for text in PASSAGES]
    write(tmp_path / "mine.jsonl", given)
    card = tmp_path / "card.yaml"
    values: dict[str, Any] = {"file": "mine.jsonl", "group_by": {"card": "^passage: (.*)\nques"}}
    card.write_text(json.dumps(values))
    for pool in (None, "by-label", "overall"):
        card.write_text(json.dumps(values | {"pool": pool}))
        (task,) = load_stream(card).tasks
        passages = [{e.text.split()[1] for e in p} for p in (task.train, task.valid, task.test)]
        assert sum(len(found) for found in passages) == 20 == len(set().union(*passages))
        # Two examples a passage: a fifth of 40, then a tenth of 32 as far as passages fit in.
        assert [len(task.train), len(task.valid), len(task.test)] == [30, 2, 8]
    values["group_by"] = {"card": "nothing"}
    card.write_text(json.dumps(values))
    with pytest.raises(
        DataError, match="group_by finds nothing in example .* of task 'card', whic"
    ):
        load_stream(card)
    values["group_by"] = {"cart": "x"}
    card.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="names the task 'cart', .* Did you mean 'card'"):
        load_stream(card)
    values["group_by"] = {"card": "("}
    card.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"group_by of 'card' is '\(', no regular expression"):
        load_stream(card)


# Inputs to predict


def test_inputs_with_and_without_an_instruction(tmp_path: Path) -> None:
    path = write(
        tmp_path / "in.jsonl",
        [
            {"input": "one", "instruction": " Say it. ", "answers": 3, "label": 4},
            {"input": "two"},
            {"input": "three", "instruction": None},
        ],
    )
    assert load_inputs(path) == [
        Example("1", "one", instruction="Say it."),
        Example("2", "two"),
        Example("3", "three"),
    ]
    named = write(tmp_path / "n.jsonl", [{"q": "one", "todo": "Say it."}])
    fields = {"text": "q", "instruction": "todo"}
    assert load_inputs(named, fields=fields) == [Example("1", "one", instruction="Say it.")]
    with pytest.raises(DataError, match="line 1 has no field 'todo' for the instruction"):
        load_inputs(path, fields={"instruction": "todo"})
    bad = write(tmp_path / "bad.jsonl", [{"text": "a", "instruction": 3}])
    with pytest.raises(DataError, match="line 1: the instruction is 3; allowed: a string"):
        load_inputs(bad)


def test_a_task_of_free_answers_in_memory() -> None:
    e = [Example(str(i), "text", answers=("yes",)) for i in range(2)]
    task = Task("own", (), (e[0],), (), (e[1],))
    assert Stream("s", "instruction", (task,), template=INPUT_ONLY).labels == ()
