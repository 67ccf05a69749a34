"""Compare settings on validation data; test data are never read.

    python benchmarks/choose.py fewrel conpet-dynamic method__balance=true train__lr=0.004

runs one setting (keys of the configuration, with ``__`` for the dot) on the stream's small preset
and appends a row to ``results/choose.csv``. The examples that the runs of ``main_job.py`` use for
selection stand in for the test part here, so a figure of this table is optimistic: it serves to
compare settings and nothing else. ``n=4`` learns the first four tasks only.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import yaml

from conpet import fit, load_stream
from conpet.evaluation.collect import collect
from conpet.evaluation.comparison import run_rows
from conpet.streams import Stream

TABLE = Path(__file__).parent / "results" / "choose.csv"
FIGURES = ("whole_accuracy", "selector_accuracy", "oracle", "steps", "seconds")


def on_validation(stream: Stream) -> Stream:
    """The same stream with its validation examples in place of its test examples."""
    tasks = [
        replace(task, test=tuple(replace(e, id=f"{e.id}-valid") for e in task.valid))
        for task in stream.tasks
    ]
    return replace(stream, tasks=tuple(tasks))


def main() -> None:
    name, method, *words = sys.argv[1:]
    settings = {key: yaml.safe_load(value) for key, _, value in (w.partition("=") for w in words)}
    n_tasks = settings.pop("n", None)
    stream = load_stream(name, preset="small", seed=100)
    stream = on_validation(replace(stream, tasks=stream.tasks[:n_tasks]))
    with tempfile.TemporaryDirectory() as folder:
        fit(stream, out=Path(folder) / "run", method=method, **settings)
        measured = run_rows([collect(Path(folder) / "run")])[0]
    row = {"stream": name, "method": method, "tasks": len(stream.tasks)}
    row["settings"] = " ".join(sorted(f"{k}={v}" for k, v in settings.items()))
    row |= {k: None if measured[k] is None else round(measured[k], 1) for k in FIGURES}
    is_new = not TABLE.exists()
    with TABLE.open("a", newline="") as out:
        writer = csv.DictWriter(out, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)
    print(row)


if __name__ == "__main__":
    main()
