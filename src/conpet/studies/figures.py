"""Plots of the studies: panels of lines over a number, panels of bars; in the look of the report.

Needs matplotlib: imported when a study draws, not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from conpet.evaluation.theme import INK, LINE, hue, marker, shorten, styled, to_svg
from conpet.studies.base import Rows
from conpet.studies.say import distinct, mean, numbers, pick

LARGE = 1000
"""From here on an axis has units like k and M, and places of its own choice."""
_COLOURS = (
    f"<style>:root {{--ink: {INK}; --line: {LINE}}} "
    "@media (prefers-color-scheme: dark) {:root {--ink: #e6eaf2; --line: #3a4353}}</style>"
)


@dataclass(frozen=True)
class Line:
    """One line: its points x (n,), and the values of each point, one a seed."""

    label: str
    x: tuple[float, ...]
    y: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Panel:
    """Lines over one axis; ``log`` names the axes that are logarithmic: "", "x", "y" or "xy"."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log: str = ""


def line(rows: Rows, x: str, y: str, label: str) -> Line:
    """A line from rows: a point for each value of ``x`` at which ``y`` was measured."""
    known = [row for row in rows if row.get(x) is not None and row.get(y) is not None]
    places = sorted(float(value) for value in distinct(known, x))
    return Line(
        label, tuple(places), tuple(tuple(numbers(pick(known, **{x: v}), y)) for v in places)
    )


def series(values: Sequence[Sequence[float]], label: str, first: int = 1) -> Line:
    """A line over stages from ``first`` on; ``values`` holds a list of equal length a seed."""
    points = tuple(tuple(float(v) for v in point) for point in zip(*values, strict=True))
    return Line(label, tuple(float(first + i) for i in range(len(points))), points)


@styled
def panels(drawn: Sequence[Panel], height: float = 3.5) -> Figure:
    """Panels side by side, each label with one hue in all of them; ``height`` in inches."""
    labels = list(dict.fromkeys(one.label for panel in drawn for one in panel.lines))
    figure = Figure(figsize=(3.5 * len(drawn), height), layout="constrained")
    axes = figure.subplots(1, len(drawn), squeeze=False).ravel().tolist()
    for axis, panel in zip(axes, drawn, strict=True):
        axis.set_title(panel.title)
        axis.set(xlabel=panel.x, ylabel=panel.y)
        for one in panel.lines:
            _draw(axis, one, labels.index(one.label))
        _scale(axis, panel)
    handles = {h.get_label(): h for axis in axes for h in axis.get_legend_handles_labels()[0]}
    if handles:
        known = [handles[label] for label in labels if label in handles]
        figure.legend(handles=known, loc="outside lower center", ncols=4)
    return figure


def _draw(axis: Axes, one: Line, place: int) -> None:
    """The mean over seeds, and a bar from the lowest to the highest."""
    if not one.x:
        return
    middle = [sum(point) / len(point) for point in one.y]
    below = [m - min(point) for m, point in zip(middle, one.y, strict=True)]
    above = [max(point) - m for m, point in zip(middle, one.y, strict=True)]
    axis.plot(
        one.x, middle, color=hue(place), marker=marker(place), markersize=4.5, label=one.label
    )
    if any(len(point) > 1 for point in one.y):
        axis.errorbar(one.x, middle, (below, above), fmt="none", ecolor=hue(place), capsize=2)


def _scale(axis: Axes, panel: Panel) -> None:
    places = sorted({x for one in panel.lines for x in one.x})
    if not places:
        return
    values = [v for one in panel.lines for point in one.y for v in point if isfinite(v)]
    if "x" in panel.log:
        axis.set_xscale("log", base=2 if places[-1] < LARGE else 10)
    if places[-1] < LARGE and len(places) <= 8:
        axis.set_xticks(places, [f"{x:.0f}" for x in places])
    elif "x" in panel.log:
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if "x" in panel.log:
        axis.xaxis.set_minor_locator(NullLocator())
    if "y" in panel.log and values and min(values) > 0:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))
        axis.yaxis.set_minor_locator(NullLocator())
    elif values:
        low, high = min(0.0, *values), max(values)
        below = 0.1 * (high - low) if low < 0 else 0.0  # room for a marker
        axis.set_ylim(low - below, 1.1 * high or 1.0)
        if max(values) >= LARGE:
            axis.yaxis.set_major_formatter(EngFormatter(sep=""))


@styled
def bars(drawn: Mapping[str, tuple[str, Mapping[str, Rows]]]) -> Figure:
    """Horizontal bars side by side.

    Args:
        drawn: title of a panel to the column it shows and to the rows of each bar, by its name.
            Where a bar has several rows, a tick stands at each.
    """
    names = list(next(iter(drawn.values()))[1])
    figure = Figure(figsize=(3.5 * len(drawn), 0.9 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(drawn), sharey=True, squeeze=False).ravel().tolist()
    for axis, (title, (column, groups)) in zip(axes, drawn.items(), strict=True):
        axis.set_title(title)
        axis.grid(False)
        axis.set_xticks([])
        for place, rows in enumerate(groups.values()):
            value, each = mean(rows, column), numbers(rows, column)
            if isfinite(value):
                axis.barh(place, value, height=0.66, color=hue(place))
                text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"
                right = max(0.0, value, *each)
                axis.annotate(text, (right, place), (5, 0), textcoords="offset points", va="center")
            for one in each if len(each) > 1 else ():
                axis.plot([one], [place], marker="|", color=INK, markersize=7)
        axis.margins(x=0.28)
    axes[0].set_yticks(range(len(names)), [shorten(name, 30) for name in names])
    axes[0].invert_yaxis()
    return figure


def svg_file(figure: Figure, title: str) -> str:
    """An SVG file that looks right alone, on white and on dark."""
    svg = to_svg(figure, title)
    end = svg.index(">") + 1
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{svg[:end]}{_COLOURS}{svg[end:]}'
