"""Sentences are made of measured figures: a mean over seeds and its spread, a gap, a factor."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from conpet.studies.base import Row, Rows

UNKNOWN = "not measured"


def pick(rows: Rows, **labels: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in labels.items())]


def distinct(rows: Rows, name: str) -> list[Any]:
    """The values of a column, each once, in the order of the rows."""
    return list(dict.fromkeys(row[name] for row in rows if row.get(name) is not None))


def numbers(rows: Rows, name: str) -> list[float]:
    """The known values of a column."""
    return [float(row[name]) for row in rows if row.get(name) is not None]


def mean(rows: Rows, name: str) -> float:
    """Over rows, which differ in the seed; NaN where nothing is known."""
    values = numbers(rows, name)
    return statistics.fmean(values) if values else float("nan")


def say(rows: Rows, name: str, digits: int = 1) -> str:
    """``84.1``, or with more than one seed ``84.1 ± 0.6``: mean and sample deviation."""
    return _spread(numbers(rows, name), f",.{digits}f")


def gap(ours: Rows, theirs: Rows, name: str, digits: int = 1) -> str:
    """Ours less theirs, seed by seed and order by order: ``+3.2 ± 0.4``."""
    other = {_draw(row): row[name] for row in theirs if row.get(name) is not None}
    known = [row for row in ours if row.get(name) is not None and _draw(row) in other]
    return _spread([row[name] - other[_draw(row)] for row in known], f"+,.{digits}f")


def _draw(row: Row) -> tuple[Any, Any]:
    return row.get("order"), row["seed"]


def times(ours: Rows, theirs: Rows, name: str, digits: int = 1) -> str:
    """The quotient of the means: ``3.1 times``."""
    below = mean(theirs, name)
    quotient = mean(ours, name) / below if below else float("nan")
    return f"{tell(quotient, f',.{digits}f')} times"


def tell(value: float, form: str) -> str:
    """A number in this form; words for NaN."""
    return UNKNOWN if value != value else f"{value:{form}}"


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return UNKNOWN
    text = f"{statistics.fmean(values):{form}}"
    if len(values) < 2:
        return text
    return f"{text} ± {statistics.stdev(values):{form.lstrip('+')}}"


def seeds_line(rows: Rows) -> str:
    """How many seeds the figures stand on; of each stream, where they differ."""
    by_stream = {
        s: sorted(distinct(pick(rows, stream=s), "seed")) for s in distinct(rows, "stream")
    }
    if not by_stream:
        return "No run finished."
    seeds, *others = by_stream.values()
    if any(other != seeds for other in others):
        each = "; ".join(f"{s} {', '.join(map(str, found))}" for s, found in by_stream.items())
        return f"Seeds: {each}. Of several the mean, ± their sample standard deviation."
    if len(seeds) < 2:
        return f"One seed ({', '.join(map(str, seeds))}): no spread over seeds was measured."
    return (
        f"Figures are means over the seeds {', '.join(map(str, seeds))}, "
        "± their sample standard deviation."
    )
