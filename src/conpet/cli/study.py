"""``conpet study``: one of the questions that the papers leave open, measured."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from conpet.cli.common import AsJson, Data, emit, table, work
from conpet.errors import ConfigError


def verb(
    name: Annotated[
        str | None, typer.Argument(help="Which one; none lists them.", show_default=False)
    ] = None,
    size: Annotated[str, typer.Option(help="tiny, small or full.")] = "small",
    out: Annotated[
        Path | None,
        typer.Option(help="Where everything goes: studies/NAME.", show_default=False),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Processor threads of a run.", show_default=False),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="E.g. 1,2,3; else the size's own.", show_default=False)
    ] = None,
    data: Data = None,
    stream: Annotated[
        str | None,
        typer.Option(help="Instead of the study's own.", show_default=False),
    ] = None,
    orders: Annotated[
        str | None,
        typer.Option(
            help="Of the stream (comparison): names of its card, or numbers to draw it by.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question by a grid of runs: data, a plot and ten lines of text in a folder.

    The same command goes on where it stopped. A run that fails stops no other: the rest is
    written, and the exit code is 1. Without a name the studies are listed.

    \b
    Examples:
      conpet study replay
      conpet study interference --size tiny --out trial/interference
      conpet study scalability --size full --jobs 2 --threads 1
      conpet study comparison --stream clinc150-mixed --size full --seeds 1,2,3 --jobs 2
    """
    if name is None:
        _list(as_json)
        return
    with work():
        from conpet.studies import load_study
        from conpet.studies.conduct import FILES, conduct

        study = load_study(name)
        plan = study.plan(
            size,
            out=out,
            seeds=None if seeds is None else _numbers(seeds),
            stream=stream,
            data=data,
            threads=threads if threads or jobs == 1 else _share(jobs),
            orders=() if orders is None else orders.replace(",", " ").split(),
        )
        given = {"size": size, "out": out and plan.folder, "jobs": jobs, "threads": threads}
        given |= {"seeds": seeds, "data": data and plan.data, "stream": stream and plan.stream}
        given |= {"orders": orders}
        done = conduct(study, plan, command=_typed(name, given), at_once=jobs, tell=_tell)
    for failure in done.failures:
        _tell(str(failure))
    files = [str(plan.folder / file) for file in FILES] if done.document else []
    document = {"folder": str(plan.folder), "files": files, "text": done.text}
    document |= {"failures": [str(failure) for failure in done.failures]}
    text = f"{done.text}\n{plan.folder}: {', '.join(FILES)}" if files else "no run was finished"
    emit(document | (done.document or {}), text, as_json)
    if done.failures:
        raise typer.Exit(1)


def _list(as_json: bool) -> None:
    from conpet.studies import STUDIES

    document = {"studies": [{"name": key, "summary": text} for key, text in STUDIES.items()]}
    emit(document, table([("studies", ""), *STUDIES.items()]), as_json)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise ConfigError(f"seeds are '{text}'; give numbers, e.g. --seeds 1,2,3") from None


def _share(jobs: int) -> int:
    """Threads of each of several processes."""
    from conpet.runtime.machine import cores

    return max(1, cores() // jobs)


def _typed(name: str, given: dict[str, Any]) -> str:
    """The command, its paths as seen from the working folder."""
    words = ["conpet", "study", name]
    for option, value in given.items():
        if value is not None and (option, value) != ("jobs", 1):
            words += [f"--{option}", str(value)]
    return shlex.join(words)
