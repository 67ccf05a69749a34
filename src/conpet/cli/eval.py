"""``conpet eval``: measure a run again, with other numbers of adapters, or on other tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conpet.cli.common import (
    AsJson,
    Data,
    DeviceName,
    Preset,
    Quiet,
    Run,
    emit,
    summary_text,
    table,
    work,
)
from conpet.errors import ConfigError

if TYPE_CHECKING:
    from conpet.api import ContinualModel
    from conpet.events import Observer


def verb(
    run: Run,
    top_k: Annotated[
        str | None,
        typer.Option(
            "--top-k",
            help="Answer with so many adapters, e.g. 1,2,all: score and seconds of each, also in "
            "RUN/top_k.json.",
            show_default=False,
        ),
    ] = None,
    unseen: Annotated[
        bool,
        typer.Option(
            "--unseen",
            help="Answer the tasks of --stream that the run has not learned; also in "
            "RUN/unseen/STREAM.json.",
        ),
    ] = False,
    stream: Annotated[
        str | None, typer.Option(help="Of --unseen: a name or a path of data.", show_default=False)
    ] = None,
    data: Data = None,
    preset: Preset = None,
    only: Annotated[
        str | None,
        typer.Option(help="Of --unseen: these tasks alone, e.g. a,b.", show_default=False),
    ] = None,
    device: DeviceName = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Answer all test examples again, from the folder: the last row of the accuracy matrix.

    With --top-k once for each number of adapters, and timed: free answers are written again, none
    is taken from a memo. With --unseen the tests of tasks outside the run's stream (zero-shot), for
    runs that answer freely; beside the scores stand those of the backbone without adapters. Both
    are shown by conpet report.

    \b
    Examples:
      conpet eval runs/bank
      conpet eval runs/bank --top-k 1,2,4,all
      conpet eval runs/mini --unseen --stream superni --only quoref,samsum
    """
    _check_options(top_k, unseen, stream, {"--data": data, "--preset": preset, "--only": only})
    wanted = None if top_k is None else _numbers(top_k)
    names = None if only is None else [name.strip() for name in only.split(",") if name.strip()]
    with work():
        from conpet import api
        from conpet.events import Console

        model, console = api.load(run, device=device), Console(quiet=quiet)
        if wanted is not None:
            result, text = _top_k(model, wanted, console)
        elif stream is not None:
            result = model.evaluate_unseen(
                stream, data=data, preset=preset, only=names, observer=console
            )
            text = f"{_unseen_text(result)}\n\n{model.folder.unseen_of(result['stream'])}"
        else:
            result = model.evaluate()
            text = summary_text(result)
    emit(result, text, as_json)


def _check_options(
    top_k: str | None, unseen: bool, stream: str | None, others: Mapping[str, object]
) -> None:
    if unseen and top_k is not None:
        raise ConfigError(
            "--top-k and --unseen are both given; each is a measurement of its own: leave one out"
        )
    if unseen and stream is None:
        raise ConfigError(
            "--unseen needs the tasks to answer: give --stream NAME_OR_FILE, e.g. conpet eval "
            "runs/mini --unseen --stream superni"
        )
    if stream is not None and not unseen:
        raise ConfigError(
            f"--stream is '{stream}', and a run is measured on the tests that it keeps of its own "
            "tasks; leave it out, or add --unseen to answer the tasks of that stream that the run "
            "has not learned"
        )
    given = [option for option, value in others.items() if value is not None]
    if given and not unseen:
        raise ConfigError(
            f"{given[0]} says something of --stream, which is not given; leave it out, or add "
            "--unseen --stream NAME_OR_FILE"
        )


def _numbers(text: str) -> list[int | str]:
    """``1,2,all`` -> [1, 2, "all"]."""
    words = text.replace(",", " ").split()
    wrong = next((word for word in words if word != "all" and not word.isdecimal()), None)
    if wrong is not None or not words:
        raise ConfigError(
            f"--top-k is '{text}'; give numbers of adapters with commas between, or all, e.g. "
            "--top-k 1,2,all"
        )
    return [word if word == "all" else int(word) for word in words]


def _top_k(
    model: ContinualModel, wanted: list[int | str], observer: Observer
) -> tuple[dict[str, Any], str]:
    result = model.evaluate_top_k(wanted, observer=observer)
    rows = [(str(row["k"]), row["average"], row["whole"], row["seconds"]) for row in result["rows"]]
    machine = result["machine"]
    place = f"{machine['device']}, {machine['threads']} thread(s)"
    learned = f"learned with top_k={result['own']}; seconds on {place}"
    head = ("top_k", "average", "whole", "seconds")
    return result, f"{table([head, *rows])}\n\n{learned}\n{model.folder.top_k}"


def _unseen_text(result: Mapping[str, Any]) -> str:
    """The scores of the run beside those of its plain backbone."""
    plain = result["backbone"]
    rows = [
        ("task", result["metric"], "plain backbone"),
        *zip(result["tasks"], result["row"], plain["row"], strict=True),
        ("mean", result["average"], plain["average"]),
    ]
    left_out = [f"left out: {name}, {why}" for name, why in result["left_out"].items()]
    return "\n".join([table(rows), *([""] if left_out else []), *left_out])
