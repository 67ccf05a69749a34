"""Single-task scores: measured once, found ever after, and what they belong to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conpet import ContinualModel, fit
from conpet.api.single_task import measure_missing, single_task_scores
from conpet.cli import main
from conpet.errors import CheckpointError
from conpet.evaluation.collect import collect
from conpet.evaluation.comparison import comparison_rows
from conpet.evaluation.report import report
from conpet.evaluation.single_task import cache_folder, cached_scores, single_task_folder
from conpet.events import Observer
from conpet.streams import Stream
from conpet.testing import synthetic_stream
from conpet.testing.instruction import instruction_stream

STREAM = synthetic_stream(n_tasks=3, train=3, valid=1, test=2)
SMALL: dict[str, Any] = {
    "backbone": "tiny-bert",
    "train__epochs": 2,
    "train__batch_size": 4,
    "threads": 1,
    "device": "cpu",
    "precision": "fp32",
}


class Notes(Observer):
    """What it is told, and the tasks that were learned."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.learned: list[str] = []

    def note(self, level: str, text: str) -> None:
        self.notes.append(text)

    def task_started(self, index: int, total: int, name: str) -> None:
        assert total == 1
        self.learned.append(name)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "conpet" / "single-task"


@pytest.fixture
def learn(tmp_path: Path) -> Callable[..., ContinualModel]:
    def make(name: str, method: str = "sequential", **options: Any) -> ContinualModel:
        stream = options.pop("stream", STREAM)
        return fit(stream, out=tmp_path / name, method=method, **SMALL | options)

    return make


def scores(model: ContinualModel, stream: Stream = STREAM, **options: Any) -> list[float | None]:
    return single_task_scores(model.config, stream, **options)


def test_measured_once(learn: Callable[..., ContinualModel], cache: Path) -> None:
    model, notes = learn("a"), Notes()
    assert cache_folder() == cache
    assert scores(model, measure=False) == [None] * 3
    assert not cache.exists(), "looking makes nothing"

    found = scores(model, measure=True, observer=notes)
    assert notes.learned == list(model.tasks)
    assert "task 2/3 'task-2' alone" in notes.notes[1]
    assert all(isinstance(score, float) and 0 <= score <= 100 for score in found)
    assert scores(model, measure=False) == scores(model, measure=True, observer=notes) == found
    assert len(notes.learned) == 3
    assert cached_scores(collect(model.folder.path)) == found


def test_a_score_is_that_of_the_task_alone_in_a_per_task_run(
    learn: Callable[..., ContinualModel],
) -> None:
    """The first task of a per-task run is learned exactly as it is alone."""
    (first, *_) = scores(learn("a", "ewc"), measure=True)
    alone = learn("p", "per-task", stream=replace(STREAM, tasks=STREAM.tasks[:1]))
    assert first == alone.matrix.values[0, 0]


def test_what_a_score_belongs_to(learn: Callable[..., ContinualModel], cache: Path) -> None:
    model = learn("a")
    scores(model, measure=True)
    kept = {path.name for path in cache.iterdir()}
    same = learn("b", "conpet-dynamic", replay__batch_limit=3)
    assert None not in scores(same, measure=False), "another method, another replay"
    turned = STREAM.reorder(["task-3", "task-1", "task-2"])
    assert scores(model, turned, measure=False) == [
        scores(model, measure=False)[i] for i in (2, 0, 1)
    ]
    for change in ({"seed": 2}, {"train__epochs": 3}, {"adapter__rank": 2}):
        other = learn(str(change), **change)
        assert scores(other, measure=False) == [None] * 3
    assert scores(model, replace(STREAM, metric="exact-match"), measure=False) == [None] * 3
    assert {path.name for path in cache.iterdir()} == kept


def test_the_learning_rate_of_the_task_counts(learn: Callable[..., ContinualModel]) -> None:
    model = learn("a", train__lr=1e-3)
    scores(model, measure=True)
    later = learn("b", train__lr=1e-3, train__lr_from={3: 1e-4})
    assert [score is None for score in scores(later, measure=False)] == [False, False, True]
    assert cached_scores(collect(later.folder.path))[:2] == scores(later, measure=False)[:2]


def test_what_was_interrupted_goes_on(learn: Callable[..., ContinualModel], cache: Path) -> None:
    class Stop(Notes):
        def validated(self, score: float) -> None:
            raise KeyboardInterrupt

    model = learn("a")
    with pytest.raises(KeyboardInterrupt):
        scores(model, measure=True, observer=Stop())
    assert len(list(cache.iterdir())) == 1
    assert scores(model, measure=False) == [None] * 3, "begun is not done"
    assert None not in scores(model, measure=True)
    assert len(list(cache.iterdir())) == 3


def test_a_report_measures_what_it_lacks(
    learn: Callable[..., ContinualModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = learn("a").folder.path
    command = ["report", str(folder), "--out", str(tmp_path / "report"), "--json"]
    assert run_cli(command, capsys)["rows"][0]["forward_transfer"] is None
    (row,) = run_cli([*command, "--single-task"], capsys)["rows"]
    (again,) = run_cli(command, capsys)["rows"]
    record = collect(folder)
    known = cached_scores(record)
    diagonal = [record.matrix.values[i, i] for i in range(3)]
    expected = sum(r - float(s or 0) for r, s in zip(diagonal, known, strict=True)) / 3
    assert row["forward_transfer"] == pytest.approx(expected)
    assert again["forward_transfer"] == row["forward_transfer"]


def run_cli(command: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    with pytest.raises(SystemExit) as stop:
        main(command)
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    return json.loads(out)


def test_free_answers_are_measured_by_their_metric(
    learn: Callable[..., ContinualModel], tmp_path: Path
) -> None:
    stream = instruction_stream()
    model = learn("a", "conpet-dynamic", stream=stream, backbone="tiny-t5", train__epochs=1)
    notes = Notes()
    measure_missing([model.folder.path], notes)
    assert notes.learned == [task.name for task in stream.tasks]
    files = report([model.folder.path], tmp_path / "report")
    assert files.rows[0]["forward_transfer"] is not None
    html = files.html.read_text(encoding="utf-8")
    assert "Answers before and after" in html and "The number is" in html
    assert scores(model, replace(stream, template="{instruction} {input} >"), measure=False) == [
        None
    ] * len(stream.tasks)


def test_a_per_task_run_beside_it_is_asked_first(
    learn: Callable[..., ContinualModel], cache: Path
) -> None:
    folders = [learn(name, name).folder.path for name in ("sequential", "per-task")]
    notes = Notes()
    measure_missing(folders, notes)
    assert not notes.learned and not cache.exists()
    rows = comparison_rows([collect(folder) for folder in folders])
    assert all(row["forward_transfer"] is not None for row in rows)


@pytest.mark.parametrize(
    ("method", "options", "reason"),
    [
        ("joint", {}, "was not tested after each task"),
        ("lda", {}, "tunes no adapter"),
        ("sequential", {"adapter__kind": "full"}, "adapter.kind is 'full'"),
    ],
)
def test_where_no_score_would_help_none_is_measured(
    learn: Callable[..., ContinualModel],
    cache: Path,
    method: str,
    options: dict[str, Any],
    reason: str,
) -> None:
    notes = Notes()
    measure_missing([learn("a", method, **options).folder.path], notes)
    assert len(notes.notes) == 1 and reason in notes.notes[0]
    assert not notes.learned and not cache.exists()


def test_data_that_changed_are_refused(learn: Callable[..., ContinualModel]) -> None:
    folder = learn("a").folder
    first, second = (folder.history / f"{i:02d}.jsonl.gz" for i in (1, 2))
    first.write_bytes(second.read_bytes())
    with pytest.raises(CheckpointError, match="not what it learned: task.s. task-1 differ"):
        measure_missing([folder.path])


def test_a_damaged_score_is_named(learn: Callable[..., ContinualModel], cache: Path) -> None:
    model = learn("a")
    scores(model, measure=True)
    for path in cache.iterdir():
        (path / "matrix.json").write_text('{"values": []}')
    with pytest.raises(CheckpointError, match=r"holds no score .* Delete the folder"):
        scores(model, measure=False)


def test_folders_of_other_versions_have_no_score(learn: Callable[..., ContinualModel]) -> None:
    model = learn("a")
    scores(model, measure=True)
    state = json.loads(model.folder.state.read_text())
    state["settings"]["train"]["momentum"] = 0.9  # a key that this version does not know
    model.folder.state.write_text(json.dumps(state))
    assert cached_scores(collect(model.folder.path)) == [None] * 3
    del state["settings"]["train"]["momentum"], state["settings"]["train"]["clip"]
    model.folder.state.write_text(json.dumps(state))
    assert None not in cached_scores(collect(model.folder.path)), "a key left out is its default"
    (row,) = comparison_rows([collect(model.folder.path)])
    assert not math.isnan(row["forward_transfer"])


def test_the_folder_depends_on_everything_that_counts() -> None:
    settings = {"backbone": {"name": "minilm"}, "train": {"lr": 0.001}, "seed": 1}
    same = {
        "task": 1,
        "fingerprint": "f",
        "metric": "rouge-l",
        "template": "t",
        "precision": "fp32",
    }
    first = single_task_folder(settings, **same)
    assert single_task_folder({**settings, "method": {"name": "joint"}}, **same) == first
    assert single_task_folder(settings, **same | {"task": 2}) == first, "one learning rate for all"
    changes = [{key: "other"} for key in ("fingerprint", "metric", "template", "precision")]
    others = [single_task_folder(settings, **same | change) for change in changes]
    others.append(single_task_folder({**settings, "backbone": {"name": "tiny-bert"}}, **same))
    assert len({first, *others}) == 6
