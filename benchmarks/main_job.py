"""The main job, measured: class-incremental streams, conpet-dynamic between its bounds.

    python benchmarks/main_job.py                                  # all of it: hours on 2 cores
    python benchmarks/main_job.py --streams fewrel --seeds 1       # one stream, one seed
    python benchmarks/main_job.py --quick --json                   # the shipped stream, cut small

Every run is a ``conpet run`` of its own in ``--runs``; a run that is finished there is not made
again. The table goes to ``--out``: ``main_job.csv`` (a row a run) and ``main_job.json`` (means,
spreads, and the figures with their goals). Settings lie in ``main_job.yaml``; what differs from the
defaults was chosen on validation data by ``choose.py``.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from conpet.config import read_yaml
from conpet.evaluation.collect import collect
from conpet.evaluation.comparison import run_rows
from conpet.runtime import environment

HERE = Path(__file__).parent
STREAMS = ("fewrel", "multiconer", "clinc150", "clinc150-mixed")
METHODS = ("lda", "sequential", "conpet-dynamic", "joint")  # joint takes as many steps as dynamic
COLUMNS = {
    "whole_accuracy": 2,
    "average_accuracy": 2,
    "selector_accuracy": 2,
    "oracle": 2,
    "routing": 2,
    "competition": 2,
    "within_task": 2,
    "forgetting": 2,
    "steps": 0,
    "forward_passes": 0,
    "seconds": 0,
}
GAP = 6.0  # points that conpet-dynamic may lie below joint
OVER_LDA = 3.0  # points above lda, where training must pay
MUST_BEAT_LDA = ("fewrel", "multiconer")
QUICK = ["stream.train_per_class=4", "stream.test_per_class=2", "train.epochs=1"]


def command(stream: str, method: str, seed: int, args: argparse.Namespace) -> list[str]:
    """The ``conpet run`` of one cell of the table."""
    settings = read_yaml(HERE / "main_job.yaml")
    chosen = [*settings["all"], *settings.get(stream, {}).get("all", [])]
    chosen += [*settings["methods"].get(method, []), *settings.get(stream, {}).get(method, [])]
    if method == "joint":
        done = run_rows([collect(args.runs / f"{stream}-conpet-dynamic-{seed}")])[0]
        chosen.append(f"method.steps={int(done['steps'])}")
    if args.quick:
        chosen += QUICK
    options = ["--method", method, "--stream", stream, "--preset", "small", "--seed", str(seed)]
    out = args.runs / f"{stream}-{method}-{seed}"
    return ["run", *options, *chosen, f"threads={args.threads}", "--out", str(out)]


def run(stream: str, seed: int, args: argparse.Namespace) -> None:
    """All methods on one stream with one seed."""
    for method in args.methods:
        words = command(stream, method, seed, args)
        log = args.runs / f"{stream}-{method}-{seed}.log"
        print("conpet", shlex.join(words), file=sys.stderr, flush=True)
        with log.open("w") as out:
            subprocess.run(
                [sys.executable, "-m", "conpet.cli", *words], check=True, stdout=out, stderr=out
            )


def table(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a finished run, in the order of the table."""
    rows = []
    for stream in args.streams:
        for method in args.methods:
            for seed in args.seeds:
                folder = args.runs / f"{stream}-{method}-{seed}"
                if not (folder / "state.json").exists():
                    continue
                measured = run_rows([collect(folder)])[0]
                if not measured["finished"]:
                    continue
                row = {"stream": stream, "method": method, "seed": seed}
                row |= {
                    k: None if measured[k] is None else round(measured[k], digits)
                    for k, digits in COLUMNS.items()
                }
                rows.append(row)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and sample spread of the whole accuracy, by ``stream/method``."""
    cells: dict[str, list[float]] = {}
    for row in rows:
        cells.setdefault(f"{row['stream']}/{row['method']}", []).append(row["whole_accuracy"])
    return {
        name: {
            "mean": round(statistics.mean(values), 2),
            "spread": round(statistics.stdev(values), 2) if len(values) > 1 else None,
            "seeds": len(values),
        }
        for name, values in cells.items()
    }


def figures(means: dict[str, dict[str, Any]], streams: list[str]) -> list[dict[str, Any]]:
    """What was to be reached, and whether it was."""
    found = []
    for stream in streams:
        cell = {m: means.get(f"{stream}/{m}", {}).get("mean") for m in METHODS}
        if cell["conpet-dynamic"] is not None and cell["joint"] is not None:
            gap = round(cell["joint"] - cell["conpet-dynamic"], 2)
            found.append(_figure(f"{stream}: points below joint", gap, GAP, gap <= GAP))
        if cell["conpet-dynamic"] is not None and cell["lda"] is not None:
            over = round(cell["conpet-dynamic"] - cell["lda"], 2)
            goal = OVER_LDA if stream in MUST_BEAT_LDA else None
            found.append(
                _figure(f"{stream}: points above lda", over, goal, goal is None or over >= goal)
            )
    return found


def _figure(name: str, value: float, goal: float | None, ok: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "goal": goal, "ok": ok}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", nargs="+", default=list(STREAMS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs/main_job"), help="run folders")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where the table goes")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--threads", type=int, default=2, help="processor threads of a run")
    parser.add_argument("--table", action="store_true", help="no runs: the table of what is there")
    parser.add_argument("--quick", action="store_true", help="banking77 cut small, one seed")
    parser.add_argument("--json", action="store_true", help="the document on standard output")
    args = parser.parse_args()
    if args.quick:
        args.streams, args.seeds = ["banking77"], [1]
        args.runs = args.runs.with_name("main_job_quick")
        args.out = args.runs
    args.runs.mkdir(parents=True, exist_ok=True)
    if not args.table:
        with ThreadPoolExecutor(args.jobs) as pool:
            cells = [(stream, seed) for seed in args.seeds for stream in args.streams]
            for job in [pool.submit(run, *cell, args) for cell in cells]:
                job.result()
    rows = table(args)
    if not rows:
        parser.error(f"no finished run in {args.runs}")
    means = summary(rows)
    document = {
        "command": shlex.join(["python", "benchmarks/main_job.py", *sys.argv[1:]]),
        "environment": environment(),
        "means": means,
        "figures": figures(means, args.streams),
        "runs": rows,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "main_job.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps(document, indent=1)
    (args.out / "main_job.json").write_text(text + "\n")
    print(
        text
        if args.json
        else json.dumps({"means": means, "figures": document["figures"]}, indent=1)
    )


if __name__ == "__main__":
    main()
