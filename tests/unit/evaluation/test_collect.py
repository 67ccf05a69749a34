from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conpet.errors import CheckpointError
from conpet.evaluation.collect import collect, read_outcomes
from conpet.evaluation.scoring import accuracy
from conpet.runtime import RunFolder

Make = Callable[..., Path]


def edit(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_finished_run(run_folder: Make) -> None:
    record = collect(run_folder("a", seed=4))
    assert (record.method, record.stream, record.backbone, record.seed) == (
        "conpet-dynamic",
        "fewrel",
        "minilm",
        4,
    )
    assert record.finished
    assert record.n_test == (40, 40, 40)
    assert record.matrix.tasks == ("group-1", "group-2", "group-3")
    assert record.scores(1).shape == (2,)
    assert np.array_equal(record.scores(), record.matrix.values[2])
    last = [o for o in record.outcomes if o.task == "group-2"]
    assert accuracy([o.label for o in last], [o.truth for o in last]) == record.matrix.values[2, 1]
    assert record.tasks[0].cost.steps == 320
    assert list(record.tasks[1].cost.seconds) == ["selector", "adapter", "evaluate"]


def test_an_unfinished_run_gives_what_it_has(run_folder: Make) -> None:
    record = collect(run_folder("a", learned=2))
    assert not record.finished
    assert record.matrix.values.shape == (2, 2)
    assert {o.task for o in record.outcomes} == {"group-1", "group-2"}
    assert (len(record.tasks), record.n_tasks) == (2, 3)


def test_tasks_that_were_tested_in_advance_are_left_out(run_folder: Make) -> None:
    folder = run_folder("a")
    edit(folder / "state.json", lambda state: state["tasks"].pop())
    (folder / "predictions" / "03.jsonl").rename(folder / "predictions" / "02.jsonl")
    record = collect(folder)  # matrix and predictions still hold group-3
    assert record.matrix.tasks == ("group-1", "group-2")
    assert {o.task for o in record.outcomes} == {"group-1", "group-2"}


def test_all_at_once_has_no_predictions_before_the_end(run_folder: Make) -> None:
    record = collect(run_folder("a", "joint", learned=2, pending=True))
    assert record.outcomes == ()
    assert np.isnan(record.matrix.values).all()


def test_costs_may_be_unknown(run_folder: Make) -> None:
    folder = run_folder("a")
    edit(folder / "state.json", lambda state: state["tasks"][0].pop("cost"))
    cost = collect(folder).tasks[0].cost
    assert cost.seconds == {} and cost.steps is None


def test_a_line_separator_inside_a_label_ends_no_line(run_folder: Make) -> None:
    folder = run_folder("a")
    path = folder / "predictions" / "03.jsonl"
    first, rest = path.read_text().split("\n", 1)
    line = json.loads(first) | {"label": "two\u2028lines"}
    path.write_text(json.dumps(line, ensure_ascii=False) + "\n" + rest, encoding="utf-8")
    assert collect(folder).outcomes[0].label == "two\u2028lines"


def test_free_answers_have_no_true_label(free_folder: Make) -> None:
    folder = free_folder("a")
    record = collect(folder)
    assert record.free and record.metric == "rouge-l"
    first = record.outcomes[0]
    assert first.truth is None and first.right == first.answers
    assert first.routed_by_input == ("task639 dialogue",)
    of_task = [o.value for o in record.outcomes if o.task == "task1572 summary"]
    assert 100 * np.mean(of_task) == pytest.approx(record.matrix.values[-1, 1])
    ahead = read_outcomes(RunFolder(folder), 1, ["task1572 summary"])
    assert len(ahead) == 12 and {o.oracle_value for o in ahead} == {None}


def test_labels_are_measured_by_accuracy_where_nothing_else_is_said(run_folder: Make) -> None:
    record = collect(run_folder("a"))
    assert (record.metric, record.template, record.precision, record.free) == (
        "accuracy",
        "",
        None,
        False,
    )


def test_a_value_out_of_range_is_named(free_folder: Make) -> None:
    folder = free_folder("a")
    path = folder / "predictions" / "03.jsonl"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(json.dumps(json.loads(first) | {"value": 57.0}) + "\n" + rest)
    with pytest.raises(CheckpointError, match="line 1: value: Input should be less than or equal"):
        collect(folder)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "state.json").unlink(), "no run folder with a learned task"),
        (lambda f: (f / "state.json").write_text('{"method": '), "state.json is damaged"),
        (lambda f: (f / "matrix.json").unlink(), r"cannot read .*matrix\.json"),
        (lambda f: (f / "matrix.json").write_text("[]"), "matrix.json' is damaged: Input should"),
        (
            lambda f: edit(f / "matrix.json", lambda m: m["tasks"].reverse()),
            "does not fit to state.json",
        ),
        (
            lambda f: edit(f / "matrix.json", lambda m: m["values"].pop()),
            "it has 2 rows for 3 learned tasks",
        ),
        (
            lambda f: edit(f / "state.json", lambda s: s["tasks"][1].update(n_test="many")),
            r"state.json' is damaged: tasks\.1\.n_test: Input should be a valid integer",
        ),
        (
            lambda f: edit(f / "state.json", lambda s: s.update(tasks=[])),
            "tasks: Tuple should have at least 1 item",
        ),
        (lambda f: (f / "predictions" / "03.jsonl").unlink(), "03.jsonl' is damaged: it cannot"),
        (lambda f: (f / "predictions" / "03.jsonl").write_text(""), "line 1: Invalid JSON"),
        (
            lambda f: (f / "predictions" / "03.jsonl").write_bytes(b'{"id": "\xff"}\n'),
            "03.jsonl' is damaged: it cannot be read",
        ),
    ],
)
def test_damage_is_named(run_folder: Make, harm: Callable[[Path], object], message: str) -> None:
    folder = run_folder("a")
    harm(folder)
    with pytest.raises(CheckpointError, match=message):
        collect(folder)


def test_a_cut_line_is_named(run_folder: Make) -> None:
    folder = run_folder("a")
    path = folder / "predictions" / "03.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:7], lines[7][:20]]))
    with pytest.raises(CheckpointError, match="line 8: Invalid JSON"):
        collect(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"give the --out folder"):
        collect(tmp_path / "nothing")
