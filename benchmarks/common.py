"""What the benchmarks share: a run as ``conpet run`` opens it, its steps, timings and the document.

Times are wall-clock seconds of one process. What is compared runs in turn, again and again, so a
machine that is busy for a while slows both sides alike; the figures are medians of the quotients of
neighbours.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from conpet.api.opened import OpenRun, open_run
from conpet.config import load_config
from conpet.events import Observer
from conpet.methods.base import Phase, State
from conpet.runtime import (
    RunFolder,
    environment,
    resolve_device,
    resolve_precision,
    seed_everything,
    set_deterministic,
    set_threads,
    write_json_atomic,
)
from conpet.streams.base import Kind
from conpet.training.optimiser import optimiser_for
from conpet.training.trainer import Progress, Trainer
from conpet.types import Batch, Routing

Batches = Sequence[Mapping[str, Batch]]
RESULTS = Path(__file__).parent / "results"


# A run -------------------------------------------------------------------------------------------


def begin_run(
    path: Path,
    words: Sequence[str],
    kind: Kind = "text",
    template: str = "",
    base: Path | None = None,
) -> OpenRun:
    """A run folder that has learned nothing, opened on the CPU unless ``words`` say otherwise; they
    are key=value settings, which win over those of the file ``base``.

    Random numbers and determinism are set as a run sets them.
    """
    config = load_config(base, ["device=cpu", *words], stream="benchmark", out=str(path))
    seed_everything(config.seed)
    set_deterministic(resolve_device(config.device))
    folder = RunFolder(path).create()
    precision = resolve_precision(config.precision, config.device)
    write_json_atomic(folder.environment, environment() | {"precision": precision})
    facts = {"name": "benchmark", "kind": kind, "template": template, "fingerprints": {}}
    write_json_atomic(folder.stream, facts)
    folder.write_text(folder.config, config.to_yaml())
    return open_run(folder, config, with_data=True)


def half(state: State) -> AbstractContextManager[None]:
    """The autocast under which a run computes with its backbone."""
    return torch.autocast(state.device.type, state.autocast, enabled=state.autocast is not None)


def in_passes(state: State, batch: Batch) -> Iterator[Batch]:
    """The passes by length that a batch takes in a run: a plain backbone gets the same ones, since
    what they save of padding is no gain over it."""
    nothing = Routing((), torch.zeros(len(batch), 0))
    for at in state.parts(batch, nothing, batch.answer_ids.shape[1]):
        yield batch.select(at)


class PhaseSteps:
    """The steps of one phase of the newest task, each as the trainer's loop takes it."""

    def __init__(self, run: OpenRun, phase: Phase, *, begin: bool = True) -> None:
        self.run, self.phase = run, phase
        self.trainer = Trainer(
            run.state,
            run.method,
            accelerator=Accelerator(cpu=run.state.device.type == "cpu"),
            observer=Observer(),
            save=lambda progress: None,
        )
        if begin:
            phase.begin(run.state)
        groups, spec = phase.trainable(run.state), phase.spec
        self.parameters = {name: p for group in groups for name, p in group.parameters.items()}
        self.optimiser = optimiser_for(groups, spec.weight_decay, spec.eps, {})
        self.progress = Progress()

    def take(self, batches: Batches, i: int) -> None:
        """Encode batch ``i`` (counted around), then loss, backward and optimiser."""
        batch = batches[i % len(batches)]
        self.trainer.step(self.phase, batch, self.parameters, self.optimiser, self.progress)

    def end(self) -> None:
        self.phase.end(self.trainer.state)


# Time --------------------------------------------------------------------------------------------


def clock() -> float:
    """Seconds, once all that a GPU was given is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def alternate(
    actions: Mapping[str, Callable[[int], object]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each action in each round; called with the round's number, from 0.

    The first ``warm_up`` rounds are not counted. Every other round goes backwards, so that no
    action always comes first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    gc.collect()
    for i in range(warm_up + rounds):
        for name in list(actions)[:: -1 if i % 2 else 1]:
            start = clock()
            actions[name](i)
            taken = clock() - start
            if i >= warm_up:
                seconds[name].append(taken)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """Median and quartiles; the unit is that of the values."""
    low, middle, high = (
        statistics.quantiles(values, n=4, method="inclusive")
        if len(values) > 1
        else [values[0]] * 3
    )
    return {
        "median": round(middle, 6),
        "q25": round(low, 6),
        "q75": round(high, 6),
        "runs": len(values),
    }


def quotient(over: Sequence[float], under: Sequence[float]) -> dict[str, float | int]:
    """Median and quartiles of over / under, round by round."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def beside(
    taken: Mapping[str, list[float]], over: str, under: str, goal: float | None = None
) -> dict[str, Any]:
    """One action over another, of what ``alternate`` gave."""
    return {
        "goal": goal,
        "quotient": quotient(taken[over], taken[under]),
        "seconds": {name: spread(taken[name]) for name in (over, under)},
    }


# The document ------------------------------------------------------------------------------------


def figure(name: str, value: float, goal: float | None = None) -> dict[str, Any]:
    """A value that is to be at most ``goal``; None: it is told, and nothing is asked of it.

    The value is judged as it is told, to three digits.
    """
    value = round(value, 3)
    return {"name": name, "value": value, "goal": goal, "ok": goal is None or value <= goal}


def figures_of(compared: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The quotients of comparisons by name, with their goals."""
    return [figure(name, float(c["quotient"]["median"]), c["goal"]) for name, c in compared.items()]


def parser(
    doc: str | None, name: str, *, backbone: str | None = "minilm"
) -> argparse.ArgumentParser:
    """The options that every benchmark has; ``backbone`` is None where it brings its own."""
    options = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    options.add_argument("--quick", action="store_true", help="a few runs: under 40 s on 2 cores")
    options.add_argument("--json", action="store_true", help="the document on standard output")
    options.add_argument(
        "--out",
        type=Path,
        help=f"where the document goes; default: results/{name}.json here, nowhere with --quick",
    )
    if backbone is not None:
        options.add_argument(
            "--backbone", default=backbone, help="registered name, hub id or folder"
        )
    options.add_argument("--threads", type=int, help="processor threads; default: torch's choice")
    options.set_defaults(name=name)
    return options


def parse(options: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with the number of threads set and the load of the machine noted."""
    args = options.parse_args()
    set_threads(args.threads)
    args.load_before = os.getloadavg()
    return args


def finish(args: argparse.Namespace, **content: Any) -> None:
    """Write the document, and show it or its figures."""
    document = {
        "command": shlex.join(["python", f"benchmarks/{args.name}.py", *sys.argv[1:]]),
        "environment": environment()
        | {"load_average": {"before": args.load_before, "after": os.getloadavg()}},
        **content,
    }
    text = json.dumps(document, indent=1)
    path = args.out or (None if args.quick else RESULTS / f"{args.name}.json")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    if args.json:
        print(text)
        return
    for f in document["figures"]:
        met = "ok" if f["ok"] else "MISSED"
        verdict = "" if f["goal"] is None else f"  goal {f['goal']}  {met}"
        print(f"{f['value']:8.3f}{verdict}  {f['name']}")
