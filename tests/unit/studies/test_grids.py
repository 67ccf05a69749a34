"""The grids: well formed, every command a valid configuration; plots and sentences of any rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from conpet.config import load_config
from conpet.errors import ConfigError
from conpet.studies import STUDIES, load_study
from conpet.studies.active_modules import ladder
from conpet.studies.base import Plan, Row, relative
from conpet.studies.figures import svg_file
from conpet.studies.rows import METRICS, table
from conpet.studies.similarity import divisions, write_topics
from conpet.studies.sizes import SIZES

SIZED = [(name, size) for name in STUDIES for size in SIZES]


def plan_of(name: str, size: str, folder: Path, seeds: tuple[int, ...] | None = None) -> Plan:
    return load_study(name).plan(size, out=folder / name, seeds=seeds)


@pytest.mark.parametrize("name", list(STUDIES))
def test_a_study_says_what_it_asks(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert study.question.endswith("?")


@pytest.mark.parametrize(("name", "size"), SIZED)
def test_every_cell_is_a_run(name: str, size: str, tmp_path: Path) -> None:
    study, plan = load_study(name), plan_of(name, size, tmp_path)
    cells = study.grid(plan)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) > 1
    assert {cell.labels["seed"] for cell in cells} == set(plan.seeds)
    identities = set()
    for cell in cells:
        assert re.fullmatch(r"[\w.-]+", cell.name)
        config = load_config(None, [*cell.words, f"out={plan.run_folder(cell.name)}"])
        assert config.seed == cell.labels["seed"]
        identities.add(json.dumps(config.identity(), sort_keys=True))
    assert len(identities) == len(cells), "two cells are the same run"


@pytest.mark.parametrize(("name", "size"), SIZED)
def test_probes_look_at_runs_that_are_there(name: str, size: str, tmp_path: Path) -> None:
    study, plan = load_study(name), plan_of(name, size, tmp_path)
    cells = {cell.name for cell in study.grid(plan)}
    probes = study.probes(plan)
    assert {probe.needs for probe in probes} <= cells | {None}
    assert len({probe.name for probe in probes}) == len(probes)


def test_sizes_grow() -> None:
    assert [SIZES[size].seeds for size in SIZES] == [(1,), (1,), (1, 2, 3)]
    assert "backbone=tiny-bert" in SIZES["tiny"].words
    for name in STUDIES:
        tiny = load_study(name).plan("tiny").stream
        assert tiny in ("banking77", "made-up"), "needs no CONPET_DATA"


def test_unknown_study_is_answered_with_the_list() -> None:
    with pytest.raises(ConfigError, match=r"'memry'. Did you mean 'memory'\?") as error:
        load_study("memry")
    assert all(f"  {name} " in str(error.value) for name in STUDIES)


def test_wrong_choices() -> None:
    study = load_study("memory")
    with pytest.raises(ConfigError, match=r"unknown size 'tny'. Did you mean 'tiny'\?"):
        study.plan("tny")
    with pytest.raises(ConfigError, match=r"seeds are \[1, 1\]"):
        study.plan(seeds=[1, 1])


def test_paths_are_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = load_study("memory").plan(out=tmp_path / "x", data=tmp_path.parent / "data")
    assert (plan.folder, plan.data) == (Path("x"), Path("../data"))
    assert relative("banking77") == Path("banking77")


def test_ladder_of_active_adapters() -> None:
    assert ladder(10) == [1, 2, 4, "all"]
    assert ladder(4) == [1, 2, "all"]
    assert ladder(2) == [1, "all"]


# Topics and lots


def test_tiny_topics_are_a_groups_file(tmp_path: Path) -> None:
    plan = plan_of("interference", "tiny", tmp_path)
    write_topics(plan)
    topic, lot = divisions(plan)
    groups = json.loads((plan.folder / "topics.json").read_text())
    assert len(groups) == topic.tasks == lot.tasks
    sizes = [len(labels) for labels in groups.values()]
    assert sum(sizes) == 77 and max(sizes) - min(sizes) <= 1
    assert any("topics.json" in word for word in topic.words)


def test_a_chosen_stream_needs_tasks_that_mean_something(tmp_path: Path) -> None:
    study = load_study("interference")
    with pytest.raises(ConfigError, match="drawn by lot.*clinc150"):
        study.grid(study.plan("tiny", stream="banking77"))
    data = tmp_path / "things.jsonl"
    rows = [
        {"text": f"the {word} number {i}", "label": word, "task": task}
        for task, words in (("food", ["bread", "soup"]), ("sky", ["moon", "star"]))
        for word in words
        for i in range(10)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    topic, lot = divisions(study.plan("tiny", stream=str(data)))
    assert topic.tasks == lot.tasks == 2
    assert lot.words == (*topic.words, "stream.n_tasks=2")


# Plots and sentences

NUMBERS = (
    *("backward_transfer", "own_weight"),
    *("learning_rate", "adapter_bytes", "seconds_per_task", "steps_per_task", "last_over_second"),
    *("milliseconds_per_answer", "kept_examples", "kept_bytes", "coverage", "largest_forgetting"),
    *("nearest_elsewhere", "weights_bytes", "computed_bytes", "computed_parameters"),
    *("computed_training_bytes", "adapter_parameters", "training_memory_bytes"),
    *("answer_memory_bytes", "imports_memory_bytes", "history_bytes", "logits_bytes"),
    *("tokens_bytes", "exact_match", "rouge_l", "majority_exact_match", "majority_rouge_l"),
    *("copy_rouge_l", "trunk_bytes"),
)
LISTS = ("forgetting_by_task", "selector_by_stage", "whole_by_stage", "oracle_by_stage")
TOP_K: Row = {"top_k": [1, "all"], "top_k_score": [60.5, 61.0], "top_k_seconds": [4.0, 5.0]}


def drawn_rows(name: str, plan: Plan) -> Iterator[Row]:
    """A row a cell, with numbers by lot in every column that a study could ask for."""
    rng = np.random.default_rng(0)
    study = load_study(name)
    probed = {probe.needs for probe in study.probes(plan) if probe.words[0] == "top-k"}
    for cell in study.grid(plan):
        row: Row = {"run": cell.name, "method": "conpet-dynamic", "tasks": 10, **cell.labels}
        k = cell.labels.get("top_k", 1)
        row |= {
            "stream": cell.labels.get("stream", "s"),
            "active": row["tasks"] if k == "all" else k,
        }
        row |= {key: float(rng.uniform(1, 99)) for key in (*METRICS, *NUMBERS)}
        row |= TOP_K if cell.name in probed else {}
        yield row | {key: rng.uniform(1, 99, 10).tolist() for key in LISTS}


@pytest.mark.parametrize("name", list(STUDIES))
@pytest.mark.parametrize("missing", [1, 2, 100])
def test_text_and_plot_of_any_rows(name: str, missing: int, tmp_path: Path) -> None:
    """With three seeds; with every second cell missing; and with one row alone."""
    study, plan = load_study(name), plan_of(name, "small", tmp_path, (1, 2, 3))
    rows = list(drawn_rows(name, plan))[::missing]
    lines = list(study.text(rows))
    assert 1 <= len(lines) <= 12
    assert all(line.endswith(".") and "nan" not in line for line in lines), lines
    if missing == 1:
        assert "±" in " ".join(lines)
        assert "not measured" not in " ".join(lines).replace("Not", "")
    svg = svg_file(study.plot(rows), study.title)
    assert "mathdefault" not in svg
    assert ElementTree.fromstring(svg).tag.endswith("svg") and "--ink:" in svg
    assert table(rows).count("\n") == len(rows) + 1
