"""``conpet validate``: check before a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conpet.cli.common import AsJson, Data, emit, split_words, table, work
from conpet.errors import ConfigError, DataError

if TYPE_CHECKING:
    from conpet.api.dry_run import DryRun
    from conpet.config import RunConfig
    from conpet.streams import Stream

MIB = 2**20


def verb(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[FILE] [KEY=VALUE]...", help="As for conpet run.", show_default=False
        ),
    ],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Also plan the run: steps, parameters, memory. No weights are loaded.",
        ),
    ] = False,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            help="Plan with this one instead: a name, hub id or folder, or a shape: t5-large, "
            "t5-xl-v1.1, t5-xxl-v1.1, llama-2-7b, llama-2-13b. May be repeated.",
            show_default=False,
        ),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Check a configuration and its stream; nothing is trained and nothing is written.

    \b
    Examples:
      conpet validate run.yaml
      conpet validate profile=sapt-original-t5-superni --dry-run --backbone t5-xl-v1.1
    """
    file, settings = split_words(words)
    if backbone and not dry_run:
        raise ConfigError("--backbone says what a run is planned with; give --dry-run with it")
    with work():
        from conpet.config import load_config

        config = load_config(file, settings, data=data)
        stream, missing = _stream(config, dry_run)
        plans = []
        if dry_run:
            from conpet.api.dry_run import dry_run as plan

            others = [load_config(file, settings, data=data, backbone=b) for b in backbone or ()]
            plans = [plan(each, stream) for each in others or [config]]
    facts = stream.describe() if stream is not None else None
    document: dict[str, Any] = {"file": None if file is None else str(file), "ok": True}
    document |= {"config": config.to_dict(), "stream": facts}
    if dry_run:
        document |= {"missing": missing, "dry_run": [asdict(each) for each in plans]}
    name = "the configuration" if file is None else str(file)
    parts = [_text(name, config.label, facts) if facts else f"{name} is fine, but {missing}"]
    emit(document, "\n\n".join([*parts, *_plan_text(plans)]), as_json)


def _stream(config: RunConfig, dry_run: bool) -> tuple[Stream | None, str | None]:
    """The stream, or why it is not there; a dry run can do without where its tasks are known."""
    from conpet import api

    try:
        stream = api.stream_of(config)
    except DataError as error:
        if dry_run:
            from conpet.api.dry_run import names_its_tasks

            if names_its_tasks(config):
                return None, f"{error}"
        raise
    config.check_stream(text=stream.free)
    return stream, None


def _text(file: str, method: str, facts: dict[str, Any]) -> str:
    return (
        f"{file} is fine: {method} on {facts['name']}, {facts['n_tasks']} tasks, "
        f"{facts['n_labels']} labels, {facts['train']} training and {facts['test']} test examples"
    )


def _plan_text(plans: Sequence[DryRun]) -> list[str]:
    """Steps by task, which are the same with every backbone; then what each of them holds."""
    if not plans:
        return []
    reasons = dict.fromkeys(reason for plan in plans for reason in plan.unknown)
    return [_steps(plans[0]), _sizes(plans), *(f"- is not known: {reason}" for reason in reasons)]


def _steps(plan: DryRun) -> str:
    phases = [phase for task in plan.tasks for phase in task.phases if phase.steps != 0]
    names = list(dict.fromkeys(phase.name for phase in phases))
    head = ["task", "training examples", *(f"{name} steps" for name in names), "all steps"]
    rows: list[list[object]] = [list(head)]
    for task in plan.tasks:
        steps = {phase.name: phase.steps for phase in task.phases}
        rows.append([task.name, task.train, *(steps.get(name, 0) for name in names), task.steps])
    totals = [plan.steps_of(name) for name in names]
    return table([*rows, ["all", plan.train, *totals, plan.steps]])


def _sizes(plans: Sequence[DryRun]) -> str:
    columns = [_size_rows(plan) for plan in plans]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    head = ["", *(plan.backbone for plan in plans)]
    return table([head, *([key, *(column.get(key) for column in columns)] for key in keys)])


def _size_rows(plan: DryRun) -> dict[str, object]:
    rows: dict[str, object] = {"backbone: parameters": plan.parameters}
    last = {phase.name: phase.tuned for task in plan.tasks for phase in task.phases}
    for phase, tuned in last.items():
        if tuned is None:
            rows[f"tuned in phase {phase}, last task"] = None
        for part, n in (tuned or {}).items():
            rows[f"tuned in phase {phase}, last task: {part}"] = n
    for part, stored in plan.stored.items():
        rows[f"stored after the last task: {part}"] = stored
    for part, size in plan.memory.items():
        rows[f"memory in MiB: {part}"] = None if size is None else size / MIB
    whole = sum(size or 0 for size in plan.memory.values())
    rows["memory in MiB: all known, without activations"] = whole / MIB
    return rows
