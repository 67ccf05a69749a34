"""``conpet learn``: one more task for a run."""

from __future__ import annotations

from typing import Annotated

import typer

from conpet.cli.common import (
    AsJson,
    Data,
    DeviceName,
    Quiet,
    Run,
    emit,
    run_summary,
    summary_text,
    work,
)


def verb(
    run: Run,
    source: Annotated[str, typer.Argument(help="Data with new labels, or a longer stream.")],
    data: Data = None,
    device: DeviceName = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Learn more: a data file with new labels becomes the next task of a finished run.

    \b
    Example:
      conpet learn runs/bank new-labels.jsonl
    """
    with work():
        from conpet import api
        from conpet.events import Console

        api.load(run, device=device).learn(source, data=data, observer=Console(quiet=quiet))
        summary = run_summary(run)
    emit(summary, summary_text(summary), as_json)
