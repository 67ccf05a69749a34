"""A training step over the frozen floor: what adapters, loss and optimiser add to the backbone.

    python benchmarks/floor.py                  # minutes on 2 cores; writes results/floor.json
    python benchmarks/floor.py --quick --json

The floor is the cheapest pass that any training of the first adapted layer can do: one forward
through the frozen backbone to the read-out, and one backward to the input of the first layer that
holds an adapter. It has the batch, the attention, the autocast and the threads of the step.

The step is ``Trainer.step`` on the batch as the trainer's loop gets it: encoding, forward, loss,
backward, clipping, optimiser. LoRA r = 8 on query and value, batches of 32. Texts: BANKING77 as it
is (``short``), and four of its texts in one (``long``: the length of FewRel's).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import PhaseSteps, alternate, begin_run, figure, finish, parse, parser, quotient, spread
from torch import Tensor, nn

from conpet.methods.base import State
from conpet.objectives.classify import read_out
from conpet.runtime import resolve_precision
from conpet.streams import load_stream
from conpet.types import Batch, Example, Task

GOAL = 1.20
JOINED = {"short": 1, "long": 4}  # texts in one


@dataclass(frozen=True)
class Case:
    """A phase whose every row carries gradient: the first of a method's newest task."""

    name: str
    method: str
    n_tasks: int


CASES = (
    Case("conpet-dynamic, adapter phase", "conpet-dynamic", 1),
    Case("conpet-dynamic, selector phase", "conpet-dynamic", 2),
    Case("sequential", "sequential", 1),
)


class Floor:
    """Forward and backward of the frozen backbone alone."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.layer = first_adapted_layer(state)
        self.input: Tensor | None = None

    def __call__(self, batch: Batch) -> None:
        state = self.state
        half = torch.autocast("cpu", state.autocast, enabled=state.autocast is not None)
        handle = self.layer.register_forward_pre_hook(self._take_input, with_kwargs=True)
        try:
            with half:
                hidden = state.backbone(batch.input_ids, batch.attention_mask)
        finally:
            handle.remove()
        features = read_out(hidden, batch, state.read_out)
        assert self.input is not None
        torch.autograd.grad(features.sum(), self.input)

    def _take_input(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        self.input = args[0].detach().requires_grad_()
        return (self.input, *args[1:]), kwargs


def first_adapted_layer(state: State) -> nn.Module:
    """The transformer layer of the first adapted projection: its path up to the first number."""
    parts = next(iter(state.backbone.linears())).split(".")
    number = next(i for i, part in enumerate(parts) if part.isdecimal())
    return state.backbone.model.get_submodule(".".join(parts[: number + 1]))


class Stopwatch:
    """Seconds inside an optimiser's own step, one entry a step."""

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        self.seconds: list[float] = []
        self.started = 0.0
        optimiser.register_step_pre_hook(self._start)
        optimiser.register_step_post_hook(self._stop)

    def _start(self, *_: object) -> None:
        self.started = time.perf_counter()

    def _stop(self, *_: object) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def join_texts(task: Task, n: int) -> Task:
    """The same examples, the text of each followed by those of ``n`` - 1 others."""

    def joined(examples: tuple[Example, ...]) -> tuple[Example, ...]:
        texts = [e.text for e in examples] * 2
        step = len(examples) // n
        return tuple(
            replace(e, text=" ".join(texts[(i + k * step) % len(examples)] for k in range(n)))
            for i, e in enumerate(examples)
        )

    return replace(task, train=joined(task.train), valid=joined(task.valid), test=joined(task.test))


def measure(case: Case, length: str, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """Step and floor in turn, on the batches of the phase's first epoch."""
    words = [f"method={case.method}", f"backbone={args.backbone}", f"precision={precision}"]
    stream = load_stream("banking77", preset="small")
    with tempfile.TemporaryDirectory() as folder:
        run = begin_run(Path(folder), words)
        for task in stream.tasks[: case.n_tasks]:
            run.add_task(join_texts(task, JOINED[length]))
        steps = PhaseSteps(run, run.method.phases(run.state)[0])
        batches = steps.phase.batches(run.state, 0)
        encoded = [batches[i]["task"] for i in range(min(len(batches), args.rounds))]
        floor, watch = Floor(run.state), Stopwatch(steps.optimiser)
        taken = alternate(
            {
                "step": lambda i: steps.take(batches, i % len(encoded)),
                "floor": lambda i: floor(encoded[i % len(encoded)]),
                "encoding": lambda i: batches[i % len(encoded)],
            },
            args.rounds,
        )
    tokens = [int(batch.attention_mask.sum()) / len(batch) for batch in encoded]
    return {
        "case": case.name,
        "texts": length,
        "precision": precision,
        "tokens": round(sum(tokens) / len(tokens), 1),
        "seconds": {name: spread(values) for name, values in taken.items()}
        | {"optimiser": spread(watch.seconds[1:])},
        "step_over_floor": quotient(taken["step"], taken["floor"]),
        "optimiser_share": quotient(watch.seconds[1:], taken["step"]),
    }


def plan(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """(precision, length of texts): the precision that a run takes on this machine, and fp32."""
    for precision in dict.fromkeys((resolve_precision("auto", "cpu"), "fp32")):
        for length in JOINED:
            if not (args.quick and length == "long" and precision == "fp32"):
                yield precision, length


def main() -> None:
    options = parser(__doc__, "floor")
    options.add_argument("--rounds", type=int, help="counted runs of each; default: 20, quick 3")
    args = parse(options)
    args.rounds = args.rounds or (3 if args.quick else 20)
    measured = [measure(case, t, p, args) for p, t in plan(args) for case in CASES]
    finish(
        args,
        settings={"backbone": args.backbone, "batch_size": 32, "rank": 8, "rounds": args.rounds},
        figures=[
            figure(
                f"{m['case']}, {m['texts']} texts, {m['precision']}: step over the frozen floor",
                float(m["step_over_floor"]["median"]),
                GOAL,
            )
            for m in measured
        ],
        measured=measured,
    )


if __name__ == "__main__":
    main()
