"""Which figures a report shows, and from which runs; how they look is in ``plots``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from conpet.evaluation import continual, plots, theme
from conpet.evaluation.collect import RunRecord
from conpet.evaluation.comparison import COSTS, Group
from conpet.evaluation.theme import sentence
from conpet.runtime import write_bytes_atomic


@dataclass(frozen=True)
class Drawing:
    """A figure on the page: the SVG in it, and the PNG beside it."""

    title: str
    file: str
    svg: Markup


class Artist:
    """Draws the figures of one section and writes their PNG files.

    Args:
        places: the index of each group in the whole report.
        metric: what people call the metric of the section's stream.
    """

    def __init__(
        self, out: Path, *, prefix: str, places: dict[str, int], metric: str = "accuracy"
    ) -> None:
        self.out, self.prefix, self.places, self.metric = out, prefix, places, metric
        self.number = 0

    def accuracy(self, groups: Sequence[Group]) -> list[Drawing]:
        panels = {
            f"Whole {self.metric} (all test examples alike)": [
                self._series(g, [_whole_curve(r) for r in g.runs]) for g in groups
            ],
            f"Average {self.metric} (all tasks alike)": [
                self._series(g, [_average_curve(r) for r in g.runs]) for g in groups
            ],
        }
        title = f"{sentence(self.metric)} over steps"
        return [self._save(plots.curves(panels, f"{self.metric}, %"), title, "accuracy")]

    def matrices(self, group: Group) -> list[Drawing]:
        return [
            self._save(
                plots.heat_map(
                    run.matrix.values,
                    run.matrix.tasks,
                    title=f"{theme.shorten(group.label, 40)}, seed {run.seed}: {self.metric}, %",
                    rows="after learning",
                    columns="tested on task",
                ),
                f"{sentence(self.metric)} matrix of {group.label}, seed {run.seed}",
                "matrix",
            )
            for run in group.runs
        ]

    def confusions(self, groups: Sequence[Group]) -> list[Drawing]:
        drawings = []
        for group in groups:
            tasks = group.first.matrix.tasks
            counts = np.sum([continual.routing_confusion(r.outcomes, tasks) for r in group.runs], 0)
            if not counts.sum():
                continue
            total = counts.sum(axis=1, keepdims=True)
            shares = np.where(total > 0, 100.0 * counts / np.maximum(total, 1), np.nan)
            runs = f", {len(group.runs)} runs" if len(group.runs) > 1 else ""
            figure = plots.heat_map(
                shares,
                tasks,
                title=f"{theme.shorten(group.label, 40)}{runs}: share of each true task, %",
                rows="true task",
                columns="routed to task",
            )
            drawings.append(self._save(figure, f"Routing of {group.label}", "routing"))
        return drawings

    def split(self, groups: Sequence[Group]) -> list[Drawing]:
        judged = [g for g in groups if g.first.outcomes]
        if not judged:
            return []
        columns: dict[str, list[float]] = {key: [] for key in plots.PARTS}
        for group in judged:
            splits = [continual.split_errors(run.outcomes) for run in group.runs]
            for key in ("accuracy", "routing", "competition", "within_task"):
                columns[key].append(float(np.mean([getattr(s, key) for s in splits])))
            known = not isnan(columns["within_task"][-1])
            columns["unsplit"].append(0.0 if known else 100.0 - columns["accuracy"][-1])
        figure = plots.error_split([g.label for g in judged], columns)
        return [self._save(figure, "Where the points go", "errors")]

    def costs(self, groups: Sequence[Group]) -> list[Drawing]:
        drawings = []
        seconds = {g.label: phases for g in groups if (phases := _phase_seconds(g))}
        if seconds:
            figure = plots.seconds_by_phase(seconds)
            drawings.append(self._save(figure, "Seconds per task, by phase", "seconds"))
        panels = {}
        for name, title in COSTS.items():
            series = [self._series(g, [_cost_curve(r, name) for r in g.runs]) for g in groups]
            series = [s for s in series if np.isfinite(s.values).any()]
            if series:
                unit = ", bytes" if name.endswith("bytes") else ""
                panels[f"{title}{unit}"] = series
        if panels:
            drawings.append(self._save(plots.growth(panels), "Cost of each task", "cost"))
        return drawings

    def _series(self, group: Group, values: Sequence[np.ndarray]) -> plots.Series:
        return plots.Series(group.label, self.places[group.label], np.stack(values))

    def _save(self, figure: Figure, title: str, kind: str) -> Drawing:
        self.number += 1
        file = f"plots/{self.prefix}-{self.number:02d}-{kind}.png"
        write_bytes_atomic(self.out / file, theme.to_png(figure))
        return Drawing(title, file, Markup(theme.to_svg(figure, str(escape(title)))))


def _whole_curve(run: RunRecord) -> np.ndarray:
    stages = range(len(run.tasks))
    return np.array([continual.whole_accuracy(run.scores(i), run.n_test[: i + 1]) for i in stages])


def _average_curve(run: RunRecord) -> np.ndarray:
    return np.array([continual.average_accuracy(run.scores(i)) for i in range(len(run.tasks))])


def _cost_curve(run: RunRecord, name: str) -> np.ndarray:
    values = [getattr(task.cost, name) for task in run.tasks]
    return np.array([np.nan if v is None else float(v) for v in values])


def _phase_seconds(group: Group) -> dict[str, np.ndarray]:
    """Phase to the seconds of each task, the mean over runs; NaN where a task has no such phase."""
    tasks = [[task.cost.seconds for task in run.tasks] for run in group.runs]
    phases = dict.fromkeys(phase for run in tasks for seconds in run for phase in seconds)
    return {
        phase: np.mean([[s.get(phase, np.nan) for s in run] for run in tasks], axis=0)
        for phase in phases
    }
