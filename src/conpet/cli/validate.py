"""``conpet validate``: check before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conpet.cli.common import AsJson, Data, emit, split_words, work
from conpet.errors import ConfigError


def verb(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE [KEY=VALUE]...", help="As for conpet run.", show_default=False
        ),
    ],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Check a configuration and its stream; nothing is trained and nothing is written.

    \b
    Example:
      conpet validate run.yaml
    """
    file, settings = split_words(words)
    if file is None:
        raise ConfigError("no file was given; conpet validate run.yaml")
    with work():
        from conpet import api
        from conpet.config import load_config

        config = load_config(file, settings, data=data)
        facts = api.stream_of(config).describe()
    document = {"file": str(file), "ok": True, "config": config.to_dict(), "stream": facts}
    emit(document, _text(file, config.label, facts), as_json)


def _text(file: Path, method: str, facts: dict[str, object]) -> str:
    return (
        f"{file} is fine: {method} on {facts['name']}, {facts['n_tasks']} tasks, "
        f"{facts['n_labels']} labels, {facts['train']} training and {facts['test']} test examples"
    )
