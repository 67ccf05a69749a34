"""Draw what the committed results of the speed benchmarks say.

python benchmarks/plots.py      # results/NAME.png for each results/NAME.json that has a plot
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from conpet.evaluation.theme import hue, marker, styled, to_png

RESULTS = Path(__file__).parent / "results"
Document = Mapping[str, Any]


@styled
def growth_methods(document: Document) -> Figure:
    """Time at each number of tasks over that at the smallest: steps, answers, start."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    titles = ("Training step", "Answer to 64 texts", "Start, seconds")
    for place, (method, found) in enumerate(document["measured"].items()):
        for name, one in found.items():
            if "seconds" not in one or "plain" in one["seconds"]:
                continue
            which = 2 if name == "start" else int(name.startswith("answer"))
            sizes = [int(size) for size in one["seconds"]]
            medians = [s["median"] for s in one["seconds"].values()]
            values = medians if which == 2 else [m / medians[0] for m in medians]
            line = "--" if "selector" in name else "-"
            axes[which].plot(sizes, values, line, color=hue(place), marker=marker(place), ms=4)
        axes[0].plot([], [], color=hue(place), marker=marker(place), label=method)
    for axis, title in zip(axes, titles, strict=True):
        top = max(float(max(line.get_ydata())) for line in axis.lines if len(line.get_ydata()))
        axis.set(title=title, xscale="log", xlabel="learned tasks", ylim=(0, 1.1 * top))
        axis.set_xticks(document["settings"]["sizes"], map(str, document["settings"]["sizes"]))
        axis.minorticks_off()
    axes[0].set_ylabel("over the smallest state")
    axes[0].legend(loc="lower left")
    return figure


@styled
def serve_batch(document: Document) -> Figure:
    """Answers per second over the different adapters of a batch."""
    figure = Figure(figsize=(4.5, 3), layout="constrained")
    axis = figure.subplots()
    for place, one in enumerate(document["measured"]):
        sizes = [int(n) for n in one["answers_per_second"]]
        label = f"batches of {one['texts']} texts"
        values = list(one["answers_per_second"].values())
        axis.plot(sizes, values, color=hue(place), marker=marker(place), label=label)
    axis.set(xscale="log", xlabel="different adapters", ylabel="answers a second", ylim=(0, None))
    axis.set_xticks(sizes, [str(n) for n in sizes])
    axis.legend()
    return figure


@styled
def stream(document: Document) -> Figure:
    """The seconds of a stream by what they went to, ours below the plain way."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axis = figure.subplots()
    ways = document["ways"]
    parts = dict.fromkeys(part for way in ways.values() for part in way["parts"])
    left = dict.fromkeys(ways, 0.0)
    for place, part in enumerate(parts):
        widths = [way["parts"].get(part, {"median": 0.0})["median"] for way in ways.values()]
        axis.barh(list(ways), widths, left=list(left.values()), color=hue(place), label=part)
        left = {way: left[way] + width for way, width in zip(ways, widths, strict=True)}
    axis.set(xlabel="seconds")
    axis.grid(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


PLOTS: dict[str, Callable[[Document], Figure]] = {
    "growth_methods": growth_methods,
    "serve_batch": serve_batch,
    "stream": stream,
}


def main() -> None:
    mpl.use("agg")
    for name, draw in PLOTS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            path.with_suffix(".png").write_bytes(to_png(draw(json.loads(path.read_text()))))


if __name__ == "__main__":
    main()
