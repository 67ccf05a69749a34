"""Study ``scale``: depth and rank of what is tuned, larger shapes, and LLaMA-7B by arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from conpet.studies.base import Cell, Plan, Probe, Rows, Study
from conpet.studies.probe import HEADS
from conpet.studies.say import distinct, gap, mean, pick, say, times
from conpet.studies.sizes import DYNAMIC

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHOD = "conpet-dynamic"
RANK = 8
LAYERS = {"tiny": (1, 2), "small": (2, 4, 6), "full": (2, 4, 6)}
RANKS = {"tiny": (1,), "small": (1, 2, 4, 8, 16), "full": (1, 2, 4, 8, 16)}
"""On all layers; rank 8 on the fewer ones."""
_SMALL = (("encoder", 6, 384), ("encoder", 12, 768), ("decoder", 6, 384), ("decoder", 12, 768))
SHAPES = {
    "tiny": (("encoder", 1, 32), ("decoder", 1, 32)),
    "small": _SMALL,
    "full": (*_SMALL, ("encoder", 24, 1024), ("decoder", 16, 2048)),
}
"""Kind, layers and width of random models; vocabularies are those of BERT and LLaMA."""
STEP, LLAMA = "step", "llama-7b"


def grid(plan: Plan) -> list[Cell]:
    every = max(LAYERS[plan.size.name])
    shapes = [(n, RANK) for n in LAYERS[plan.size.name]]
    shapes += [(every, r) for r in RANKS[plan.size.name] if r != RANK]
    return [
        plan.cell(
            METHOD,
            {"layers": layers, "rank": rank, "seed": seed},
            *DYNAMIC,
            "method.start=selector",
            f"backbone.layers={layers}",
            f"adapter.rank={rank}",
        )
        for seed in plan.seeds
        for layers, rank in shapes
    ]


def probes(plan: Plan) -> list[Probe]:
    steps = [
        Probe(
            {"measured": STEP, "model": f"{kind}-{n}x{d}"},
            ("step", kind, f"{n}", f"{d}", f"{RANK}"),
        )
        for kind, n, d in SHAPES[plan.size.name]
    ]
    return [*steps, Probe({"measured": LLAMA}, ("llama",))]


def plot(rows: Rows) -> Figure:
    from conpet.studies.figures import Panel, line, panels

    runs, every = pick(rows, method=METHOD), _every(rows)
    steps = pick(rows, measured=STEP)
    return panels(
        [
            Panel(
                "Layers, rank 8",
                "layers",
                "whole accuracy, %",
                [line(pick(runs, rank=RANK), "layers", "whole_accuracy", METHOD)],
            ),
            Panel(
                "Rank, all layers",
                "rank",
                "whole accuracy, %",
                [line(pick(runs, layers=every), "rank", "whole_accuracy", METHOD)],
                log="x",
            ),
            Panel(
                "A training step",
                "parameters of the backbone",
                "seconds",
                [
                    line(pick(steps, kind=k), "backbone_parameters", "step_seconds", k)
                    for k in distinct(steps, "kind")
                ],
                log="xy",
            ),
        ]
    )


def _every(rows: Rows) -> int:
    return max(distinct(pick(rows, method=METHOD), "layers"), default=0)


def text(rows: Rows) -> Iterator[str]:
    runs, every = pick(rows, method=METHOD), _every(rows)
    whole = pick(runs, layers=every, rank=RANK)
    for layers in distinct(pick(runs, rank=RANK), "layers"):
        cell = pick(runs, layers=layers, rank=RANK)
        yield (
            f"Layers {layers}, rank {RANK}: whole accuracy {say(cell, 'whole_accuracy')} % "
            f"({gap(cell, whole, 'whole_accuracy')} against all {every}) in "
            f"{say(cell, 'seconds', 0)} s; {say(cell, 'tuned_parameters', 0)} tuned parameters."
        )
    ranks = sorted(distinct(pick(runs, layers=every), "rank"))
    yield (
        f"Layers {every}, whole accuracy by rank: "
        + ", ".join(
            f"{r}: {say(pick(runs, layers=every, rank=r), 'whole_accuracy')} % with "
            f"{say(pick(runs, layers=every, rank=r), 'tuned_parameters', 0)} tuned parameters"
            for r in ranks
        )
        + "."
    )
    yield from _steps(pick(rows, measured=STEP))
    yield from _llama(pick(rows, measured=LLAMA))


def _steps(rows: Rows) -> Iterator[str]:
    if not rows:
        return
    first = rows[0]
    yield (
        f"A training step of {first['batch']} x {first['length']} tokens on random weights takes "
        + ", ".join(
            f"{1000 * row['step_seconds']:.0f} ms on {row['model']} "
            f"({row['backbone_parameters'] / 1e6:.1f}M parameters)"
            for row in rows
        )
        + "."
    )
    for kind in distinct(rows, "kind"):
        same = sorted(pick(rows, kind=kind), key=lambda row: row["backbone_parameters"])
        if len(same) > 1:
            large, small = [same[-1]], [same[0]]
            yield (
                f"{kind}: {times(large, small, 'backbone_parameters')} the parameters take "
                f"{times(large, small, 'step_seconds')} the time of a step, and an answer "
                f"{times(large, small, 'answer_seconds')}."
            )


def _llama(rows: Rows) -> Iterator[str]:
    if not rows:
        return
    first = distinct(rows, "targets")[0]
    weights = int(mean(rows, "backbone_parameters"))
    four = pick(rows, targets=first, rank=4)[0]
    heads = ", ".join(f"{n}: {four[f'factor_with_head_{n}']:,.1f}" for n in HEADS)
    yield (
        f"LLaMA-7B by arithmetic: LoRA of rank 4 on {first.replace(' ', ' and ')} tunes "
        f"{four['tuned_parameters']:,} of {weights:,} parameters, a factor of "
        f"{four['factor']:,.1f}; with a head it is, by the head's classes, {heads}."
    )
    yield (
        "LLaMA-7B, tuned parameters by rank: "
        + ", ".join(
            f"{row['rank']}: {row['tuned_parameters']:,} ({row['factor']:,.1f})"
            for row in pick(rows, targets=first)
        )
        + "."
    )


STUDY = Study(
    name="scale",
    title="Depth, rank and size",
    question="What do fewer layers, other ranks and larger models change about accuracy and cost?",
    streams={"": "banking77"},
    grid=grid,
    plot=plot,
    text=text,
    probes=probes,
)
