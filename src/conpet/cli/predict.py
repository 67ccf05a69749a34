"""``conpet predict``: answer texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conpet.cli.common import AsJson, DeviceName, Run, print_json, work
from conpet.cli.inputs import Instruction, Source, Texts, check_given, read_inputs

if TYPE_CHECKING:
    from conpet.types import Prediction


def verb(
    run: Run,
    texts: Texts = None,
    source: Source = None,
    instruction: Instruction = "",
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
    check_given("predict", texts, source)
    with work():
        from conpet import api
        from conpet.runtime import write_bytes_atomic

        model = api.load(run, device=device)
        answers = model.predict(read_inputs(model, texts, source, instruction))
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


def _lines(answers: Sequence[Prediction]) -> str:
    return "\n".join(json.dumps(asdict(answer), ensure_ascii=False) for answer in answers)
