"""``conpet run``: learn a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conpet.cli.common import (
    AsJson,
    Data,
    Preset,
    Quiet,
    Seed,
    emit,
    run_summary,
    split_words,
    summary_text,
    work,
)

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE] [KEY=VALUE]...",
        help="A configuration file, and settings that win over it (conpet show config).",
        show_default=False,
    ),
]


def verb(
    words: Words = None,
    method: Annotated[str | None, typer.Option(help="See: conpet ls methods.")] = None,
    stream: Annotated[str | None, typer.Option(help="A name or a path of data.")] = None,
    backbone: Annotated[str | None, typer.Option(help="A name, hub id or folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder.", show_default=False)] = None,
    preset: Preset = None,
    seed: Seed = None,
    data: Data = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Learn a stream, task after task. The same command on the same folder resumes.

    \b
    Examples:
      conpet run --stream banking77 --preset small --out runs/bank
      conpet run run.yaml method.top_k=2 seed=3 --out runs/bank-3
    """
    file, settings = split_words(words or [])
    with work():
        from conpet import api
        from conpet.config import load_config
        from conpet.events import Console

        config = load_config(
            file,
            settings,
            method=method,
            stream=stream,
            backbone=backbone,
            out=out,
            preset=preset,
            seed=seed,
            data=data,
        )
        folder = config.folder()
        config = config.model_copy(update={"out": folder})
        api.run(config, observer=Console(quiet=quiet))
        summary = run_summary(folder)
    text = f"{summary_text(summary)}\n\n{folder} (conpet report {folder} --out report)"
    emit(summary, text, as_json)
