"""``conpet route``: which tasks answer an input."""

from __future__ import annotations

from collections.abc import Mapping

from conpet.cli.common import AsJson, DeviceName, Run, emit, table, work
from conpet.cli.inputs import Instruction, Source, Texts, check_given, read_inputs

SHOWN = 8  # tasks of an input
LONGEST = 72  # characters of a text


def verb(
    run: Run,
    texts: Texts = None,
    source: Source = None,
    instruction: Instruction = "",
    device: DeviceName = "auto",
    as_json: AsJson = False,
) -> None:
    """Say which tasks answer an input, with their weights.

    Mixed adapters have the weights of the mixture; a selector gives its probabilities of the
    tasks that it chooses. Tasks of weight 0 have no part in the answer.

    \b
    Examples:
      conpet route runs/bank "my card was eaten by the machine"
      conpet route runs/mini "a moving film" --instruction "Is the review positive?"
      conpet route runs/bank --input in.jsonl --json
    """
    check_given("route", texts, source)
    with work():
        from conpet import api

        model = api.load(run, device=device)
        inputs = read_inputs(model, texts, source, instruction)
        routes = model.route(inputs)
    method = model.config.label
    document = {
        "method": method,
        "routed": any(routes),
        "routes": [
            {"id": one.id, "tasks": tasks} for one, tasks in zip(inputs, routes, strict=True)
        ],
    }
    if not any(routes):
        text = f"nothing is routed: method '{method}' answers inputs of all tasks in one way"
    else:
        both = zip(inputs, routes, strict=True)
        text = "\n\n".join(f"{_short(one.text)}\n{_weights(tasks)}" for one, tasks in both)
    emit(document, text, as_json)


def _weights(tasks: Mapping[str, float]) -> str:
    """The tasks that have a part in the answer, largest weight first."""
    rows = [(f"  {name}", f"{weight:.3f}") for name, weight in tasks.items() if weight]
    more = [("  ...", "")] if len(rows) > SHOWN else []
    return table([("  task", "weight"), *rows[:SHOWN], *more])


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3].rstrip()}..."
