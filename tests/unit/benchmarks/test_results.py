"""The committed results are what the code gives, and the page shows what the results say."""

from __future__ import annotations

import csv
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
