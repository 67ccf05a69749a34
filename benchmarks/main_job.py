"""The main job, measured: class-incremental streams, conpet-dynamic between its bounds.

    python benchmarks/main_job.py                                  # all of it: hours on 2 cores
    python benchmarks/main_job.py --streams fewrel --seeds 1       # one stream, one seed
    python benchmarks/main_job.py --quick --json                   # the shipped stream, cut small

Every run is a ``conpet run`` of its own in ``--runs``. The table goes to ``--out``:
``main_job.csv`` (a row a run, with its settings) and ``main_job.json`` (means, spreads, and the
figures with their goals). A run that is finished in ``--runs``, or whose row stands in the table
with the same settings, is not made again (``--again`` makes it). Settings lie in ``main_job.yaml``;
what differs from the defaults was chosen on validation data by ``choose.py``.
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

from conpet.config import load_config, read_yaml
from conpet.evaluation.collect import collect
from conpet.evaluation.comparison import run_rows
from conpet.runtime import environment, read_json

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
    options = ["--method", method, "--stream", stream, "--preset", "small", "--seed", str(seed)]
    chosen = settings(stream, method, seed, args)
    return [
        "run",
        *options,
        *chosen,
        f"threads={args.threads}",
        "--out",
        str(folder_of(stream, method, seed, args)),
    ]


def folder_of(stream: str, method: str, seed: int, args: argparse.Namespace) -> Path:
    return Path(args.runs) / f"{stream}-{method}-{seed}"


def settings(stream: str, method: str, seed: int, args: argparse.Namespace) -> list[str]:
    """What distinguishes a cell's run from the defaults."""
    given = read_yaml(HERE / "main_job.yaml")
    chosen = [*given["all"], *given.get(stream, {}).get("all", [])]
    chosen += [*given["methods"].get(method, []), *given.get(stream, {}).get(method, [])]
    if method == "joint":
        beside = row_of(stream, "conpet-dynamic", seed, args)
        if beside is None:
            raise SystemExit(f"joint on {stream} takes the steps of conpet-dynamic: run that first")
        chosen.append(f"method.steps={int(beside['steps'])}")
    return chosen + (QUICK if args.quick else [])


def run(stream: str, seed: int, args: argparse.Namespace) -> None:
    """All methods on one stream with one seed."""
    for method in args.methods:
        if row_of(stream, method, seed, args) is not None and not args.again:
            continue
        words = command(stream, method, seed, args)
        log = args.runs / f"{stream}-{method}-{seed}.log"
        print("conpet", shlex.join(words), file=sys.stderr, flush=True)
        with log.open("w") as out:
            subprocess.run(
                [sys.executable, "-m", "conpet.cli", *words], check=True, stdout=out, stderr=out
            )


def row_of(stream: str, method: str, seed: int, args: argparse.Namespace) -> dict[str, Any] | None:
    """The row of a cell: of its finished run, else the one that the table has already."""
    if method == "joint" and row_of(stream, "conpet-dynamic", seed, args) is None:
        return None  # its steps are not known yet
    folder = folder_of(stream, method, seed, args)
    chosen = settings(stream, method, seed, args)
    row = {"stream": stream, "method": method, "seed": seed, "settings": " ".join(chosen)}
    if (folder / "state.json").exists():
        flat = {"method": method, "stream": stream, "preset": "small", "seed": seed}
        wanted = load_config(None, chosen, **flat).identity()
        if read_json(folder / "state.json")["settings"] != wanted:
            raise SystemExit(f"{folder} was made with other settings; give another --runs")
        measured = run_rows([collect(folder)])[0]
        if measured["finished"]:
            return row | {
                k: None if measured[k] is None else round(measured[k], digits)
                for k, digits in COLUMNS.items()
            }
    return next((old for old in args.kept if row.items() <= old.items()), None)


def kept_rows(table: Path) -> list[dict[str, Any]]:
    """The rows of an earlier table."""
    if not table.exists():
        return []
    with table.open() as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        row["seed"] = int(row["seed"])
        for name, digits in COLUMNS.items():
            row[name] = round(float(row[name]), digits) if row.get(name) else None
    return rows


def table(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a finished run, and the earlier table's rows of all other cells."""
    cells = [(s, m, seed) for s in args.streams for m in args.methods for seed in args.seeds]
    made = [row_of(*cell, args) for cell in cells]
    others = [o for o in args.kept if (o["stream"], o["method"], o["seed"]) not in cells]
    rows = [row for row in made if row is not None] + others
    place = {name: i for i, name in enumerate((*STREAMS, *METHODS))}
    return sorted(rows, key=lambda r: (place.get(r["stream"], 99), place[r["method"]], r["seed"]))


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
    parser.add_argument("--again", action="store_true", help="make runs again that have a row")
    parser.add_argument("--table", action="store_true", help="no runs: the table of what is there")
    parser.add_argument("--quick", action="store_true", help="banking77 cut small, one seed")
    parser.add_argument("--json", action="store_true", help="the document on standard output")
    args = parser.parse_args()
    if args.quick:
        args.streams, args.seeds = ["banking77"], [1]
        args.runs = args.runs.with_name("main_job_quick")
        args.out = args.runs
    args.runs.mkdir(parents=True, exist_ok=True)
    args.kept = [] if args.quick else kept_rows(args.out / "main_job.csv")
    if not args.table:
        with ThreadPoolExecutor(args.jobs) as pool:
            cells = [(stream, seed) for seed in args.seeds for stream in args.streams]
            for job in [pool.submit(run, *cell, args) for cell in cells]:
                job.result()
    rows = table(args)
    if not rows:
        parser.error(f"no finished run in {args.runs}, and no row with these settings")
    means = summary(rows)
    document = {
        "command": shlex.join(["python", "benchmarks/main_job.py", *sys.argv[1:]]),
        "environment": environment(),
        "means": means,
        "figures": figures(means, list(dict.fromkeys(row["stream"] for row in rows))),
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
