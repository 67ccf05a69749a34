"""Named sets of values: what the authors of a method published, stream by stream.

``conpet-original``: arXiv 2309.14763 and its code. The column of the BERT family or of LLaMA is
told from the backbone's name, or named: ``conpet-original/llama``. Where we differ: gradients are
clipped in both phases (the authors clip in the selector phase alone), and weights and optimiser of
LLaMA keep the types of your configuration (theirs: pure fp16), and the prompt of a causal backbone
ends with the mask (theirs has it inside the sentence).

``sapt-original-t5-superni``, ``sapt-original-t5-long``, ``sapt-original-llama-superni`` and
``sapt-original-llama-long``: arXiv 2401.08295 and its code, a whole run each. The stream's own
order is the first of the paper's; ``stream.order`` names the second. They validate on the TEST
part, as that code does, whose dev files are the test files byte for byte: the state that is kept
has seen the test, and the scores are too high. They are for comparison with published numbers
alone; with ``stream.valid=carve`` validation examples come from train. References of the shared
attention come from train (theirs: from dev, hence from the test), never from test data. With
another method the values of SAPT itself are left out, and those of training stay. What else differs
is listed in docs/text.md; of it one value could not be written down: the authors cap the steps of
six long-sequence tasks on LLaMA, and ``train.max_steps`` is for all tasks alike.

``o-lora-original-t5-long`` and ``o-lora-original-llama-long``: arXiv 2310.14152 and its code. The
weights by task are those of the stream's own order. Of T5 one value could not be written down: mnli
has two epochs there. Of LLaMA learning rates, batches and the weight 0.5 are known; all else is
that of T5. A step of T5 has 8 examples on each of 8 processors there, 8 batches of 8 on one here.

Those of the methods that both papers compare with are in ``originals.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conpet.config.originals import ORIGINALS, original_values
from conpet.config.presets import STATIC_BASES
from conpet.errors import ConfigError, did_you_mean

CONPET = "conpet-original"
COLUMNS = {"bert": "the BERT family", "llama": "LLaMA"}


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
    """A run on instruction tasks; a step takes 32 examples, ``batch_size`` at a time.

    ``reflection`` is the weight that the reflection loss has in effect: that code divides the task
    loss of T5 by the batches of a step, and not the reflection loss.
    """

    backbone: str
    stream: str
    epochs: int
    lr: float
    rank: int
    batch_size: int
    max_prompt_length: int
    reflection: float


@dataclass(frozen=True)
class _OLora:
    """A run of O-LoRA on the long sequence; ``lr_from``, ``orthogonality_from`` and ``norm_from``
    by task, from 1."""

    backbone: str
    batch_size: int
    lr_from: dict[int, float]
    orthogonality_from: dict[int, float]
    norm_from: dict[int, float]


_T5, _LLAMA = "google-t5/t5-large", "meta-llama/Llama-2-7b-hf"
LONG = "long-sequence"
_SAPT = {
    "sapt-original-t5-superni": _Text(_T5, "superni", 100, 3e-4, 4, 8, 512, 2.0),
    "sapt-original-t5-long": _Text(_T5, LONG, 10, 3e-4, 8, 16, 512, 0.2),
    "sapt-original-llama-superni": _Text(_LLAMA, "superni", 50, 5e-5, 4, 8, 1024, 1.0),
    "sapt-original-llama-long": _Text(_LLAMA, LONG, 20, 5e-5, 4, 8, 1024, 2.0),
}
_NORMS = {5: 0.1, 7: 0.3, 8: 0.0, 9: 0.1, 10: 0.0, 12: 0.1, 13: 0.0, 14: 0.1, 15: 0.3}
"""0.1 for copa, qqp, sst2, yahoo and boolq, 0.3 for rte and wic."""
_OLORA = {
    "o-lora-original-t5-long": _OLora(_T5, 8, {}, {10: 5.0}, _NORMS),  # 10: dbpedia
    "o-lora-original-llama-long": _OLora(_LLAMA, 1, {2: 1e-4}, {}, {}),
}
_STREAM = {**{name: row.stream for name, row in _SAPT.items()}, **dict.fromkeys(_OLORA, LONG)}
"""The one stream that a profile of a whole run is for."""
PROFILES = (CONPET, *(f"{CONPET}/{column}" for column in COLUMNS), *_STREAM, *ORIGINALS)


def profile_values(
    profile: str, stream: str | None, backbone: str, method: str | None
) -> dict[str, Any]:
    """The values of a profile for a stream, backbone and method, as the nested keys of a
    configuration; those that are None are the profile's to say.

    Raises:
        ConfigError: unknown profile; a stream or backbone for which nothing was published.
    """
    if profile not in PROFILES:
        raise ConfigError(
            f"unknown profile '{profile}'.{did_you_mean(profile, PROFILES)} "
            f"Allowed: {', '.join(PROFILES)}"
        )
    if profile in ORIGINALS:
        return original_values(profile, method)
    allowed = (_STREAM[profile],) if profile in _STREAM else tuple(_CONPET)
    name = None if stream is None else Path(stream).stem
    if name is not None and name not in allowed:
        raise ConfigError(
            f"profile '{profile}' has no values for stream '{name}'; allowed: "
            f"{', '.join(allowed)}. Leave the profile out and set train.* yourself"
        )
    if profile in _SAPT:
        return _text_values(_SAPT[profile], method)
    if profile in _OLORA:
        return _o_lora_values(_OLORA[profile], method)
    if name is None:
        return {}  # the validation says what is missing
    column = profile.partition("/")[2] or _column(backbone)
    return _label_values(name, column, str(method))


def _text_values(row: _Text, method: str | None) -> dict[str, Any]:
    return {
        "stream": {"name": row.stream, "valid": "test"},  # leaks: see above
        "backbone": {"name": row.backbone, "dtype": "bf16"},
        "method": {"name": "sapt", **_sapt_values(row)} if method in (None, "sapt") else {},
        "adapter": {"kind": "lora", "rank": row.rank, "alpha": 32.0, "dropout": 0.0},
        "generation": {"max_prompt_length": row.max_prompt_length, "max_new_tokens": 50},
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
        "precision": "bf16",
        "seed": 42,
    }


def _sapt_values(row: _Text) -> dict[str, Any]:
    """The method's own, as the authors' code has them."""
    return {
        "bottleneck": 100,
        "order": "after",
        "query": "padded",
        "cut": True,
        "reflection": row.reflection,
        "reflection_over": "sum",
        "reference": "mean",
        "reference_from": "train",
        "pseudo": "generated",
        "pseudo_share": 0.02,
        "generator_format": "markers",
        "generator_steps": 5000,
        "generator_batch_size": 16,
        "generator_lr": 1e-3,
        "generator_tokens": 512,
        "generator_top_k": 20,
        "generator_penalty": 2.5,
    }


def _o_lora_values(row: _OLora, method: str | None) -> dict[str, Any]:
    own = {
        "name": "o-lora",
        "orthogonality": 0.5,
        "orthogonality_from": row.orthogonality_from,
        "norm": 0.0,
        "norm_from": row.norm_from,
    }
    return {
        "stream": {"name": LONG},
        "backbone": {"name": row.backbone, "dtype": "bf16"},
        "method": own if method in (None, "o-lora") else {},
        "adapter": {"kind": "lora", "rank": 8, "alpha": 32.0, "dropout": 0.1},
        "generation": {"max_prompt_length": 512, "max_new_tokens": 50},
        "train": {
            "epochs": 1,
            "batch_size": row.batch_size,
            "accumulate": 8,
            "lr": 1e-3,
            "lr_from": row.lr_from,
            "schedule": "constant",
            "weight_decay": 0.0,
            "select": "last",
        },
        "precision": "bf16",
        "seed": 42,
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


def _column(backbone: str) -> str:
    """The column that a backbone's name tells."""
    name = Path(backbone).name.lower()
    told = {"llama": "llama", "bert": "bert", "minilm": "bert"}
    for word, column in told.items():
        if word in name:
            return column
    one, other = COLUMNS
    raise ConfigError(
        f"profile '{CONPET}' has values for {COLUMNS[one]} and for {COLUMNS[other]}, and backbone "
        f"'{backbone}' does not tell which; write profile: {CONPET}/{one} or {CONPET}/{other}"
    )
