"""Adapters in the upper layers alone, the layers below computed once: steps and answers.

    python benchmarks/trunk.py                  # minutes on 2 cores; writes results/trunk.json
    python benchmarks/trunk.py --quick --json

Runs that differ in ``adapter.layers`` and ``backbone.keep_trunk`` alone learn BANKING77's first
task with conpet-dynamic, step by step in turn, on the same batches. These come again and again, as
they do from the second epoch on: what the layers below gave is then in the run folder. ``computed
anew`` is such a run with no room to keep it (``backbone.trunk_gib=0``): what a text costs when it
comes for the first time, but for writing.

Answers are those of ``ContinualModel.predict`` to texts that no cache knows, of a run with eight
tasks: selector and adapters. Beside them the plain backbone passes the same batches.

What the fewer adapters cost in accuracy is another question: ``conpet study trunk``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import PhaseSteps, alternate, begin_run, beside, figures_of, finish, parse, parser
from floor import JOINED, join_texts
from growth_methods import features
from serve_batch import asked, distinct_texts
from torch import Tensor
from working_state import EqualTasks, build

from conpet.api.asking import Inputs
from conpet.backbones.loading import load_backbone
from conpet.methods.base import State
from conpet.runtime import resolve_precision
from conpet.streams import load_stream

OVER_ALL, OVER_PLAIN = 0.556, 0.769  # goals of the upper half: 1.8 and 1.3 times as fast
DIFFERENT = 4  # batches of texts that are answered, again and again
EPOCH = 12  # batches of a step: their passes are more than what is at hand in memory
TASKS, TEXTS = 8, 64  # of the answers
ALL, HALF, THIRD = "all layers", "upper half", "upper third"
FORWARDS = {HALF: 1.6, ALL: 2.1}  # goals of the answers, in plain forwards
PLAIN, ANEW = "upper half, as one backbone", "upper half, computed anew"
Compared = dict[str, dict[str, Any]]


def arms(layers: int) -> dict[str, list[str]]:
    """The settings of each way to place adapters in a backbone of so many layers."""
    half, third = (f"adapter.layers={-(-layers // part)}" for part in (2, 3))
    return {
        ALL: [],
        HALF: [half],
        THIRD: [third],
        PLAIN: [half, "backbone.keep_trunk=false"],
        ANEW: [half, "backbone.trunk_gib=0"],
    }


# Training ----------------------------------------------------------------------------------------


def steps(
    ways: Mapping[str, Sequence[str]], length: str, precision: str, args: argparse.Namespace
) -> Compared:
    """A step of each way, over that of others."""
    task = join_texts(load_stream("banking77", preset="small").tasks[0], JOINED[length])
    with tempfile.TemporaryDirectory() as parent:
        taking: dict[str, Callable[[int], object]] = {}
        losses: dict[str, Tensor] = {}
        states: dict[str, State] = {}
        for i, (way, words) in enumerate(ways.items()):
            words = ["method=conpet-dynamic", f"backbone={args.backbone}", *words]
            run = begin_run(Path(parent, str(i)), [*words, f"precision={precision}"])
            run.add_task(task)
            run.store.load_checkpoint(run.state, task.name)  # as a run does that begins to learn
            one = PhaseSteps(run, run.method.phases(run.state)[0])
            batches = one.phase.batches(run.state, 0)
            n = min(len(batches), EPOCH)
            losses[way] = one.phase.loss(run.state, batches[0])["adapter"].detach()
            taking[way] = lambda i, one=one, batches=batches, n=n: one.take(batches, i % n)
            states[way] = run.state
        torch.testing.assert_close(losses[HALF], losses[PLAIN], rtol=1e-3, atol=1e-3)
        taken = alternate(taking, args.rounds, warm_up=n)
        last = n + args.rounds
        for way, kept in ((HALF, True), (ANEW, False)):
            check_passes(
                states[way], partial(taking[way], last), len(batches[last % n]["task"]), kept
            )
    where = f"{length} texts, {precision}"
    return {
        f"training step, {way}, over {under}, {where}": beside(taken, way, under, goal)
        for way, under, goal in (
            (HALF, ALL, OVER_ALL),
            (HALF, PLAIN, OVER_PLAIN),
            (THIRD, ALL, None),
            (PLAIN, ALL, None),
            (ANEW, PLAIN, None),
        )
    }


def check_passes(state: State, step: Callable[[], object], texts: int, kept: bool) -> None:
    """That a step on so many texts computes what it is said to: all layers, or the upper ones."""
    assert state.trunk is not None
    before = state.passes
    step()
    share = (state.passes - before) / texts
    assert share == (1 - state.trunk.share if kept else 1), f"it took {share} of the passes"


def plan(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """(length of texts, precision): the precision that a run takes on this machine, and fp32."""
    for precision in dict.fromkeys((resolve_precision("auto", "cpu"), "fp32")):
        for length in JOINED:
            if not (args.quick and length == "long"):
                yield length, precision


# Answering ---------------------------------------------------------------------------------------


def answers(ways: Mapping[str, Sequence[str]], args: argparse.Namespace) -> Compared:
    """Answers of each way, over plain forwards."""
    many = distinct_texts(DIFFERENT * TEXTS)
    different = [many[i::DIFFERENT] for i in range(DIFFERENT)]  # none is at hand from the last call
    actions: dict[str, Callable[[int], object]] = {}
    with tempfile.TemporaryDirectory() as parent:
        for i, way in enumerate((ALL, HALF, THIRD)):
            folder = Path(parent, str(i))
            words = [f"backbone={args.backbone}", f"precision={args.precision}", *ways[way]]
            build(folder, TASKS, EqualTasks(2, 1, 1), words)
            model = asked(folder, many, TASKS)
            actions[way] = lambda i, model=model: model.predict(different[i % DIFFERENT])
        state = model._open(with_data=False).state
        bare = "plain forwards"
        actions[bare] = lambda i: Inputs(state, different[i % DIFFERENT]).ask(
            partial(features, state)
        )
        taken = alternate(actions, args.rounds, warm_up=DIFFERENT)
    return {
        f"answers to {TEXTS} texts, {way}, over {bare}": beside(taken, way, bare, FORWARDS.get(way))
        for way in (HALF, THIRD, ALL)
    }


def main() -> None:
    options = parser(__doc__, "trunk")
    options.add_argument("--rounds", type=int, help="counted runs of each; default: 12, quick 3")
    options.add_argument("--precision", default="auto", help="of the answers, as in a run's")
    args = parse(options)
    args.rounds = args.rounds or (3 if args.quick else 12)
    layers = len(load_backbone(args.backbone).layers)
    ways = arms(layers)
    compared: Compared = {}
    for length, precision in plan(args):
        compared |= steps(ways, length, precision, args)
    compared |= answers(ways, args)
    settings = {"backbone": args.backbone, "layers": layers, "ways": ways, "rounds": args.rounds}
    settings |= {"batch_size": 32, "rank": 8, "learned_tasks": TASKS}
    finish(args, settings=settings, figures=figures_of(compared), compared=compared)


if __name__ == "__main__":
    main()
