"""Runs on instruction tasks with ``nano``: the words that the studies ``sapt`` and ``comparison``
share, so that what one of them has run the other need not run again."""

from __future__ import annotations

from collections.abc import Sequence

from conpet.studies.base import Cell, Labels, Plan
from conpet.studies.made_up import MADE_UP, TINY, made_up

LONG = "long-sequence"
TASKS = ("amazon", "mnli", "qqp", "imdb", "sst2", "dbpedia", "agnews", "yahoo")
"""Of the stream long-sequence, in its first order."""
STEPS = 150
WORDS = (
    "backbone=nano",
    "stream.preset=none",
    "stream.train_per_class=null",
    "stream.valid_per_class=60",
    "stream.test_per_class=100",
    "adapter.rank=8",
    "train.batch_size=8",
    "train.epochs=4",
    f"train.max_steps={STEPS}",
    "train.lr=5e-3",
    "train.schedule=linear",
    "replay.batch_limit=47",
    "replay.new_to_old=1.0",
    "generation.max_prompt_length=64",
)
"""Of instruction tasks; four epochs of dynamic replay are 148 steps."""
GENERATOR = (
    "method.generator_steps=150",
    "method.generator_batch_size=8",
    "method.generator_tokens=48",
)
TINY_GENERATOR = (
    "method.generator_steps=2",
    "method.generator_tokens=8",
    "method.generator_shortest=1",
)
SELECTING = "method.selection=1"
REAL = "method.pseudo=real"
ANALYTIC = "method.router=analytic"
ARMS: dict[str, tuple[str, ...]] = {
    "sequential": ("sequential",),
    "replay": ("replay", "replay.share=0.02", "replay.valid_share=0"),
    "sapt": ("sapt", SELECTING),
    "per-task": ("per-task",),
    "real-samples": ("sapt", SELECTING, REAL),
    "no-reflection": ("sapt", SELECTING, REAL, "method.reflection=0"),
    "selection-only": ("sapt", "method.attend=selection", REAL),
    "conpet-dynamic": ("conpet-dynamic",),
    "joint": ("joint", f"method.steps={STEPS * len(TASKS)}"),
    "conpet-static": ("conpet-static", "method.base=replay"),
    "paper-slow-attention": ("sapt", "method.attention_lr=5e-4", REAL),
    "paper": ("sapt", REAL),
    "paper-no-reflection": ("sapt", REAL, "method.reflection=0"),
    "sapt-prompt": ("sapt-prompt", SELECTING, REAL, "train.lr=5e-2", "method.attention_lr=5e-3"),
    "per-task-prompt": ("per-task", "adapter.kind=prompt", "train.lr=5e-2"),
}
"""What is compared on instruction tasks: its name, then the method and its words. In ``sapt`` the
attention is pulled to the new key as well; ``paper`` has the two losses of the paper alone, and the
attention its learning rate; ``paper-slow-attention`` gives the attention a tenth of that.
``no-reflection`` leaves the pull to the newest key alone, ``paper-no-reflection`` nothing. Only
``sapt`` generates its pseudo-samples; the others of its kind are held against ``real-samples``."""


def instruction_cell(
    plan: Plan, labels: Labels, arm: Sequence[str], *, order: Sequence[str] = ()
) -> Cell:
    """A run of an arm, the name of its method first; ``order`` are words that order the stream."""
    tiny = plan.size.name == "tiny"
    method, *words = arm
    writes = method.startswith("sapt") and not {REAL, ANALYTIC} & {*words}
    generator = (TINY_GENERATOR if tiny else GENERATOR) if writes else ()
    shared = TINY if tiny else WORDS
    return plan.cell(method, labels, *shared, *generator, *words, stream=(*source(plan), *order))


def source(plan: Plan) -> list[str]:
    """The words of the stream: eight tasks of ``long-sequence``, all of any other."""
    if plan.stream == MADE_UP:
        return [f"stream={made_up(plan)}"]
    only = [f"stream.only=[{','.join(TASKS)}]"] if plan.stream == LONG else []
    return [f"stream={plan.stream}", *only]
