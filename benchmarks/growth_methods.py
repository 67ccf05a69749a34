"""What 1, 10, 100 and 1,000 learned tasks cost, method by method.

    python benchmarks/growth_methods.py     # minutes on 2 cores; writes results/growth_methods.json
    python benchmarks/growth_methods.py --quick --json
    python benchmarks/growth_methods.py --methods sapt --sizes 1 1000 --out sapt.json

A state has n learned tasks, in a run folder, and one more that is being learned. The tasks were
taken in as a run takes them, phase by phase, but without a step of training. All have the same
texts, so that every size gets the same batches, token for token, in turn. Measured are

- ``start``: a folder opened as ``conpet predict`` opens it, to the first answer, beyond loading the
  backbone;
- ``training step`` of each phase: ``Trainer.step`` on a batch that the state encodes;
- ``answer``: ``ContinualModel.predict`` for 64 texts, and the plain backbone on the same batches;
- ``memory``: the peak of a process of its own that opens the folder, trains and answers, less the
  bytes of its adapters;
- ``disk``: bytes of the folder.

SAPT has its top 2 of each row, in training too; its reflection loss asks samples of every old task.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import (
    PhaseSteps,
    alternate,
    figure,
    figures_of,
    finish,
    half,
    in_passes,
    parse,
    parser,
    quotient,
    spread,
)
from working_state import HALF, EqualTasks, commit, grow, learning, spread_selector

from conpet.api import load
from conpet.api.asking import Inputs, answering
from conpet.api.opened import OpenRun
from conpet.backbones.loading import load_backbone
from conpet.methods.base import Phase, State, Step
from conpet.methods.conpet_dynamic import SELECTOR
from conpet.methods.reflection import Reflecting
from conpet.objectives.classify import read_out
from conpet.runtime import peak_memory_bytes
from conpet.types import Batch

JUDGED = {
    "conpet-dynamic": ["method=conpet-dynamic"],
    "conpet-static": ["method=conpet-static"],
    "sapt": ["method=sapt", "method.top_k=2", "method.train_top_k=true"],
}
TOLD = (
    *("sequential", "replay", "emr", "ea-emr", "emar", "crl", "ewc", "lwf", "seq-star"),
    *("latent-replay", "lda", "epi", "l2p", "o-lora", "progprompt"),
)
"""Methods without a goal; asked for by name. Those of one adapter cost what conpet-static does, but
for what they compute over all classes; o-lora adds all adapters up, and grows."""
METHODS = JUDGED | {name: [f"method={name}"] for name in TOLD}
FLAT = {"conpet-dynamic": 1.05, "conpet-static": 1.05, "sapt": 1.15}  # goals: step and answer
MEMORY, START = 1.05, 2.0  # goals: but for the adapters' own bytes; seconds beyond the backbone
FORWARDS = {"conpet-dynamic": 2.1}  # goals: plain forwards of an answer
N_TEXTS = 64
DIFFERENT = 2  # batches, again and again
Measured = dict[str, Any]


# One method --------------------------------------------------------------------------------------


def measure(
    method: str, parent: Path, tasks: EqualTasks, args: argparse.Namespace
) -> tuple[list[Measured], dict[str, Measured]]:
    """Everything of one method, at all sizes: the figures, and what they come from."""
    words = [*METHODS[method], f"backbone={args.backbone}", f"precision={args.precision}"]
    paths = {str(n): parent / str(n) for n in args.sizes}
    for n in args.sizes:
        grow(paths[str(n)], n, tasks, words)
    on_disk, started = disk(paths), start(paths, args.backbone, args.rounds)
    found = {"memory, but for the adapters' own bytes": memory(paths, args)}
    runs = {size: learning(path, tasks) for size, path in paths.items()}
    goal = FLAT.get(method)
    found |= training_steps(runs, tasks, args.rounds, goal)
    for run in runs.values():
        if SELECTOR in run.state.pool:
            spread_selector(run.state, newest=True)
        commit(run)
    found |= answers(paths, tasks, args.rounds, goal, FORWARDS.get(method))
    figures = [
        *figures_of(found),
        figure("start, seconds beyond the backbone", float(started["beyond"]["median"]), START),
        figure("disk, megabytes of a further task", on_disk["megabytes of a further task"]),
    ]
    for f in figures:
        f["name"] = f"{method}, {f['name']}"
    return figures, found | {"start": started, "disk": on_disk}


def grown(taken: Mapping[str, Sequence[float]], unit: str, goal: float | None = None) -> Measured:
    """What was measured at each size; the quotient is that of the largest over the smallest."""
    small, *_, large = taken.values()
    return {
        "goal": goal,
        "quotient": quotient(large, small),
        unit: {size: spread(values) for size, values in taken.items()},
    }


# Training ----------------------------------------------------------------------------------------


def training_steps(
    runs: Mapping[str, OpenRun], tasks: EqualTasks, rounds: int, goal: float | None
) -> dict[str, Measured]:
    """A step of each phase that trains; the newest task is learned afterwards."""
    found: dict[str, Measured] = {}
    phases = {size: run.method.phases(run.state) for size, run in runs.items()}
    for same in zip(*phases.values(), strict=True):
        both = zip(runs.items(), same, strict=True)
        steps = {size: PhaseSteps(run, phase) for (size, run), phase in both}
        if all(s.parameters for s in steps.values()):
            actions = {size: partial(s.take, twins(s, tasks)) for size, s in steps.items()}
            taken = alternate(actions, rounds, warm_up=DIFFERENT)
            found[f"training step, {same[0].name} phase"] = grown(taken, "seconds", goal)
        for s in steps.values():
            s.end()
    return found


def twins(steps: PhaseSteps, tasks: EqualTasks) -> Sequence[Step]:
    """Batches for a phase that are the same tokens at every size, beside what else it is given."""
    state = steps.run.state
    old = steps.run.config.replay_kind != "none"
    batches = tasks.batches(state, DIFFERENT, old=old)
    epoch = steps.phase.batches(state, 0)
    if isinstance(epoch, Reflecting):
        epoch.steps = batches
        return epoch
    return batches


# Answering ---------------------------------------------------------------------------------------


def answers(
    paths: Mapping[str, Path],
    tasks: EqualTasks,
    rounds: int,
    goal: float | None,
    forwards: float | None,
) -> dict[str, Measured]:
    """Texts answered by what was learned, and passed through the plain backbone."""
    texts = [example.text for example in tasks.first.test[:N_TEXTS]]
    models = {size: load(path) for size, path in paths.items()}
    actions: dict[str, Callable[[int], object]] = {
        size: lambda _, model=model: model.predict(texts) for size, model in models.items()
    }
    *_, last = models.values()
    state = last._open(with_data=False).state
    actions["plain"] = lambda _: Inputs(state, texts).ask(partial(features, state))
    taken = alternate(actions, rounds)
    bare = taken.pop("plain")
    *_, large = taken.values()
    over = {"plain": bare, "answer": large}
    return {
        f"answer to {N_TEXTS} texts": grown(taken, "seconds", goal),
        f"answer to {N_TEXTS} texts, over plain forwards": grown(over, "seconds", forwards),
    }


@torch.no_grad()
def features(state: State, batch: Batch) -> list[list[float]]:
    """What the frozen backbone makes of a batch, in the order of its passes."""
    found: list[list[float]] = []
    for part in in_passes(state, batch):
        with half(state):
            hidden = state.backbone(part.input_ids, part.attention_mask)
        found += read_out(hidden, part, state.read_out).tolist()
    return found


# Folder and process ------------------------------------------------------------------------------


def start(paths: Mapping[str, Path], backbone: str, rounds: int) -> Measured:
    """Seconds from a folder to its first answer, and those of loading the backbone alone."""
    actions: dict[str, Callable[[int], object]] = {"backbone": lambda _: load_backbone(backbone)}
    for size, path in paths.items():
        actions[size] = lambda _, path=path: load(path).predict(["one text"])
    taken = alternate(actions, min(rounds, 3), warm_up=0)
    bare = taken.pop("backbone")
    *_, large = taken.values()
    beyond = [a - b for a, b in zip(large, bare, strict=True)]
    return {
        "seconds": {size: spread(values) for size, values in taken.items()},
        "backbone": spread(bare),
        "beyond": spread(beyond),
    }


def disk(paths: Mapping[str, Path]) -> Measured:
    """Bytes of the folders, all and by their parts."""
    parts = {
        size: {part.name: size_of(part) for part in sorted(path.iterdir())}
        for size, path in paths.items()
    }
    whole = {int(size): sum(p.values()) for size, p in parts.items()}
    small, *_, large = whole
    further = (whole[large] - whole[small]) / (large - small) / 1e6
    return {"bytes": parts, "megabytes of a further task": further}


def size_of(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def memory(paths: Mapping[str, Path], args: argparse.Namespace) -> Measured:
    """Peak resident memory, less the adapters' bytes, of processes that run two at once."""
    (small, *_, large) = paths
    options = ["--threads", str(args.threads)] if args.threads else []
    options += ["--quick"] * args.quick
    peaks: dict[str, list[float]] = {small: [], large: []}
    own: dict[str, int] = {}
    for _ in range(1 if args.quick else 2):
        pair = {
            size: subprocess.Popen(
                [sys.executable, __file__, "--memory-of", str(paths[size]), *options],
                stdout=subprocess.PIPE,
            )
            for size in peaks
        }
        for size, process in pair.items():
            printed, _ = process.communicate()
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args)
            used = json.loads(printed)
            own[size] = used["own"]
            peaks[size].append(used["peak"] - used["own"])
    return grown(peaks, "bytes", MEMORY) | {"adapters": own}


def use_folder(path: Path, tasks: EqualTasks) -> dict[str, int]:
    """Open a run, train in all phases, and answer: the peak, and the adapters' bytes."""
    run = learning(path, tasks)
    phases: Sequence[Phase] = run.method.phases(run.state)
    for phase in phases:
        steps = PhaseSteps(run, phase)
        if steps.parameters:
            batches = twins(steps, tasks)
            for i in range(len(batches)):
                steps.take(batches, i)
        steps.end()
    texts = [example.text for example in tasks.first.test]
    Inputs(run.state, texts).ask(answering(run.state, run.method))
    pool = run.state.pool
    return {"peak": peak_memory_bytes(), "own": 4 * sum(sum(pool.count(n)) for n in pool.names)}


# The document ------------------------------------------------------------------------------------


def main() -> None:
    options = parser(__doc__, "growth_methods")
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(JUDGED))
    options.add_argument(
        "--sizes", type=int, nargs="+", help="learned tasks; default: 1 10 100 1000, quick 1 20"
    )
    options.add_argument("--rounds", type=int, help="counted runs of each; default: 15, quick 3")
    options.add_argument("--precision", default="auto", help="as in a run's configuration")
    options.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)  # a process of its own
    args = parse(options)
    args.rounds = args.rounds or (3 if args.quick else 15)
    args.sizes = args.sizes or ([1, 20] if args.quick else [1, 10, 100, 1000])
    if len(args.sizes) < 2:
        options.error("--sizes takes two numbers or more: growth is from one to another")
    tasks = EqualTasks(8, 2, 6)
    if args.memory_of:
        print(json.dumps(use_folder(args.memory_of, tasks)))
        return
    figures: list[Measured] = []
    measured: dict[str, dict[str, Measured]] = {}
    for method in args.methods:
        with tempfile.TemporaryDirectory() as parent:
            found, measured[method] = measure(method, Path(parent), tasks, args)
        figures += found
    settings = {"backbone": args.backbone, "precision": args.precision, "batch_size": 2 * HALF}
    settings |= {"methods": {name: METHODS[name] for name in args.methods}, "sizes": args.sizes}
    settings |= {"labels_per_task": len(tasks.first.labels), "examples_per_task": tasks.size}
    finish(args, settings=settings | {"rounds": args.rounds}, figures=figures, measured=measured)


if __name__ == "__main__":
    main()
