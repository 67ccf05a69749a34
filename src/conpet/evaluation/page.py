"""The report's text: what a section shows, and how numbers and names are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from conpet.evaluation.answers import Sample, TaskTable
from conpet.evaluation.collect import RunRecord
from conpet.evaluation.comparison import COSTS, Group, Row
from conpet.evaluation.definitions import (
    DEFINITIONS,
    OF_FREE_ANSWERS,
    Definition,
    define,
    metric_title,
)
from conpet.evaluation.drawings import Drawing
from conpet.evaluation.theme import hue, sentence

DASH = "–"
SUMMARY = (
    "whole_accuracy",
    "average_accuracy",
    "forgetting",
    "backward_transfer",
    "backward_transfer_over_T",
    "forward_transfer",
    "zero_shot",
    "learning_accuracy",
    "selector_accuracy",
)
ROUTED = (
    "selector_accuracy",
    "selector_accuracy_macro",
    "selector_accuracy_by_input",
    "selector_accuracy_by_input_macro",
)
SPLIT = ("whole_accuracy", "routing", "competition", "within_task", "oracle")


@dataclass(frozen=True)
class Section:
    """All runs on one stream, as the templates want them.

    Attributes:
        places: label of a group to its index in the whole report, which gives it its hue.
        matrices: heat maps by group, one a run.
        tasks: the scores of each task by group; none where answers are class labels.
        samples: inputs with the answers given to them by the first run of each group; none there.
        top_k: a row a group and number of adapters that answered, see ``measured``.
        unseen: a row a group and stream with tasks that it had not learned.
    """

    groups: tuple[Group, ...]
    rows: list[Row]
    places: dict[str, int]
    accuracy: list[Drawing]
    matrices: list[tuple[Group, list[Drawing]]]
    confusions: list[Drawing]
    split: list[Drawing]
    costs: list[Drawing]
    tasks: list[TaskTable]
    samples: list[tuple[Group, list[Sample]]]
    top_k: list[Row]
    unseen: list[Row]

    @property
    def metric(self) -> str:
        """The name of the stream's metric in the METRICS registry."""
        return self.first.metric

    @property
    def free(self) -> bool:
        """Whether the answers are free text."""
        return any(run.free for run, _ in self.runs)

    @property
    def summary(self) -> list[str]:
        """The metrics of the first table."""
        return [name for name in SUMMARY if self._has(name)]

    @property
    def word(self) -> str:
        """What takes the place of "accuracy"."""
        return metric_title(self.metric)

    def title(self, name: str) -> str:
        """What a figure is called on this stream."""
        return define(name, self.metric, free=self.free).title

    @property
    def definitions(self) -> list[Definition]:
        """What is said of the figures of this section."""
        return [
            define(name, self.metric, free=self.free) for name in DEFINITIONS if self._has(name)
        ]

    def _has(self, name: str) -> bool:
        """Whether a metric is shown: of those for free answers alone, what was measured."""
        measured = self.free and any(row[name] is not None for row in self.rows)
        return measured or name not in OF_FREE_ANSWERS

    @property
    def told(self) -> list[str]:
        """The methods that were told the task of every input."""
        return list(dict.fromkeys(group.first.method for group in self.groups if group.first.told))

    @property
    def runs(self) -> list[tuple[RunRecord, Group]]:
        return [(run, group) for group in self.groups for run in group.runs]

    @property
    def first(self) -> RunRecord:
        """The run that has learned most, to describe the stream by."""
        return max((run for run, _ in self.runs), key=lambda run: len(run.tasks))

    @property
    def drawings(self) -> list[Drawing]:
        matrices = [drawing for _, drawings in self.matrices for drawing in drawings]
        return [*self.accuracy, *self.split, *matrices, *self.confusions, *self.costs]

    @property
    def facts(self) -> dict[str, str]:
        """What all runs of the section share, and what they vary."""
        first = self.first
        labels = f"{sum(len(task.labels) for task in first.tasks):,}"
        return {
            "stream": first.stream,
            "backbone": listing(run.backbone for run, _ in self.runs),
            "tasks": str(first.n_tasks),
            **({} if self.free else {"labels learned": labels}),
            **({} if self.metric == "accuracy" else {"metric": self.word}),
            "test examples": f"{sum(first.n_test):,}",
            "runs": str(len(self.runs)),
            "seeds": listing(sorted({run.seed for run, _ in self.runs})),
            "stream fingerprint": first.stream_fingerprint[:12],
        }


def render(template: str, title: str, sections: Sequence[Section]) -> str:
    """The text of ``index.html`` or ``report.md``."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=template.startswith("index.html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "spread": spread,
        "size": size,
        "cell": cell,
        "plain": plain,
        "sentence": sentence,
        "metric": metric_title,
        "formula": formula,
    }
    return environment.get_template(template).render(
        title=title,
        sections=sections,
        definitions=dict.fromkeys(one for section in sections for one in section.definitions),
        costs=COSTS,
        split=SPLIT,
        routed=ROUTED,
        dash=DASH,
        hue=hue,
        phases=phases,
    )


def phases(run: RunRecord) -> list[str]:
    """The phases that a run spent time in, in order of first appearance."""
    return list(dict.fromkeys(phase for task in run.tasks for phase in task.cost.seconds))


def listing(words: Iterable[object]) -> str:
    """The distinct words in order: ``a, b``."""
    return ", ".join(dict.fromkeys(map(str, words)))


def number(value: float | None, digits: int = 1) -> str:
    """``1,234.5`` with a true minus sign; an en dash for what was not measured."""
    if value is None or isnan(value):
        return DASH
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def spread(row: Row, name: str, digits: int = 1) -> str:
    """``67.1 ± 0.4``: mean and, for several runs, the sample deviation."""
    deviation = row.get(f"{name}_spread")
    text = number(row[name], digits)
    return text if deviation is None else f"{text} ± {deviation:,.{digits}f}"


def size(value: float | None) -> str:
    """Bytes for people: ``1.4 GB``."""
    if value is None or isnan(value):
        return DASH
    for unit in ("B", "kB", "MB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def formula(text: str) -> Markup:
    """A formula for HTML: ``_j`` and ``_{j<T}`` become subscripts."""
    escaped = str(escape(text))
    return Markup(re.sub(r"_(?:\{(.*?)\}|(\w))", r"<sub>\1\2</sub>", escaped))


def cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def plain(text: str) -> str:
    """Any text as Markdown that shows it as it is, in a cell of a table too."""
    return re.sub(r"([\\`*_~$&<>|\[\]])", r"\\\1", text)
