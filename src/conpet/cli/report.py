"""``conpet report``: compare runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from conpet.cli.common import AsJson, emit, table, work

COLUMNS = {
    "group": "run",
    "stream": "stream",
    "runs": "seeds",
    "whole_accuracy": "whole",
    "whole_accuracy_spread": "+-",
    "average_accuracy": "average",
    "average_accuracy_spread": "+-",
    "forgetting": "forgetting",
}


def verb(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("report"),
    title: Annotated[str | None, typer.Option(help="Of the page.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: an HTML page with plots, Markdown and CSV; mean and spread over seeds.

    \b
    Example:
      conpet report runs/bank runs/bank-sequential --out report
    """
    with work():
        from conpet.evaluation.report import report

        files = report(runs, out, title)
    rows = [[row[key] for key in COLUMNS] for row in files.rows]
    emit(asdict(files), f"{table([list(COLUMNS.values()), *rows])}\n\n{files.html}", as_json)
