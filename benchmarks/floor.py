"""A training step over the frozen floor: what adapters, loss and optimiser add to the backbone.

    python benchmarks/floor.py                  # minutes on 2 cores; writes results/floor.json
    python benchmarks/floor.py --quick --json

The floor is the cheapest pass that any training of the first adapted layer can do: one forward
through the frozen backbone to the read-out (to the logits of the answer's tokens where answers are
text), and one backward to the input of the first layer that holds an adapter, in encoder and
decoder each. It has the batch, the attention, the autocast and the threads of the step.

The step is ``Trainer.step`` on the batch as the trainer's loop gets it: encoding, forward, loss,
backward, clipping, optimiser. LoRA r = 8 on query and value, batches of 32. Texts: BANKING77 as it
is (``short``), and four of its texts in one (``long``: the length of FewRel's). A decoder and an
encoder-decoder answer an instruction on it in a few words; the decoder is a random LLaMA of the
encoder's sizes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import (
    PhaseSteps,
    alternate,
    begin_run,
    figure,
    finish,
    half,
    in_passes,
    parse,
    parser,
    quotient,
    spread,
)
from decoding import TEMPLATE, prompts
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from conpet.api.opened import OpenRun
from conpet.backbones.generative import GenerativeBackbone
from conpet.backbones.loading import load_backbone
from conpet.methods.base import State
from conpet.objectives.classify import read_out
from conpet.runtime import resolve_precision
from conpet.streams import load_stream
from conpet.types import Batch, Example, Task

GOAL = 1.10
DIFFERENT = 4  # batches, again and again
JOINED = {"short": 1, "long": 4}  # texts in one
ENCODER, DECODER, BOTH = "encoder", "decoder", "encoder-decoder"


@dataclass(frozen=True)
class Case:
    """A phase whose every row carries gradient: the first of a method's newest task.

    Attributes:
        kind: of the backbone; an encoder learns classes, the others write.
        lengths: of its texts.
    """

    name: str
    method: str
    n_tasks: int
    kind: str = ENCODER
    lengths: tuple[str, ...] = ("short", "long")


CASES = (
    Case("conpet-dynamic, adapter phase", "conpet-dynamic", 1),
    Case("conpet-dynamic, selector phase", "conpet-dynamic", 2),
    Case("sequential", "sequential", 1),
    Case("sequential on a decoder", "sequential", 1, DECODER, ("short",)),
    Case("sequential on an encoder-decoder", "sequential", 1, BOTH, ("short",)),
)


class Floor:
    """Forward and backward of the frozen backbone alone."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.layers = first_adapted_layers(state)
        self.inputs: list[Tensor] = []

    def __call__(self, batch: Batch) -> None:
        for part in in_passes(self.state, batch):
            self._pass(part)

    def _pass(self, batch: Batch) -> None:
        self.inputs.clear()
        handles = [
            layer.register_forward_pre_hook(self._take_input, with_kwargs=True)
            for layer in self.layers
        ]
        try:
            last = self._forward(batch)
        finally:
            for handle in handles:
                handle.remove()
        assert len(self.inputs) == len(self.layers)
        torch.autograd.grad(last.sum(), self.inputs)

    def _forward(self, batch: Batch) -> Tensor:
        state = self.state
        with half(state):
            if isinstance(state.backbone, GenerativeBackbone):
                return state.backbone.answer_logits(
                    batch.input_ids, batch.attention_mask, batch.answer_ids
                )
            hidden = state.backbone(batch.input_ids, batch.attention_mask)
        return read_out(hidden, batch, state.read_out)

    def _take_input(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        self.inputs.append(args[0].detach().requires_grad_())
        return (self.inputs[-1], *args[1:]), kwargs


def first_adapted_layers(state: State) -> list[nn.Module]:
    """The transformer layer of the first adapted projection of each stack.

    A layer is a projection's path up to its first number, a stack what stands before that.
    """
    first: dict[str, str] = {}
    for path in state.backbone.linears():
        parts = path.split(".")
        number = next(i for i, part in enumerate(parts) if part.isdecimal())
        first.setdefault(".".join(parts[:number]), ".".join(parts[: number + 1]))
    return [state.backbone.model.get_submodule(path) for path in first.values()]


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


def small_llama(folder: Path) -> str:
    """A random LLaMA of minilm's width and depth and with its vocabulary, as a folder."""
    tokenizer = load_backbone("minilm").tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=12,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def begin(case: Case, length: str, words: Sequence[str], folder: Path) -> OpenRun:
    """A run that is to learn the case's last task."""
    if case.kind != ENCODER:
        words = [*words, "generation.max_new_tokens=16"]
        run = begin_run(folder, words, kind="instruction", template=TEMPLATE)
        run.add_task(prompts(20 * 32))
        return run
    run = begin_run(folder, words)
    stream = load_stream("banking77", preset="small")
    for task in stream.tasks[: case.n_tasks]:
        run.add_task(join_texts(task, JOINED[length]))
    return run


def measure(case: Case, length: str, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """Step and floor in turn, on the batches of the phase's first epoch."""
    backbone = args.backbones[case.kind]
    words = [f"method={case.method}", f"backbone={backbone}", f"precision={precision}"]
    with tempfile.TemporaryDirectory() as folder:
        run = begin(case, length, words, Path(folder))
        steps = PhaseSteps(run, run.method.phases(run.state)[0])
        batches = steps.phase.batches(run.state, 0)
        encoded = [batches[i]["task"] for i in range(min(len(batches), args.rounds, DIFFERENT))]
        floor, watch = Floor(run.state), Stopwatch(steps.optimiser)
        taken = alternate(
            {
                "step": lambda i: steps.take(batches, i % len(encoded)),
                "floor": lambda i: floor(encoded[i % len(encoded)]),
                "encoding": lambda i: batches[i % len(encoded)],
            },
            args.rounds,
            warm_up=len(encoded),  # kernels are made for a shape when it comes first
        )
    optimiser = watch.seconds[-args.rounds :]
    tokens = [int(batch.attention_mask.sum()) / len(batch) for batch in encoded]
    return {
        "case": case.name,
        "texts": length,
        "precision": precision,
        "tokens": round(sum(tokens) / len(tokens), 1),
        "seconds": {name: spread(values) for name, values in taken.items()}
        | {"optimiser": spread(optimiser)},
        "step_over_floor": quotient(taken["step"], taken["floor"]),
        "optimiser_share": quotient(optimiser, taken["step"]),
    }


def plan(args: argparse.Namespace) -> Iterator[tuple[Case, str, str]]:
    """(case, length of texts, precision): the precision that a run takes on this machine, and
    fp32."""
    for precision in dict.fromkeys((resolve_precision("auto", "cpu"), "fp32")):
        for length in JOINED:
            if not (args.quick and length == "long" and precision == "fp32"):
                yield from ((case, length, precision) for case in CASES if length in case.lengths)


def main() -> None:
    options = parser(__doc__, "floor")
    options.add_argument("--rounds", type=int, help="counted runs of each; default: 12, quick 3")
    options.add_argument("--decoder", help="backbone; default: a random LLaMA")
    options.add_argument("--encoder-decoder", default="nano", help="backbone")
    args = parse(options)
    args.rounds = args.rounds or (3 if args.quick else 12)
    with tempfile.TemporaryDirectory() as folder:
        decoder = args.decoder or small_llama(Path(folder))
        args.backbones = {ENCODER: args.backbone, DECODER: decoder, BOTH: args.encoder_decoder}
        measured = [measure(case, t, p, args) for case, t, p in plan(args)]
    backbones = args.backbones | {DECODER: args.decoder or "random LLaMA, 6 layers of width 384"}
    finish(
        args,
        settings={"backbone": backbones, "batch_size": 32, "rank": 8, "rounds": args.rounds},
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
