"""The same work beside plain ``peft``: a training step, a batch of many adapters, adapters mixed.

    python benchmarks/peers.py              # minutes on 2 cores; writes results/peers.json
    python benchmarks/peers.py --quick --json

peft loads the adapters from the folders that a run saves, on a backbone of its own. Before anything
is timed, both sides compute in fp32, and must agree. All get the same batches; to peft's sides they
are handed ready-made, ours encodes them where a run does.

- ``training step``: ``Trainer.step`` against forward, loss, backward, clipping and AdamW around
  peft's model. ``peft`` has our backbone's attention and our optimiser's kernel; ``peft, defaults``
  has what transformers and torch give who asks for nothing.
- ``answers``: ``Method.scores``, as ``predict`` calls it, for a batch of texts, each with the
  adapter that answers it; against peft's ``adapter_names``, against a loop that sets one adapter
  after another, and against one that merges each into the weights and takes it out again. Adapter
  i's head is asked of its own rows alone.
- ``mixing``: ``State.forward``, as SAPT calls it, where each text mixes all adapters with weights
  of its own; against peft's ``add_weighted_adapter``, which merges anew for each text. peft's
  ``cat`` is the exact mixture.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    PhaseSteps,
    alternate,
    begin_run,
    beside,
    figures_of,
    finish,
    half,
    parse,
    parser,
)
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from working_state import EqualTasks, build, unknown

from conpet.adapters.io import save_adapter
from conpet.api.opened import OpenRun, open_run
from conpet.backbones.loading import load_backbone
from conpet.config import load_config
from conpet.methods.base import Method, State
from conpet.objectives.classify import read_out
from conpet.routing.base import oracle
from conpet.runtime import RunFolder, resolve_precision
from conpet.streams import load_stream
from conpet.types import Batch, Routing

STEP = 1.0  # goal: no slower than peft's
MIX = "mix"  # peft's name of what add_weighted_adapter makes


# peft --------------------------------------------------------------------------------------------


class Peft:
    """A backbone of its own under peft, computing as ``state`` does, with adapters from folders."""

    def __init__(
        self, state: State, folders: Mapping[str, Path], *, attention: str = "auto", train: bool
    ) -> None:
        self.state = state
        backbone = load_backbone(state.backbone.name, attention=attention)
        (first, folder), *others = folders.items()
        self.model = PeftModel.from_pretrained(
            backbone.model, str(folder), adapter_name=first, is_trainable=train
        )
        for name, folder in others:
            self.model.load_adapter(str(folder), adapter_name=name)
        self.model.eval()  # no dropout, in training too: the backbone of a run has none

    def features(self, batch: Batch, **routing: Any) -> Tensor:
        """(B, d) at the read-out."""
        with half(self.state):
            hidden = self.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, **routing
            ).last_hidden_state
        return read_out(hidden, batch, self.state.read_out)


class PeftStep:
    """A training step of one adapter and its head, as one writes it around peft's model."""

    def __init__(self, steps: PhaseSteps, folder: Path, attention: str, fused: bool | None) -> None:
        state = steps.run.state
        (name,) = state.pool.names
        self.clip = steps.phase.spec.clip
        self.peft = Peft(state, {name: folder}, attention=attention, train=True)
        head = state.pool.head(name)
        self.head = nn.Linear(head.weight.shape[1], head.weight.shape[0])
        self.head.load_state_dict(head.state_dict())
        self.parameters = [p for p in self.peft.model.parameters() if p.requires_grad]
        assert len(self.parameters) + 2 == len(steps.parameters)
        self.parameters += self.head.parameters()
        spec = steps.phase.spec
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=spec.lr, weight_decay=spec.weight_decay, fused=fused
        )

    def logits(self, batch: Batch) -> Tensor:
        found: Tensor = self.head(self.peft.features(batch))
        return found

    def take(self, batch: Batch) -> None:
        loss = F.cross_entropy(self.logits(batch), batch.label)
        float(loss.detach())  # as whoever watches it does
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def check_same(state: State, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> None:
    """Both in fp32: what rounds otherwise in half precision is no other result."""
    usual, state.autocast = state.autocast, None
    plain = load_backbone(state.backbone.name).every_linear()
    for path, projection in state.backbone.every_linear().items():
        projection.weight, projection.bias = plain[path].weight, plain[path].bias
    with torch.no_grad():
        torch.testing.assert_close(ours(), theirs(), rtol=1e-3, atol=1e-3)
    state.autocast = usual
    if usual is not None:
        state.backbone.compute_in(usual)


# A training step ---------------------------------------------------------------------------------


def compare_steps(parent: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The first task of BANKING77 in one adapter: LoRA r = 8 on query and value, batches of 32."""
    words = ["method=sequential", f"backbone={args.backbone}", f"precision={args.precision}"]
    run = begin_run(parent / "run", words)
    run.add_task(load_stream("banking77", preset="small").tasks[0])
    state = run.state
    steps = PhaseSteps(run, run.method.phases(state)[0])
    (name,) = state.pool.names
    randomise(state, name)
    save_adapter(state.pool, name, parent / "adapter")
    theirs = {
        "peft": PeftStep(steps, parent / "adapter", "auto", fused=True),
        "peft, defaults": PeftStep(steps, parent / "adapter", "sdpa", fused=None),
    }
    batches = steps.phase.batches(state, 0)
    encoded = [batches[i]["task"] for i in range(min(len(batches), 4))]
    for step in theirs.values():
        check_same(
            state,
            lambda: state.class_logits(encoded[0], run.method.route(state, encoded[0])),
            partial(step.logits, encoded[0]),
        )
    sides: dict[str, Callable[[int], object]] = {
        "ours": lambda i: steps.take(batches, i % len(encoded))
    }
    for side, step in theirs.items():
        sides[side] = lambda i, step=step: step.take(encoded[i % len(encoded)])
    taken = alternate(sides, args.rounds, warm_up=len(encoded))
    return {
        f"training step, over {side}": beside(taken, "ours", side, STEP if side == "peft" else None)
        for side in theirs
    }


def randomise(state: State, name: str) -> None:
    """Second factors that are not zero, so that outputs show whether the adapter is there."""
    tensors = state.pool.tensors(name)
    generator = torch.Generator().manual_seed(1)
    for key in tensors:
        if key.endswith(".B"):
            tensors[key].normal_(std=0.02, generator=generator)
    state.pool.load_tensors(name, tensors)


# Answers -----------------------------------------------------------------------------------------


def compare_answers(parent: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Texts answered by so many different adapters in one batch."""
    run = with_adapters(parent, max(args.adapters), args)
    state, method = run.state, run.method
    peft = Peft(state, folders(run), train=False)
    found: dict[str, dict[str, Any]] = {}
    for n in args.adapters:
        batch = texts(state, args.batch)
        batch = replace(batch, task=torch.arange(len(batch)) % n)
        ways = {
            "adapter_names": partial(by_names, peft, batch),
            "a loop over adapters": partial(by_loop, peft, batch),
            "swapped weights": partial(by_swapping, peft, batch),
        }
        ours = partial(scores, state, method, batch)
        for way in ways.values():
            check_same(state, partial(own_columns, state, batch, ours), way)
        with torch.no_grad():
            taken = alternate(
                {side: lambda _, do=do: do() for side, do in {"ours": ours, **ways}.items()},
                args.rounds,
            )
        title = f"{args.batch} texts, {n} adapters" if n > 1 else f"{args.batch} texts, one adapter"
        for name in ways:
            found[f"answers to {title}, over peft, {name}"] = beside(taken, "ours", name)
    return found


def scores(state: State, method: Method, batch: Batch) -> Tensor:
    """(B, C) as ``predict`` asks for them, behind the selector."""
    return method.scores(state, batch, oracle(state.task_names, batch.task))


def own_columns(state: State, batch: Batch, found: Callable[[], Tensor]) -> Tensor:
    """(B, C / T) the columns of each example's task."""
    size = len(state.task.labels)
    first = batch.task[:, None] * size
    return found().gather(1, first + torch.arange(size))


def by_names(peft: Peft, batch: Batch) -> Tensor:
    """peft's mixed batch: one forward, and a loop over adapters at each projection."""
    names = [peft.state.task_names[i] for i in batch.task.tolist()]
    return answers(peft, batch, peft.features(batch, adapter_names=names))


def by_loop(peft: Peft, batch: Batch) -> Tensor:
    """A forward for each adapter, of its own texts."""
    features = torch.empty(len(batch), peft.state.backbone.hidden_size)
    for name, mine in groups(peft, batch):
        peft.model.set_adapter(name)
        features[mine] = peft.features(batch.select(mine))
    return answers(peft, batch, features)


def by_swapping(peft: Peft, batch: Batch) -> Tensor:
    """The same with each adapter merged into the weights, and taken out again."""
    features = torch.empty(len(batch), peft.state.backbone.hidden_size)
    for name, mine in groups(peft, batch):
        peft.model.merge_adapter([name])
        features[mine] = peft.features(batch.select(mine))
        peft.model.unmerge_adapter()
    return answers(peft, batch, features)


def groups(peft: Peft, batch: Batch) -> list[tuple[str, Tensor]]:
    """Each adapter with the examples (n,) that it answers."""
    tasks = batch.task.unique().tolist()
    return [(peft.state.task_names[t], (batch.task == t).nonzero()[:, 0]) for t in tasks]


def answers(peft: Peft, batch: Batch, features: Tensor) -> Tensor:
    """(B, C / T) log-probabilities by each example's own head."""
    logits = torch.empty(len(batch), len(peft.state.task.labels))
    for name, mine in groups(peft, batch):
        logits[mine] = peft.state.pool.head(name)(features[mine])
    return logits.log_softmax(dim=1)


# Mixing ------------------------------------------------------------------------------------------


def compare_mixing(parent: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Texts that mix all adapters, each with weights of its own."""
    run = with_adapters(parent, args.mixed, args)
    state, names = run.state, run.state.task_names
    peft = Peft(state, folders(run), train=False)
    found: dict[str, dict[str, Any]] = {}
    for n in (1, 16):
        batch = texts(state, n)
        generator = torch.Generator().manual_seed(0)
        weights = torch.rand(n, len(names), generator=generator).softmax(dim=1)
        ours = partial(mixed, state, batch, Routing(names, weights))
        theirs = partial(by_merging, peft, batch, weights)
        check_same(state, ours, theirs)
        with torch.no_grad():
            taken = alternate(
                {"ours": lambda _, do=ours: do(), "peft": lambda _, do=theirs: do()}, args.rounds
            )
        title = f"{n} texts, {len(names)} adapters mixed" if n > 1 else "one text, the same"
        found[f"{title}, over peft, add_weighted_adapter"] = beside(taken, "ours", "peft")
    return found


def mixed(state: State, batch: Batch, routing: Routing) -> Tensor:
    return state.forward(batch, routing).features


def by_merging(peft: Peft, batch: Batch, weights: Tensor) -> Tensor:
    """An adapter made of all, for each text."""
    features = []
    for i, row in enumerate(weights.tolist()):
        peft.model.add_weighted_adapter(
            list(peft.state.task_names), row, MIX, combination_type="cat"
        )
        peft.model.set_adapter(MIX)
        features.append(peft.features(batch.select(torch.tensor([i]))))
        peft.model.delete_adapter(MIX)
    return torch.cat(features)


# Setting up --------------------------------------------------------------------------------------


def with_adapters(path: Path, n: int, args: argparse.Namespace) -> OpenRun:
    """A run that has learned ``n`` tasks, opened."""
    words = [f"backbone={args.backbone}", f"precision={args.precision}"]
    build(path, n, EqualTasks(2, 1, 10), words)
    folder = RunFolder(path)
    return open_run(folder, load_config(folder.config), with_data=True)


def folders(run: OpenRun) -> dict[str, Path]:
    known = run.store.record["adapters"]
    return {name: run.folder.path / known[name]["folder"] for name in run.state.task_names}


def texts(state: State, n: int) -> Batch:
    """Test texts of similar length, as ``predict`` puts them together, that no cache knows."""
    rows = state.history[0].test
    assert n <= len(rows)
    order = rows[np.argsort(state.store.lengths[rows], kind="stable")]
    first = (len(order) - n) // 2
    return unknown(state.batch(order[first : first + n]))


def main() -> None:
    options = parser(__doc__, "peers")
    options.add_argument("--rounds", type=int, help="counted runs of each; default: 15, quick 3")
    options.add_argument("--precision", default="auto", help="as in a run's configuration")
    options.add_argument("--batch", type=int, default=64, help="texts of an answered batch")
    options.add_argument(
        "--adapters", type=int, nargs="+", help="that answer it; default: 1 8 64, quick 8"
    )
    options.add_argument("--mixed", type=int, help="adapters that are mixed; default: 15, quick 4")
    args = parse(options)
    args.rounds = args.rounds or (3 if args.quick else 15)
    args.adapters = args.adapters or ([8] if args.quick else [1, 8, 64])
    args.mixed = args.mixed or (4 if args.quick else 15)
    args.precision = resolve_precision(args.precision, "cpu")
    compared: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as parent:
        compared |= compare_steps(Path(parent, "steps"), args)
        compared |= compare_answers(Path(parent, "answers"), args)
        compared |= compare_mixing(Path(parent, "mixing"), args)
    settings = {"backbone": args.backbone, "precision": args.precision, "rank": 8}
    settings |= {"batch_size": {"training": 32, "answers": args.batch}, "rounds": args.rounds}
    finish(args, settings=settings, figures=figures_of(compared), compared=compared)


if __name__ == "__main__":
    main()
