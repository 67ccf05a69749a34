"""What the verbs share: options, and printing for people and for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from conpet.errors import ConfigError

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document, and nothing else, on stdout.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, warnings only.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder with the data files of named streams.", show_default=False),
]
Preset = Annotated[str | None, typer.Option("--preset", help="none or small.", show_default=False)]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the run.", show_default=False)]
DeviceName = Annotated[str, typer.Option("--device", help="auto, cpu, mps, cuda or cuda:N.")]


@contextmanager
def work() -> Iterator[None]:
    """While a verb works, whatever libraries print goes to standard error."""
    with redirect_stdout(sys.stderr):
        yield


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, indent=1, ensure_ascii=False, default=str))


def emit(document: Any, text: str, as_json: bool) -> None:
    """The result of a verb: for programs or for people."""
    if as_json:
        print_json(document)
    else:
        print(text)


def table(rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns; numbers to the right. The first row is the head."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(_is_number(row[i]) for row in rows[1:]) for i in range(len(widths))]
    lines = (
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    )
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, int | float)


def split_words(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """``[FILE] key=value ...`` -> the file, the settings."""
    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise ConfigError(
            f"{len(files)} files were given: {', '.join(files)}; give one, "
            "and settings as key=value"
        )
    return (Path(files[0]) if files else None), [word for word in words if "=" in word]


def run_summary(folder: Path) -> dict[str, Any]:
    """Where a run stands: the last row of its matrix and its averages, from its files."""
    from conpet.evaluation.collect import collect
    from conpet.evaluation.comparison import run_metrics

    record = collect(folder)
    metrics = run_metrics(record) if record.tasks else {}
    return {
        "folder": str(folder),
        "method": record.method,
        "stream": record.stream,
        "finished": record.finished,
        "n_tasks": record.n_tasks,
        "tasks": [task.name for task in record.tasks],
        "row": record.matrix.to_rows()[-1] if record.tasks else [],
        "average": _known(metrics.get("average_accuracy")),
        "whole": _known(metrics.get("whole_accuracy")),
        "forgetting": _known(metrics.get("forgetting")),
    }


def _known(value: float | None) -> float | None:
    """None for NaN, which JSON does not have."""
    return None if value is None or value != value else float(value)


def summary_text(summary: Mapping[str, Any]) -> str:
    """The same for people."""
    rows = [("task", "score"), *zip(summary["tasks"], summary["row"], strict=True)]
    names = ("average", "whole", "forgetting")
    figures = [(name, summary[name]) for name in names if summary.get(name) is not None]
    return "\n".join([table(rows), "", *(f"{name} {value:.1f}" for name, value in figures)])
