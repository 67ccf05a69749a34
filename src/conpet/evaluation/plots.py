"""The figures of the report, drawn once and written as PNG and as SVG by ``theme``.

Shapes: T tasks, S stages (tasks learned).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator

from conpet.evaluation.theme import HEAT, INK, hue, marker, shorten, styled

PARTS = {
    "accuracy": ("right", "#0072b2"),
    "competition": ("competition", "#cc79a7"),
    "routing": ("routing", "#e69f00"),
    "within_task": ("within task", "#d55e00"),
    "unsplit": ("wrong, not split", "#8b93a1"),
}
MOST_NUMBERED, MOST_NAMED = 25, 40  # tasks of a heat map
MARKER_SIZE = 4.5


@dataclass(frozen=True)
class Series:
    """One group in a figure over stages.

    Attributes:
        label: name of the group.
        place: its index among all groups of the report: the same hue in every figure.
        values: (runs, S), NaN where not measured.
    """

    label: str
    place: int
    values: np.ndarray


@styled
def curves(panels: Mapping[str, Sequence[Series]], unit: str) -> Figure:
    """Accuracy after each task: a line a group, its spread as a band, each run as a thin line.

    Args:
        panels: title to its series; the lines are named beside the last panel.
        unit: of the vertical axis.
    """
    figure, axes = _grid(len(panels), columns=2, width=10.4, height=3.9, sharey=True)
    for axis, (title, series) in zip(axes, panels.items(), strict=True):
        axis.set_title(title)
        axis.set_xlabel("tasks learned")
        for one in series:
            _line(axis, one)
            _runs(axis, one)
        axis.set_ylim(0, 102)
        _stages(axis)
        _name_lines(axis, series, names=axis is axes[-1])
    axes[0].set_ylabel(unit)
    return figure


@styled
def heat_map(
    values: np.ndarray, names: Sequence[str], *, title: str, rows: str, columns: str
) -> Figure:
    """Percentages (T, T) as coloured cells with their numbers; NaN is an empty cell with a dash.

    Rows carry number and name, columns the number. Many tasks go without numbers in the cells, very
    many without names.
    """
    n = len(names)
    cell = 0.43 if n <= 12 else 0.36 if n <= MOST_NUMBERED else 9.0 / n
    figure = Figure(figsize=(1.0 + cell * n, 1.0 + cell * n))
    axis = figure.add_subplot()
    cells = np.ma.masked_invalid(values)
    axis.pcolormesh(cells, cmap=HEAT, vmin=0, vmax=100, edgecolors="face", linewidth=0.4)
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.set(xlabel=columns, ylabel=rows)
    axis.set_title(title)
    if n <= MOST_NAMED:
        labels = [f"{i}  {shorten(name)}" for i, name in enumerate(names, start=1)]
        axis.set_xticks(np.arange(n) + 0.5, [str(i) for i in range(1, n + 1)])
        axis.set_yticks(np.arange(n) + 0.5, labels)
    if n <= MOST_NUMBERED:
        for i, j in np.ndindex(n, n):
            _number_cell(axis, float(values[i, j]), i, j)
    return figure


@styled
def error_split(labels: Sequence[str], parts: Mapping[str, Sequence[float]]) -> Figure:
    """A bar a group, of length 100: right answers, and the parts of what is missing.

    Args:
        parts: a key of ``PARTS`` to one value (points) a group; NaN is left out.
    """
    figure = Figure(figsize=(10.4, 1.0 + 0.46 * len(labels)), layout="constrained")
    axis = figure.add_subplot()
    axis.grid(False)
    at = np.arange(len(labels))
    left = np.zeros(len(labels))
    for key, values in parts.items():
        title, colour = PARTS[key]
        width = np.nan_to_num(np.asarray(values, dtype=float))
        if not width.any():
            continue
        axis.barh(at, width, left=left, height=0.66, color=colour, label=title, edgecolor="none")
        dark = colour in ("#e69f00", "#cc79a7", "#8b93a1")
        for y, x, w in zip(at, left, width, strict=True):
            if w >= 3:
                shade = "#1b2430" if dark else "#ffffff"
                axis.text(x + w / 2, float(y), f"{w:.1f}", ha="center", va="center", color=shade)
        left += width
    axis.set_yticks(at, [shorten(label, 44) for label in labels])
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("points of 100, all test examples after the last task")
    figure.legend(loc="outside upper left", ncols=len(PARTS))
    return figure


@styled
def seconds_by_phase(groups: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Seconds of each task, stacked by phase, a panel a group.

    Args:
        groups: label to phase to (S,) seconds, the mean over runs.
    """
    fullest_first = sorted(groups.values(), key=len, reverse=True)
    phases = list(dict.fromkeys(phase for by_phase in fullest_first for phase in by_phase))
    colour = {phase: hue(i) for i, phase in enumerate(phases)}
    columns = len(groups) if len(groups) <= 5 else 4
    rows = -(-len(groups) // columns)
    figure, axes = _grid(len(groups), columns, width=10.4, height=0.5 + 2.3 * rows, sharey=True)
    for axis, (label, by_phase) in zip(axes, groups.items(), strict=True):
        axis.set_title(shorten(label, 92 // columns), fontsize=9)
        below = np.zeros(max(len(v) for v in by_phase.values()) if by_phase else 0)
        for phase, values in by_phase.items():
            height = np.nan_to_num(values)
            at = np.arange(1, len(height) + 1)
            axis.bar(at, height, bottom=below, color=colour[phase], width=0.75)
            below += height
        axis.set_xlabel("task")
        _stages(axis)
    for axis in axes[::columns]:
        axis.set_ylabel("seconds")
    handles = [Patch(color=colour[phase], label=phase) for phase in phases]
    figure.legend(handles=handles, loc="outside upper left", ncols=8)
    return figure


@styled
def growth(panels: Mapping[str, Sequence[Series]]) -> Figure:
    """Counted costs of each task: a small panel a cost, a line a group."""
    rows = -(-len(panels) // 3)
    figure, axes = _grid(len(panels), columns=3, width=10.4, height=0.6 + 2.2 * rows, sharey=False)
    for axis, (title, series) in zip(axes, panels.items(), strict=True):
        axis.set_title(title, fontsize=9)
        for above, one in enumerate(reversed(series)):  # where lines coincide, markers are rings
            _line(axis, one, extra=2.2 * (len(series) - 1 - above))
        axis.set_ylim(0, 1.12 * max(np.nanmax(one.values) for one in series) or 1)
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_xlabel("task")
        _stages(axis)
    drawn = {one.label: one.place for series in panels.values() for one in series}
    handles = [
        Line2D([], [], color=hue(place), marker=marker(place), markersize=MARKER_SIZE, label=label)
        for label, place in drawn.items()
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=5)
    return figure


# Shared by the figures ----------------------------------------------------------------------------


def _grid(
    n: int, columns: int, *, width: float, height: float, sharey: bool
) -> tuple[Figure, list[Axes]]:
    """A figure with n panels, filled row by row."""
    rows = -(-n // columns)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=sharey, squeeze=False).ravel().tolist()
    for axis in axes[n:]:
        axis.remove()
    return figure, axes[:n]


def _line(axis: Axes, one: Series, extra: float = 0.0) -> None:
    """The mean over runs. ``extra`` points are added to the size of its markers."""
    stages = np.arange(1, one.values.shape[1] + 1)
    axis.plot(
        stages,
        one.values.mean(axis=0),
        color=hue(one.place),
        marker=marker(one.place),
        markersize=MARKER_SIZE + extra,
        linewidth=1.6,
        label=one.label,
    )


def _runs(axis: Axes, one: Series) -> None:
    """Every run as a thin line, and a band of one sample deviation around their mean."""
    if len(one.values) < 2:
        return
    colour, stages = hue(one.place), np.arange(1, one.values.shape[1] + 1)
    mean, spread = one.values.mean(axis=0), one.values.std(axis=0, ddof=1)
    axis.fill_between(stages, mean - spread, mean + spread, color=colour, alpha=0.16, linewidth=0)
    axis.plot(stages, one.values.T, color=colour, linewidth=0.6, alpha=0.6)


def _number_cell(axis: Axes, value: float, row: int, column: int) -> None:
    """The rounded value, readable on the colour of its cell; small ones step back."""
    text = "–" if np.isnan(value) else f"{value:.0f}"
    if np.isnan(value):
        shade = INK
    elif value > 55:
        shade = "#ffffff"
    else:
        shade = "#1b2430" if value >= 2.5 else "#7d8998"
    axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=shade, fontsize=8)


def _stages(axis: Axes) -> None:
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.margins(x=0.04)


def _name_lines(axis: Axes, series: Sequence[Series], *, names: bool) -> None:
    """Last values, and names, to the right of the lines, moved apart where they would overlap."""
    ends = [(one.values.mean(axis=0)[-1], one) for one in series if one.values.shape[1]]
    ends = sorted(((y, one) for y, one in ends if not np.isnan(y)), key=lambda end: end[0])
    at = _apart([y for y, _ in ends], gap=5.4)
    for y, (value, one) in zip(at, ends, strict=True):
        axis.annotate(
            f"{value:.1f}  {shorten(one.label, 30)}" if names else f"{value:.1f}",
            xy=(1.015, y),
            xycoords=("axes fraction", "data"),
            color=hue(one.place),
            fontsize=8.5,
            va="center",
            annotation_clip=False,
        )


def _apart(values: Sequence[float], gap: float, top: float = 101.0) -> list[float]:
    """Sorted positions, changed as little as needed to lie ``gap`` apart and at most at ``top``."""
    out: list[float] = []
    for value in values:
        out.append(max(value, out[-1] + gap) if out else value)
    for i in range(len(out) - 1, -1, -1):
        limit = top if i == len(out) - 1 else out[i + 1] - gap
        out[i] = min(out[i], limit)
    return out
