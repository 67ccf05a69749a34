"""Write the tables of REPRODUCIBILITY.md from the committed results.

    python benchmarks/tables.py

Replaces what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``. A test checks that the page
is current.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from published import NONE
from published import STREAMS as PUBLISHED

from conpet.studies.comparison import ranked

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STUDIES = HERE.parent / "studies"
PAGE = HERE.parent / "REPRODUCIBILITY.md"
METHODS = ("lda", "sequential", "conpet-dynamic", "joint")


def main_job() -> str:
    """Whole accuracy by stream and method, mean and sample spread over the seeds."""
    with (RESULTS / "main_job.csv").open() as file:
        rows = list(csv.DictReader(file))
    lines = ["| stream | " + " | ".join(METHODS) + " | below joint | above lda |"]
    lines.append("|---" * (len(METHODS) + 3) + "|")
    for stream in dict.fromkeys(row["stream"] for row in rows):
        cells = {m: _values(rows, stream, m, "whole_accuracy") for m in METHODS}
        gaps = [_gap(cells["joint"], cells["conpet-dynamic"])]
        gaps += [_gap(cells["conpet-dynamic"], cells["lda"])]
        words = [stream, *(_spread(cells[m]) for m in METHODS), *gaps]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def main_job_split() -> str:
    """Where conpet-dynamic's points go, and what a run costs."""
    with (RESULTS / "main_job.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ("whole_accuracy", "routing", "within_task", "selector_accuracy", "oracle", "steps")
    lines = ["| stream | right | routing error | within-task error | selector | oracle | steps |"]
    lines.append("|---" * 7 + "|")
    measured = [row["stream"] for row in rows if row["method"] == "conpet-dynamic"]
    for stream in dict.fromkeys(measured):
        cells = [_values(rows, stream, "conpet-dynamic", name) for name in names]
        words = [stream, *(f"{mean(c):.1f}" for c in cells[:-1]), f"{mean(cells[-1]):.0f}"]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def speed() -> str:
    """The figures of the benchmarks with their goals."""
    lines = ["| figure | value | goal | reached |", "|---|---|---|---|"]
    for name in ("floor", "growth", "decoding", "sapt_growth"):
        document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
        for figure in document["figures"]:
            goal = "–" if figure["goal"] is None else f"≤ {figure['goal']:.2f}"
            reached = "yes" if figure["ok"] else "no"
            lines.append(f"| {figure['name']} | {figure['value']:.3f} | {goal} | {reached} |")
    return "\n".join(lines)


def claim() -> str:
    """Whole accuracy of Static ConPET and of the memories of the same methods, by stream."""
    document = json.loads((STUDIES / "claim" / "study.json").read_text())
    rows = document["rows"]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    lines = ["| stream | seeds | " + " | ".join(arms) + " |"]
    lines.append("|---" * (len(arms) + 2) + "|")
    for stream in dict.fromkeys(row["stream"] for row in rows):
        here = [row for row in rows if row["stream"] == stream]
        cells = [[r["whole_accuracy"] for r in here if r["arm"] == arm] for arm in arms]
        seeds = str(len({row["seed"] for row in here}))
        lines.append(f"| {' | '.join([stream, seeds, *map(_spread, cells)])} |")
    return "\n".join(lines)


def text_tasks() -> str:
    """What one adapter makes of each instruction task, beside answers that need no model."""
    rows = json.loads((STUDIES / "text-tasks" / "study.json").read_text())["rows"]
    names = ("exact_match", "majority_exact_match", "rouge_l", "majority_rouge_l", "copy_rouge_l")
    heads = ("exact match", "of the commonest answer", "ROUGE-L", "of the commonest answer")
    lines = [f"| stream | task | seeds | {' | '.join(heads)} | of a copy of the input |"]
    lines.append("|---" * 8 + "|")
    for stream, task in dict.fromkeys((row["stream"], row["task"]) for row in rows):
        here = [row for row in rows if (row["stream"], row["task"]) == (stream, task)]
        words = [stream, task, str(len(here))]
        words += [_spread([row[name] for row in here]) for name in names]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def text_stream() -> str:
    """What is kept of a stream of instruction tasks."""
    rows = json.loads((STUDIES / "text-stream" / "study.json").read_text())["rows"]
    lines = ["| method | seeds | average score | forgetting | seconds |", "|---|---|---|---|---|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        here = [row for row in rows if row["method"] == method]
        names = ("average_accuracy", "forgetting", "seconds")
        words = [method, str(len(here)), *(_spread([r[name] for r in here]) for name in names)]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def sapt() -> str:
    """What one attention that mixes and selects keeps; FWT against each seed's per-task run."""
    rows = json.loads((STUDIES / "sapt" / "study.json").read_text())["rows"]
    names = ("average_accuracy", "forgetting", "backward_transfer")
    heads = ("stream", "run", "seeds", "average score", "F.Ra", "BWT", "FWT", "steps")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    learned = {(r["stream"], r["arm"], r["seed"]): r["learning_accuracy"] for r in rows}
    for stream, arm in dict.fromkeys((row["stream"], row["arm"]) for row in rows):
        here = [row for row in rows if (row["stream"], row["arm"]) == (stream, arm)]
        words = [stream, arm, str(len(here))]
        words += [_spread([r[name] for r in here if r[name] is not None]) for name in names]
        alone = "per-task-prompt" if arm == "sapt-prompt" else "per-task"
        known = [] if arm.startswith(("per-task", "joint")) else here
        pairs = [(r["learning_accuracy"], learned.get((stream, alone, r["seed"]))) for r in known]
        words.append(_spread([ours - theirs for ours, theirs in pairs if theirs is not None]))
        words.append(f"{mean(row['steps'] for row in here):,.0f}")
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def sapt_top_k() -> str:
    """Score and seconds by the number of adapters that answer."""
    rows = json.loads((STUDIES / "sapt" / "study.json").read_text())["rows"]
    lines = ["| run | adapters | average score | seconds |", "|---|---|---|---|"]
    for row in (row for row in rows if row.get("top_k")):
        for k, score, seconds in zip(
            row["top_k"], row["top_k_score"], row["top_k_seconds"], strict=True
        ):
            lines.append(f"| {row['run']} | {k} | {score:.1f} | {seconds:.0f} |")
    return "\n".join(lines)


def comparison(stream: str) -> str:
    """Each method on a stream: our figure, the published one with its setting, the gap, why."""
    path = STUDIES / "comparison" / stream / "study.json"
    if not path.exists():
        return f"Nothing is measured yet: `conpet study comparison --stream {stream} --size full`."
    rows = json.loads(path.read_text())["rows"]
    known, reason = PUBLISHED[stream]
    heads = ("method", "runs", "average score", "F.Ra", "published", "source and setting", "gap")
    lines = [f"| {' | '.join(heads)} | reason |", "|---" * (len(heads) + 1) + "|"]
    refused = [row["arm"] for row in rows if "run" not in row]
    for arm in dict.fromkeys([*ranked(rows), *refused]):
        here = [row for row in rows if row["arm"] == arm and "run" in row]
        ours = [row["average_accuracy"] for row in here]
        words = [arm, str(len(here)), _spread(ours)]
        words.append(_spread([r["forgetting"] for r in here if r["forgetting"] is not None]))
        if (one := known.get(arm)) is None:
            words += [NONE, "–", "–", "not comparable"]
        else:
            words += [str(one), f"{one.source}: {one.setting}", _gap(ours, [one.score]), reason]
        if not here:
            words[-1] = next(r["reason"] for r in rows if r["arm"] == arm).replace("|", "/")
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def _values(rows: list[dict[str, str]], stream: str, method: str, name: str) -> list[float]:
    return [
        float(row[name])
        for row in rows
        if (row["stream"], row["method"]) == (stream, method) and row[name]
    ]


def _gap(higher: list[float], lower: list[float]) -> str:
    return f"{mean(higher) - mean(lower):.1f}" if higher and lower else "–"


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


TABLES: dict[str, Callable[[], str]] = {
    "main-job": main_job,
    "main-job-split": main_job_split,
    "speed": speed,
    "claim": claim,
    "text-tasks": text_tasks,
    "text-stream": text_stream,
    "sapt": sapt,
    "sapt-top-k": sapt_top_k,
    **{f"comparison-{stream}": partial(comparison, stream) for stream in PUBLISHED},
}


def fill(page: str, tables: Mapping[str, Callable[[], str]], name: str) -> str:
    """The page called ``name`` with every table made anew."""
    for key, table in tables.items():
        before, begin, rest = page.partition(f"<!-- {key} -->\n")
        _, end, after = rest.partition(f"<!-- /{key} -->")
        if not begin or not end:
            raise SystemExit(f"{name} has no place for the table '{key}'; mend its comments")
        page = f"{before}{begin}{table()}\n{end}{after}"
    return page


def render(page: str) -> str:
    return fill(page, TABLES, PAGE.name)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
