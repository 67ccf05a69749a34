"""Profiles of the methods that the papers compare with: what their authors published.

Each is for any stream and backbone, as the values were not published stream by stream. Where we
differ in all of them: the optimiser is AdamW, and texts are cut inside the input field alone.

``progprompt-original``: arXiv 2301.12314, T5-large. The task id is given, as the authors have it.

``epi-original``: EPI's code (Wang et al. 2023, ACL), BERT-base; theirs warms the learning rate up
over the first tenth of the steps.

``l2p-original-text``: the text variant of L2P (arXiv 2112.08654) in the code of EPI, BERT-base.
``l2p-original-vision``: the first published values, for images: how many prompts, how long, how
pulled. Paper and code sum the term of the keys over the 5 chosen ones, which here is a mean: the
weight is 5 times theirs (0.5 and 0.1).

``lfpt5-original``: arXiv 2110.07298, T5-large v1.1 adapted to language modelling. Theirs is
Adafactor at this learning rate, 16 examples a class and 2 pseudo-samples of it, and the best state
from epoch 256 on.
"""

from __future__ import annotations

from typing import Any

ORIGINALS: dict[str, dict[str, Any]] = {
    "progprompt-original": {
        "method": {"name": "progprompt", "task_id": True},
        "adapter": {"kind": "prompt", "length": 10, "bottleneck": 800},
        "generation": {"max_prompt_length": 512},
        "train": {
            "epochs": 10,
            "batch_size": 8,
            "lr": 0.3,
            "weight_decay": 1e-5,
            "select": "best",
        },
    },
    "epi-original": {
        "method": {"name": "epi", "shrinkage": 0.0, "weigh": "classes", "start": "fresh"},
        "backbone": {"max_length": 256, "read_out": "mean"},
        "adapter": {"kind": "prefix", "length": 16},
        "train": {
            "epochs": 5,
            "batch_size": 32,
            "lr": 0.03,
            "schedule": "linear",
            "weight_decay": 0.0,
            "select": "best",
        },
    },
    "l2p-original-text": {
        "method": {"name": "l2p", "pool": 20, "top_n": 5, "pull": 2.5, "old_classes": "masked"},
        "adapter": {"kind": "prompt", "length": 16},
        "train": {"epochs": 5, "batch_size": 32, "lr": 0.03, "weight_decay": 0.0},
    },
    "l2p-original-vision": {
        "method": {"name": "l2p", "pool": 10, "top_n": 5, "pull": 0.5, "old_classes": "masked"},
        "adapter": {"kind": "prompt", "length": 5},
        "train": {"lr": 0.03, "weight_decay": 0.0},
    },
    "lfpt5-original": {
        "method": {
            "name": "lfpt5",
            "generation": 0.25,
            "distillation": 0.01,
            "pseudo_share": 0.125,
            "generator_tokens": 256,
            "generator_top_k": 64,
            "generator_penalty": 2.5,
        },
        "adapter": {"kind": "prompt", "position": "after", "length": 300},
        "generation": {"max_prompt_length": 128},
        "train": {
            "epochs": 420,
            "batch_size": 2,
            "accumulate": 4,
            "lr": 0.5,
            "weight_decay": 1e-5,
            "clip": 1.0,
            "select": "best",
        },
    },
}


def original_values(profile: str, method: str | None) -> dict[str, Any]:
    """The values of a profile; for another method than its own, those of training alone."""
    values = ORIGINALS[profile]
    if method in (None, values["method"]["name"]):
        return values
    return {key: values[key] for key in ("generation", "train") if key in values}
