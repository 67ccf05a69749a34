"""``conpet predict``: answer texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conpet.cli.common import AsJson, DeviceName, Run, print_json, work
from conpet.errors import ConfigError

if TYPE_CHECKING:
    from conpet.types import Example, Prediction

INPUT = ("text", "head", "tail", "mentions", "spans", "instruction")
"""Columns that say what an input is; its id is a column ``id``, whatever the training data had."""


def verb(
    run: Run,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts.", show_default=False)] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="JSONL, CSV or Parquet with the columns of the run's own data: text and, where it "
            "has them, head and tail or mentions; id where wanted.",
        ),
    ] = None,
    instruction: Annotated[
        str, typer.Option(help="What is to be done with the texts, for a run that answers freely.")
    ] = "",
    output: Annotated[
        Path | None, typer.Option(help="JSONL with id, label (the answer), score and tasks.")
    ] = None,
    device: DeviceName = "auto",
    as_json: AsJson = False,
) -> None:
    """Answer texts, without being told which task they belong to.

    \b
    Examples:
      conpet predict runs/bank "my card was eaten by the machine"
      conpet predict runs/bank --input in.jsonl --output out.jsonl
      conpet predict runs/mini "a moving film" --instruction "Is the review positive?"
    """
    if bool(texts) == (source is not None):
        raise ConfigError(
            "give either texts or --input FILE, e.g. conpet predict runs/bank 'where is my card'"
        )
    with work():
        from conpet import api
        from conpet.runtime import write_bytes_atomic
        from conpet.streams import load_inputs

        model = api.load(run, device=device)
        inputs: Sequence[str | Example] = texts or load_inputs(
            source or "", fields={k: v for k, v in model.fields.items() if k in INPUT}
        )
        if instruction:
            inputs = [_instructed(i, text, instruction) for i, text in enumerate(inputs)]
        answers = model.predict(inputs)
        if output is not None:
            write_bytes_atomic(output, (_lines(answers) + "\n").encode())
    if as_json:
        print_json({"predictions": [asdict(answer) for answer in answers]})
    elif output is not None:
        print(f"{len(answers)} answers in {output}")
    elif source is not None:
        print(_lines(answers))
    else:
        for answer in answers:
            print(f"{answer.label}  {answer.score:.3f}  {', '.join(answer.tasks)}")


def _instructed(number: int, given: str | Example, instruction: str) -> Example:
    """The input with the instruction, unless it has one of its own."""
    from conpet.types import Example

    example = given if isinstance(given, Example) else Example(str(number), given)
    return example if example.instruction else replace(example, instruction=instruction)


def _lines(answers: Sequence[Prediction]) -> str:
    return "\n".join(json.dumps(asdict(answer), ensure_ascii=False) for answer in answers)
