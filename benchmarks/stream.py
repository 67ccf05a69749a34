"""A whole stream: where the wall time goes, beside the same schedule written the plain way.

    python benchmarks/stream.py             # minutes on 2 cores; writes results/stream.json
    python benchmarks/stream.py --quick --json

BANKING77, small, is learned with the settings of ``examples/banking77-dynamic.yaml`` (half as many
epochs), by what ``conpet run`` calls: training, validation, evaluation after every task, commits,
predictions written. The plain way takes the same phases, epochs, batches and optimiser steps, on
the same examples, with the same adapters, attention and precision. But

- the examples of an epoch are dealt into its batches at random, so many new and old ones in each,
  and a batch is padded to the longest in it;
- what gives the new adapter no gradient is computed all the same (``method.skip_gradless=false``);
- no answer of a frozen adapter is kept: old examples of a batch and of the validation are computed
  whenever they come, and after each task all tests of all tasks seen are answered anew, batch by
  batch in their order.

Rounds have a seed each; both ways have it, in turn. Loading the backbone is left out on both sides.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from common import begin_run, figure, finish, parse, parser, quotient, spread
from torch import Tensor

from conpet.api.learning import learn_stream
from conpet.api.opened import OpenRun
from conpet.evaluation.memo import AnswerMemo
from conpet.events import Observer
from conpet.methods.base import State
from conpet.replay.base import Rows, Tasks
from conpet.replay.dynamic import DynamicReplay
from conpet.replay.logits import LogitCache
from conpet.streams import Stream, load_stream
from conpet.types import Batch, Routing

SETTINGS = Path(__file__).parents[1] / "examples" / "banking77-dynamic.yaml"
GOAL = 0.4  # of the plain way's time: 2.5 times as fast
OURS, PLAIN = "ours", "plain"
QUICK = (10, 4, 5)  # training, validation and test examples a class


# The plain way -----------------------------------------------------------------------------------


class PlainState(State):
    """Batches as they come: padded to their longest, never sorted nor cut by length."""

    def batch(self, rows: np.ndarray) -> Batch:
        batch = super().batch(rows)
        longest = int(batch.attention_mask.sum(dim=1).max())
        ids, mask = batch.input_ids[:, :longest], batch.attention_mask[:, :longest]
        return replace(batch, input_ids=ids, attention_mask=mask)

    def parts(self, batch: Batch, routing: Routing, behind: int = 0) -> list[Tensor]:
        return [torch.arange(len(batch))]

    def chunks(self, rows: np.ndarray) -> Iterator[Batch]:
        size = self.spec.eval_batch_size
        for start in range(0, len(rows), size):
            yield self.batch(rows[start : start + size])


@dataclass(frozen=True)
class PlainReplay(DynamicReplay):
    """The draws of dynamic replay, dealt at random."""

    def batches(
        self, tasks: Tasks, lengths: np.ndarray, batch_size: int, rng: np.random.Generator
    ) -> list[Rows]:
        drawn = super().batches(tasks, lengths, batch_size, rng)
        return dealt_anew(drawn, tasks[-1].train, rng)


def dealt_anew(batches: Sequence[Rows], new: Rows, rng: np.random.Generator) -> list[Rows]:
    """The rows of an epoch in other batches, each with as many new and old ones as before."""
    rows = np.concatenate(batches)
    for kind in (np.isin(rows, new), ~np.isin(rows, new)):
        rows[kind] = rng.permutation(rows[kind])
    return np.split(rows, np.cumsum([len(batch) for batch in batches])[:-1])


class NoCache(LogitCache):
    """Knows nothing and keeps nothing."""

    def get(self, key: str, rows: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((len(rows), n_classes), np.float32), np.zeros(len(rows), bool)

    def put(self, key: str, rows: np.ndarray, logits: np.ndarray) -> None:
        pass


class NoMemo(AnswerMemo):
    """Every answer is a new one."""

    def put(self, *_: object) -> None:
        pass


def make_plain(run: OpenRun) -> None:
    """Exchange what makes a run quick; its configuration has ``skip_gradless=false``."""
    state = run.state
    assert isinstance(state.replay, DynamicReplay) and not run.method.skip_gradless
    given = {f.name: getattr(state, f.name) for f in fields(state) if f.init}
    given["replay"] = PlainReplay(**values_of(state.replay))
    run.state, run.memo = PlainState(**given | {"logits": NoCache()}), NoMemo()


def values_of(replay: DynamicReplay) -> dict[str, Any]:
    return {f.name: getattr(replay, f.name) for f in fields(replay)}


# Time --------------------------------------------------------------------------------------------


class Watch(Observer):
    """The wall time of a run by what it went to: the time before an event is that of what ends."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.last, self.phase = time.perf_counter(), ""
        self.costs: list[Mapping[str, Any]] = []
        self.whole = 0.0

    def _add(self, what: str) -> None:
        now = time.perf_counter()
        self.seconds[what] += now - self.last
        self.last = now

    def run_started(self, stream: str, n_tasks: int, done: int) -> None:
        self._add("encoding")

    def phase_started(self, name: str, steps: int, done: int = 0, epochs: int = 1) -> None:
        self.phase = name
        self._add("beginning, ending and saving phases")

    def step(self, step: int, terms: Mapping[str, float], examples: int) -> None:
        self._add(f"{self.phase} phase, training")

    def validated(self, score: float) -> None:
        self._add(f"{self.phase} phase, validation")

    def phase_ended(self, name: str) -> None:
        self._add("beginning, ending and saving phases")

    def task_ended(
        self, row: Sequence[float | None], averages: Mapping[str, Any], cost: Mapping[str, Any]
    ) -> None:
        self._add("committing")
        self.seconds["evaluation"] += cost["seconds"]["evaluate"]
        self.seconds["committing"] -= cost["seconds"]["evaluate"]
        self.costs.append(cost)
        self.whole = float(averages["whole"])


def learn(path: Path, stream: Stream, words: Sequence[str], *, plain: bool) -> dict[str, Any]:
    """Learn the stream; seconds by what they went to, the work that was done, and how well."""
    words = [*words, "method.skip_gradless=false"] if plain else list(words)
    run = begin_run(path, words, base=SETTINGS)
    if plain:
        make_plain(run)
    watch, start = Watch(), time.perf_counter()
    learn_stream(run, stream, watch)
    return {
        "total": time.perf_counter() - start,
        "seconds": dict(watch.seconds),
        "whole_accuracy": watch.whole,
        "steps": sum(cost["steps"] for cost in watch.costs),
        "forward_passes": sum(cost["forward_passes"] for cost in watch.costs),
    }


# The document ------------------------------------------------------------------------------------


def measure(stream: Stream, args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Both ways in turn, once a seed; every other seed backwards."""
    done: dict[str, list[dict[str, Any]]] = {OURS: [], PLAIN: []}
    for i in range(args.rounds):
        words = [f"seed={i + 1}", f"train.epochs={args.epochs}", f"backbone={args.backbone}"]
        words.append(f"precision={args.precision}")
        for way in list(done)[:: -1 if i % 2 else 1]:
            with tempfile.TemporaryDirectory() as path:
                done[way].append(learn(Path(path), stream, words, plain=way == PLAIN))
    assert [r["steps"] for r in done[OURS]] == [r["steps"] for r in done[PLAIN]]
    return done


def summarised(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all seeds of a way took, part by part."""
    parts = dict.fromkeys(part for run in runs for part in run["seconds"])
    return {
        "seconds": spread([run["total"] for run in runs]),
        "parts": {part: spread([run["seconds"].get(part, 0.0) for run in runs]) for part in parts},
        "whole_accuracy": [round(run["whole_accuracy"], 2) for run in runs],
        "steps": runs[0]["steps"],
        "forward_passes": [run["forward_passes"] for run in runs],
    }


def accuracy_lost(done: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """How far our whole accuracy is below the plain way's; allowed is the spread of its seeds."""
    ours, plain = ([run["whole_accuracy"] for run in done[way]] for way in (OURS, PLAIN))
    allowed = round(stdev(plain), 3) if len(plain) > 1 else None
    return figure("whole accuracy, points below the plain way's", mean(plain) - mean(ours), allowed)


def figures(done: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    totals = {way: [run["total"] for run in runs] for way, runs in done.items()}
    whole = float(quotient(totals[OURS], totals[PLAIN])["median"])
    return [
        figure("a whole stream, wall time over the plain way's", whole, GOAL),
        accuracy_lost(done),
    ]


def main() -> None:
    options = parser(__doc__, "stream")
    options.add_argument("--rounds", type=int, help="seeds; default: 3, quick 1")
    options.add_argument("--epochs", type=int, help="of each phase; default: 2, quick 1")
    options.add_argument("--tasks", type=int, help="the first so many; default: all, quick 3")
    options.add_argument("--precision", default="auto", help="as in a run's configuration")
    args = parse(options)
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.epochs = args.epochs or (1 if args.quick else 2)
    train, valid, test = QUICK if args.quick else (None, None, None)
    stream = load_stream(
        "banking77",
        preset="small",
        train_per_class=train,
        valid_per_class=valid,
        test_per_class=test,
    )
    args.tasks = args.tasks or (3 if args.quick else len(stream.tasks))
    stream = replace(stream, tasks=stream.tasks[: args.tasks])
    done = measure(stream, args)
    settings = {"backbone": args.backbone, "precision": args.precision, "seeds": args.rounds}
    settings |= {"stream": "banking77, small", "tasks": args.tasks, "epochs": args.epochs}
    settings |= {"file": f"examples/{SETTINGS.name}"}
    ways = {way: summarised(runs) for way, runs in done.items()}
    finish(args, settings=settings, figures=figures(done), ways=ways)


if __name__ == "__main__":
    main()
