from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conpet.evaluation.collect import collect
from conpet.evaluation.comparison import (
    comparison_rows,
    group_runs,
    run_metrics,
    run_rows,
    single_task_scores,
    stage_rows,
)
from conpet.evaluation.scoring import standard_error

Make = Callable[..., Path]


def test_runs_that_differ_only_in_the_seed_are_one_group(run_folder: Make) -> None:
    records = [collect(run_folder(f"a{s}", seed=s)) for s in (3, 1, 2)]
    (group,) = group_runs(records)
    assert group.label == "conpet-dynamic"
    assert [run.seed for run in group.runs] == [1, 2, 3]


def test_what_differs_is_in_the_label(run_folder: Make) -> None:
    records = [
        collect(run_folder("a", top_k=1)),
        collect(run_folder("b", top_k=3)),
        collect(run_folder("c", "sequential")),
        collect(run_folder("d", "sequential", learned=2)),
    ]
    assert {group.label for group in group_runs(records)} == {
        "conpet-dynamic (top_k=1)",
        "conpet-dynamic (top_k=3)",
        "sequential",
        "sequential (2 of 3 tasks)",
    }


def test_finished_runs_come_first_then_the_best(run_folder: Make) -> None:
    records = [
        collect(run_folder("a", "sequential")),
        collect(run_folder("b", "joint")),
        collect(run_folder("c", "per-task", learned=1)),
    ]
    assert [g.first.method for g in group_runs(records)] == ["joint", "sequential", "per-task"]


def test_the_same_method_on_another_stream_keeps_its_name(run_folder: Make) -> None:
    records = [collect(run_folder("a")), collect(run_folder("b", fingerprint="e", top_k=2))]
    assert [group.label for group in group_runs(records)] == ["conpet-dynamic"] * 2


def test_mean_and_spread(run_folder: Make) -> None:
    records = [collect(run_folder(f"a{s}", seed=s)) for s in (1, 2, 3)]
    whole = [run_metrics(r)["whole_accuracy"] for r in records]
    (row,) = comparison_rows(records)
    assert row["whole_accuracy"] == pytest.approx(np.mean(whole))
    assert row["whole_accuracy_spread"] == pytest.approx(np.std(whole, ddof=1))
    assert (row["runs"], row["seeds"]) == (3, [1, 2, 3])


def test_one_run_has_no_spread(run_folder: Make) -> None:
    (row,) = comparison_rows([collect(run_folder("a"))])
    assert row["whole_accuracy_spread"] is None


def test_rows_are_json_without_nan(run_folder: Make) -> None:
    records = [collect(run_folder("a")), collect(run_folder("j", "joint"))]
    for rows in (comparison_rows(records), run_rows(records), stage_rows(records)):
        json.dumps(rows, allow_nan=False)
    joint = next(row for row in comparison_rows(records) if row["method"] == "joint")
    assert joint["forgetting"] is None and joint["whole_accuracy"] > 0


def test_metrics_agree_with_the_predictions(run_folder: Make) -> None:
    record = collect(run_folder("a"))
    metrics = run_metrics(record)
    parts = ("whole_accuracy", "routing", "competition", "within_task")
    assert sum(metrics[name] for name in parts) == pytest.approx(100.0)
    hits = [o.label == o.truth for o in record.outcomes]
    assert metrics["whole_accuracy"] == pytest.approx(100 * np.mean(hits))
    assert metrics["steps"] == 3 * 320
    assert metrics["stored_parameters"] == 76_032 * 4
    seconds = [s for task in record.tasks for s in task.cost.seconds.values()]
    assert metrics["seconds"] == pytest.approx(sum(seconds))


def test_forward_transfer_is_against_the_per_task_run_of_the_same_seed(run_folder: Make) -> None:
    run = collect(run_folder("a", seed=2))
    single = collect(run_folder("s", "per-task", seed=2))
    other_seed = collect(run_folder("t", "per-task", seed=3))
    other_stream = collect(run_folder("u", "per-task", seed=2, fingerprint="e"))
    assert single_task_scores(run, [run, other_seed, other_stream]) is None
    assert np.isnan(run_metrics(run)["forward_transfer"])
    scores = single_task_scores(run, [other_seed, single])
    assert scores == list(np.diag(single.matrix.values))
    rows = comparison_rows([run, single])
    (row,) = [r for r in rows if r["method"] == "conpet-dynamic"]
    assert row["forward_transfer"] == pytest.approx(
        np.mean(np.diag(run.matrix.values) - np.diag(single.matrix.values))
    )


def test_another_training_budget_is_no_reference(run_folder: Make) -> None:
    folders = [run_folder("a"), run_folder("s", "per-task")]
    for folder, epochs in zip(folders, (6, 12), strict=True):
        state = json.loads((folder / "state.json").read_text())
        state["settings"]["train"] = {"epochs": epochs}
        (folder / "state.json").write_text(json.dumps(state))
    run, single = (collect(folder) for folder in folders)
    assert single_task_scores(run, [run, single]) is None


def test_the_standard_error_of_graded_answers_is_that_of_their_values(free_folder: Make) -> None:
    record = collect(free_folder("a"))
    values = np.array([o.value for o in record.outcomes])
    found = run_metrics(record)["whole_accuracy_standard_error"]
    assert found == pytest.approx(100 * values.std(ddof=1) / np.sqrt(len(values)))
    by_accuracy = standard_error(100 * values.mean(), len(values))
    assert found < by_accuracy, "values between 0 and 1 spread less"


def test_stage_rows_follow_the_matrix(run_folder: Make) -> None:
    record = collect(run_folder("a", learned=2))
    rows = stage_rows([record])
    assert [(row["stage"], row["task"]) for row in rows] == [(1, "group-1"), (2, "group-2")]
    assert rows[1]["average_accuracy"] == pytest.approx(record.matrix.values[1, :2].mean())
    assert rows[1]["task_accuracy"] == record.matrix.values[1, 1]
    assert rows[1]["seconds_selector"] == record.tasks[1].cost.seconds["selector"]
    assert not rows[0]["finished"]
