"""Compare settings on validation data; test data are never read.

    python benchmarks/choose.py fewrel conpet-dynamic method__balance=true train__lr=0.004
    python benchmarks/choose.py --quick --json

runs one setting (keys of the configuration, with ``__`` for the dot) on the stream's small preset
and appends a row to ``results/choose.csv``. The examples that the runs of ``main_job.py`` use for
selection stand in for the test part here, so a figure of this table is optimistic: it serves to
compare settings and nothing else. ``n=4`` learns the first four tasks only, ``per_class=8`` cuts
the training examples of each class.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from conpet import fit, load_stream
from conpet.evaluation.collect import collect
from conpet.evaluation.comparison import run_rows
from conpet.runtime import environment
from conpet.streams import Stream

TABLE = Path(__file__).parent / "results" / "choose.csv"
FIGURES = ("whole_accuracy", "selector_accuracy", "oracle", "steps", "seconds")
QUICK = ["banking77", "conpet-dynamic", "n=2", "per_class=8"]
QUICK += ["replay__batch_limit=10", "threads=1", "train__epochs=3"]


def on_validation(stream: Stream) -> Stream:
    """The same stream with its validation examples in place of its test examples."""
    tasks = [
        replace(task, test=tuple(replace(e, id=f"{e.id}-valid") for e in task.valid))
        for task in stream.tasks
    ]
    return replace(stream, tasks=tuple(tasks))


def measure(name: str, method: str, words: Sequence[str]) -> dict[str, Any]:
    """The row of one setting."""
    settings = {key: yaml.safe_load(value) for key, _, value in (w.partition("=") for w in words)}
    shown = " ".join(sorted(f"{k}={v}" for k, v in settings.items() if k != "n"))
    n_tasks, per_class = settings.pop("n", None), settings.pop("per_class", None)
    stream = load_stream(name, preset="small", seed=100, train_per_class=per_class)
    stream = on_validation(replace(stream, tasks=stream.tasks[:n_tasks]))
    with tempfile.TemporaryDirectory() as folder:
        fit(stream, out=Path(folder) / "run", method=method, **settings)
        measured = run_rows([collect(Path(folder) / "run")])[0]
    row = {"stream": name, "method": method, "tasks": len(stream.tasks), "settings": shown}
    return row | {k: None if measured[k] is None else round(measured[k], 1) for k in FIGURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("words", nargs="*", help="STREAM METHOD key=value ...")
    parser.add_argument("--quick", action="store_true", help="three tasks of the shipped stream")
    parser.add_argument("--json", action="store_true", help="the document on standard output")
    args = parser.parse_args()
    name, method, *words = QUICK if args.quick else args.words
    row = measure(name, method, words)
    if not args.quick:
        is_new = not TABLE.exists()
        with TABLE.open("a", newline="") as out:
            writer = csv.DictWriter(out, list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)
    figures = [{"name": f, "value": row[f], "goal": None, "ok": True} for f in FIGURES]
    document = {
        "command": shlex.join(["python", "benchmarks/choose.py", *sys.argv[1:]]),
        "environment": environment(),
        "figures": figures,
        "row": row,
    }
    print(json.dumps(document, indent=1) if args.json else row)


if __name__ == "__main__":
    main()
