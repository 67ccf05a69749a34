"""Study ``trunk``: adapters in the upper layers alone, what the layers below gave being kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from conpet.evaluation.collect import RunRecord
from conpet.studies.base import Cell, Plan, Row, Rows, Study
from conpet.studies.say import gap, mean, pick, say, tell, times
from conpet.studies.sizes import DYNAMIC

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOT_KEPT = "not"
SAID = {"auto": "as they were computed", "bf16": "in bf16"}
_OF_SIX = ((2, "auto"), (3, "auto"), (3, "bf16"), (6, NOT_KEPT))
ARMS = {
    "tiny": ((1, "auto"), (1, "bf16"), (2, NOT_KEPT)),
    "small": _OF_SIX,
    "full": _OF_SIX,
}
"""Adapted layers (a quarter, rounded up, half, all), and ``trunk_dtype``: with all of them adapted
there is nothing to keep."""


def grid(plan: Plan) -> list[Cell]:
    return [
        plan.cell(
            "conpet-dynamic",
            {"layers": layers, "kept": kept, "seed": seed},
            *DYNAMIC,
            "method.start=selector",
            f"adapter.layers={layers}",
            *([] if kept == NOT_KEPT else [f"backbone.trunk_dtype={kept}"]),
        )
        for seed in plan.seeds
        for layers, kept in ARMS[plan.size.name]
    ]


def measure(record: RunRecord) -> Row:
    files = (record.folder / "trunk").glob("*")
    return {"trunk_bytes": sum(path.stat().st_size for path in files)}


def plot(rows: Rows) -> Figure:
    from conpet.studies.figures import bars

    named = {
        f"{layers} layers" + (" (bf16)" if kept == "bf16" else ""): pick(
            rows, layers=layers, kept=kept
        )
        for layers, kept in _arms(rows)
    }
    return bars(
        {
            "whole accuracy, %": ("whole_accuracy", named),
            "forward passes": ("forward_passes", named),
            "seconds": ("seconds", named),
        }
    )


def text(rows: Rows) -> Iterator[str]:
    every = pick(rows, kept=NOT_KEPT)
    for layers, kept in _arms(rows):
        cell = pick(rows, layers=layers, kept=kept)
        how = "" if kept == NOT_KEPT else f", the states below kept {SAID[kept]}"
        megabytes = tell(mean(cell, "trunk_bytes") / 1e6, ",.0f")
        yield (
            f"Layers adapted {layers}{how}: whole accuracy {say(cell, 'whole_accuracy')} % "
            f"({gap(cell, every, 'whole_accuracy')} against all), forgetting "
            f"{say(cell, 'forgetting')} points; {say(cell, 'seconds', 0)} s, "
            f"{times(cell, every, 'seconds', 2)} those of all, "
            f"{times(cell, every, 'forward_passes', 2)} the forward passes; "
            f"{say(cell, 'tuned_parameters', 0)} tuned parameters, {megabytes} MB kept."
        )


def _arms(rows: Rows) -> list[tuple[int, str]]:
    """What was run, the most layers last."""
    kept = {(row["layers"], row["kept"]) for row in rows if row.get("layers") is not None}
    return sorted(kept, key=lambda arm: (int(arm[0]), arm[1]))


STUDY = Study(
    name="trunk",
    title="Adapters in the upper layers",
    question="What do adapters in the upper layers alone cost in accuracy, and save?",
    streams={"": "banking77"},
    grid=grid,
    plot=plot,
    text=text,
    measure=measure,
)
