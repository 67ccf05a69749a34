"""What mixing 100 frozen adapters costs beyond mixing one, and beside a loop over them.

    python benchmarks/sapt_growth.py        # minutes on 2 cores; writes results/sapt_growth.json
    python benchmarks/sapt_growth.py --quick --json

SAPT mixes all adapters in one pass: W x + scale sum_i w_i B_i A_i x, with weights w of each
example that the shared attention gives. A pool has n frozen adapters and a live one, LoRA on query
and value, rank 8 or 4; a batch has 32 inputs of 64 tokens. Measured are

- the training step: forward, the reflection over 20 pseudo-samples of each old task, backward,
  AdamW on the live adapter, its head, the attention's projection and the newest key;
- the answer: the forward without gradient;

each ``dense`` (every row through all adapters), with the ``top 2`` of each row, and with ``cut``
(no gradient to lower layers through frozen adapters). What must grow is the two products of rank
n * r; with top 2 nothing.

Three loops over the adapters are timed beside it, and it is checked that they compute the same:

- ``as written``: the formula, term by term, each output times its weight; exact gradients, as in
  ``dense``;
- ``weighed inside``: the same with the weight between A and B, where it costs little: the best
  loop that we could write; nothing is asked of its comparison;
- ``side by side``: all outputs (B, n, S, d_out) are kept and summed at the end, those of frozen
  adapters without gradient, as SAPT's authors do it; its gradients are those of ``cut``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import alternate, begin_run, figure, finish, parse, parser, quotient, spread
from torch import Tensor, nn
from torch.nn import functional as F

from conpet.methods.base import State
from conpet.methods.reflection import OldTasks, pooled
from conpet.routing.attention import SharedAttention, reflection, route
from conpet.types import Batch, Routing

LIVE = "live"
N_CLASSES = 20
LOOP = 0.2  # goal: a fifth of the loop's time
SAMPLES = 20  # of each old task


@dataclass(frozen=True)
class Way:
    """How the adapters are mixed, and how much 100 may cost over one.

    Attributes:
        step: goal of the training step; None: it is told, and nothing is asked of it.
    """

    name: str
    rank: int
    step: float | None = None
    top: int | None = None
    cut: bool = False


DENSE = Way("dense, rank 8", 8, step=1.75)
CUT = Way("dense, rank 8, cut", 8, cut=True)
WAYS = (
    DENSE,
    Way("dense, rank 4", 4, step=1.40),
    Way("top 2, rank 8", 8, step=1.15, top=2),
    CUT,
)


@dataclass(frozen=True)
class Mixed:
    """Frozen adapters, a live one, and the attention that weighs them for each row of a batch."""

    state: State
    attention: SharedAttention
    old: OldTasks
    optimiser: torch.optim.Optimizer

    def attend(self, batch: Batch) -> Tensor:
        """(B, n + 1) the logits of the weights."""
        names = self.state.pool.names
        return self.attention.logits(pooled(self.state, batch, "masked"), names)


# What is measured --------------------------------------------------------------------------------


def step(mixed: Mixed, batch: Batch, way: Way) -> None:
    """A training step of the live adapter and of the weights."""
    finish_step(mixed, batch, logits(mixed, batch, way))


@torch.no_grad()
def answer(mixed: Mixed, batch: Batch, way: Way) -> Tensor:
    return logits(mixed, batch, way)


def logits(mixed: Mixed, batch: Batch, way: Way) -> Tensor:
    """(B, C) of the live adapter's head on the mixed features."""
    state, learning = mixed.state, torch.is_grad_enabled()
    names = state.pool.names
    routing = route(names, mixed.attend(batch), top=way.top, newest=learning, cut=way.cut)
    found: Tensor = state.pool.head(LIVE)(state.forward(batch, routing).features)
    return found


def finish_step(mixed: Mixed, batch: Batch, found: Tensor) -> None:
    old = mixed.old.draw(np.random.default_rng(0), SAMPLES, "sum")
    held = reflection(mixed.attention.logits(old.pooled, mixed.state.pool.names), old)
    (F.cross_entropy(found, batch.label) + held).backward()
    mixed.optimiser.step()
    mixed.optimiser.zero_grad()


# The loops ---------------------------------------------------------------------------------------

Factors = tuple[Tensor, Tensor]  # A and B of an adapter at one projection
Loop = Callable[[Tensor, Tensor, Sequence[Factors]], Tensor]


def as_written(z: Tensor, weights: Tensor, adapters: Sequence[Factors]) -> Tensor:
    total = torch.zeros(())
    for i, (a, b) in enumerate(adapters):
        total = total + weights[:, i, None, None] * F.linear(F.linear(z, a), b)
    return total


def weighed_inside(z: Tensor, weights: Tensor, adapters: Sequence[Factors]) -> Tensor:
    total = torch.zeros(())
    for i, (a, b) in enumerate(adapters):
        total = total + F.linear(F.linear(z, a) * weights[:, i, None, None], b)
    return total


def side_by_side(z: Tensor, weights: Tensor, adapters: Sequence[Factors]) -> Tensor:
    with torch.no_grad():
        outputs = [F.linear(F.linear(z, a), b) for a, b in adapters[:-1]]
    a, b = adapters[-1]
    kept = torch.stack([*outputs, F.linear(F.linear(z, a), b)], dim=1)
    return torch.bmm(weights[:, None], kept.flatten(2)).view_as(kept[:, 0])


def loop_step(mixed: Mixed, batch: Batch, loop: Loop) -> None:
    finish_step(mixed, batch, loop_logits(mixed, batch, loop))


@torch.no_grad()
def loop_answer(mixed: Mixed, batch: Batch, loop: Loop) -> Tensor:
    return loop_logits(mixed, batch, loop)


def loop_logits(mixed: Mixed, batch: Batch, loop: Loop) -> Tensor:
    state, plain = mixed.state, Routing((), torch.zeros(len(batch), 0))
    with looped(state, mixed.attend(batch).softmax(dim=1), loop):
        found: Tensor = state.pool.head(LIVE)(state.forward(batch, plain).features)
    return found


@contextmanager
def looped(state: State, weights: Tensor, loop: Loop) -> Iterator[None]:
    """While it is open, each adapted projection adds what the loop gives; the scale is 1."""
    pool = state.pool
    tensors = [pool.adapters.storage(name) for name in pool.names[:-1]]
    tensors.append(dict(pool.adapters.parameters_of(LIVE)))

    def add(path: str, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        adapters = [(own[f"{path}.A"], own[f"{path}.B"]) for own in tensors]
        return out + loop(args[0], weights, adapters)

    linears = state.backbone.linears(None)
    handles = [m.register_forward_hook(partial(add, path)) for path, m in linears.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_same(mixed: Mixed, batch: Batch, loop: Loop) -> None:
    ours, theirs = answer(mixed, batch, DENSE), loop_answer(mixed, batch, loop)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


# Setting up --------------------------------------------------------------------------------------


def build(path: Path, n: int, rank: int, args: argparse.Namespace) -> Mixed:
    """A pool as if n tasks were learned and one began."""
    words = [f"backbone={args.backbone}", "method=per-task", "precision=fp32"]
    state = begin_run(path, [*words, f"adapter.rank={rank}"]).state
    for i in range(n):
        state.pool.add(f"task-{i}", seed=i)
        tensors = state.pool.tensors(f"task-{i}")
        generator = torch.Generator().manual_seed(i)
        for key in tensors:
            if key.endswith(".B"):
                tensors[key].normal_(0.0, 0.02, generator=generator)
        state.pool.load_tensors(f"task-{i}", tensors)
        state.pool.freeze(f"task-{i}")
    state.pool.add(LIVE, seed=n, n_classes=N_CLASSES)
    attention, old = remembering(state, n)
    parameters = [*attention.parameters_of(LIVE).values(), *state.pool.parameters_of(LIVE).values()]
    return Mixed(state, attention, old, torch.optim.AdamW(parameters, lr=1e-4))


def remembering(state: State, n: int) -> tuple[SharedAttention, OldTasks]:
    """An attention over n old tasks and the newest, and random pseudo-samples of the old ones."""
    generator = torch.Generator().manual_seed(1)
    width = state.backbone.hidden_size
    attention = SharedAttention(width, generator=generator)
    for name in state.pool.names:
        attention.add_key(name, generator)
    queries = torch.randn(n * SAMPLES, width, generator=generator)
    target = torch.randn(n, n + 1, generator=generator).softmax(dim=1)
    return attention, OldTasks(queries, target.repeat_interleave(SAMPLES, dim=0), [SAMPLES] * n)


def make_batch(state: State, args: argparse.Namespace) -> Batch:
    """Random tokens, all real, and random classes."""
    generator = torch.Generator().manual_seed(0)
    n, vocabulary = args.batch, state.backbone.model.config.vocab_size
    ids = torch.randint(vocabulary // 2, vocabulary, (n, args.length), generator=generator)
    unknown = torch.full((n,), -1)
    label = torch.randint(N_CLASSES, (n,), generator=generator)
    nothing = torch.zeros(n, 0, dtype=torch.int64)
    return Batch(ids, torch.ones_like(ids), unknown, unknown, unknown, label, nothing)


# Comparing ---------------------------------------------------------------------------------------


def compare(
    actions: Mapping[str, Callable[[int], object]],
    rounds: int,
    goal: float | None,
    warm_up: int = 1,
) -> dict[str, Any]:
    """Two actions in turn: the quotient of the second over the first."""
    seconds = alternate(actions, rounds, warm_up)
    under, over = seconds.values()
    return {
        "goal": goal,
        "quotient": quotient(over, under),
        "seconds": {name: spread(values) for name, values in seconds.items()},
    }


def repeat(action: Callable[..., object], *given: object) -> Callable[[int], object]:
    return lambda _: action(*given)


def measure(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as parent:
        pools = {
            (n, rank): build(Path(parent, f"{n}-{rank}"), n, rank, args)
            for rank in sorted({way.rank for way in WAYS})
            for n in (1, args.tasks)
        }
    batch = make_batch(pools[1, DENSE.rank].state, args)
    found: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        both = {"one": pools[1, way.rank], "many": pools[args.tasks, way.rank]}
        for what, action, goal in (("training step", step, way.step), ("answer", answer, None)):
            if way.cut and action is answer:
                continue  # without gradient there is nothing to cut
            actions = {name: repeat(action, mixed, batch, way) for name, mixed in both.items()}
            found[f"{what}, {way.name}"] = compare(actions, args.rounds, goal)
    return found | measure_loops(pools[args.tasks, DENSE.rank], batch, args)


def measure_loops(mixed: Mixed, batch: Batch, args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    rounds, warm_up = (1, 0) if args.quick else (max(3, args.rounds // 3), 1)
    for name, loop, way, goal in (
        ("as written", as_written, DENSE, LOOP),
        ("weighed inside", weighed_inside, DENSE, None),
        ("side by side", side_by_side, CUT, LOOP),
    ):
        check_same(mixed, batch, loop)
        for what, theirs, ours in (
            ("training step", loop_step, step),
            ("answer", loop_answer, answer),
        ):
            actions = {
                "loop": repeat(theirs, mixed, batch, loop),
                "ours": repeat(ours, mixed, batch, way),
            }
            title = f"{what}, {way.name}, over a loop, {name}"
            asked = goal if what == "training step" else None
            found[title] = compare(actions, rounds, asked, warm_up)
    return found


def main() -> None:
    options = parser(__doc__, "sapt_growth")
    options.add_argument("--tasks", type=int, default=100, help="frozen adapters of the large pool")
    options.add_argument("--rounds", type=int, help="counted runs of each; default: 15, quick 1")
    options.add_argument("--batch", type=int, help="inputs of a batch; default: 32, quick 8")
    options.add_argument("--length", type=int, default=64, help="tokens of an input")
    args = parse(options)
    args.rounds = args.rounds or (1 if args.quick else 15)
    args.batch = args.batch or (8 if args.quick else 32)
    compared = measure(args)
    settings = {"backbone": args.backbone, "precision": "fp32", "batch_size": args.batch}
    settings |= {"tokens": args.length, "frozen_adapters": {"one": 1, "many": args.tasks}}
    settings |= {"rounds": args.rounds, "classes": N_CLASSES}
    figures = [
        figure(name, float(c["quotient"]["median"]), c["goal"]) for name, c in compared.items()
    ]
    finish(args, settings=settings, figures=figures, compared=compared)


if __name__ == "__main__":
    main()
