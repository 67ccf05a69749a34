"""Answers per second where a batch goes through 1 to 256 different adapters.

    python benchmarks/serve_batch.py          # minutes on 2 cores; writes results/serve_batch.json
    python benchmarks/serve_batch.py --quick --json

A run has learned as many tasks as there are adapters at most. ``ContinualModel.predict``, which is
what ``conpet predict`` calls, answers the same texts in one batch: encoding, selector, adapters,
heads. What differs is the selector: it names one task for these texts, four, and so on, which is
checked in the answers. The adapters are random, and no cache knows the texts.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import alternate, beside, figures_of, finish, parse, parser, spread
from working_state import EqualTasks, build, name_by_text

from conpet.api import ContinualModel, load
from conpet.streams import load_stream
from conpet.types import Example

SIZES = (1, 4, 16, 64, 256)  # adapters of a batch
JUDGED, GOAL = 64, 1.15


def distinct_texts(n: int) -> list[str]:
    """Texts of BANKING77, no two of the same tokens."""
    stream = load_stream("banking77", preset="small")
    found = dict.fromkeys(
        " ".join(example.text.lower().split()) for task in stream.tasks for example in task.test
    )
    chosen = np.random.default_rng(0).permutation(len(found))[:n]
    texts = list(found)
    assert len(texts) >= n
    return [texts[i] for i in chosen]


def asked(folder: Path, texts: list[str], n: int) -> ContinualModel:
    """The run as ``predict`` opens it, with a selector that sends these texts to n adapters."""
    model = load(folder)
    state = model._open(with_data=False).state
    rows = state.store.add([Example(f"centre-{i}", text) for i, text in enumerate(texts[:n])])
    name_by_text(state, rows)
    named = {task for prediction in model.predict(texts) for task in prediction.tasks}
    assert len(named) == n, f"{len(named)} adapters answer, not {n}"
    return model


def measure(folder: Path, n_texts: int, args: argparse.Namespace) -> dict[str, Any]:
    """One batch of so many texts, through each number of adapters in turn."""
    texts = distinct_texts(n_texts)
    sizes = [n for n in SIZES if n <= n_texts]
    models = {n: asked(folder, texts, n) for n in sizes}
    taken = alternate(
        {str(n): lambda _, model=model: model.predict(texts) for n, model in models.items()},
        args.rounds,
    )
    return {
        "texts": n_texts,
        "seconds": {n: spread(values) for n, values in taken.items()},
        "answers_per_second": {
            n: round(n_texts / float(spread(values)["median"]), 1) for n, values in taken.items()
        },
        "compared": {
            f"{n} different adapters in a batch of {n_texts} texts, over one": beside(
                taken, str(n), "1", GOAL if n == min(JUDGED, args.most) else None
            )
            for n in sizes[1:]
        },
    }


def main() -> None:
    options = parser(__doc__, "serve_batch")
    options.add_argument("--rounds", type=int, help="counted runs of each; default: 15, quick 3")
    options.add_argument(
        "--most", type=int, help="most adapters and texts of a batch; default: 256, quick 64"
    )
    options.add_argument("--precision", default="auto", help="as in a run's configuration")
    args = parse(options)
    args.rounds = args.rounds or (3 if args.quick else 15)
    args.most = args.most or (64 if args.quick else 256)
    words = [f"backbone={args.backbone}", f"precision={args.precision}"]
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "run")
        build(folder, args.most, EqualTasks(2, 1, 1), words)
        batches = sorted({min(JUDGED, args.most), args.most})
        measured = [measure(folder, n, args) for n in batches]
    settings = {"backbone": args.backbone, "precision": args.precision, "rounds": args.rounds}
    settings |= {"learned_tasks": args.most, "labels_per_task": 11}
    compared: dict[str, Any] = {}
    for m in measured:
        compared |= m.pop("compared")
    figures = figures_of(compared)
    finish(args, settings=settings, figures=figures, compared=compared, measured=measured)


if __name__ == "__main__":
    main()
