"""A learned run, answered by other numbers of adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conpet import ContinualModel, fit, load
from conpet.api.asking import Inputs
from conpet.api.opened import OpenRun
from conpet.errors import ConfigError
from conpet.events import Observer
from conpet.methods.conpet_dynamic import ConpetDynamic
from conpet.methods.state import State
from conpet.studies.probe import top_k
from conpet.testing import synthetic_stream


class Notes(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, level: str, text: str) -> None:
        self.notes.append(text)


def opened(model: ContinualModel) -> OpenRun:
    return model._open(with_data=True)


def test_the_runs_own_number_gives_the_last_row_of_the_matrix(classes: ContinualModel) -> None:
    result = classes.evaluate_top_k([2, 1])
    two, one = result["rows"]
    assert (two["k"], one["k"], result["own"]) == (2, 1, 1)
    assert one["row"] == pytest.approx(classes.matrix.values[-1].tolist())
    assert any(one["row"]), "the run has learned something, or this says nothing"
    assert one["average"] == pytest.approx(classes.evaluate()["average"])
    assert one["whole"] == pytest.approx(classes.evaluate()["whole"])
    assert all(row["seconds"] > 0 for row in result["rows"])


def test_the_file_is_what_is_returned(sapt: ContinualModel) -> None:
    notes = Notes()
    result = sapt.evaluate_top_k([1, "all", 1], observer=notes)
    assert json.loads(sapt.folder.top_k.read_text()) == result
    assert [row["k"] for row in result["rows"]] == [1, "all"]
    assert result["tasks"] == list(sapt.tasks) and len(result["n_test"]) == 3
    assert (result["own"], result["metric"]) == ("all", "exact-match")
    assert result["machine"]["device"] == "cpu" and result["machine"]["threads"] == 1
    assert [note.partition(":")[0] for note in notes.notes] == ["top_k=1", "top_k=all"]


@pytest.mark.parametrize("run", ["sapt", "dynamic"])
def test_free_answers_are_written_again_every_time(
    run: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those to prompts that stand twice among the tests, and those of the memo of the run."""
    model = load(request.getfixturevalue(run).folder.path)
    data = opened(model).data
    assert data is not None
    data[1] = data[0]  # every prompt of the first task twice
    written: list[int] = []
    generate = State.generate

    def counted(state: State, batch, *arguments, **options):  # type: ignore[no-untyped-def]
        written.append(len(batch))
        return generate(state, batch, *arguments, **options)

    monkeypatch.setattr(State, "generate", counted)
    tests = [example for task in data for example in task.test]
    first, *_ = Inputs(opened(model).state, tests).batches
    n, warm = len(tests), len(first)
    adapters = 1 if run == "sapt" else 2  # sapt mixes them in one pass
    for _ in range(2):
        written.clear()
        model.evaluate_top_k([2])
        assert sum(written) == adapters * (n + warm)


def test_the_run_is_left_as_it_is(dynamic: ContinualModel) -> None:
    method, files = dynamic.method, ("state.json", "matrix.json", "answers.json", "stream.json")
    before = [(dynamic.folder.path / name).read_bytes() for name in files]
    dynamic.evaluate_top_k([3])
    assert dynamic.method == method == ConpetDynamic()
    assert [(dynamic.folder.path / name).read_bytes() for name in files] == before


@pytest.mark.parametrize("k", [0, 4, -1, "some", True, 1.0])
def test_numbers_out_of_range_are_refused(sapt: ContinualModel, k: int | str) -> None:
    with pytest.raises(ConfigError, match=r"top_k is .*allowed: 1 to 3, and all"):
        sapt.evaluate_top_k([1, k])


def test_no_number_is_refused(sapt: ContinualModel) -> None:
    with pytest.raises(ConfigError, match="no top_k was given"):
        sapt.evaluate_top_k([])


def test_methods_without_the_option_are_refused(sequential: ContinualModel) -> None:
    with pytest.raises(ConfigError, match=r"'sequential' has no option top_k.*conpet-dynamic, "):
        sequential.evaluate_top_k([1])
    assert not sequential.folder.top_k.exists()


def test_a_run_without_a_selector_has_nothing_to_choose_with(tmp_path: Path) -> None:
    settings = {"train__epochs": 1, "replay__batch_limit": 3, "device": "cpu", "threads": 1}
    model = fit(
        synthetic_stream("text", 2),
        out=tmp_path / "run",
        backbone="tiny-bert",
        method__top_k="all",
        **settings,
    )
    assert model.evaluate_top_k(["all", 2])["rows"][0]["k"] == "all"
    with pytest.raises(ConfigError, match="no selector"):
        model.evaluate_top_k([1])


def test_a_study_finds_the_same_scores(sapt: ContinualModel) -> None:
    [row] = top_k(str(sapt.folder.path), "1,all")
    expected = sapt.evaluate_top_k([1, "all"])["rows"]
    assert row["top_k"] == [1, "all"] and len(row["top_k_seconds"]) == 2
    assert row["top_k_score"] == pytest.approx([one["average"] for one in expected])
