"""``conpet learn`` that is killed, repeated, or given what does not fit the run."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from faultkit import TINY, Conpet, files_of, left_over, outcome, refused, rows, write_rows

from conpet import load

METHOD = ("--method=conpet-dynamic", "method.top_k=2", "replay.kind=memory", "train.epochs=2")


@pytest.fixture(scope="session")
def first(conpet: Conpet, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three tasks."""
    folder = tmp_path_factory.mktemp("first") / "run"
    result = conpet("run", f"--stream={data}", *TINY, *METHOD, f"--out={folder}")
    assert result.code == 0, result.err
    return folder


@pytest.fixture
def run(first: Path, tmp_path: Path) -> Path:
    return shutil.copytree(first, tmp_path / "run")


@pytest.fixture(scope="session")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two more tasks."""
    return write_rows(tmp_path_factory.mktemp("more") / "more.jsonl", rows(["four", "five"]))


@pytest.fixture(scope="session")
def longer(
    conpet: Conpet, first: Path, more: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run after it has learned them, undisturbed."""
    folder = shutil.copytree(first, tmp_path_factory.mktemp("longer") / "run")
    assert conpet("learn", folder, more, "--quiet").code == 0
    return folder


def tasks_of(folder: Path) -> list[str]:
    return [task["name"] for task in json.loads((folder / "state.json").read_text())["tasks"]]


def finished(folder: Path, code: int) -> bool:
    """Whether a signal came too late to stop anything."""
    return code == 0 and len(tasks_of(folder)) == 5


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            {"target": "conpet.training.trainer:Trainer.step", "call": 10}, id="its first task"
        ),
        pytest.param(
            {
                "target": "os:replace",
                "argument": "state.json",
                "when": "after",
            },
            id="between its tasks",
        ),
        pytest.param(
            {"target": "conpet.training.trainer:Trainer.step", "call": 40}, id="its second task"
        ),
        pytest.param(
            {"target": "os:replace", "argument": "state.json", "call": 2, "when": "after"},
            id="after the last commit",
        ),
    ],
)
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_repeated_after_a_kill(
    conpet: Conpet,
    run: Path,
    more: Path,
    longer: Path,
    fault: dict[str, object],
    name: str,
) -> None:
    ended = conpet("learn", run, more, "--quiet", fault={**fault, "signal_name": name})
    assert ended.code in (-signal.SIGKILL, 130) or finished(run, ended.code), ended.err
    again = conpet("learn", run, more, "--quiet")
    assert again.code == 0, again.err
    assert outcome(run) == outcome(longer)
    assert left_over(run) == []


def test_other_data_wait_for_a_task_that_was_begun(
    conpet: Conpet, run: Path, more: Path, tmp_path: Path
) -> None:
    stop = {"target": "conpet.training.trainer:Trainer.step", "call": 10, "signal_name": "SIGINT"}
    assert conpet("learn", run, more, "--quiet", fault=stop).code == 130
    before = files_of(run)
    other = write_rows(tmp_path / "other.jsonl", rows(["six"]))
    result = conpet("learn", run, other, "--quiet")
    refused(result, "unfinished task 'four'", "its own data")
    after = files_of(run)
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {
        "events.jsonl",
        *(name for name in after if name.startswith("tokens/")),
    }
    assert conpet("predict", run, "ba ku").code == 0


def test_a_label_that_the_run_knows(conpet: Conpet, run: Path, tmp_path: Path) -> None:
    lines = [row | {"task": "new"} for row in rows(["one"], seed=7)]
    before = files_of(run)
    result = conpet("learn", run, write_rows(tmp_path / "new.jsonl", lines))
    refused(result, "label 'one-0' lies in two tasks", "'one' and 'new'")
    assert files_of(run) == before


def test_a_task_name_that_the_run_knows(conpet: Conpet, run: Path, tmp_path: Path) -> None:
    lines = [row | {"task": "One"} for row in rows(["six"])]
    before = files_of(run)
    refused(conpet("learn", run, write_rows(tmp_path / "new.jsonl", lines)), "two tasks", "'One'")
    assert files_of(run) == before


def test_more_classes_than_the_memory_has_room_for(
    conpet: Conpet, data: Path, more: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = ("--method=emr", "replay.total=9", f"--out={folder}")
    assert conpet("run", f"--stream={data}", *TINY, *words).code == 0
    before = files_of(folder)
    refused(conpet("learn", folder, more, "--quiet"), "replay.total is 9", "(15)")
    after = files_of(folder)
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {
        "events.jsonl"
    }
    assert conpet("predict", folder, "ba ku").code == 0


def test_another_kind_of_examples(conpet: Conpet, run: Path, tmp_path: Path) -> None:
    lines = [row | {"head": [0, 1], "tail": [1, 2]} for row in rows(["six"])]
    before = files_of(run)
    result = conpet("learn", run, write_rows(tmp_path / "new.jsonl", lines))
    refused(result, "kind 'relation'", "'text'")
    assert files_of(run) == before


def test_the_run_keeps_the_name_of_its_stream(longer: Path, data: Path) -> None:
    state = json.loads((longer / "state.json").read_text())
    assert state["stream"] == data.stem
    assert json.loads((longer / "stream.json").read_text())["name"] == data.stem


def test_columns_groups_and_a_data_folder_of_the_run(
    conpet: Conpet, more: Path, tmp_path: Path
) -> None:
    """New data have the run's own columns; its old data folder may be gone."""

    def written(name: str, tasks: list[str]) -> Path:
        lines = [{"sentence": r["text"], "intent": r["label"]} for t in tasks for r in rows([t])]
        return write_rows(tmp_path / name, lines)

    def groups(*tasks: str) -> None:
        labels = {t: sorted({r["label"] for r in rows([t])}) for t in tasks}
        (tmp_path / "groups.json").write_text(json.dumps(labels))

    folder, gone = tmp_path / "run", tmp_path / "gone"
    gone.mkdir()
    groups("one", "two")
    columns = "stream.fields={text: sentence, label: intent}"
    own = (f"--stream={written('own.jsonl', ['one', 'two'])}", columns, f"--data={gone}")
    grouped = f"stream.groups={tmp_path / 'groups.json'}"
    done = conpet("run", *own, grouped, *TINY, *METHOD, f"--out={folder}")
    assert done.code == 0, done.err
    gone.rmdir()
    asked = written("ask.jsonl", ["one"])
    assert conpet("predict", folder, "--input", asked).code == 0
    assert conpet("learn", folder, written("three.jsonl", ["three"]), "--quiet").code == 0
    groups("one", "two", "three", "four")
    longer = written("longer.jsonl", ["one", "two", "three", "four"])
    result = conpet("learn", folder, longer, "--quiet")
    assert result.code == 0, result.err
    assert tasks_of(folder) == ["one", "two", "three", "four"]


def test_a_stream_that_extends_the_runs_own(
    conpet: Conpet, run: Path, data: Path, longer: Path, tmp_path: Path
) -> None:
    whole = write_rows(
        tmp_path / "whole.jsonl", rows(["one", "two", "three"]) + rows(["four", "five"])
    )
    assert conpet("learn", run, whole, "--quiet").code == 0
    mine, theirs = outcome(run), outcome(longer)
    assert tasks_of(run) == tasks_of(longer) == ["one", "two", "three", "four", "five"]
    assert mine["matrix"] == theirs["matrix"]
    weights = [name for name in theirs if name.endswith(".safetensors")]
    assert weights
    assert all(mine[name] == theirs[name] for name in weights)


def test_learned_tasks_are_not_learned_twice(
    conpet: Conpet, longer: Path, data: Path, more: Path
) -> None:
    """Neither by the command that taught them, nor by the one that began the run."""
    before = outcome(longer)
    assert conpet("learn", longer, more, "--quiet").code == 0
    run = conpet("run", f"--stream={data}", *TINY, *METHOD, f"--out={longer}")
    assert run.code == 0, run.err
    assert outcome(longer) == before


def test_a_run_finishes_its_own_stream_first(
    conpet: Conpet, data: Path, more: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = ("run", f"--stream={data}", *TINY, *METHOD, f"--out={folder}")
    stop = {"target": "conpet.training.trainer:Trainer.step", "call": 40, "signal_name": "SIGINT"}
    assert conpet(*command, fault=stop).code == 130
    before = files_of(folder)
    refused(conpet("learn", folder, more), "has yet to learn", "conpet run")
    assert files_of(folder) == before


def test_a_reader_stays_what_it_was_while_another_process_learns(
    conpet: Conpet, run: Path, more: Path
) -> None:
    """It reads an adapter when an input is first routed to it: after the other's commits too."""
    texts = [row["text"] for row in rows(["one", "two", "three"])]
    before, reader, late = load(run).predict(texts), load(run), load(run)
    assert {task for answer in before for task in answer.tasks} == {"one", "two", "three"}
    (first,) = reader.predict(texts[:1])
    assert len(first.tasks) == 2, "opened, and the third adapter was not asked for"
    assert conpet("learn", run, more, "--quiet").code == 0
    after = reader.predict(texts)
    assert [(a.label, a.tasks) for a in after] == [(b.label, b.tasks) for b in before]
    newest = load(run).predict(texts)
    assert late.predict(texts) == newest != after, "one that was not opened yet is up to date"
    assert late.tasks == load(run).tasks != reader.tasks
