"""What the verbs share that ask a run about inputs: their options, and how inputs are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conpet.errors import ConfigError

if TYPE_CHECKING:
    from conpet.api import ContinualModel
    from conpet.types import Example

INPUT = ("text", "head", "tail", "mentions", "spans", "instruction")
"""Columns that say what an input is; its id is a column ``id``, whatever the training data had."""

Texts = Annotated[list[str] | None, typer.Argument(help="Texts.", show_default=False)]
Source = Annotated[
    Path | None,
    typer.Option(
        "--input",
        help="JSONL, CSV or Parquet with the columns of the run's own data: text and, where it "
        "has them, head and tail or mentions; id where wanted.",
    ),
]
Instruction = Annotated[
    str, typer.Option(help="What is to be done with the texts, for a run that answers freely.")
]


def check_given(verb: str, texts: Sequence[str] | None, source: Path | None) -> None:
    """ConfigError unless there are texts or a file, and not both."""
    if bool(texts) == (source is not None):
        raise ConfigError(
            f"give either texts or --input FILE, e.g. conpet {verb} runs/bank 'where is my card'"
        )


def read_inputs(
    model: ContinualModel, texts: Sequence[str] | None, source: Path | None, instruction: str
) -> list[Example]:
    """The inputs as examples; texts get their place as an id."""
    from conpet.streams import load_inputs
    from conpet.types import Example

    if source is None:
        inputs = [Example(str(i), text) for i, text in enumerate(texts or ())]
    else:
        columns = {k: v for k, v in model.fields.items() if k in INPUT}
        inputs = load_inputs(source, fields=columns)
    return [e if e.instruction else replace(e, instruction=instruction) for e in inputs]
