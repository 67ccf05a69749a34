"""Named sets of values: what the authors of a method published, stream by stream.

``conpet-original``: arXiv 2309.14763 and its code. The column of the BERT family or of LLaMA is
told from the backbone's name, or named: ``conpet-original/llama``. Where we differ: gradients are
clipped in both phases (the authors clip in the selector phase alone), and weights and optimiser of
LLaMA keep the types of your configuration (theirs: pure fp16), and the prompt of a causal backbone
ends with the mask (theirs has it inside the sentence).

``sapt-original``: arXiv 2401.08295 and its code, for its two streams of instruction tasks; the
column of T5 or of LLaMA. It validates on the TEST part, as that code does, whose dev files are the
test files byte for byte: the state that is kept has seen the test, and the scores are too high. It
is for comparison with published numbers alone; without it validation examples are carved from
train. Where we differ: the authors cap the steps of six long-sequence tasks on LLaMA, and train on
one of several right answers drawn by lot (here: the first).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conpet.config.presets import STATIC_BASES
from conpet.errors import ConfigError, did_you_mean

COLUMNS = {"conpet-original": ("bert", "llama"), "sapt-original": ("t5", "llama")}
NAMES = {"bert": "the BERT family", "llama": "LLaMA", "t5": "T5"}
PROFILES = tuple(
    name
    for profile, columns in COLUMNS.items()
    for name in (profile, *(f"{profile}/{column}" for column in columns))
)


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


@dataclass(frozen=True)
class _Text:
    """Values for instruction tasks; a step takes 32 examples, ``batch_size`` at a time."""

    epochs: int
    lr: float
    rank: int
    batch_size: int
    max_prompt_length: int


_SAPT = {
    ("superni", "t5"): _Text(100, 3e-4, 4, 8, 512),
    ("superni", "llama"): _Text(50, 5e-5, 4, 8, 1024),
    ("long-sequence", "t5"): _Text(10, 3e-4, 8, 16, 512),
    ("long-sequence", "llama"): _Text(20, 5e-5, 4, 8, 1024),
}
_STREAMS = {
    "conpet-original": tuple(_CONPET),
    "sapt-original": tuple(dict.fromkeys(stream for stream, _ in _SAPT)),
}


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
    family, _, named = profile.partition("/")
    name = Path(stream).stem
    if name not in _STREAMS[family]:
        raise ConfigError(
            f"profile '{profile}' has no values for stream '{name}'; "
            f"allowed: {', '.join(_STREAMS[family])}. Leave the profile out and set train.* "
            "yourself"
        )
    column = named or _column(family, backbone)
    if family == "sapt-original":
        return _text_values(_SAPT[name, column], column)
    return _label_values(name, column, method)


def _text_values(row: _Text, column: str) -> dict[str, Any]:
    return {
        "adapter": {
            "kind": "lora",
            "rank": row.rank,
            "alpha": 32.0,
            "dropout": 0.0,
            "targets": ["q", "v"] if column == "t5" else ["q_proj", "v_proj"],
        },
        "generation": {"max_prompt_length": row.max_prompt_length, "max_new_tokens": 50},
        "stream": {"valid": "test"},  # leaks: see above
        "train": {
            "epochs": row.epochs,
            "batch_size": row.batch_size,
            "accumulate": 32 // row.batch_size,
            "lr": row.lr,
            "schedule": "constant",
            "weight_decay": 0.0,
            "eps": 1e-8,
            "clip": 1.0,
            "select": "best",
        },
    }


def _label_values(name: str, column: str, method: str) -> dict[str, Any]:
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


def _column(profile: str, backbone: str) -> str:
    """The column that a backbone's name tells."""
    name = Path(backbone).name.lower()
    told = {"llama": "llama", "bert": "bert", "minilm": "bert", "t5": "t5"}
    for word, column in told.items():
        if word in name and column in COLUMNS[profile]:
            return column
    one, other = COLUMNS[profile]
    raise ConfigError(
        f"profile '{profile}' has values for {NAMES[one]} and for {NAMES[other]}, and backbone "
        f"'{backbone}' does not tell which; write profile: {profile}/{one} or {profile}/{other}"
    )
