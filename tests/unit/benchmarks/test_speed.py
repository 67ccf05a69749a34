"""The benchmarks of speed run alone, say what they measured, and compare like with like."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from conpet.api.opened import open_run
from conpet.config import load_config
from conpet.evaluation.evaluator import evaluate
from conpet.runtime import RunFolder
from conpet.runtime.machine import PACKAGES

ROOT = Path(__file__).parents[3]
BENCHMARKS = ROOT / "benchmarks"
DIFFERENCES = ("points below", "seconds beyond")  # may be negative
QUICK = ["--quick", "--json", "--backbone", "tiny-bert", "--threads", "1", "--rounds", "2"]


@pytest.fixture(autouse=True)
def _as_scripts_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def document_of(name: str, *options: str) -> dict[str, Any]:
    """What the script prints: one JSON document and nothing else."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *QUICK, *options]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def check_document(document: dict[str, Any]) -> None:
    for figure in document["figures"]:
        assert set(figure) == {"name", "value", "goal", "ok"}
        assert figure["value"] > 0 or any(word in figure["name"] for word in DIFFERENCES)
        assert figure["ok"] is (figure["goal"] is None or figure["value"] <= figure["goal"])
    assert document["command"].startswith("python benchmarks/")
    assert set(document["environment"]["packages"]) == set(PACKAGES)
    assert len(document["environment"]["load_average"]["before"]) == 3


def test_floor_measures_every_case_in_both_precisions() -> None:
    document = document_of("floor", "--decoder", "tiny-llama", "--encoder-decoder", "tiny-t5")
    check_document(document)
    cases = {m["case"] for m in document["measured"]}
    assert cases == {
        "conpet-dynamic, adapter phase",
        "conpet-dynamic, selector phase",
        "sequential",
        "sequential on a decoder",
        "sequential on an encoder-decoder",
    }
    assert "fp32" in {m["precision"] for m in document["measured"]}
    for measured, figure in zip(document["measured"], document["figures"], strict=True):
        assert figure["goal"] == 1.1
        assert figure["value"] == pytest.approx(measured["step_over_floor"]["median"], abs=1e-3)
        seconds = measured["seconds"]
        assert set(seconds) == {"step", "floor", "encoding", "optimiser"}
        assert all(s["runs"] == 2 and s["q25"] <= s["median"] <= s["q75"] for s in seconds.values())
        assert seconds["optimiser"]["median"] < seconds["step"]["median"]


def test_growth_compares_a_small_state_with_a_large_one() -> None:
    document = document_of("growth", "--tasks", "4")
    check_document(document)
    goals = {f["name"]: f["goal"] for f in document["figures"]}
    assert goals["training step, selector phase"] == 1.05
    assert goals["training step, adapter phase, top_k 1"] == 1.05
    assert goals["training step, adapter phase, top_k 2, logits known"] == 1.05
    assert goals["answer to 64 texts"] == 1.05
    assert goals["peak memory"] == 1.1
    assert document["settings"]["learned_tasks"] == {"one": 1, "two": 2, "many": 4}
    assert document["compared"]["peak memory"]["bytes"]["many"]["median"] > 1e8
    assert set(document["compared"]["answer to one text"]["seconds"]) == {"one", "many"}


@pytest.mark.parametrize("backbone", ["tiny-t5", "tiny-llama"])
def test_decoding_writes_the_same_tokens_with_adapters_and_without(backbone: str) -> None:
    document = document_of("decoding", "--backbone", backbone, "--batch", "9", "--tokens", "5")
    check_document(document)
    cases = ["one adapter", "8 adapters in a batch", "15 adapters mixed"]
    assert [c["case"] for c in document["cases"]] == cases
    for case, figure in zip(document["cases"], document["figures"], strict=True):
        assert (case["prompts"], case["new_tokens"]) == (9, 5)
        assert figure["goal"] == 1.3
        against = "over_one" if case["case"] == "15 adapters mixed" else "quotient"
        assert figure["value"] == pytest.approx(case[against]["median"], abs=1e-3)


def test_sapt_growth_compares_pools_and_loops() -> None:
    document = document_of("sapt_growth", "--tasks", "4", "--batch", "4", "--length", "8")
    check_document(document)
    goals = {f["name"]: f["goal"] for f in document["figures"]}
    assert goals["training step, dense, rank 8"] == 1.75
    assert goals["training step, dense, rank 4"] == 1.4
    assert goals["training step, top 2, rank 8"] == 1.15
    assert goals["answer, dense, rank 8"] is None
    assert goals["training step, dense, rank 8, over a loop, as written"] == 0.2
    assert goals["training step, dense, rank 8, cut, over a loop, side by side"] == 0.2
    assert goals["training step, dense, rank 8, over a loop, weighed inside"] is None
    assert document["settings"]["frozen_adapters"] == {"one": 1, "many": 4}
    for name, figure in document["compared"].items():
        sides = {"loop", "ours"} if "loop" in name else {"one", "many"}
        assert set(figure["seconds"]) == sides


def test_growth_of_methods_compares_all_sizes() -> None:
    document = document_of("growth_methods", "--methods", "sapt", "--sizes", "1", "3")
    check_document(document)
    goals = {f["name"]: f["goal"] for f in document["figures"]}
    assert goals["sapt, training step, adapter phase"] == 1.15
    assert goals["sapt, answer to 64 texts"] == 1.15
    assert goals["sapt, answer to 64 texts, over plain forwards"] is None
    assert goals["sapt, start, seconds beyond the backbone"] == 2.0
    assert goals["sapt, memory, but for the adapters' own bytes"] == 1.05
    assert goals["sapt, disk, megabytes of a further task"] is None
    measured = document["measured"]["sapt"]
    assert set(measured["training step, adapter phase"]["seconds"]) == {"1", "3"}
    own = measured["memory, but for the adapters' own bytes"]["adapters"]
    assert own["3"] == 2 * own["1"]  # with the one that was learned: 4 adapters and 2
    assert isinstance(import_module("plots").growth_methods(document), Figure)


@pytest.mark.parametrize("method", ["conpet-dynamic", "conpet-static", "sapt"])
def test_a_grown_folder_goes_on_with_the_same_tokens(tmp_path: Path, method: str) -> None:
    growth, working_state = import_module("growth_methods"), import_module("working_state")
    tasks = working_state.EqualTasks(8, 1, 1)
    seen = {}
    for n in (1, 2):
        words = [f"method={method}", "backbone=tiny-bert"]
        working_state.grow(tmp_path / str(n), n, tasks, words)
        run = working_state.learning(tmp_path / str(n), tasks)
        assert run.state.task_names == tuple(f"task-{i:04d}" for i in range(n + 1))
        steps = growth.PhaseSteps(run, run.method.phases(run.state)[0])
        batches = growth.twins(steps, tasks)
        steps.take(batches, 0)
        seen[n] = [step["task"].input_ids for step in batches]
    for small, large in zip(seen[1], seen[2], strict=True):
        assert torch.equal(small, large)


def test_peers_do_the_same_work() -> None:
    document = document_of("peers", "--batch", "6", "--adapters", "3", "--mixed", "2")
    check_document(document)
    goals = {f["name"]: f["goal"] for f in document["figures"]}
    assert goals["training step, over peft"] == 1.0
    assert goals["training step, over peft, defaults"] is None
    for way in ("adapter_names", "a loop over adapters", "swapped weights"):
        assert f"answers to 6 texts, 3 adapters, over peft, {way}" in goals
    assert "16 texts, 2 adapters mixed, over peft, add_weighted_adapter" in goals


def test_a_batch_is_served_through_each_number_of_adapters() -> None:
    document = document_of("serve_batch", "--most", "4")
    check_document(document)
    (figure,) = document["figures"]
    assert figure["goal"] == 1.15
    assert figure["name"] == "4 different adapters in a batch of 4 texts, over one"
    (measured,) = document["measured"]
    assert set(measured["answers_per_second"]) == {"1", "4"}
    assert isinstance(import_module("plots").serve_batch(document), Figure)


def test_trunk_compares_adapters_in_fewer_layers() -> None:
    document = document_of("trunk")
    check_document(document)
    goals = {f["name"]: f["goal"] for f in document["figures"]}
    step = "training step, upper half, over {}, short texts, fp32"
    assert goals[step.format("all layers")] == pytest.approx(1 / 1.8, abs=1e-3)
    assert goals[step.format("upper half, as one backbone")] == pytest.approx(1 / 1.3, abs=1e-3)
    assert goals["answers to 64 texts, upper half, over plain forwards"] == 1.6
    assert document["settings"]["ways"]["upper third"] == ["adapter.layers=1"]
    assert goals["training step, upper third, over all layers, short texts, fp32"] is None


def test_a_stream_is_learned_in_both_ways() -> None:
    document = document_of("stream", "--tasks", "2", "--rounds", "1")
    check_document(document)
    assert [f["goal"] for f in document["figures"]] == [0.4, None]  # one seed has no spread
    ours, plain = (document["ways"][way] for way in ("ours", "plain"))
    assert ours["steps"] == plain["steps"] > 32
    assert ours["forward_passes"][0] < plain["forward_passes"][0]
    for way in (ours, plain):
        parts = sum(seconds["median"] for seconds in way["parts"].values())
        assert parts == pytest.approx(way["seconds"]["median"], abs=0.1)
        assert {"selector phase, training", "adapter phase, validation"} < set(way["parts"])
    assert isinstance(import_module("plots").stream(document), Figure)


def test_the_plain_way_deals_the_same_examples() -> None:
    stream = import_module("stream")
    new, rng = np.arange(100, 140), np.random.default_rng(0)
    batches = [np.r_[100 + i, 101 + i, i, i + 1, i] for i in range(6)]
    dealt = stream.dealt_anew(batches, new, rng)
    assert [int(np.isin(b, new).sum()) for b in dealt] == [2] * 6
    for before, after in ((batches, dealt), (dealt, batches)):
        assert sorted(np.concatenate(before)) == sorted(np.concatenate(after))
    assert any(set(a) != set(b) for a, b in zip(batches, dealt, strict=True))


def test_the_plain_way_gives_the_same_answers(tmp_path: Path) -> None:
    """Without its padding, sorting and cache a run says what it says with them."""
    stream, working_state = import_module("stream"), import_module("working_state")
    words = ["backbone=tiny-bert", "precision=fp32", "method.skip_gradless=false"]
    working_state.build(tmp_path, 3, working_state.EqualTasks(2, 1, 2), words)
    folder = RunFolder(tmp_path)
    run = open_run(folder, load_config(folder.config), with_data=True)
    ours = evaluate(run.state, run.method, run.state.history)
    stream.make_plain(run)
    plain = evaluate(run.state, run.method, run.state.history)
    for name, answers in ours.items():
        assert [a.label for a in answers] == [a.label for a in plain[name]]
        assert [a.oracle for a in answers] == [a.oracle for a in plain[name]]


def test_both_states_get_the_same_tokens_half_of_them_of_old_tasks(tmp_path: Path) -> None:
    working_state = import_module("working_state")
    tasks = working_state.EqualTasks(4, 1, 1)
    batches = {}
    for n in (1, 3):
        working_state.build(tmp_path / str(n), n, tasks, ["backbone=tiny-bert"])
        run = working_state.learning(tmp_path / str(n), tasks)
        assert len(run.state.history) == n + 1
        batches[n] = [entry["task"] for entry in tasks.batches(run.state, 2)]
    for small, large in zip(batches[1], batches[3], strict=True):
        assert torch.equal(small.input_ids, large.input_ids)
        assert torch.equal(small.label % 11, large.label % 11)
        assert int((small.task == 1).sum()) == int((large.task == 3).sum()) == 16
    assert {int(t) for b in batches[3] for t in b.task} == {0, 1, 2, 3}


def test_the_selector_of_a_working_state_names_many_tasks(tmp_path: Path) -> None:
    from conpet import load

    working_state = import_module("working_state")
    tasks = working_state.EqualTasks(4, 1, 2)
    working_state.build(tmp_path / "run", 5, tasks, ["backbone=tiny-bert"])
    run = working_state.learning(tmp_path / "run", tasks)
    for phase in run.method.phases(run.state):
        phase.begin(run.state)
        phase.end(run.state)
    working_state.spread_selector(run.state, newest=True)
    working_state.commit(run)
    model = load(tmp_path / "run")
    assert len(model.tasks) == 6
    named = {p.tasks for p in model.predict([e.text for e in tasks.first.test])}
    assert len(named) > 2


@pytest.mark.parametrize("loop", ["as_written", "weighed_inside", "side_by_side"])
def test_the_loops_compute_what_the_mix_does(tmp_path: Path, loop: str) -> None:
    """Two steps of each, from the same start and straight down the gradient, end alike."""
    growth = import_module("sapt_growth")
    args = Namespace(backbone="tiny-bert", batch=3, length=8)
    way, theirs = growth.CUT if loop == "side_by_side" else growth.DENSE, getattr(growth, loop)
    ends = []
    for ours in (True, False):
        mixed = growth.build(tmp_path / str(ours), 3, 4, args)
        parameters = mixed.optimiser.param_groups[0]["params"]
        mixed = replace(mixed, optimiser=torch.optim.SGD(parameters, lr=1.0))
        batch = growth.make_batch(mixed.state, args)
        growth.check_same(mixed, batch, theirs)
        for _ in range(2):
            if ours:
                growth.step(mixed, batch, way)
            else:
                growth.loop_step(mixed, batch, theirs)
        ends.append(parameters)
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_actions_run_in_turn_and_none_always_comes_first() -> None:
    common = import_module("common")
    order: list[str] = []
    actions = {name: lambda i, name=name: order.append(f"{name}{i}") for name in "ab"}
    seconds = common.alternate(actions, rounds=2, warm_up=1)
    assert order == ["a0", "b0", "b1", "a1", "a2", "b2"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_quotient_is_the_median_over_rounds() -> None:
    common = import_module("common")
    assert common.quotient([2.0, 30.0, 8.0], [1.0, 10.0, 2.0])["median"] == 3.0


def test_a_figure_above_its_goal_is_not_ok() -> None:
    common = import_module("common")
    assert common.figure("x", 1.21, 1.2)["ok"] is False
    assert common.figure("x", 1.2, 1.2)["ok"] is True
    assert common.figure("x", 9.0)["ok"] is True
