"""``conpet ls``: what there is."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from conpet.cli.common import AsJson, emit, table
from conpet.registry import BACKBONES, METHODS, METRICS, STREAMS

TABLES = {"methods": METHODS, "streams": STREAMS, "backbones": BACKBONES, "metrics": METRICS}
Kind = Enum("Kind", {name: name for name in TABLES}, type=str)  # type: ignore[misc]


def verb(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """List the registered methods, streams, backbones or metrics.

    \b
    Example:
      conpet ls methods
    """
    name = kind.value
    rows = [(entry, TABLES[name].entry(entry).summary) for entry in TABLES[name]]
    if name == "methods":
        from conpet.config import PRESETS

        rows += [(preset, facts.summary) for preset, facts in PRESETS.items()]
    document = {name: [{"name": entry, "summary": summary} for entry, summary in rows]}
    emit(document, table([(name, ""), *rows]), as_json)
