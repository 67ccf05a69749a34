"""``conpet report``: compare runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from conpet.cli.common import AsJson, Quiet, emit, table, work

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
    single_task: Annotated[
        bool,
        typer.Option("--single-task", help="Measure what forward transfer lacks; kept for good."),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare runs: an HTML page with plots, Markdown and CSV; mean and spread over seeds.

    Forward transfer is measured against adapters tuned on one task alone: those of a per-task run
    beside it, or those that --single-task has tuned, now or earlier, on the data kept in the run
    folders. They stay in the user's cache (XDG_CACHE_HOME), for every run with the same settings.

    \b
    Examples:
      conpet report runs/bank runs/bank-sequential --out report
      conpet report runs/bank --single-task
    """
    with work():
        from conpet.evaluation.report import report

        if single_task:
            from conpet.api.single_task import measure_missing
            from conpet.events import Console

            measure_missing(runs, Console(quiet=quiet))
        files = report(runs, out, title)
    rows = [[row[key] for key in COLUMNS] for row in files.rows]
    emit(asdict(files), f"{table([list(COLUMNS.values()), *rows])}\n\n{files.html}", as_json)
