"""Fill the templates: how numbers and names are written, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from conpet.evaluation.collect import RunRecord
from conpet.evaluation.comparison import COSTS, Row
from conpet.evaluation.definitions import DEFINITIONS
from conpet.evaluation.theme import hue

if TYPE_CHECKING:
    from conpet.evaluation.report import Section

DASH = "–"
SUMMARY = (
    "whole_accuracy",
    "average_accuracy",
    "forgetting",
    "backward_transfer",
    "backward_transfer_over_T",
    "forward_transfer",
    "learning_accuracy",
    "selector_accuracy",
)
SPLIT = ("whole_accuracy", "routing", "competition", "within_task", "oracle")


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
        "formula": formula,
    }
    return environment.get_template(template).render(
        title=title,
        sections=sections,
        definitions=DEFINITIONS,
        costs=COSTS,
        summary=SUMMARY,
        split=SPLIT,
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
