"""Writing answers through adapters against transformers' bare ``generate`` on the same batch.

    python benchmarks/decoding.py               # minutes on 2 cores; writes results/decoding.json
    python benchmarks/decoding.py --quick --json

Ours is ``State.generate``, what ``conpet predict`` calls: routing, hooks, log-probabilities and
texts included. Bare is ``model.generate`` of the same frozen model without any adapter. The mix is
SAPT's: all adapters in one pass, weighted by example. Adapters are fresh (B = 0), which costs what
trained ones cost and leaves every token as it is: all sides write the same tokens, and this is
checked. Prompts: BANKING77 texts with an instruction.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import alternate, begin_run, figure, finish, parse, parser, quotient, spread
from torch import Tensor
from transformers import GenerationConfig

from conpet.backbones.generative import on_the_left
from conpet.methods.base import State
from conpet.streams import load_stream
from conpet.types import Batch, Example, Routing, Task

GOAL = 1.30
TEMPLATE = "{instruction}\n{input}\nOutput:"
INSTRUCTION = "Write in a few words what the customer of the bank wants."
ONE, MIXED = "one adapter", "15 adapters mixed"
CASES = {ONE: 1, "8 adapters in a batch": 8, MIXED: 15}
"""What is measured, and how many adapters take part."""


def prompts(n: int) -> Task:
    """Texts of BANKING77 as inputs to one instruction."""
    texts = [e.text for task in load_stream("banking77", preset="small").tasks for e in task.test]
    examples = tuple(
        Example(f"{i}", text, instruction=INSTRUCTION, answers=("a card",))
        for i, text in enumerate(texts[:n])
    )
    return Task("prompts", (), examples, (), examples)


def bare(state: State, batch: Batch) -> Tensor:
    """The ids that transformers writes by itself."""
    tokenizer = state.backbone.tokenizer
    config = GenerationConfig(
        max_new_tokens=state.decoding.max_new_tokens,
        do_sample=False,
        eos_token_id=state.end_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=state.backbone.start_id(),  # type: ignore[operator]
    )
    given = (batch.input_ids, batch.attention_mask)
    if state.backbone.kind == "decoder":
        given = on_the_left(*given)
    ids: Tensor = state.backbone.model.generate(
        input_ids=given[0], attention_mask=given[1], generation_config=config
    )
    first = 1 if state.backbone.kind == "encoder-decoder" else batch.input_ids.shape[1]
    return ids[:, first:]


def routing(batch: Batch, n: int, *, mixed: bool) -> Routing:
    """Example i goes to adapter i mod n; or all adapters are mixed, with weights of its own."""
    names = tuple(f"adapter-{i}" for i in range(n))
    if mixed:
        generator = torch.Generator().manual_seed(0)
        return Routing(names, torch.rand(len(batch), n, generator=generator).softmax(dim=1))
    weights = torch.zeros(len(batch), n)
    weights[torch.arange(len(batch)), torch.arange(len(batch)) % n] = 1.0
    return Routing(names, weights)


def check_same(state: State, batch: Batch, ours: list[list[int]]) -> None:
    for row, written in zip(bare(state, batch).tolist(), ours, strict=True):
        assert row[: len(written)] == written, "adapters that add nothing changed an answer"


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    words = [f"backbone={args.backbone}", "method=per-task", "precision=fp32"]
    words += [f"generation.max_new_tokens={args.tokens}"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        run = begin_run(Path(folder), words, kind="instruction", template=TEMPLATE)
        run.add_task(prompts(args.batch))
        state = run.state
        for i in range(max(CASES.values())):
            state.pool.add(f"adapter-{i}", seed=i, n_classes=0, role="task")
            state.pool.freeze(f"adapter-{i}")
        batch = state.batch(state.task.test).without_answers()
        routings = {k: routing(batch, n, mixed=k == MIXED) for k, n in CASES.items()}
        for mine in routings.values():
            check_same(state, batch, state.generate(batch, mine).ids)
        sides = {k: lambda _, r=r: state.generate(batch, r) for k, r in routings.items()}
        taken = alternate({"bare": lambda _: bare(state, batch), **sides}, args.rounds)
        for name in CASES:
            rows.append(
                {
                    "case": name,
                    "prompts": len(batch),
                    "prompt_tokens": batch.input_ids.shape[1],
                    "new_tokens": int(bare(state, batch).shape[1]),
                    "seconds": {key: spread(taken[key]) for key in (name, "bare")},
                    "quotient": quotient(taken[name], taken["bare"]),
                    "over_one": quotient(taken[name], taken[ONE]),
                }
            )
    return rows


def main() -> None:
    options = parser(__doc__, "decoding")
    options.add_argument("--rounds", type=int, default=9, help="timed rounds of each side")
    options.add_argument("--batch", type=int, default=32, help="prompts of a batch")
    options.add_argument("--tokens", type=int, default=24, help="most new tokens of an answer")
    options.set_defaults(backbone="nano")
    args = parse(options)
    if args.quick:
        args.rounds = min(args.rounds, 3)
    rows = measure(args)
    figures = [
        figure(f"{row['case']}: writing over bare generate", row["quotient"]["median"], GOAL)
        for row in rows
        if row["case"] != MIXED
    ]
    mixed = next(row for row in rows if row["case"] == MIXED)
    figures.append(figure(f"{MIXED}: writing over {ONE}", mixed["over_one"]["median"], GOAL))
    finish(args, cases=rows, figures=figures)


if __name__ == "__main__":
    main()
