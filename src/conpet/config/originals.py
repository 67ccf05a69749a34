"""Profiles of the methods that the papers compare with: what their authors published.

Each is for any stream and backbone, as the values were not published stream by stream. Where we
differ in all of them: the optimiser is AdamW, and texts are cut inside the input field alone.

``progprompt-original``: arXiv 2301.12314, T5-large. The task id is given, as the authors have it.
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
}


def original_values(profile: str, method: str | None) -> dict[str, Any]:
    """The values of a profile; for another method than its own, those of training alone."""
    values = ORIGINALS[profile]
    if method in (None, values["method"]["name"]):
        return values
    return {key: values[key] for key in ("generation", "train") if key in values}
