"""What a long stream costs: a working state of 100 tasks against one of a single task.

    python benchmarks/growth.py                     # minutes on 2 cores; writes results/growth.json
    python benchmarks/growth.py --tasks 1000 --out growth-1000.json
    python benchmarks/growth.py --quick --json

A state has n learned tasks, in a run folder with their adapters, selector, examples, token files
and logit files, and one task more that is being learned. Both states get the same batches, token
for token, in turn. Measured are

- the training step (``Trainer.step`` on a batch that the state encodes) in both phases;
- the answer (``ContinualModel.predict``) to 64 texts and to one, after that task is learned;
- the peak memory of a process that opens the folder, trains and answers.

With top_k=2 the small state has two learned tasks: with fewer there is nothing to choose. Its step
is measured where the logit cache does not know the batch, and where it does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import PhaseSteps, alternate, figure, finish, parse, parser, quotient, spread
from working_state import HALF, EqualTasks, build, commit, learning, spread_selector

from conpet.api import ContinualModel, load
from conpet.api.opened import OpenRun
from conpet.evaluation.evaluator import answer
from conpet.methods.conpet_dynamic import NewAdapter
from conpet.runtime import peak_memory_bytes

STEP, ANSWER, MEMORY = 1.05, 1.05, 1.10  # goals
Comparison = dict[str, Any]


def main() -> None:
    options = parser(__doc__, "growth")
    options.add_argument("--tasks", type=int, default=100, help="learned tasks of the large state")
    options.add_argument("--rounds", type=int, help="counted runs of each; default: 20, quick 3")
    options.add_argument("--precision", default="auto", help="as in a run's configuration")
    options.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)  # a process of its own
    args = parse(options)
    args.rounds = args.rounds or (3 if args.quick else 20)
    tasks = EqualTasks(*((8, 2, 6) if args.quick else (40, 10, 20)))
    if args.memory_of:
        use_folder(args.memory_of, tasks)
        print(peak_memory_bytes())
        return
    learned = {"one": 1, "two": 2, "many": args.tasks}
    words = [f"backbone={args.backbone}", f"precision={args.precision}"]
    with tempfile.TemporaryDirectory() as parent:
        for name, n in learned.items():
            build(Path(parent, name), n, tasks, words)
        memory = compare_memory(Path(parent), args)
        compared = compare_times(Path(parent), tasks, args.rounds)
    settings = {"backbone": args.backbone, "precision": args.precision, "batch_size": 32}
    settings |= {"learned_tasks": learned, "labels_per_task": len(tasks.first.labels)}
    settings |= {"examples_per_task": tasks.size, "rounds": args.rounds}
    compared["peak memory"] = memory
    figures = [
        figure(name, float(c["quotient"]["median"]), c["goal"]) for name, c in compared.items()
    ]
    finish(args, settings=settings, figures=figures, compared=compared)


# Time --------------------------------------------------------------------------------------------


def compare(
    actions: Mapping[str, Callable[[int], object]], rounds: int, goal: float | None = None
) -> Comparison:
    """Two actions in turn; the second is that of the large state."""
    return comparison(alternate(actions, rounds), "seconds", goal)


def comparison(
    measured: Mapping[str, list[float]], unit: str, goal: float | None = None
) -> Comparison:
    """What was measured on a small state and then on a large one."""
    small, large = measured.values()
    return {
        "goal": goal,
        "quotient": quotient(large, small),
        unit: {name: spread(values) for name, values in measured.items()},
    }


def compare_times(parent: Path, tasks: EqualTasks, rounds: int) -> dict[str, Comparison]:
    """All times of the small states (``one``, ``two``) beside the large one (``many``)."""
    one, two, many = (learning(parent / name, tasks) for name in ("one", "two", "many"))
    alone = load(parent / "one")
    alone.predict(["opened now, with one task"])
    found: dict[str, Comparison] = {}

    selector = {"one": start(one, 0), "many": start(many, 0)}
    found["training step, selector phase"] = compare_steps(selector, tasks, rounds)
    for steps in (*selector.values(), start(two, 0)):
        steps.end()

    adapter = {"one": start(one, 1), "many": start(many, 1)}
    found["training step, adapter phase, top_k 1"] = compare_steps(adapter, tasks, rounds)
    found["drawing the batches of an epoch"] = compare(
        {name: partial(steps.phase.batches, steps.run.state) for name, steps in adapter.items()},
        rounds,
    )
    both = {"two": start(two, 1), "many": adapter["many"]}
    found |= compare_top_two(
        {name: with_top_two(steps) for name, steps in both.items()}, tasks, rounds
    )

    for steps in adapter.values():
        steps.end()
        spread_selector(steps.run.state, newest=True)
        commit(steps.run)
    models = {"one": load(parent / "one"), "many": load(parent / "many"), "first": alone}
    texts = [example.text for example in tasks.first.test]
    for what, n in (("64 texts", 64), ("one text", 1)):
        asked = {name: partial(ask, model, texts[:n]) for name, model in models.items()}
        taken = alternate(asked, rounds)
        first = {name: taken[name] for name in ("first", "many")}
        del taken["first"]
        found[f"answer to {what}"] = comparison(taken, "seconds", ANSWER)
        found[f"answer to {what}, over the first task's, which needs no selector"] = comparison(
            first, "seconds"
        )
    return found


def start(run: OpenRun, phase: int) -> PhaseSteps:
    return PhaseSteps(run, run.method.phases(run.state)[phase])


def ask(model: ContinualModel, texts: list[str], _: int) -> None:
    model.predict(texts)


def compare_steps(
    steps: Mapping[str, PhaseSteps], tasks: EqualTasks, rounds: int, goal: float | None = STEP
) -> Comparison:
    """One batch a round; from the start again where a state has no more examples."""
    n = min(rounds + 1, tasks.n_train // HALF)
    return compare(
        {name: partial(s.take, tasks.batches(s.run.state, n)) for name, s in steps.items()},
        rounds,
        goal,
    )


def with_top_two(steps: PhaseSteps) -> PhaseSteps:
    """The same adapter phase where two adapters answer: the true task's and the selector's."""
    assert isinstance(steps.phase, NewAdapter)
    spread_selector(steps.run.state, newest=False)
    phase = replace(steps.phase, method=replace(steps.phase.method, top_k=2))
    return PhaseSteps(steps.run, phase, begin=False)


def compare_top_two(
    steps: Mapping[str, PhaseSteps], tasks: EqualTasks, rounds: int
) -> dict[str, Comparison]:
    """The first time that a batch is seen, then again, and what a whole phase makes of the two.

    The more examples the old tasks have, the fewer of them are drawn twice in a phase: that share
    grows with the number of tasks, and comes to an end where each draw is a new one.
    """
    name = "training step, adapter phase, top_k 2"
    unknown = compare_steps(steps, tasks, min(rounds, tasks.n_train // HALF - 1))
    known = compare_steps(steps, tasks, rounds)
    share = {state: first_draws(s) for state, s in steps.items()}
    small, large = (
        share[state] * unknown["seconds"][state]["median"]
        + (1 - share[state]) * known["seconds"][state]["median"]
        for state in steps
    )
    phase = {"goal": None, "quotient": {"median": round(large / small, 6)}, "unknown_share": share}
    return {
        f"{name}, logits known": known,
        f"{name}, logits unknown": unknown,
        f"{name}, over a phase": phase,
    }


def first_draws(steps: PhaseSteps) -> float:
    """The share of a phase's examples that it has not drawn before."""
    epochs = range(steps.phase.spec.epochs)
    drawn = [steps.phase.batches(steps.run.state, epoch) for epoch in epochs]
    rows = np.concatenate([rows for batches in drawn for _, rows in batches.rows])
    return round(len(np.unique(rows)) / len(rows), 3)


# Memory ------------------------------------------------------------------------------------------


def compare_memory(parent: Path, args: argparse.Namespace) -> Comparison:
    """Peak of the resident memory, in bytes, of processes of their own; a pair runs at once."""
    peaks: dict[str, list[float]] = {"one": [], "many": []}
    options = ["--quick"] * args.quick
    options += ["--threads", str(args.threads)] if args.threads else []
    for _ in range(1 if args.quick else 5):
        pair = {
            name: subprocess.Popen(
                [sys.executable, __file__, "--memory-of", str(parent / name), *options],
                stdout=subprocess.PIPE,
            )
            for name in peaks
        }
        for name, process in pair.items():
            printed, _ = process.communicate()
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args)
            peaks[name].append(int(printed))
    return comparison(peaks, "bytes", MEMORY)


def use_folder(path: Path, tasks: EqualTasks) -> None:
    """Open a run, train in both phases, and answer."""
    run = learning(path, tasks)
    for number in range(2):
        steps = start(run, number)
        batches = tasks.batches(run.state, 3)
        for i in range(len(batches)):
            steps.take(batches, i)
        steps.end()
    answer(run.state, run.method, run.state.chunks(run.state.task.test))


if __name__ == "__main__":
    main()
