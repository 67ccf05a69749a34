"""Zero-shot: tasks that a run has not learned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from conpet import ContinualModel, fit, load
from conpet.api.asking import Inputs
from conpet.api.unseen import load_others, split_off
from conpet.errors import ConfigError
from conpet.methods.state import State
from conpet.streams import Stream
from conpet.testing import synthetic_stream
from conpet.testing.instruction import (
    instruction_stream,
    write_instruction_table,
    write_natural_instructions,
)
from conpet.types import Task

LONGER = instruction_stream(5)
"""Begins with the three tasks that the runs of these tests have learned."""


def renamed(task: Task, name: str) -> Task:
    """The same examples under other ids, in a task of another name."""
    parts = {
        split: tuple(replace(e, id=f"{name}/{e.id}") for e in getattr(task, split))
        for split in ("train", "valid", "test")
    }
    return Task(name, (), **parts)


def test_learned_tasks_are_left_out(sapt: ContinualModel) -> None:
    result = sapt.evaluate_unseen(LONGER)
    assert result["tasks"] == ["mood", "first"]
    assert list(result["left_out"]) == list(sapt.tasks) == result["learned"]
    assert set(result["left_out"].values()) == {"learned by this run"}
    assert len(result["row"]) == len(result["n_test"]) == len(result["backbone"]["row"]) == 2
    assert result["n_test"] == [6, 6]
    assert result["fingerprint"] == LONGER.subset(["mood", "first"]).fingerprint


def test_the_file_is_what_is_returned(sapt: ContinualModel) -> None:
    result = sapt.evaluate_unseen(replace(LONGER, name="no/thing: new"))
    path = sapt.folder.unseen / "no-thing-new.json"
    assert sapt.folder.unseen_of("no/thing: new") == path
    assert json.loads(path.read_text()) == result


def test_scores_are_by_the_metric_of_the_stream_and_by_the_runs_own_answers(
    sapt: ContinualModel,
) -> None:
    """What the run answers is made the right answer; the plain backbone says something else."""
    (task,) = LONGER.subset(["first"]).tasks
    given = [answer.label for answer in sapt.predict(task.test)]
    test = tuple(replace(e, answers=(a,)) for e, a in zip(task.test, given, strict=True))
    right = replace(LONGER, tasks=(replace(task, test=test),), metric="accuracy")
    result = sapt.evaluate_unseen(right)
    assert (result["row"], result["average"], result["whole"]) == ([100.0], 100.0, 100.0)
    assert result["metric"] == "accuracy"
    assert result["backbone"]["row"][0] < 100.0


@pytest.mark.parametrize("run", ["sapt", "sequential"])
def test_the_reference_is_the_backbone_without_adapters(
    run: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = request.getfixturevalue(run)
    ways: list[tuple[str, ...]] = []
    generate = State.generate

    def noted(state: State, batch, routing, *arguments, **options):  # type: ignore[no-untyped-def]
        ways.append(routing.names)
        return generate(state, batch, routing, *arguments, **options)

    monkeypatch.setattr(State, "generate", noted)
    model.evaluate_unseen(LONGER, only=["mood"])
    (mood,) = LONGER.subset(["mood"]).tasks
    inputs = Inputs(model._open(with_data=False).state, mood.test)
    n = len(inputs.batches)  # all of them one way, then all the other
    assert ways == [model.tasks if run == "sapt" else ("@shared",)] * n + [()] * n


def test_learned_examples_count_as_learned_under_any_name(
    dynamic: ContinualModel, stream: Stream
) -> None:
    learned, new = stream.tasks[0], LONGER.tasks[3]
    again = renamed(learned, "again")
    (one, *others) = again.train
    own = [replace(e, text=f"{e.text} Really.") for e in (*others, *again.valid, *again.test)]
    few = Task("few", (), (one, *own[:4]), (), tuple(own[4:8]))
    result = dynamic.evaluate_unseen(replace(LONGER, tasks=(again, new)))
    assert result["tasks"] == ["mood"]
    assert result["left_out"] == {"again": "22 of its 22 examples are of the learned task 'even'"}
    left_out = split_off(replace(LONGER, tasks=(few, new)), stream.tasks, stream.fingerprints)
    assert left_out == {"few": "1 of its 9 examples are of the learned task 'even'"}


def test_a_name_alone_does_not_make_a_task_learned(stream: Stream) -> None:
    other = replace(LONGER.tasks[4], name="even")
    unseen = replace(LONGER, tasks=(other,))
    assert split_off(unseen, stream.tasks, stream.fingerprints) == {}


def test_where_nothing_is_left_the_tasks_are_named(sapt: ContinualModel, stream: Stream) -> None:
    with pytest.raises(ConfigError, match=r"no task is left; 'even': learned by.*'swap'"):
        sapt.evaluate_unseen(stream)
    with pytest.raises(ConfigError, match="; and 2 more"):
        many = (*stream.tasks, *(renamed(task, f"{task.name}-x") for task in stream.tasks[:2]))
        sapt.evaluate_unseen(replace(stream, tasks=many))


def test_from_files(sapt: ContinualModel, tmp_path: Path) -> None:
    """A folder in the format of Natural Instructions whose dev part is its test part, as in some
    public data."""
    folder = write_natural_instructions(tmp_path / "others", 5)
    for task in folder.iterdir():
        (task / "dev.json").write_text((task / "test.json").read_text())
    result = sapt.evaluate_unseen(folder, only=["first", "swap"])
    assert (result["stream"], result["metric"]) == ("others", "rouge-l")
    assert result["tasks"] == ["first"]
    assert result["left_out"] == {"swap": "18 of its 18 examples are of the learned task 'swap'"}
    with pytest.raises(ConfigError, match=r"no task 'frist'\. Did you mean 'first'"):
        sapt.evaluate_unseen(folder, only=["frist"])


def test_other_data_of_the_same_name_are_refused(
    sapt: ContinualModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_natural_instructions(tmp_path / "a" / "twins", 5)
    second = write_natural_instructions(tmp_path / "b" / "twins", 4)
    file = sapt.folder.unseen_of("twins")
    kept = sapt.evaluate_unseen(first, only=["mood"])
    assert json.loads(file.read_text()) == kept
    assert kept["source"] == str(first)
    with pytest.raises(ConfigError) as refused:
        sapt.evaluate_unseen(second)
    for part in (str(file), f"'{first}'", f"'{second}' is called 'twins'", "Rename", "remove"):
        assert part in f"{refused.value}"
    assert json.loads(file.read_text()) == kept
    monkeypatch.chdir(first.parent)  # the same by another path
    assert sapt.evaluate_unseen("twins", only=["first"])["tasks"] == ["first"]
    file.unlink()
    assert sapt.evaluate_unseen(second)["source"] == str(second)


def test_cuts_are_those_of_the_run_or_of_the_preset(tmp_path: Path) -> None:
    file = write_instruction_table(tmp_path / "tasks.jsonl", 4, test=5)
    settings = {"backbone": "tiny-t5", "train__epochs": 1, "device": "cpu", "threads": 1}
    own = {"stream__only": ["even"], "stream__test_per_class": 2}
    model = fit(str(file), out=tmp_path / "run", method="sequential", **own, **settings)
    assert model.evaluate_unseen(file, only=["swap"])["n_test"] == [2]
    whole = model.evaluate_unseen(file, preset="none")
    assert whole["n_test"] == [5, 5, 5]
    assert list(whole["left_out"]) == ["even"]


def test_columns_of_the_run_are_for_tables_alone(sapt: ContinualModel, tmp_path: Path) -> None:
    fields = {"text": "question"}
    folder = write_natural_instructions(tmp_path / "others", 2)
    assert load_others(sapt.config, folder, fields=fields).name == "others"
    file = write_instruction_table(tmp_path / "table.jsonl", 2)
    file.write_text(file.read_text().replace('"input":', '"question":'))
    assert len(load_others(sapt.config, file, fields=fields).tasks) == 2


def test_class_labels_cannot_be_answered(classes: ContinualModel, sapt: ContinualModel) -> None:
    with pytest.raises(ConfigError, match="answers with the class labels that it has learned"):
        classes.evaluate_unseen(LONGER)
    with pytest.raises(ConfigError, match="has class labels"):
        sapt.evaluate_unseen(synthetic_stream("text", 2))


def test_a_method_that_is_told_the_task_is_refused(per_task: ContinualModel) -> None:
    with pytest.raises(ConfigError, match="only when it is told the task"):
        per_task.evaluate_unseen(LONGER)


def test_the_run_is_left_as_it_is(sapt: ContinualModel) -> None:
    files = ("state.json", "matrix.json", "answers.json", "stream.json")
    before = [(sapt.folder.path / name).read_bytes() for name in files]
    load(sapt.folder.path).evaluate_unseen(LONGER, only=["mood"])
    assert [(sapt.folder.path / name).read_bytes() for name in files] == before
