"""Other numbers of adapters, and tasks that were not learned, in the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conpet.errors import CheckpointError
from conpet.evaluation.collect import collect
from conpet.evaluation.comparison import Group, group_runs
from conpet.evaluation.measured import read_top_k, read_unseen, top_k_table, unseen_table
from conpet.evaluation.report import report

Make = Callable[..., Path]
TASKS = ["group-1", "group-2", "group-3"]


def write_top_k(folder: Path, scores: dict[Any, tuple[float, float]], tasks: Any = TASKS) -> Path:
    """``scores``: k -> average and seconds."""
    rows = [
        {"k": k, "average": average, "whole": average + 1.0, "row": [average] * 3, "seconds": s}
        for k, (average, s) in scores.items()
    ]
    machine = {"device": "cpu", "precision": "fp32", "threads": 2, "cores": 4, "gpus": []}
    document = {"tasks": tasks, "n_test": [40] * 3, "metric": "accuracy", "own": 1, "rows": rows}
    (folder / "top_k.json").write_text(json.dumps(document | {"machine": machine}))
    return folder


def write_unseen(
    folder: Path, scores: dict[str, tuple[float, float]], name: str = "new|er", tasks: Any = TASKS
) -> Path:
    """``scores``: task -> the run's, and the plain backbone's."""
    mine, plain = ([pair[i] for pair in scores.values()] for i in (0, 1))
    document = {
        "stream": name,
        "fingerprint": "a" * 64,
        "metric": "rouge-l",
        "learned": tasks,
        "left_out": {"group-1": "learned by this run"},
        "tasks": list(scores),
        "row": mine,
        "n_test": [5] * len(scores),
        "average": sum(mine) / len(mine),
        "whole": sum(mine) / len(mine),
        "backbone": {"row": plain, "average": sum(plain) / len(plain), "whole": 0.0},
    }
    (folder / "unseen").mkdir(exist_ok=True)
    (folder / "unseen" / f"{name.replace('|', '-')}.json").write_text(json.dumps(document))
    return folder


def groups(*folders: Path) -> list[Group]:
    return group_runs([collect(folder) for folder in folders])


def rows_of(path: Path | None) -> list[dict[str, str]]:
    assert path is not None
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_runs_without_measurements(run_folder: Make, tmp_path: Path) -> None:
    files = report([run_folder("a")], tmp_path / "out")
    assert files.top_k is None and files.unseen is None
    assert not list((tmp_path / "out").glob("top_k*"))
    for file in (files.html, files.markdown):
        text = file.read_text(encoding="utf-8")
        assert "Adapters that answer" not in text and "not learned" not in text
        assert "top_k.csv" not in text


def test_score_and_time_by_number_of_adapters(run_folder: Make) -> None:
    one = write_top_k(run_folder("a", seed=1), {"all": (70.0, 8.0), 2: (60.0, 3.0), 1: (50.0, 2.0)})
    two = write_top_k(run_folder("b", seed=2), {"all": (72.0, 10.0)})
    table = top_k_table(groups(one, two, run_folder("c", "joint")))
    assert [(row["top_k"], row["runs"]) for row in table] == [(1, 1), (2, 1), ("all", 2)]
    last = table[-1]
    assert last["average_accuracy"] == 71.0 and last["whole_accuracy"] == 72.0
    assert last["average_accuracy_spread"] == pytest.approx(2**0.5)
    assert (last["seconds"], last["learned_with"]) == (9.0, 1)
    assert table[0]["average_accuracy_spread"] is None


def test_unseen_tasks_beside_the_plain_backbone(run_folder: Make) -> None:
    one = write_unseen(run_folder("a", seed=1), {"x": (30.0, 10.0), "y": (20.0, 20.0)})
    two = write_unseen(run_folder("b", seed=2), {"x": (40.0, 10.0)})
    write_unseen(two, {"z": (1.0, 2.0)}, name="another")
    other, new = unseen_table(groups(one, two))
    assert (other["unseen_stream"], other["runs"], other["gain"]) == ("new|er", 2, 20.0)
    assert (other["score"], other["backbone"]) == (32.5, 12.5)
    assert [(t["task"], t["score"], t["gain"]) for t in other["tasks"]] == [
        ("x", 35.0, 25.0),
        ("y", 20.0, 0.0),
    ]
    assert (new["unseen_stream"], new["runs"], new["gain"]) == ("another", 1, -1.0)


def test_the_report_shows_both(run_folder: Make, free_folder: Make, tmp_path: Path) -> None:
    free = free_folder("f", tasks=TASKS)
    folders = [
        write_top_k(free, {1: (41.5, 12.5), "all": (43.25, 31.0)}),
        write_top_k(run_folder("b", fingerprint="e" * 64), {1: (50.0, 2.0)}),
    ]
    write_unseen(free, {"<x>|1": (30.0, 10.0)})
    files = report(folders, tmp_path / "out")
    page, markdown = (f.read_text(encoding="utf-8") for f in (files.html, files.markdown))
    for text in (page, markdown):
        for words in ("Adapters that answer", "Tasks that were not learned", "31.0", "43.2"):
            assert words in text
        assert "<x>" not in text.replace("\\<x\\>", "")
    assert "average ROUGE-L (AP)" in markdown and "top_k.csv, unseen.csv" in " ".join(page.split())
    assert "| conpet-dynamic | 1 | all | 1 | 43.2 | 44.2 | 31.0 |" in markdown
    assert "| mean of 1 | ROUGE-L | 1 | 30.0 | 10.0 | 20.0 |" in markdown
    cells = [line for line in markdown.splitlines() if "new\\|er" in line]
    assert len(cells) == 2 and all(line.replace("\\|", "").count("|") == 9 for line in cells)

    rows = rows_of(files.top_k)
    assert [(row["run"], row["top_k"], row["threads"]) for row in rows] == [
        ("f", "1", "2"),
        ("f", "all", "2"),
        ("b", "1", "2"),
    ]
    (row,) = rows_of(files.unseen)
    assert (row["unseen_stream"], row["task"]) == ("new|er", "<x>|1")
    assert (row["score"], row["backbone_score"]) == ("30.0", "10.0")


def test_what_was_measured_before_more_was_learned_is_passed_over(run_folder: Make) -> None:
    folder = write_top_k(run_folder("a"), {1: (50.0, 2.0)}, tasks=TASKS[:2])
    write_unseen(folder, {"x": (30.0, 10.0)}, tasks=TASKS[:2])
    record = collect(folder)
    assert read_top_k(record) is None and read_unseen(record) == []
    assert top_k_table(groups(folder)) == unseen_table(groups(folder)) == []


def test_damaged_files_are_refused(run_folder: Make) -> None:
    folder = run_folder("a")
    write_unseen(folder, {"x": (30.0, 10.0)})
    path = folder / "unseen" / "new-er.json"
    path.write_text(path.read_text().replace('"tasks": ["x"]', '"tasks": []'))
    with pytest.raises(CheckpointError, match=r"new-er\.json' is damaged"):
        unseen_table(groups(folder))
    (folder / "top_k.json").write_text('{"tasks": [], "rows": [{"k": "many"}]}')
    with pytest.raises(CheckpointError, match=r"top_k\.json' is damaged"):
        top_k_table(groups(folder))
