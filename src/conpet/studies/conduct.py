"""Conduct a study: make what is missing of its runs, then its rows, its plot and its text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conpet.errors import ConpetError
from conpet.evaluation.collect import collect
from conpet.runtime import RunFolder, environment, read_json, write_bytes_atomic, write_json_atomic
from conpet.studies import load_study
from conpet.studies.base import Cell, Plan, Probe, Row, Study
from conpet.studies.rows import rounded, row_of, table
from conpet.studies.runner import Failure, Job, Tell, run_finished, run_job, run_jobs
from conpet.studies.say import seeds_line

NOT_OURS = {"seconds": None, "peak_memory_bytes": None}
"""Columns of a row of another study that say how it was computed: perhaps with other threads."""
FILES = ("study.json", "data.csv", "plot.svg", "text.md")


@dataclass(frozen=True)
class Conducted:
    """A study as far as it came.

    Attributes:
        document: the content of ``study.json``; None where no run finished and nothing is written.
        text: the content of ``text.md``.
        failures: what did not end well; the figures of all else are there.
    """

    document: dict[str, Any] | None
    text: str
    failures: tuple[Failure, ...]


def conduct(
    study: Study,
    plan: Plan,
    *,
    command: str = "",
    at_once: int = 1,
    tell: Tell = lambda _: None,
) -> Conducted:
    """Run what is not finished, and write ``FILES`` into the folder of the plan.

    Finished is a cell whose run is, or, without a run folder, one whose row stands in the
    ``study.json`` of the folder with the same words, or whose words a finished run or a row of a
    study ``beside`` it has.

    Args:
        command: what was typed, for ``study.json``.
        at_once: processes at the same time; measurements after the runs have the machine alone.
        tell: called with a line of progress.

    Raises:
        CheckpointError: the folder holds runs with other settings; nothing was started.
        KeyboardInterrupt: stopped by a signal; the same call goes on.
    """
    study.prepare(plan)
    cells, probes = study.grid(plan), study.probes(plan)
    tell(f"study {study.name}, size {plan.size.name}: {len(cells)} runs in {plan.folder}")
    kept = _kept(cells, plan)
    if kept:
        tell(f"{len(kept)} rows of {FILES[0]} are kept")
    taken = _taken(study, plan, [cell for cell in cells if cell.name not in kept])
    if taken:
        tell(f"{len(taken)} rows are those of study {', '.join(study.beside)}")
    kept |= taken
    jobs = [cell_job(cell, plan) for cell in cells if cell.name not in kept]
    failures = run_jobs(jobs, at_once=at_once, tell=tell)
    broken = {failure.name for failure in failures}
    ready = [p for p in probes if p.needs not in broken and p.needs not in kept]
    if ready:
        tell(f"{len(ready)} measurements after the runs")
    failures += run_jobs([probe_job(p, plan) for p in ready], at_once=1, tell=tell)
    broken |= {failure.name for failure in failures}

    rows, damaged = _rows(study, plan, [c for c in cells if c.name not in broken], kept)
    rows = _joined(rows, plan, [p for p in ready if p.name not in broken])
    failures += damaged
    if not rows:
        return Conducted(None, "", tuple(failures))
    if study.table is not None:
        rows += [*study.empty(plan), *_failed(cells, failures)]
    return _write(study, plan, rows, failures, command)


def cell_job(cell: Cell, plan: Plan) -> Job:
    """The process of a cell, with where and how it is computed."""
    words = list(cell.words)
    words += [] if plan.data is None else [f"stream.data={plan.data}"]
    words += [] if plan.threads is None else [f"threads={plan.threads}"]
    return run_job(cell.name, words, plan.run_folder(cell.name))


def probe_job(probe: Probe, plan: Plan) -> Job:
    """The process of a probe; its result is one JSON file that names the words it answers."""
    out = plan.run_folder(f"{probe.name}.json")
    threads = () if plan.threads is None else ("--threads", str(plan.threads))
    return Job(
        probe.name,
        ("conpet.studies.probe", "--out", str(out), *threads, *probe.words),
        plan.run_folder(f"{probe.name}.log"),
        lambda: _probed(probe, plan, out),
    )


def _probed(probe: Probe, plan: Plan, out: Path) -> bool:
    """Whether its result is there: for these words, and no older than the run it looks at."""
    if not out.exists() or read_json(out)["words"] != list(probe.words):
        return False
    if probe.needs is None:
        return True
    state = RunFolder(plan.run_folder(probe.needs)).state
    return state.exists() and state.stat().st_mtime <= out.stat().st_mtime


def _kept(cells: Sequence[Cell], plan: Plan) -> dict[str, Row]:
    """Rows of an earlier study by the names of their cells; where there is a run, it counts."""
    path = plan.folder / FILES[0]
    if not path.exists():
        return {}
    document = read_json(path)
    rows = {row["run"]: row for row in document["rows"] if "run" in row}
    same = [c.name for c in cells if document["runs"].get(c.name) == _command(c)]
    gone = (name for name in same if not plan.run_folder(name).exists())
    return {name: rows[name] for name in gone if name in rows}


def _taken(study: Study, plan: Plan, cells: Sequence[Cell]) -> dict[str, Row]:
    """Rows of other studies' runs with the same words; one that has a run folder here is its own.

    They say where they are from: a column ``origin``.
    """
    found: dict[str, Row] = {}
    missing = [cell for cell in cells if not plan.run_folder(cell.name).exists()]
    for name in study.beside:
        other = load_study(name)
        there = other.plan(plan.size.name, seeds=plan.seeds, data=plan.data, threads=plan.threads)
        twins = {cell.words: cell for cell in other.grid(there)}
        rows = _rows_by_command(there.folder / FILES[0])
        for cell in missing:
            row = _row_there(study, cell, there, twins.get(cell.words)) or rows.get(_command(cell))
            if row is not None and cell.name not in found:
                found[cell.name] = {**row, **NOT_OURS, "run": cell.name, **cell.labels}
                found[cell.name]["origin"] = name
    return found


def _row_there(study: Study, cell: Cell, plan: Plan, twin: Cell | None) -> Row | None:
    """The row of a cell by the finished run of another study's cell; None where there is none."""
    if twin is None:
        return None
    folder = plan.run_folder(twin.name)
    try:
        if not run_finished(folder, cell.words):
            return None
        record = collect(folder)
    except (ConpetError, OSError):
        return None
    return row_of(cell, record) | rounded(study.measure(record))


def _rows_by_command(path: Path) -> dict[str, Row]:
    """The rows of a ``study.json`` by the commands of their runs; none where it is not there."""
    if not path.exists():
        return {}
    document = read_json(path)
    rows = {row["run"]: row for row in document["rows"] if "run" in row}
    return {command: rows[name] for name, command in document["runs"].items() if name in rows}


def _failed(cells: Sequence[Cell], failures: Sequence[Failure]) -> list[Row]:
    """A row without figures for each cell whose run failed, with the reason."""
    labels = {cell.name: cell.labels for cell in cells}
    return [
        {**labels[one.name], "reason": f"the run failed: {one.message}"}
        for one in failures
        if one.name in labels
    ]


def _command(cell: Cell) -> str:
    return " ".join(["conpet run", *cell.words])


def _rows(
    study: Study, plan: Plan, cells: Sequence[Cell], kept: Mapping[str, Row]
) -> tuple[list[Row], list[Failure]]:
    """A row a run; a folder that cannot be read is a failure of its own."""
    rows, failures = [], []
    for cell in cells:
        if cell.name in kept:
            rows.append(kept[cell.name])
            continue
        folder = plan.run_folder(cell.name)
        try:
            record = collect(folder)
            rows.append(row_of(cell, record) | rounded(study.measure(record)))
        except (ConpetError, OSError) as error:
            log = folder.with_name(f"{folder.name}.log")
            failures.append(Failure(cell.name, 0, log, str(error)))
    return rows, failures


def _joined(rows: list[Row], plan: Plan, probes: Sequence[Probe]) -> list[Row]:
    """What probes have found, in the rows with their labels or behind them."""
    rows = list(rows)
    for probe in probes:
        found = read_json(plan.run_folder(f"{probe.name}.json"))["rows"]
        same = [r for r in rows if "run" in r and probe.labels.items() <= r.items()]
        if same:
            same[0].update(found[0])
        else:
            rows += [dict(probe.labels) | one for one in found]
    return rows


def _write(
    study: Study, plan: Plan, rows: list[Row], failures: Sequence[Failure], command: str
) -> Conducted:
    from conpet.studies.figures import svg_file

    document = {
        "study": study.name,
        "question": study.question,
        "size": plan.size.name,
        "command": command,
        "environment": environment(),
        "failed": [failure.name for failure in failures],
        "runs": {
            cell.name: _command(cell)
            for cell in study.grid(plan)
            if any(row.get("run") == cell.name for row in rows)
        },
        "rows": rows,
    }
    text = _text(study, document, rows)
    figure = svg_file(study.plot(rows), study.title)
    contents = ("", table(rows), figure, text)
    for name, content in zip(FILES[1:], contents[1:], strict=True):
        write_bytes_atomic(plan.folder / name, content.encode())
    write_json_atomic(plan.folder / FILES[0], document)
    return Conducted(json.loads(json.dumps(document)), text, tuple(failures))


def _text(study: Study, document: dict[str, Any], rows: Sequence[Row]) -> str:
    """The question, what the figures stand on, and the study's own sentences."""
    runs = [row for row in rows if "run" in row]
    streams = ", ".join(dict.fromkeys(row["stream"] for row in runs))
    machine, failed = document["environment"], document["failed"]
    lines = [
        f"{study.question}",
        f"Size {document['size']}: {len(runs)} runs on {streams or 'no stream'}, "
        f"{machine['cores']} cores ({machine['processor']}). {seeds_line(runs)}",
        *study.text(rows),
    ]
    if failed:
        lines.append(f"Not measured, as the run failed or was stopped: {', '.join(failed)}.")
    below = ["", study.table(rows)] if study.table is not None else []
    return "\n".join([f"# {study.title}", "", *(f"- {line}" for line in lines), *below]) + "\n"
