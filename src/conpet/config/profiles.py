"""Named sets of values: what the authors of a method published, stream by stream.

``conpet-original``: arXiv 2309.14763 and its code. The column of the BERT family or of LLaMA is
told from the backbone's name, or named: ``conpet-original/llama``. Where we differ: gradients are
clipped in both phases (the authors clip in the selector phase alone), and weights and optimiser of
LLaMA keep the types of your configuration (theirs: pure fp16), and the prompt of a causal backbone
ends with the mask (theirs has it inside the sentence).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conpet.config.presets import STATIC_BASES
from conpet.errors import ConfigError, did_you_mean

COLUMNS = ("bert", "llama")


@dataclass(frozen=True)
class _Row:
    """Epochs and learning rates (bert, llama), and what both columns share."""

    epochs: tuple[int, int]
    lr: tuple[float, float]
    batch_limit: int
    per_class: int
    max_length: int
    frequency: int  # copies of the memory where the new data alone fill the limit
    lr_from: dict[int, float] | None = None  # of the llama column
    shared_lr: float | None = None  # llama: the methods of one adapter, where they differ
    crl_lr: tuple[float, dict[int, float]] = (2e-4, {})  # llama


_CONPET = {
    "fewnerd": _Row((10, 10), (2e-5, 5e-4), 2500, 100, 256, 10, {3: 1e-4}, 2e-5, (1e-4, {})),
    "ontonotes": _Row(
        (20, 10), (1e-4, 5e-4), 1250, 100, 256, 10, {4: 1e-4}, crl_lr=(5e-4, {4: 2e-4})
    ),
    "bbn": _Row((20, 10), (5e-5, 2e-4), 500, 50, 256, 5, crl_lr=(2e-4, {4: 1e-4})),
    "fewrel": _Row((10, 10), (1e-3, 2e-4), 400, 50, 128, 5),
    "tacred": _Row((20, 20), (1e-3, 2e-4), 100, 20, 128, 5),
    "ace": _Row((20, 20), (2e-3, 2e-4), 100, 20, 128, 5),
}

PROFILES = ("conpet-original", *(f"conpet-original/{column}" for column in COLUMNS))


def profile_values(profile: str, stream: str, backbone: str, method: str) -> dict[str, Any]:
    """The values of a profile for a stream, backbone and method, as the nested keys of a
    configuration.

    Raises:
        ConfigError: unknown profile; a stream or backbone for which nothing was published.
    """
    if profile not in PROFILES:
        raise ConfigError(
            f"unknown profile '{profile}'.{did_you_mean(profile, PROFILES)} "
            f"Allowed: {', '.join(PROFILES)}"
        )
    name = Path(stream).stem
    if name not in _CONPET:
        raise ConfigError(
            f"profile '{profile}' has no values for stream '{name}'; "
            f"allowed: {', '.join(_CONPET)}. Leave the profile out and set train.* yourself"
        )
    column = profile.partition("/")[2] or _column(backbone)
    row, llama = _CONPET[name], column == "llama"
    lr, lr_from = _learning_rate(row, method) if llama else (row.lr[0], {})
    return {
        "backbone": {"max_length": row.max_length},
        "adapter": {
            "kind": "lora",
            "rank": 4,
            "alpha": 1.0,
            "dropout": 0.0,
            "targets": ["q_proj", "k_proj"] if llama else ["query", "value"],
        },
        "replay": {
            "batch_limit": row.batch_limit,
            "new_to_old": 1.0,
            "per_class": row.per_class,
            "selection": "kmeans",
            "features": "hidden" if method == "crl" else "logits",
            "epoch": "data" if method == "crl" else "limit",
            "frequency": None if method == "crl" else row.frequency,
        },
        "stream": {"seed": 200 if name == "bbn" else 100},
        "train": {
            "epochs": row.epochs[llama],
            "batch_size": 8,
            "eval_batch_size": 32,
            "lr": lr,
            "lr_from": lr_from,
            "weight_decay": 0.01,
            "eps": 1e-4,
            "clip": 1.0,
            "select": "best",
        },
    }


def _learning_rate(row: _Row, method: str) -> tuple[float, dict[int, float]]:
    """That of LLaMA: from the first task on, and other ones from later tasks on."""
    if method == "crl":
        return row.crl_lr
    if row.shared_lr is not None and method in STATIC_BASES:
        return row.shared_lr, {}
    return row.lr[1], row.lr_from or {}


def _column(backbone: str) -> str:
    name = Path(backbone).name.lower()
    if "llama" in name:
        return "llama"
    if "bert" in name or "minilm" in name:
        return "bert"
    raise ConfigError(
        f"profile 'conpet-original' has values for the BERT family and for LLaMA, and backbone "
        f"'{backbone}' does not tell which; write profile: {PROFILES[1]} or {PROFILES[2]}"
    )
