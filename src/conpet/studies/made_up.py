"""Made-up instruction tasks: what studies of free answers are run on at size tiny, without data."""

from __future__ import annotations

from pathlib import Path

from conpet.studies.base import Plan
from conpet.testing.instruction import write_instruction_table

MADE_UP = "made-up"
"""What studies call this stream."""
TINY = (
    "backbone=tiny-t5",
    "train.max_steps=2",
    "generation.max_prompt_length=512",
    "generation.max_new_tokens=4",
)
"""Words of such a run."""


def made_up(plan: Plan) -> Path:
    """The file of the tasks."""
    return plan.folder / "tasks.jsonl"


def prepare(plan: Plan) -> None:
    """Write it, where it is what is learned."""
    if plan.size.name == "tiny" or plan.stream == MADE_UP:
        plan.folder.mkdir(parents=True, exist_ok=True)
        write_instruction_table(made_up(plan), 2)
