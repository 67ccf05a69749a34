"""Study ``claim``: what Static ConPET promises, in both readings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from conpet.studies.base import Cell, Labels, Plan, Rows, Study
from conpet.studies.say import distinct, gap, pick, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASES = {"emr": (), "ea-emr": (), "emar": ("method.prototype_epochs=1",), "crl": ()}
"""The methods that Static ConPET builds on, and their words. ``replay`` is not among them: with
dynamic replay it is emr, and with a memory emr is ``replay`` with exemplars by k-means."""
STREAMS: dict[str, dict[str, int | None]] = {
    "tiny": {"banking77": None},
    "small": {"banking77": None},
    "full": {"banking77": 1, "multiconer": 1, "clinc150-mixed": None, "fewrel": None},
}
"""Streams by size, and how many of the seeds they are run with; None: all."""
MEMORY = ("replay.kind=memory", "replay.per_class=5", "replay.epoch=limit")
SCALE = {
    "full": (
        "stream.preset=none",
        "stream.train_per_class=20",
        "stream.valid_per_class=5",
        "stream.test_per_class=10",
        "train.epochs=3",
        "replay.batch_limit=10",
        "replay.new_to_old=1",
    )
}
"""Words of a size, over the size's own."""
EXPECTED = 5.0
"""Points above the baseline without replay that the paper reports as the least."""


def grid(plan: Plan) -> list[Cell]:
    """Seed after seed: what is there when it is stopped is as even as can be."""
    streams = {plan.stream: None} if plan.chosen else STREAMS[plan.size.name]
    cells = []
    for place, seed in enumerate(plan.seeds):
        for stream in (name for name, n in streams.items() if n is None or place < n):
            for arm, words in arms().items():
                labels: Labels = {"stream": stream, "arm": arm, "seed": seed}
                method, *settings = words
                scale = (*SCALE.get(plan.size.name, ()), *settings)
                cells.append(plan.cell(method, labels, *scale, stream=(f"stream={stream}",)))
    return cells


def arms() -> dict[str, tuple[str, ...]]:
    """What is compared: its name, then the method and its words."""
    found: dict[str, tuple[str, ...]] = {"sequential": ("sequential",)}
    for base, words in BASES.items():
        found[static(base)] = ("conpet-static", f"method.base={base}", *words)
        found[memory(base)] = (base, *MEMORY, *words)
    return found


def static(base: str) -> str:
    return f"conpet-static-{base}"


def memory(base: str) -> str:
    return f"{base}-memory"


def plot(rows: Rows) -> Figure:
    from conpet.studies.figures import bars

    columns = {}
    for stream in distinct(rows, "stream"):
        named = {arm: pick(rows, stream=stream, arm=arm) for arm in arms()}
        columns[f"{stream}: whole accuracy, %"] = ("whole_accuracy", named)
    return bars(columns)


def text(rows: Rows) -> Iterator[str]:
    for stream in distinct(rows, "stream"):
        here = pick(rows, stream=stream)
        plain = pick(here, arm="sequential")
        of_static, of_memory = [], []
        for base in BASES:
            ours, theirs = pick(here, arm=static(base)), pick(here, arm=memory(base))
            of_static.append(f"{base} {gap(ours, plain, 'whole_accuracy')}")
            of_memory.append(
                f"{base} {gap(ours, theirs, 'whole_accuracy')} ({say(ours, 'steps', 0)} steps "
                f"against {say(theirs, 'steps', 0)})"
            )
        yield (
            f"{stream}, first reading: sequential {say(plain, 'whole_accuracy')} %; with dynamic "
            f"replay, points above it: {', '.join(of_static)}. The paper says {EXPECTED:g} or more."
        )
        yield (
            f"{stream}, second reading: dynamic replay against the memory of the same method at as "
            f"many batches an epoch, points: {', '.join(of_memory)}."
        )


STUDY = Study(
    name="claim",
    title="Static ConPET: what it promises, measured",
    question="Is a method made for a small memory better by at least five points than tuning "
    "without replay once it has an adapter and dynamic replay, and better than with its memory?",
    streams={"": "banking77"},
    grid=grid,
    plot=plot,
    text=text,
)
