"""The study ``comparison``: every method in one table, rows taken over, orders, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conpet.config import load_config
from conpet.config.presets import STATIC_BASES
from conpet.errors import ConfigError
from conpet.registry import METHODS
from conpet.studies import load_study
from conpet.studies.arms import alone, arms, has_option, told
from conpet.studies.base import Plan, Row, Study
from conpet.studies.comparison import STUDY, figure, ranked, table
from conpet.studies.conduct import conduct
from conpet.studies.instructions import ARMS, TASKS

TEXT, CLASSES = "long-sequence", "clinc150-mixed"


def plan_of(stream: str, size: str = "full", **how: Any) -> Plan:
    return STUDY.plan(size, stream=stream, **how)


def names(plan: Plan) -> list[str]:
    """The arms that are run and those that are not."""
    run = [str(cell.labels["arm"]) for cell in STUDY.grid(plan)]
    return [*dict.fromkeys(run), *(row["arm"] for row in STUDY.empty(plan))]


@pytest.mark.parametrize("stream", [TEXT, CLASSES, "fewrel", "superni-mini"])
def test_every_method_of_the_registry_is_run_or_says_why_not(stream: str) -> None:
    plan = plan_of(stream)
    assert set(METHODS) <= set(names(plan))
    assert {f"conpet-static-{base}" for base in STATIC_BASES} <= set(names(plan))
    assert len(set(names(plan))) == len(names(plan))
    assert all(len(row["reason"]) > 20 for row in STUDY.empty(plan))
    cells = STUDY.grid(plan)
    assert {cell.labels["seed"] for cell in cells} == {1, 2, 3}
    text = stream not in ("fewrel", CLASSES)
    for cell in cells[: len(cells) // 3]:
        load_config(None, cell.words).check_stream(text=text)


def test_a_method_that_cannot_write_stands_there_with_its_own_reason() -> None:
    reasons = {row["arm"]: row["reason"] for row in STUDY.empty(plan_of(TEXT))}
    wanted = {name for name in METHODS if "text" not in METHODS.load(name).answers}
    assert wanted <= set(reasons)
    assert "learns classes, and the answers of this stream are free text" in reasons["ewc"]
    of_classes = {row["arm"] for row in STUDY.empty(plan_of(CLASSES))}
    only_text = {name for name in METHODS if "class" not in METHODS.load(name).answers}
    assert of_classes == {"conpet-static-emr", *only_text}


def test_variants_are_there_where_their_options_are() -> None:
    for text in (False, True):
        found = arms(text)
        for name in ("conpet-dynamic", "sapt"):
            assert (f"{name}-analytic" in found) == has_option(name, "router")
        assert ("progprompt-task-id" in found) == has_option("progprompt", "task_id")
        assert {"sapt-prompt", "per-task-prompt"} <= set(found)
    assert has_option("conpet-dynamic", "top_k") and not has_option("conpet-dynamic", "no-such")
    assert not has_option("no-such", "router")


def test_what_forward_transfer_is_held_against() -> None:
    assert alone("conpet-dynamic") == alone("sequential") == "per-task"
    assert alone("sapt-prompt") == "per-task-prompt"
    assert [alone(arm) for arm in ("joint", "per-task", "per-task-prompt", "lda")] == [None] * 4
    assert told("per-task") and told("progprompt-task-id") and not told("sapt")


def test_instruction_tasks_have_the_words_of_study_sapt() -> None:
    """Letter for letter, or nothing could be taken over."""
    sapt = load_study("sapt")
    theirs = {cell.words for cell in sapt.grid(sapt.plan("full"))}
    ours = {str(c.labels["arm"]) for c in STUDY.grid(plan_of(TEXT)) if c.words in theirs}
    same = {"sequential", "replay", "sapt", "per-task", "conpet-dynamic", "joint"}
    assert same | {"conpet-static-replay", "sapt-prompt", "per-task-prompt"} == ours
    assert set(ARMS) >= same
    (only,) = {w for cell in STUDY.grid(plan_of(TEXT)) for w in cell.words if "only" in w}
    assert only == f"stream.only=[{','.join(TASKS)}]"


def test_each_stream_has_a_folder_and_may_have_orders(tmp_path: Path) -> None:
    assert plan_of(TEXT).folder == Path("studies/comparison/long-sequence")
    assert plan_of("data/mine.jsonl").folder == Path("studies/comparison/mine")
    assert plan_of(TEXT, out="x").folder == Path("x")
    plan = plan_of(TEXT, seeds=[1], orders=["yelp-first", "7"])
    cells = STUDY.grid(plan)
    assert len(cells) == 2 * len(STUDY.grid(plan_of(TEXT, seeds=[1])))
    words = {str(c.labels["order"]): c.words for c in cells if c.labels["arm"] == "sapt"}
    assert "stream.order=yelp-first" in words["yelp-first"] and "stream.seed=7" in words["7"]
    assert len(STUDY.empty(plan)) == len(STUDY.empty(plan_of(TEXT)))
    with pytest.raises(ConfigError, match="no order 'yelp'. Did you mean 'yelp-first'.*numbers"):
        STUDY.grid(plan_of(TEXT, orders=["yelp"]))
    with pytest.raises(ConfigError, match="runs one order of a stream"):
        load_study("memory").plan(orders=["1"])
    with pytest.raises(ConfigError, match="give each once"):
        plan_of(TEXT, orders=["1", "1"])


def row(arm: str, seed: int, score: float, **more: Any) -> Row:
    figures = {"average_accuracy": score, "learning_accuracy": score + 10, "steps": 1200}
    name = {"run": f"s-{arm}-{seed}", "stream": "s", "arm": arm, "seed": seed}
    return {**name, **figures, "peak_memory_bytes": 3 * 2**20, **more}


def test_the_table_is_the_rows() -> None:
    rows = [row("replay", 1, 60), row("replay", 2, 64), row("sapt", 1, 70, origin="sapt")]
    rows += [row("per-task", 1, 65), row("per-task", 2, 66)]
    rows += [{"stream": "s", "arm": "ewc", "reason": "it cannot | learn this"}]
    rows += [{"stream": "s", "arm": "sapt", "seed": 2, "reason": "the run failed: no room"}]
    assert ranked(rows) == ["sapt", "replay", "per-task"]
    assert figure(rows, "replay", "average score (AP)") == "62.0 ± 2.8"
    assert figure(rows, "replay", "steps") == "1,200"
    assert figure(rows, "replay", "peak MiB") == "3"
    assert figure(rows, "replay", "FWT") == "-3.5 ± 2.1"  # 70 - 75 and 74 - 76
    assert figure(rows, "per-task", "FWT") == figure(rows, "sapt", "routing") == "–"
    head, rule, *lines = table(rows).splitlines()
    assert {line.count("|") for line in (head, rule, *lines)} == {head.count("|")}
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [*ranked(rows), "ewc"]
    assert lines[0].endswith("runs of study sapt; seed 2: the run failed: no room |")
    assert lines[2].endswith("told the task |")
    assert lines[3].startswith("| ewc | 0 | – |") and "it cannot / learn this |" in lines[3]


def test_several_orders_are_paired_one_by_one() -> None:
    rows = [row("sapt", 1, 70, order="a"), row("sapt", 1, 50, order="b")]
    rows += [row("per-task", 1, 60, order="a"), row("per-task", 1, 40, order="b")]
    assert figure(rows, "sapt", "FWT") == "+10.0 ± 0.0"
    assert any("Orders or draws of the stream: a, b" in line for line in STUDY.text(rows))


# Conducted ---------------------------------------------------------------------------------------


def small(*names: str) -> Study:
    """The study with these arms alone."""

    def grid(plan: Plan) -> list[Any]:
        return [cell for cell in STUDY.grid(plan) if cell.labels["arm"] in names]

    return replace(STUDY, grid=grid)


def _nothing(_: Plan) -> None:
    pass


def test_runs_and_rows_of_another_study_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``sequential`` of study sapt is given the words of ours: its run counts, and where the run is
    gone its row; ``lda`` is in no other study, and an arm that cannot learn has a line."""
    monkeypatch.chdir(tmp_path)
    sapt, ours = load_study("sapt"), STUDY.plan("tiny", threads=1)
    plan = sapt.plan("tiny", threads=1)
    (twin,) = small("sequential").grid(ours)
    labels = {"stream": "classes", "arm": "sequential", "seed": 1}
    there = replace(
        sapt, grid=lambda _: [replace(twin, labels=labels)], probes=lambda _: (), prepare=_nothing
    )
    monkeypatch.setattr("conpet.studies.conduct.load_study", {"sapt": there}.__getitem__)
    assert conduct(there, plan).failures == ()
    lines: list[str] = []
    done = conduct(small("lda", "sequential"), ours, tell=lines.append)
    assert done.failures == () and "1 rows are those of study sapt" in lines
    assert done.document is not None
    by_arm = {row["arm"]: row for row in done.document["rows"]}
    assert by_arm["sequential"]["origin"] == "sapt" and "origin" not in by_arm["lda"]
    (theirs,) = json.loads((plan.folder / "study.json").read_text())["rows"]
    same = ("whole_accuracy", "steps", "forgetting", "learning_accuracy", "backward_transfer")
    assert all(by_arm["sequential"][name] == theirs[name] for name in same)
    assert by_arm["sequential"]["run"] == "banking77-sequential-1"
    assert by_arm["sequential"]["stream"] == "banking77"
    assert sorted(p.name for p in (ours.folder / "runs").iterdir() if p.is_dir()) == [
        "banking77-lda-1"
    ]
    text = (ours.folder / "text.md").read_text()
    assert "| sequential | 1 |" in text and "| runs of study sapt |" in text
    assert "| conpet-static-emr | 0 |" in text and "the same as conpet-static-replay" in text
    assert str(tmp_path) not in text

    (plan.folder / "runs").rename(tmp_path / "elsewhere")
    (ours.folder / "study.json").unlink()
    lines.clear()
    again = conduct(small("lda", "sequential"), ours, tell=lines.append)
    assert "1 rows are those of study sapt" in lines, "its row, where its run is gone"
    assert again.document is not None
    (taken,) = [one for one in again.document["rows"] if one["arm"] == "sequential"]
    assert taken["origin"] == "sapt" and taken["run"] == "banking77-sequential-1"
    assert taken["seconds"] is None, "they may have been taken otherwise"
    assert all(taken[name] == theirs[name] for name in same)


def test_a_run_that_fails_stands_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = STUDY.plan("tiny", threads=1)
    (plan.run_folder("banking77-per-task-1") / "adapters").mkdir(parents=True)
    done = conduct(small("lda", "per-task"), plan)
    assert [failure.name for failure in done.failures] == ["banking77-per-task-1"]
    (line,) = [one for one in done.text.splitlines() if one.startswith("| per-task |")]
    assert line.startswith("| per-task | 0 |") and "the run failed: CheckpointError" in line
