"""Study ``sapt``: what one attention that mixes and selects keeps of a stream, and what of it does.

On instruction tasks each phase of a task has 150 steps of one batch size (148 where replay is
sampled), and no method but per-task is told the task. The attention's settings and the learning
rate of soft prompts were chosen on validation data (``docs/log.md``); all else is shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from conpet.evaluation.collect import RunRecord
from conpet.evaluation.continual import backward_transfer
from conpet.studies.base import Cell, Labels, Plan, Probe, Row, Rows, Study
from conpet.studies.instructions import ARMS, SELECTING, instruction_cell
from conpet.studies.made_up import prepare
from conpet.studies.rows import raw_state
from conpet.studies.say import distinct, gap, numbers, pick, say
from conpet.studies.sizes import DYNAMIC

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT, CLASSES = "instructions", "classes"

CLAIM = ("sequential", "replay", "sapt", "per-task")
BESIDE = (
    *("real-samples", "no-reflection", "selection-only"),
    *("conpet-dynamic", "joint", "conpet-static"),
)
"""The claim, and what stands beside it: ablations and other methods. These are run first."""
OF_CLASSES: dict[str, tuple[str, ...]] = {
    "sequential": ("sequential",),
    "sapt": ("sapt", SELECTING),
    "paper": ("sapt",),
    "selection-only": ("sapt", "method.attend=selection"),
    "conpet-dynamic": ("conpet-dynamic", *DYNAMIC),
    "joint": ("joint",),
}
"""The same on classes, where real texts stand for old inputs."""

CLASS_STREAM = "banking77"
TOP_K = "1,2,4,all"


def grid(plan: Plan) -> list[Cell]:
    """What matters most first, with every seed: it is there when the study is stopped. What is
    neither claimed nor an ablation comes last, with the first seed alone."""
    rest = [arm for arm in ARMS if arm not in CLAIM + BESIDE]
    cells = []
    for arms in (CLAIM, BESIDE):
        cells += [_text_cell(plan, arm, seed) for seed in plan.seeds for arm in arms]
    cells += [_class_cell(plan, arm, seed) for seed in plan.seeds for arm in OF_CLASSES]
    return cells + [_text_cell(plan, arm, plan.seeds[0]) for arm in rest]


def _text_cell(plan: Plan, arm: str, seed: int) -> Cell:
    labels: Labels = {"stream": TEXT, "arm": arm, "seed": seed}
    return instruction_cell(plan, labels, ARMS[arm])


def _class_cell(plan: Plan, arm: str, seed: int) -> Cell:
    method, *words = OF_CLASSES[arm]
    labels: Labels = {"stream": CLASSES, "arm": arm, "seed": seed}
    return plan.cell(method, labels, *words, stream=(f"stream={CLASS_STREAM}",))


def probes(plan: Plan) -> list[Probe]:
    """How many adapters need to answer; with the first seed."""
    tiny = plan.size.name == "tiny"
    found = []
    for arm in ("real-samples", "paper-slow-attention"):
        labels: Labels = {"stream": TEXT, "arm": arm, "seed": plan.seeds[0]}
        cell = _text_cell(plan, arm, plan.seeds[0])
        words = ("top-k", str(plan.run_folder(cell.name)), "1,all" if tiny else TOP_K)
        found.append(Probe(labels, words, needs=cell.name))
    return found


def measure(record: RunRecord) -> Row:
    """Scores of the tasks when each was learned and at the end, the backward transfer; and where an
    attention mixes, the mean weight of the newest adapter when its task had just been learned."""
    learned = np.diag(record.matrix.values)
    own = _own_weights(record)
    return {
        "own_weight": float(np.mean(own)) if own else None,
        "backward_transfer": backward_transfer(record.matrix),
        "when_learned": [float(score) for score in learned],
        "at_the_end": [float(score) for score in record.scores()],
    }


def _own_weights(record: RunRecord) -> list[float]:
    """Of each task but the first, whose weight is 1."""
    from conpet.methods.reflection import REFERENCE
    from conpet.runtime.files import read_tensors

    learner = raw_state(record).get("learner")
    tensors = read_tensors(Path(record.folder) / learner)[0] if learner else {}
    names = [f"buffer:{REFERENCE}{task.name}" for task in record.tasks[1:]]
    return [float(tensors[name][..., -1].mean()) for name in names if name in tensors]


def plot(rows: Rows) -> Figure:
    from conpet.studies.figures import bars

    here = pick(rows, stream=TEXT)
    named = {arm: pick(here, arm=arm) for arm in ARMS if pick(here, arm=arm)}
    return bars(
        {
            "average score": ("average_accuracy", named),
            "forgetting, points": ("forgetting", named),
            "optimiser steps": ("steps", named),
        }
    )


def text(rows: Rows) -> Iterator[str]:
    for stream in distinct(rows, "stream"):
        here = pick(rows, stream=stream)
        for name, words in (
            ("average_accuracy", "average score"),
            ("forgetting", "forgetting (F.Ra), points"),
            ("backward_transfer", "BWT, points"),
        ):
            told = [f"{a} {say(pick(here, arm=a), name)}" for a in distinct(here, "arm")]
            yield f"{stream}, {words}: {', '.join(told)}."
        yield from _transfer(here, stream)
        ours = pick(here, arm="sapt")
        others = [arm for arm in ("sequential", "replay", "conpet-dynamic") if pick(here, arm=arm)]
        gaps = [f"{gap(ours, pick(here, arm=a), 'average_accuracy')} over {a}" for a in others]
        if ours and gaps:
            yield f"{stream}: sapt is {', '.join(gaps)} (average score)."
    mixing = [row for row in rows if row.get("own_weight") is not None]
    kinds = dict.fromkeys((row["stream"], row["arm"]) for row in mixing)
    if kinds:
        told = [f"{s}, {a} {say(pick(mixing, stream=s, arm=a), 'own_weight', 3)}" for s, a in kinds]
        yield (
            "Weight of a task's own adapter when it was just learned, mean over the tasks but the "
            f"first (1: nothing is mixed): {'; '.join(told)}."
        )
    for row in (row for row in rows if row.get("top_k")):
        each = zip(row["top_k"], row["top_k_score"], row["top_k_seconds"], strict=True)
        told = [f"{k}: {score:.1f} in {seconds:.0f} s" for k, score, seconds in each]
        yield f"{row['run']}, by the number of adapters that answer: {', '.join(told)}."


def _transfer(here: Rows, stream: str) -> Iterator[str]:
    """FWT: how much better tasks are when just learned than with an adapter of their own alone."""
    told = []
    for arm in distinct(here, "arm"):
        alone = pick(here, arm="per-task-prompt" if arm == "sapt-prompt" else "per-task")
        if numbers(alone, "learning_accuracy") and not arm.startswith(("per-task", "joint")):
            told.append(f"{arm} {gap(pick(here, arm=arm), alone, 'learning_accuracy')}")
    if told:
        yield f"{stream}, FWT, points: {', '.join(told)}."


STUDY = Study(
    name="sapt",
    title="What one attention that mixes and selects keeps of a stream",
    question="Does it keep more than a small memory, and which of its parts does it?",
    streams={"": "long-sequence", "tiny": "made-up"},
    grid=grid,
    plot=plot,
    text=text,
    measure=measure,
    probes=probes,
    prepare=prepare,
)
