"""Make the generative backbone ``nano``: prepare text, train the decoder, write the release.

    python recipes/nano/make.py --out runs/nano --data DIR

Every stage is skipped when it is done, and goes on where it was interrupted: the same command
again. Ctrl-C (or SIGTERM) saves a checkpoint first.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import corpus
import torch
from plan import Plan, start_head
from release import halved, release
from tasks import Batch, Sampler, Vocabulary
from train import Training
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from conpet.backbones.nano import build, encoder_folder, load_encoder
from conpet.errors import CheckpointError, ConpetError
from conpet.runtime import (
    RunFolder,
    environment,
    resolve_device,
    resolve_precision,
    set_threads,
    write_json_atomic,
)

STAGES = ("prepare", "train", "export", "all")
SHARES = {"fill": 1.0, "continue": 0.0}
"""Kind of held-out examples -> the share of them that fills spans."""
LOGGED_BATCHES, FINAL_BATCHES = 4, 32
"""Held-out batches of each kind: for the curve, and for the figures on the card."""


def main(words: Sequence[str] | None = None) -> int:
    options = parser().parse_args(words)
    if options.data is None:
        print("name the folder with the text: --data DIR, or set CONPET_DATA", file=sys.stderr)
        return 2
    set_threads(options.threads)
    try:
        with RunFolder(options.out).create().locked():
            return run(options)
    except ConpetError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    data = os.environ.get("CONPET_DATA")
    add("--out", type=Path, default=Path("runs/nano"), help="folder of all that is made")
    add("--data", type=Path, default=data, help="folder with text/ and the streams")
    add("--stage", choices=STAGES, default="all", help="export: the checkpoint as it is now")
    add("--steps", type=int, default=8000, help="of training; may be another when going on")
    add("--batch-size", type=int, default=32, help="examples a step (default: 32)")
    add("--lr", type=float, default=7e-4, help="highest learning rate (default: 7e-4)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    add("--precision", default="auto", help="auto, fp32, bf16")
    add("--threads", type=int, help="processor threads (default: torch's choice)")
    return result


def run(options: argparse.Namespace) -> int:
    """The stages asked for: 0 if they are done, 130 if training was interrupted."""
    out: Path = options.out
    folder = encoder_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prepared = corpus.prepare(options.data, out / "prepare", tokenizer)
    say_prepared(prepared)
    if options.stage == "prepare":
        return 0
    training = training_of(options, prepared["source"], folder, tokenizer)
    if options.stage != "export":
        write_json_atomic(out / "train" / "environment.json", environment())
        if not training.run():
            print(f"train: saved at step {training.step:,}; the same command goes on from there")
            return 130
    if options.stage != "train":
        export(training, prepared, tokenizer, out)
    return 0


def training_of(
    options: argparse.Namespace,
    source: dict[str, Any],
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
) -> Training:
    """The model on its device, with text, plan and optimiser, before the first step."""
    device = resolve_device(options.device)
    plan = Plan(
        steps=options.steps,
        batch_size=options.batch_size,
        lr=options.lr,
        precision=resolve_precision(options.precision, device),
    )
    vocabulary = Vocabulary.of(tokenizer)
    text = corpus.load(options.out / "prepare", "train")
    model = build(
        encoder=load_encoder(folder),
        attention="eager" if device.type == "cpu" else "sdpa",
        begin=vocabulary.begin,
        end=vocabulary.end,
    )
    start_head(model, text, vocabulary)
    return Training(
        model.to(device),
        plan,
        source,
        train=Sampler(text, vocabulary, seed=plan.seed, batch_size=plan.batch_size),
        valid=held_out(options.out, vocabulary, LOGGED_BATCHES),
        folder=options.out / "train",
    )


def held_out(out: Path, vocabulary: Vocabulary, n: int) -> dict[str, list[Batch]]:
    """``n`` batches of each kind of example from the held-out documents, always the same."""
    text = corpus.load(out / "prepare", "valid")
    result = {}
    for kind, share in SHARES.items():
        sampler = Sampler(text, vocabulary, seed=0, batch_size=32, fill_share=share)
        result[kind] = [sampler.batch(step) for step in range(n)]
    return result


def export(
    training: Training, prepared: dict[str, Any], tokenizer: PreTrainedTokenizerBase, out: Path
) -> None:
    """Write the release, with the held-out losses of what it holds."""
    training.resume()
    if not training.step:
        raise CheckpointError(f"nothing is trained in '{out}'; run without --stage export first")
    with torch.no_grad():
        for name, parameter in training.parameters.items():
            parameter.copy_(halved(name, parameter))
    training.valid = held_out(out, Vocabulary.of(tokenizer), FINAL_BATCHES)
    figures = {"plan": asdict(training.plan), "step": training.step, "prepared": prepared}
    config = release(training.parameters, figures | {"loss": training.validate()}, out / "release")
    megabytes = config["decoder"]["bytes"] / 1e6
    print(f"export: {out / 'release'}, {megabytes:.1f} MB, held-out loss {config['loss']}")


def say_prepared(prepared: dict[str, Any]) -> None:
    for kind, counts in prepared["text"].items():
        share = 100 * counts["dropped_words"] / counts["words"]
        print(
            f"prepare: {kind}: {counts['dropped_documents']:,} of {counts['documents']:,} "
            f"documents share text with a stream and are dropped, {share:.1f} % of the words"
        )
    for part in corpus.PARTS:
        counts = prepared[part]
        print(f"prepare: {part}: {counts['tokens']:,} tokens in {counts['documents']:,} documents")


if __name__ == "__main__":
    sys.exit(main())
