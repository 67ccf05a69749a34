"""Study ``text-stream``: what is kept of a stream of tasks that are answered in free text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from conpet.studies.base import Cell, Plan, Rows, Study
from conpet.studies.made_up import TINY, made_up, prepare
from conpet.studies.say import distinct, mean, pick, say, tell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("sequential", "conpet-dynamic", "per-task")
WORDS = (
    "backbone=nano",
    "stream.preset=none",
    "stream.train_per_class=null",
    "stream.valid_per_class=null",
    "stream.test_per_class=null",
    "adapter.rank=8",
    "train.batch_size=16",
    "train.epochs=4",
    "train.max_steps=200",
    "train.lr=3e-3",
    "train.schedule=linear",
    "replay.batch_limit=25",
    "replay.new_to_old=1.0",
    "generation.max_prompt_length=160",
)


def grid(plan: Plan) -> list[Cell]:
    tiny = plan.size.name == "tiny"
    words = TINY if tiny else WORDS
    source = made_up(plan) if tiny else plan.stream
    return [
        plan.cell(
            method,
            {"method": method, "seed": seed},
            *words,
            stream=(f"stream={source}",),
        )
        for seed in plan.seeds
        for method in METHODS
    ]


def plot(rows: Rows) -> Figure:
    from conpet.studies.figures import bars

    named = {str(method): pick(rows, method=method) for method in distinct(rows, "method")}
    return bars(
        {
            "average score": ("average_accuracy", named),
            "forgetting, points": ("forgetting", named),
            "seconds": ("seconds", named),
        }
    )


def text(rows: Rows) -> Iterator[str]:
    bound = pick(rows, method="per-task")
    for method in distinct(rows, "method"):
        cells = pick(rows, method=method)
        share = 100 * mean(cells, "average_accuracy") / mean(bound, "average_accuracy")
        yield (
            f"{method}: average score {say(cells, 'average_accuracy')}, forgetting "
            f"{say(cells, 'forgetting')} points, {say(cells, 'seconds', 0)} s; "
            f"{tell(share, '.1f')} % of per-task."
        )


STUDY = Study(
    name="text-stream",
    title="What is kept of a stream of instruction tasks",
    question="How much of what one adapter a task can do is kept when nobody says which task "
    "it is?",
    streams={"": "superni-mini", "tiny": "made-up"},
    grid=grid,
    plot=plot,
    text=text,
    prepare=prepare,
)
