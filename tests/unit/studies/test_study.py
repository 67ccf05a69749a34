"""One study from end to end through the command line: files, resume, refusal, a cell that fails."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conpet.cli import main
from conpet.evaluation import continual
from conpet.evaluation.collect import collect
from conpet.studies import STUDIES, load_study
from conpet.studies.conduct import FILES

TINY = ["study", "replay", "--size", "tiny", "--threads", "1"]
CELLS = ("dynamic-1", "memory-1-1")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def conpet(capsys: pytest.CaptureFixture[str], words: Sequence[object]) -> Result:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return Result(int(stop.value.code or 0), captured.out, captured.err)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two runs, made once."""
    folder = tmp_path_factory.mktemp("studies") / "replay"
    with pytest.raises(SystemExit) as stop:
        main([*TINY, "--out", str(folder), "--jobs", "2"])
    assert not stop.value.code
    return folder


def document(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "study.json").read_text())
    return loaded


def stamps(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()}


def test_files_agree_with_the_runs(made: Path) -> None:
    assert all((made / file).stat().st_size > 100 for file in FILES)
    said = document(made)
    assert (said["study"], said["size"], said["failed"]) == ("replay", "tiny", [])
    assert [row["run"] for row in said["rows"]] == list(CELLS) == list(said["runs"])
    for row in said["rows"]:
        record = collect(made / "runs" / row["run"])
        whole = continual.whole_accuracy(record.scores(), record.n_test)
        assert row["whole_accuracy"] == pytest.approx(whole, abs=1e-3)
        assert row["steps"] == sum(task.cost.steps or 0 for task in record.tasks)
        assert len(row["forgetting_by_task"]) == len(record.tasks) - 1
        assert row["steps_by_task"] == said["rows"][0]["steps_by_task"], "equal steps"
        assert 0 < row["coverage"] < 100
    dynamic, memory = said["rows"]
    assert memory["kept_examples"] == 77
    assert dynamic["kept_examples"] == 3 * 77
    assert dynamic["kept_bytes"] > memory["kept_bytes"] > 77 * 10
    with (made / "data.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["whole_accuracy"]) for row in rows] == [
        row["whole_accuracy"] for row in said["rows"]
    ]


def test_text_is_ten_lines_of_measured_figures(made: Path) -> None:
    title, empty, *lines = (made / "text.md").read_text().splitlines()
    assert title == f"# {load_study('replay').title}" and empty == ""
    assert 6 <= len(lines) <= 14
    text, (dynamic, _) = "\n".join(lines), document(made)["rows"]
    assert f"dynamic: whole accuracy {dynamic['whole_accuracy']:.1f} %" in text
    assert f"{dynamic['kept_bytes']:,} bytes of text" in text
    assert "2 runs on banking77" in text and "One seed (1)" in text
    assert "All arms took the same number of optimiser steps." in text


def test_nothing_names_a_place_of_the_machine(made: Path) -> None:
    for file in FILES:
        text = (made / file).read_text()
        assert not re.search(r"""[\s"'=]/\w""", text), file
    command = document(made)["command"]
    assert command.startswith("conpet study replay --size tiny --out ..")
    assert command.endswith("--jobs 2 --threads 1")


def test_the_second_time_makes_no_run(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, rows = stamps(made), document(made)["rows"]
    result = conpet(capsys, [*TINY, "--out", made, "--json"])
    assert result.code == 0
    assert "2 processes, 2 of them finished before" in result.err
    assert stamps(made) == before
    assert document(made)["rows"] == rows == json.loads(result.out)["rows"]


@pytest.mark.parametrize("other", ["words", "no row"])
def test_rows_outlive_their_run_folders(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], other: str
) -> None:
    """What was committed counts; a row that was made with other words, or is not there, does
    not."""
    folder = tmp_path / "replay"
    folder.mkdir()
    said = document(made)
    if other == "words":
        said["runs"][CELLS[1]] += " train.lr=1"
    else:
        said["rows"] = [row for row in said["rows"] if row["run"] != CELLS[1]]
    (folder / "study.json").write_text(json.dumps(said))
    result = conpet(capsys, [*TINY, "--out", folder])
    assert result.code == 0
    assert "1 rows of study.json are kept" in result.err
    assert [p.name for p in (folder / "runs").iterdir() if p.is_dir()] == [CELLS[1]]
    assert document(folder)["rows"][0] == said["rows"][0]
    assert document(folder)["runs"] == document(made)["runs"]


def test_other_settings_are_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = stamps(made)
    result = conpet(capsys, ["study", "replay", "--size", "small", "--out", made])
    assert result.code == 2
    assert "was made with other settings" in result.err and "--out" in result.err
    assert stamps(made) == before


def test_a_cell_that_fails_leaves_the_others(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no run folder stands in the way of a cell; without it the same command goes on."""
    folder = tmp_path / "replay"
    shutil.copytree(made, folder)
    wrong = folder / "runs" / CELLS[1]
    shutil.rmtree(wrong)
    (wrong / "adapters").mkdir(parents=True)
    result = conpet(capsys, [*TINY, "--out", folder])
    assert result.code == 1
    log = folder / "runs" / f"{CELLS[1]}.log"
    assert f"{CELLS[1]} failed (exit code 2): CheckpointError" in result.err
    assert log.name in result.err and "is no run folder" in log.read_text()
    said = document(folder)
    assert [row["run"] for row in said["rows"]] == [CELLS[0]]
    assert said["failed"] == [CELLS[1]]
    assert f"the run failed or was stopped: {CELLS[1]}" in (folder / "text.md").read_text()

    shutil.rmtree(wrong)
    assert conpet(capsys, [*TINY, "--out", folder]).code == 0
    again, first = document(folder), document(made)
    assert again["failed"] == []
    assert [row["whole_accuracy"] for row in again["rows"]] == [
        row["whole_accuracy"] for row in first["rows"]
    ]


def test_where_nothing_finishes_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "replay"
    for cell in CELLS:
        (folder / "runs" / cell / "adapters").mkdir(parents=True)
    result = conpet(capsys, [*TINY, "--out", folder, "--jobs", "2", "--json"])
    assert result.code == 1
    said = json.loads(result.out)
    assert len(said["failures"]) == 2 and said["files"] == []
    assert not (folder / "study.json").exists()


# The verb


def test_without_a_name_the_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(f"{name} " in conpet(capsys, ["study"]).out for name in STUDIES)
    listed = json.loads(conpet(capsys, ["study", "--json"]).out)["studies"]
    assert [study["name"] for study in listed] == list(STUDIES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["replai"], "Did you mean 'replay'?"),
        (["nothing"], "interference"),
        (["replay", "--size", "smal"], "Did you mean 'small'?"),
        (["replay", "--seeds", "1,x"], "--seeds 1,2,3"),
        (["replay", "--jobs", "0"], "jobs"),
    ],
)
def test_wrong_words_are_exit_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = conpet(capsys, ["study", *words, "--out", tmp_path / "x"])
    assert result.code == 2
    assert said in result.err
    assert list(tmp_path.iterdir()) == []
