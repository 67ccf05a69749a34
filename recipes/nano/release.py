"""The release: the decoder in half precision, what it belongs to, and its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conpet.backbones import embedded
from conpet.backbones.nano import CONFIG, WEIGHTS
from conpet.errors import CheckpointError
from conpet.runtime import write_bytes_atomic, write_json_atomic, write_tensors_atomic

CARD = Path(__file__).parent / "card.md"
MOST_BYTES = 32_000_000


def release(
    tensors: Mapping[str, Tensor], figures: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Write a release that ``conpet.backbones.nano`` loads; return its configuration.

    Args:
        tensors: the decoder's parameters, as trained.
        figures: ``prepared`` (of ``corpus.prepare``), ``plan``, ``step``, ``loss``.

    Raises:
        CheckpointError: a number that half precision cannot hold, or too large a file.
    """
    halves = {name: halved(name, tensor) for name, tensor in tensors.items()}
    write_tensors_atomic(folder / WEIGHTS, halves)
    size = (folder / WEIGHTS).stat().st_size
    if size > MOST_BYTES:
        raise CheckpointError(f"{folder / WEIGHTS} has {size:,} bytes, allowed: {MOST_BYTES:,}")
    config = {
        "encoder": {"name": "all-MiniLM-L6-v2", "sha256": embedded.SHA256},
        "decoder": {
            "parameters": sum(t.numel() for t in halves.values()),
            "bytes": size,
            "shapes": {name: list(t.shape) for name, t in halves.items()},
        },
        "training": figures["plan"] | {"steps": figures["step"]},
        "loss": figures["loss"],
    }
    write_json_atomic(folder / CONFIG, config)
    write_bytes_atomic(folder / "README.md", card(config, figures["prepared"]).encode())
    return config


def halved(name: str, tensor: Tensor) -> Tensor:
    """In half precision, on the CPU."""
    half = tensor.detach().to("cpu", torch.float16)
    if not torch.isfinite(half).all():
        raise CheckpointError(f"'{name}' holds a number that half precision cannot hold")
    return half


def card(config: Mapping[str, Any], prepared: Mapping[str, Any]) -> str:
    """The model card, its blanks filled with the figures."""
    text, training = prepared["text"], config["training"]
    words = {kind: counts["words"] for kind, counts in text.items()}
    kept = {k: counts["words"] - counts["dropped_words"] for k, counts in text.items()}
    every = sum(words.values())
    return CARD.read_text(encoding="utf-8").format(
        parameters=f"{config['decoder']['parameters'] / 1e6:.1f}",
        megabytes=f"{config['decoder']['bytes'] / 1e6:.0f}",
        sha256=config["encoder"]["sha256"],
        wikipedia=f"{kept['wikipedia'] / 1e6:.1f}",
        novels=f"{kept['novels'] / 1e6:.1f}",
        dropped=f"{100 * (every - sum(kept.values())) / every:.1f}",
        documents=f"{sum(counts['dropped_documents'] for counts in text.values()):,}",
        all_documents=f"{sum(counts['documents'] for counts in text.values()):,}",
        ngram=prepared["rule"]["ngram"],
        shortest=prepared["rule"]["shortest_text"],
        below=prepared["rule"]["ngram"] - 1,
        tokens=f"{prepared['train']['tokens'] / 1e6:.1f}",
        steps=f"{training['steps']:,}",
        batch_size=training["batch_size"],
        lr=training["lr"],
        precision=training["precision"],
        fill=f"{config['loss']['fill']:.2f}",
        carry_on=f"{config['loss']['continue']:.2f}",
    )
