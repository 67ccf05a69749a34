"""Study ``full-tuning``: all weights against one adapter, with and without replay."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

from conpet.evaluation.collect import RunRecord
from conpet.studies.base import Cell, Plan, Row, Rows, Study
from conpet.studies.say import gap, mean, pick, say, tell, times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL_LR = "5e-5"
"""Learning rate of full tuning; that of an adapter would tear pretrained weights apart."""

ADAPTERS = {"full": (f"train.lr={FULL_LR}",), "lora": ()}
REPLAY = {
    "none": ("sequential",),
    "dynamic": ("conpet-static", "method.base=replay"),
}
"""Replay -> the method and its words."""


def grid(plan: Plan) -> list[Cell]:
    return [
        plan.cell(
            REPLAY[replay][0],
            {"replay": replay, "adapter": adapter, "seed": seed},
            f"adapter.kind={adapter}",
            *REPLAY[replay][1:],
            *ADAPTERS[adapter],
        )
        for seed, replay, adapter in product(plan.seeds, REPLAY, ADAPTERS)
    ]


def measure(record: RunRecord) -> Row:
    files = (p for p in (record.folder / "adapters").rglob("*.safetensors"))
    return {
        "learning_rate": record.settings["train"]["lr"],
        "adapter_bytes": sum(path.stat().st_size for path in files),
    }


def plot(rows: Rows) -> Figure:
    from conpet.studies.figures import bars

    named = {
        f"{adapter}, replay {replay}": pick(rows, replay=replay, adapter=adapter)
        for replay, adapter in product(REPLAY, ADAPTERS)
    }
    return bars(
        {
            "whole accuracy, %": ("whole_accuracy", named),
            "forgetting, points": ("forgetting", named),
            "seconds": ("seconds", named),
        }
    )


def text(rows: Rows) -> Iterator[str]:
    cells = {key: pick(rows, replay=key[0], adapter=key[1]) for key in product(REPLAY, ADAPTERS)}
    for (replay, adapter), cell in cells.items():
        yield (
            f"{adapter}, replay {replay}: whole accuracy {say(cell, 'whole_accuracy')} %, "
            f"forgetting {say(cell, 'forgetting')} points, {say(cell, 'steps', 0)} steps in "
            f"{say(cell, 'seconds', 0)} s (learning rate {tell(mean(cell, 'learning_rate'), 'g')})."
        )
    for replay in REPLAY:
        full, lora = cells[replay, "full"], cells[replay, "lora"]
        yield (
            f"Full tuning against LoRA, replay {replay}: {gap(full, lora, 'whole_accuracy')} "
            f"points of whole accuracy, {gap(full, lora, 'forgetting')} points of forgetting, "
            f"{times(full, lora, 'seconds')} its time."
        )
    full, lora = cells["none", "full"], cells["none", "lora"]
    yield (
        f"Full tuning trains {say(full, 'tuned_parameters', 0)} parameters, "
        f"{times(full, lora, 'tuned_parameters')} as many as LoRA, and its folder of weights "
        f"holds {times(full, lora, 'adapter_bytes')} the bytes."
    )
    yield (
        "Replay is worth "
        + " and ".join(
            f"{gap(cells['dynamic', a], cells['none', a], 'whole_accuracy')} points with {a}"
            for a in ADAPTERS
        )
        + "."
    )


STUDY = Study(
    name="full-tuning",
    title="Full tuning against an adapter",
    question="Does tuning all weights keep more than tuning one adapter, and what does replay "
    "change about it?",
    streams={"": "banking77"},
    grid=grid,
    plot=plot,
    text=text,
    measure=measure,
)
