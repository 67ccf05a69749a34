"""The committed results are what the code gives, and the page shows what the results say."""

from __future__ import annotations

import csv
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from conpet import fit, load_stream

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
CHOSEN = "backbone__read_out=mask threads=1"
TOLERANCE = 1.0  # points: half precision rounds otherwise on another processor
TRAINED = 5.0  # what training makes of that, on 196 examples
needs_data = pytest.mark.skipif(
    "CONPET_DATA" not in os.environ, reason="CONPET_DATA names no folder with the streams' files"
)


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module(name)


def rows_of(table: str, **wanted: str) -> list[dict[str, str]]:
    with (BENCHMARKS / "results" / table).open() as file:
        rows = [r for r in csv.DictReader(file) if wanted.items() <= r.items()]
    assert rows, f"{table} has no row {wanted}"
    return rows


@pytest.mark.parametrize("name", ["tables", "performance"])
def test_the_pages_show_the_committed_results(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = benchmark(name, monkeypatch)
    page = tables.PAGE.read_text()
    assert tables.render(page) == page, f"run: python benchmarks/{name}.py"


def test_the_table_of_a_stream_names_what_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our figure, theirs with its setting, the gap, why; a reason where there is no figure."""
    tables = benchmark("tables", monkeypatch)
    monkeypatch.setattr(tables, "STUDIES", tmp_path)
    assert tables.comparison("fewrel").startswith("Nothing is measured yet")
    rows: list[dict[str, object]] = [
        {"run": f"{arm}-{seed}", "arm": arm, "seed": seed, "forgetting": 20.0}
        | {"average_accuracy": score + seed}
        for arm, score in (("o-lora", 70), ("joint", 75), ("l2p", 30))
        for seed in (1, 3)
    ]
    rows += [{"arm": "ewc", "reason": "it learns | classes"}]
    folder = tmp_path / "comparison" / "long-sequence"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps({"rows": rows}))
    head, _, *lines = tables.comparison("long-sequence").splitlines()
    assert {line.count("|") for line in (head, *lines)} == {9}
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in lines}
    assert list(cells) == ["o-lora", "l2p", "joint", "ewc"]
    _, runs, ours, forgetting, theirs, setting, gap, reason = cells["o-lora"]
    assert (runs, ours, forgetting) == ("2", "72.0 ± 1.4", "20.0 ± 0.0")
    assert theirs.startswith("71.0 and 71.2") and "T5-large" in setting and gap == "0.9"
    assert "eight of the tasks" in reason
    assert cells["l2p"][4:] == ["none published for this setting", "–", "–", "not comparable"]
    assert cells["ewc"][1:4] == ["0", "–", "–"] and cells["ewc"][-1] == "it learns / classes"
    assert "43.2" in cells["ewc"][4]


def test_every_stream_of_the_main_job_has_its_bounds() -> None:
    streams = {row["stream"] for row in rows_of("main_job.csv", method="conpet-dynamic")}
    assert streams == {"fewrel", "multiconer", "clinc150", "clinc150-mixed"}
    for stream in streams:
        for method in ("lda", "sequential", "joint"):
            assert rows_of("main_job.csv", stream=stream, method=method)


def test_joint_took_at_least_the_steps_of_conpet_dynamic() -> None:
    for row in rows_of("main_job.csv", method="joint"):
        (other,) = rows_of(
            "main_job.csv", stream=row["stream"], seed=row["seed"], method="conpet-dynamic"
        )
        assert float(row["steps"]) >= float(other["steps"]), row


def test_a_row_of_the_main_job_comes_out_again(tmp_path: Path) -> None:
    (row,) = rows_of("main_job.csv", stream="banking77", method="lda", seed="1")
    stream = load_stream("banking77", preset="small", seed=100)
    whole = fit(stream, out=tmp_path / "run", method="lda").evaluate()["whole"]
    assert whole == pytest.approx(float(row["whole_accuracy"]), abs=TOLERANCE)


def test_a_trained_row_of_the_settings_table_comes_out_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose = benchmark("choose", monkeypatch)
    name, method, *words = choose.QUICK
    again = choose.measure(name, method, words)
    (row,) = rows_of("choose.csv", stream=name, method=method, settings=again["settings"])
    assert again["steps"] == float(row["steps"])
    assert again["whole_accuracy"] == pytest.approx(float(row["whole_accuracy"]), abs=TRAINED)


@needs_data
def test_a_row_of_the_chosen_settings_comes_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = rows_of("choose.csv", stream="multiconer", settings=CHOSEN)
    choose = benchmark("choose", monkeypatch)
    stream = choose.on_validation(load_stream("multiconer", preset="small", seed=100))
    whole = fit(stream, out=tmp_path / "run", method="lda").evaluate()["whole"]
    assert whole == pytest.approx(float(row["whole_accuracy"]), abs=TOLERANCE)
