"""Training and writing on a GPU, with random weights of the sizes of LLaMA-7B and T5-large.

    python benchmarks/gpu.py                    # minutes on one GPU; writes results/gpu.json
    python benchmarks/gpu.py --shape t5-large --batch 32 --quick --json
    python benchmarks/gpu.py --device cpu --shape tiny --quick    # no figures: shows that it runs

Nothing is downloaded: the weights are drawn on the device, in bf16 (``random_weights.py``). What is
written is noise, what it costs is not. Each way to compute (attention, compilation) is a run of its
own, opened one after another, so that one model at a time is in memory.

**Training.** The step is ``Trainer.step`` of method sequential, LoRA r = 8 on query and value, and
the floor that of ``floor.py``: one forward of the frozen backbone, one backward to the input of the
first adapted layer. They run in turn. All prompts are cut to the same length, all answers too, so
no token is padding. The share of the peak is the arithmetic of the floor, counted by torch as it is
run, over the time of the step and the card's peak in bf16 without sparsity: what is spent on top of
it counts as lost.

**Writing.** ``State.generate`` answers as many prompts as there are adapters: through none, through
one, through a different one for each prompt, through all of them mixed; beside it, transformers'
bare ``generate``. Adapters are fresh (B = 0), which costs what trained ones cost and changes no
token. Tokens a second are new tokens over the whole time, reading the prompt included.

A GPU is asked to finish before a clock is read.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import random_weights
import torch
from common import (
    PhaseSteps,
    alternate,
    begin_run,
    figure,
    finish,
    half,
    parse,
    parser,
    quotient,
    spread,
)
from decoding import INSTRUCTION, TEMPLATE, bare, routing
from floor import Floor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from conpet.api.opened import OpenRun
from conpet.methods.base import State
from conpet.routing.base import plain
from conpet.runtime import peak_memory_bytes, reset_peak_memory
from conpet.streams import load_stream
from conpet.types import NO_TOKEN, Batch, Example, Task

OVER_FLOOR, OVER_ONE = 1.10, 1.10  # goals
GIB = 2**30
DIFFERENT = 4  # batches, again and again
READ = 64  # tokens of a prompt that is answered
COMPILED = "sdpa attention, compiled"
NONE, ONE, BARE = "no adapter", "one adapter", "bare generate"
SHAPES = {
    "llama-2-7b": ("llama-2-7b",),
    "t5-large": ("t5-large",),
    "tiny": ("tiny-decoder", "tiny-encoder-decoder"),
}
"""What ``--shape`` takes, and the sizes that it stands for."""

PEAKS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""TFLOP/s in bf16 without sparsity, of the makers' data sheets, by a part of the card's name; the
first that fits counts."""


def peak_of(card: str) -> float | None:
    """TFLOP/s of a card by its name; None for one that is not known."""
    return next((peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", card)), None)


def ways(sizes: str, device: str) -> Iterator[tuple[str, list[str]]]:
    """(name, settings) of each way to compute that is there for a backbone."""
    for attention in ("sdpa", "eager"):
        yield f"{attention} attention", [f"backbone.attention={attention}"]
    if device != "cpu":  # where it takes minutes, and has tests of its own
        yield COMPILED, ["backbone.attention=sdpa", "backbone.compile=true"]
    if find_spec("flash_attn") is not None and kind_of_sizes(sizes) == "decoder":
        yield "flash attention", ["backbone.attention=flash_attention_2"]


def kind_of_sizes(sizes: str) -> str:
    family = random_weights.SIZES[sizes].family.model_type
    return "encoder-decoder" if family == "t5" else "decoder"


# A run -------------------------------------------------------------------------------------------


def texts(n: int, joined: int) -> list[str]:
    """So many texts, each made of ``joined`` ones of BANKING77."""
    found = [e.text for task in load_stream("banking77", preset="small").tasks for e in task.test]
    return [" ".join(found[(i + k) % len(found)] for k in range(joined)) for i in range(n)]


def long_task(n: int, prompt: int, answer: int) -> Task:
    """Examples whose prompts and answers have more tokens than these, and are cut."""
    inputs, answers = texts(n, 4 + prompt // 4), texts(n, 4 + answer // 4)
    examples = tuple(
        Example(f"{i}", text, instruction=INSTRUCTION, answers=(words,))
        for i, (text, words) in enumerate(zip(inputs, answers, strict=True))
    )
    return Task("long", (), examples, (), examples)


def begin(sizes: str, words: Sequence[str], folder: Path, args: argparse.Namespace) -> OpenRun:
    """A run that is to learn a task of long prompts."""
    most = max(args.batch * (args.length + args.answer), args.adapters * (READ + args.answer))
    words = ["method=sequential", f"backbone=random-{sizes}", f"device={args.device}", *words]
    words += [
        "backbone.dtype=bf16",
        f"precision={args.precision}",
        f"train.batch_size={args.batch}",
    ]
    words += [f"generation.max_prompt_length={args.length}", f"train.token_budget={most + 8}"]
    words += [f"generation.max_new_tokens={args.answer}"]
    run = begin_run(folder, words, kind="instruction", template=TEMPLATE)
    n = max(DIFFERENT * args.batch, args.adapters)
    run.add_task(long_task(n, args.length, args.answer))
    return run


def tokens_of(batch: Batch) -> int:
    """Of prompts and answers."""
    return int(batch.attention_mask.sum()) + int((batch.answer_ids != NO_TOKEN).sum())


# Training ----------------------------------------------------------------------------------------


class Arithmetic(TorchDispatchMode):
    """Counts the floating-point operations of products and attention while it is open, forward and
    backward. (``FlopCounterMode`` of torch does not go through ``autograd.grad``.)"""

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **kwargs, out_val=out)
        return out


def train(run: OpenRun, args: argparse.Namespace) -> dict[str, Any]:
    """Step and floor in turn. Arithmetic is counted where it is not compiled; all ways have the
    same."""
    steps = PhaseSteps(run, run.method.phases(run.state)[0])
    batches = steps.phase.batches(run.state, 0)
    encoded = [batches[i]["task"] for i in range(DIFFERENT)]
    floor = Floor(run.state)
    if not run.config.backbone.compile:
        with Arithmetic() as arithmetic:
            floor(encoded[0])
        args.arithmetic[run.config.backbone.name] = arithmetic.total
    flops = args.arithmetic.get(run.config.backbone.name)
    memory: dict[str, float] = {}

    def took(name: str) -> None:
        memory[name] = max(memory.get(name, 0.0), peak_memory_bytes(run.state.device) / GIB)

    def step(i: int) -> None:
        reset_peak_memory(run.state.device)
        steps.take(batches, i % DIFFERENT)
        took("step")

    def floor_alone(i: int) -> None:
        reset_peak_memory(run.state.device)
        floor(encoded[i % DIFFERENT])
        took("floor")

    taken = alternate({"step": step, "floor": floor_alone}, args.rounds, args.warm_up)
    seconds = {name: spread(values) for name, values in taken.items()}
    one_step = float(seconds["step"]["median"])
    share = flops and args.peak_tflops and flops / one_step / args.peak_tflops / 1e12
    return {
        "tokens": tokens_of(encoded[0]),
        "seconds": seconds,
        "step_over_floor": quotient(taken["step"], taken["floor"]),
        "tokens_per_second": round(tokens_of(encoded[0]) / one_step, 1),
        "floor_tflop": flops and round(flops / 1e12, 6),
        "share_of_peak": share and round(share, 4),
        "peak_memory_gib": {name: round(gib, 3) for name, gib in memory.items()},
    }


# Writing -----------------------------------------------------------------------------------------


def write(run: OpenRun, args: argparse.Namespace, *, exact: bool) -> dict[str, Any]:
    """Answers to a batch of prompts through none, one, different and mixed adapters in turn.

    ``exact``: adapters that add nothing change no token, which is checked.
    """
    state, n = run.state, args.adapters
    for i in range(n):
        state.pool.add(f"adapter-{i}", seed=i, role="task")
        state.pool.freeze(f"adapter-{i}")
    batch = state.batch(state.task.test[:n]).without_answers()
    length = min(READ, batch.input_ids.shape[1])
    ids, mask = batch.input_ids[:, :length], batch.attention_mask[:, :length]
    batch = replace(batch, input_ids=ids, attention_mask=mask)
    many, mixed = different(n), f"{n} adapters mixed"
    routed = {
        NONE: plain(n, state.device),
        ONE: routing(batch, 1, mixed=False),
        many: routing(batch, n, mixed=False),
        mixed: routing(batch, n, mixed=True),
    }
    routed = {k: replace(r, weights=r.weights.to(state.device)) for k, r in routed.items()}
    reset_peak_memory(state.device)
    written = {name: state.generate(batch, r).ids for name, r in routed.items()}
    assert not exact or all(ids == written[NONE] for ids in written.values())
    new = int(bare_ids(state, batch).shape[1])
    sides = {name: lambda _, r=r: state.generate(batch, r) for name, r in routed.items()}
    taken = alternate(sides | {BARE: lambda _: bare_ids(state, batch)}, args.rounds, args.warm_up)
    return {
        "prompts": n,
        "prompt_tokens": length,
        "new_tokens": new,
        "seconds": {name: spread(values) for name, values in taken.items()},
        "tokens_per_second": {
            name: round(n * new / float(spread(values)["median"]), 1)
            for name, values in taken.items()
        },
        "over": {
            f"{over}, over {under}": quotient(taken[over], taken[under])
            for over, under in ((many, ONE), (many, NONE), (ONE, NONE), (mixed, ONE), (NONE, BARE))
        },
        "peak_memory_gib": round(peak_memory_bytes(state.device) / GIB, 3),
    }


def different(n: int) -> str:
    return f"{n} different adapters"


@torch.no_grad()
def bare_ids(state: State, batch: Batch) -> torch.Tensor:
    with half(state):
        return bare(state, batch)


# All ---------------------------------------------------------------------------------------------


def measure(sizes: str, way: str, words: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """Both, of one way; a word where the card has too little memory for it."""
    said: dict[str, Any] = {"sizes": sizes, "way": way}
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = begin(sizes, words, Path(folder), args)
            weights = sum(p.numel() * p.element_size() for p in run.state.backbone.parameters())
            said["weights_gib"] = round(weights / GIB, 3)
            said |= {"training": train(run, args)}
            said |= {"writing": write(run, args, exact=way != COMPILED)}
    except torch.OutOfMemoryError as error:
        said["failed"] = str(error).partition("\n")[0]
    run = None
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return said


def figures(m: Mapping[str, Any], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Of one way: what was measured of it, before the memory was full."""
    where = f"{m['sizes']}, {m['way']}"
    if "training" in m:
        t = m["training"]
        over = float(t["step_over_floor"]["median"])
        yield figure(f"{where}: training step over the frozen floor", over, OVER_FLOOR)
        yield figure(f"{where}: training, tokens a second", t["tokens_per_second"])
        if t["share_of_peak"] is not None:
            yield figure(f"{where}: training, share of the card's peak", t["share_of_peak"])
        memory = t["peak_memory_gib"]["step"]
        yield figure(f"{where}: training, peak memory in GiB", memory)
    if "writing" in m:
        w = m["writing"]
        yield figure(f"{where}: writing, tokens a second", w["tokens_per_second"][ONE])
        for name, over in w["over"].items():
            goal = OVER_ONE if name == f"{different(args.adapters)}, over {ONE}" else None
            yield figure(f"{where}: writing, {name}", float(over["median"]), goal)


def check_device(args: argparse.Namespace) -> None:
    """End with code 2 where there is nothing to measure on."""
    if args.device == "cpu" and args.shape == ["tiny"]:
        return
    if args.device.startswith("cuda") and torch.cuda.is_available():
        torch.cuda.set_device(args.device if ":" in args.device else 0)
        return
    print(
        f"benchmarks/gpu.py measures a GPU: given are --device {args.device} and --shape "
        f"{' '.join(args.shape)}, and torch {torch.__version__} sees {torch.cuda.device_count()} "
        "CUDA devices. Allowed: --device cuda or cuda:N where there is one, or --device cpu "
        "--shape tiny, which shows that it runs. Run it on a machine with an NVIDIA GPU and a CUDA "
        "build of torch (conpet doctor)",
        file=sys.stderr,
    )
    raise SystemExit(2)


def main() -> None:
    options = parser(__doc__, "gpu", backbone=None)
    options.add_argument("--device", default="cuda", help="cuda, cuda:N; cpu with --shape tiny")
    options.add_argument("--shape", nargs="+", choices=SHAPES, default=["llama-2-7b", "t5-large"])
    options.add_argument("--rounds", type=int, help="counted runs of each; default: 12, quick 3")
    options.add_argument("--batch", type=int, default=8, help="examples of a training batch")
    options.add_argument("--length", type=int, default=512, help="tokens of a training prompt")
    options.add_argument("--answer", type=int, default=64, help="tokens of an answer")
    options.add_argument("--adapters", type=int, default=64, help="adapters and prompts of a batch")
    options.add_argument("--precision", default="auto", help="as in a run's configuration")
    options.add_argument(
        "--peak-tflops", type=float, help="of the card in bf16; default: by its name, if known"
    )
    args = parse(options)
    check_device(args)
    card = None if args.device == "cpu" else torch.cuda.get_device_name()
    args.quick = args.quick or card is None  # nothing that is kept comes without a GPU
    args.rounds, args.warm_up = args.rounds or (3 if args.quick else 12), 1 if args.quick else 3
    args.peak_tflops = args.peak_tflops or (peak_of(card) if card else None)
    args.arithmetic = {}  # of the floor, by backbone
    random_weights.register()
    measured = [
        measure(sizes, way, words, args)
        for shape in args.shape
        for sizes in SHAPES[shape]
        for way, words in ways(sizes, args.device)
    ]
    settings = {"card": card, "peak_tflops": args.peak_tflops, "dtype": "bf16", "rank": 8}
    settings |= {"precision": args.precision, "batch": args.batch, "prompt_tokens": args.length}
    settings |= {"answer_tokens": args.answer, "adapters": args.adapters, "rounds": args.rounds}
    all_figures = [f for m in measured for f in figures(m, args)]
    finish(args, settings=settings, figures=all_figures, measured=measured)


if __name__ == "__main__":
    main()
