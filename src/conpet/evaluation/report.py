"""Render runs into Markdown, CSV, PNG and one self-contained HTML page.

Figures come from ``comparison`` and ``drawings``, words and layout from ``templates``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from conpet.errors import DataError
from conpet.evaluation.answers import samples, task_table
from conpet.evaluation.collect import RunRecord, collect
from conpet.evaluation.comparison import (
    Row,
    comparison_rows,
    group_runs,
    run_rows,
    stage_rows,
)
from conpet.evaluation.definitions import metric_title
from conpet.evaluation.drawings import Artist
from conpet.evaluation.measured import top_k_rows, top_k_table, unseen_rows, unseen_table
from conpet.evaluation.page import Section, listing, render
from conpet.runtime import write_bytes_atomic

__all__ = ["ReportFiles", "RunRecord", "collect", "comparison_rows", "report"]


@dataclass(frozen=True)
class ReportFiles:
    """What was written, and the comparison itself.

    Attributes:
        html: the page; it asks for nothing outside itself.
        markdown: the same tables as text, with links to the plots.
        table: CSV, a row a run.
        summary: CSV, a row a group of runs that differ only in the seed.
        stages: CSV, a row a run and learned task.
        top_k: CSV, a row a run and number of adapters; None where no run was measured so.
        unseen: CSV, a row a run and task that it had not learned; None likewise.
        plots: PNG.
        rows: the rows of ``summary`` as plain dicts, see ``comparison_rows``.
    """

    html: Path
    markdown: Path
    table: Path
    summary: Path
    stages: Path
    plots: tuple[Path, ...]
    rows: list[Row]
    top_k: Path | None = None
    unseen: Path | None = None


def report(folders: Sequence[Path | str], out: Path | str, title: str | None = None) -> ReportFiles:
    """Compare the runs in ``folders`` and write the report to ``out``.

    Runs on different streams (by fingerprint) are shown in sections of their own. The output does
    not depend on time or place: the same runs give the same bytes, and so do the same single-task
    scores in the user's cache, where forward transfer takes them from them.

    Raises:
        CheckpointError: a folder is no run folder, or is damaged; or ``out`` cannot be written.
        DataError: no folder was given.
    """
    if not folders:
        raise DataError("no run folder was given; name at least one: conpet report runs/NAME")
    records = [collect(folder) for folder in _distinct(folders)]
    rows = comparison_rows(records)
    title = title or f"Continual learning on {listing(r.stream for r in records)}"
    out = Path(out)
    sections = list(_sections(records, rows, out))
    groups = group_runs(records)
    return ReportFiles(
        html=_write(out / "index.html", render("index.html.jinja", title, sections)),
        markdown=_write(out / "report.md", render("report.md.jinja", title, sections)),
        table=_write(out / "table.csv", _csv(run_rows(records))),
        summary=_write(out / "summary.csv", _csv(rows)),
        stages=_write(out / "stages.csv", _csv(stage_rows(records))),
        plots=tuple(out / drawing.file for one in sections for drawing in one.drawings),
        rows=rows,
        top_k=_write_rows(out / "top_k.csv", top_k_rows(groups)),
        unseen=_write_rows(out / "unseen.csv", unseen_rows(groups)),
    )


def _distinct(folders: Sequence[Path | str]) -> list[Path]:
    """The folders as given, each once."""
    return list({Path(folder).resolve(): Path(folder) for folder in folders}.values())


def _sections(records: Sequence[RunRecord], rows: Sequence[Row], out: Path) -> Iterator[Section]:
    groups = group_runs(records)
    places = {label: i for i, label in enumerate(sorted({g.label for g in groups}))}
    fingerprints = dict.fromkeys(record.stream_fingerprint for record in records)
    for number, fingerprint in enumerate(fingerprints, start=1):
        here = tuple(g for g in groups if g.first.stream_fingerprint == fingerprint)
        word = metric_title(here[0].first.metric)
        artist = Artist(out, prefix=f"{number:02d}", places=places, metric=word)
        free = [group for group in here if any(run.free for run in group.runs)]
        yield Section(
            groups=here,
            rows=[row for row in rows if row["stream_fingerprint"] == fingerprint],
            places=places,
            accuracy=artist.accuracy(here),
            split=artist.split(here),
            matrices=[(group, artist.matrices(group)) for group in here],
            confusions=artist.confusions(here),
            costs=artist.costs(here),
            tasks=[task_table(group) for group in free],
            samples=[(group, samples(group.first)) for group in free],
            top_k=top_k_table(here),
            unseen=unseen_table(here),
        )


def _write(path: Path, text: str) -> Path:
    write_bytes_atomic(path, text.encode())
    return path


def _write_rows(path: Path, rows: Sequence[Row]) -> Path | None:
    """As CSV, where there is a row."""
    return _write(path, _csv(rows)) if rows else None


def _csv(rows: Sequence[Row]) -> str:
    """Lists become words with blanks between; what was not measured is empty."""
    out = StringIO()
    fields = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()}
        )
    return out.getvalue()
