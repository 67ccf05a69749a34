"""What the study ``comparison`` compares: every registered method, and named variants of some.

On classes all have the words of the size, and in each phase as many steps as its epochs of dynamic
replay are, in at most twice the epochs. Methods with a memory keep five exemplars a class;
``joint`` has four times the epochs, which makes its steps about those of conpet-dynamic. On
instruction tasks all have the words of the study ``sapt``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from conpet.config import load_config
from conpet.config.presets import PRESETS, STATIC_BASES
from conpet.errors import ConfigError
from conpet.registry import METHODS, STREAMS
from conpet.studies.base import Cell, Labels, Plan
from conpet.studies.claim import BASES, MEMORY
from conpet.studies.instructions import ANALYTIC, ARMS, REAL, SELECTING, instruction_cell
from conpet.studies.made_up import MADE_UP
from conpet.studies.sizes import DYNAMIC

Words = tuple[str, ...]
"""The name of a method, or of a preset, and its words."""

JOINT_EPOCHS = 4
"""Epochs of ``joint`` for each of the others', on classes."""
BOUNDS = ("joint", "per-task", "per-task-prompt", "sequential")
PROMPT = "adapter.kind=prompt"
FROM_SELECTOR = "method.start=selector"

ON_CLASSES: Mapping[str, Words] = {
    "conpet-dynamic": (*DYNAMIC, FROM_SELECTOR),
    "sapt": (SELECTING,),
    "sapt-prompt": (SELECTING,),
    "replay": MEMORY,
    **{name: (*MEMORY, *words) for name, words in BASES.items()},
}
ON_TEXT: Mapping[str, Words] = {
    **{name: words[1:] for name, words in ARMS.items() if name in METHODS},
    "sapt-prompt": ARMS["sapt-prompt"][1:],
    "emr": ARMS["replay"][1:],
}
"""Words of an arm beyond those that all share."""

RATES_ON_CLASSES: Mapping[str, str] = {
    **dict.fromkeys(("l2p", "epi", "progprompt", "progprompt-task-id"), "train.lr=3e-2"),
    **dict.fromkeys(("sapt-prompt", "per-task-prompt"), "train.lr=3e-2"),
}
RATES_ON_TEXT: Mapping[str, str] = {
    **dict.fromkeys(("l2p", "epi", "progprompt", "progprompt-task-id"), "train.lr=5e-2"),
    **dict.fromkeys(("lfpt5", "per-task-prompt"), "train.lr=5e-2"),
}
"""Learning rates of soft prompts and prefixes, which need larger ones than LoRA. On text 5e-2 was
chosen for soft prompts on validation data (``docs/log.md``). On classes 3e-2 is where the authors
of L2P and EPI have theirs, to be replaced by what validation data say."""


def arms(text: bool) -> dict[str, Words]:
    """Each arm, the methods of the registry first, then the variants."""
    own = ON_TEXT if text else ON_CLASSES
    rates = RATES_ON_TEXT if text else RATES_ON_CLASSES
    found = {name: (name, *_kind(name), *own.get(name, ())) for name in METHODS}
    for base in STATIC_BASES:
        words = () if text else BASES.get(base, ())
        found[f"conpet-static-{base}"] = ("conpet-static", f"method.base={base}", *words)
    for name in ("conpet-dynamic", "sapt"):
        if has_option(name, "router"):
            found[f"{name}-analytic"] = (name, ANALYTIC)
    if FROM_SELECTOR in own.get("conpet-dynamic", ()):  # no closed form has adapters like this
        fresh = tuple(word for word in own["conpet-dynamic"] if word != FROM_SELECTOR)
        found["conpet-dynamic-fresh"] = ("conpet-dynamic", *fresh)
    found["sapt-prompt"] = ("sapt-prompt", *own["sapt-prompt"])
    if has_option("progprompt", "task_id"):
        found["progprompt-task-id"] = ("progprompt", *_kind("progprompt"), "method.task_id=true")
    found["per-task-prompt"] = ("per-task", PROMPT)
    return {arm: (*words, rates[arm]) if arm in rates else words for arm, words in found.items()}


def _kind(name: str) -> Words:
    """The kind of adapter, where the method has none of LoRA."""
    kinds = METHODS.load(name).adapter_kinds
    return () if "lora" in kinds else (f"adapter.kind={kinds[0]}",)


def has_option(name: str, option: str) -> bool:
    """Whether there is a method of this name with this option."""
    if name not in METHODS:
        return False
    method = METHODS.load(name)
    known = dataclasses.fields(method) if dataclasses.is_dataclass(method) else ()
    return option in {field.name for field in known}


def told(arm: str) -> bool:
    """Whether it is told the task of what it answers."""
    return arm.startswith("per-task") or arm.endswith("task-id")


def alone(arm: str) -> str | None:
    """The arm whose scores are those of fresh adapters of the same kind, for FWT; None where no
    such adapters are run, nothing is tuned, or no task is learned after another."""
    if arm == "lda" or arm.startswith(("joint", "per-task")):
        return None
    method, *words = arms(text=False).get(arm, (arm,))
    if PROMPT in words or (method in PRESETS and PRESETS[method].value == "prompt"):
        return "per-task-prompt"
    return None if any(word.startswith("adapter.kind=") for word in words) else "per-task"


def answers_in_text(plan: Plan) -> bool:
    """Whether the answers of the stream are free text; else they are classes."""
    if plan.stream == MADE_UP:
        return True
    if plan.stream in STREAMS:
        return STREAMS.load(plan.stream).template is not None
    return _file_of_text(plan.stream, plan.data)


@lru_cache
def _file_of_text(stream: str, data: Path | None) -> bool:
    from conpet.streams import load_stream

    return load_stream(stream, data=data).free


def cell_of(plan: Plan, words: Words, labels: Labels, order: Words = ()) -> Cell:
    """The run of an arm; ``order`` are words that order the stream."""
    if answers_in_text(plan):
        if plan.size.name == "tiny":
            words = tuple(w for w in words if not w.startswith("method.steps="))
        return instruction_cell(plan, labels, words, order=order)
    method, *own = words
    epochs, batches = _of_size(plan, "train.epochs"), _of_size(plan, "replay.batch_limit") * 8 // 10
    alike = [f"train.epochs={2 * epochs}", f"train.max_steps={epochs * batches}"]
    if method == "joint":
        alike = [f"train.epochs={JOINT_EPOCHS * epochs}"]
    return plan.cell(method, labels, *alike, *own, stream=(f"stream={plan.stream}", *order))


def keeps_texts(arm: str) -> bool:
    """Whether it keeps real old inputs although it could generate them."""
    return REAL in arms(text=True).get(arm, ())


def _of_size(plan: Plan, key: str) -> int:
    """What the size gives to all methods."""
    return next(int(w.partition("=")[2]) for w in plan.size.words if w.startswith(f"{key}="))


def refusal(plan: Plan, arm: str, cell: Cell) -> str | None:
    """Why an arm cannot learn the stream, in the words of its own error; None where it can."""
    text = answers_in_text(plan)
    if arm == "conpet-static-emr":
        return "the same as conpet-static-replay: without a memory there is nothing to choose"
    try:
        config = load_config(None, cell.words)
        config.check_stream(text=text)
    except ConfigError as error:
        return str(error).partition(";")[0]
    if not text and "class" not in METHODS.load(config.method.name).answers:
        return f"method '{config.method.name}' learns free text, and the answers are classes"
    return None
