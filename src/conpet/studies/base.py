"""What a study is: a question, a grid of runs, and how rows, plot and text are made of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conpet.errors import ConfigError, did_you_mean
from conpet.evaluation.collect import RunRecord
from conpet.studies.sizes import SIZES, Size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Labels = Mapping[str, str | int]
"""What tells one row from the others; the first columns of the table."""
Row = dict[str, Any]
Rows = Sequence[Row]


def name_of(labels: Labels) -> str:
    """A file name made of the labels: ``{"method": "lda", "seed": 1}`` -> ``lda-1``."""
    return "-".join(str(value) for value in labels.values())


def name_of_stream(stream: str) -> str:
    """A registered name as it is, of a path the name of the file without its ending."""
    return Path(stream).stem


def relative(path: Path | str) -> Path:
    """A path as seen from the working folder: what is written down names no place of a machine."""
    return Path(os.path.relpath(path) if Path(path).is_absolute() else path)


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        labels: what tells it from the other cells, ``seed`` the last of them.
        words: of its ``conpet run``, all as key=value; where a key comes twice the later one wins.
    """

    labels: Labels
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return name_of(self.labels)


@dataclass(frozen=True)
class Probe:
    """A measurement in a process of its own, after the runs: ``conpet.studies.probe`` with words.

    What it finds joins the row with the same labels; without such a row it makes rows of its own.

    Attributes:
        needs: name of the cell whose run it looks at; None where it needs none.
    """

    labels: Labels
    words: tuple[str, ...]
    needs: str | None = None

    @property
    def name(self) -> str:
        return f"probe-{name_of(self.labels)}"


@dataclass(frozen=True)
class Plan:
    """What was asked for.

    Attributes:
        folder: where everything goes, as it was given.
        stream: the study's own at this size, unless another one was ``chosen``.
        data: folder with the files of named streams; None: where ``conpet run`` looks for them.
        threads: processor threads of each process; None is torch's choice.
        orders: of the stream, by the names of its card, or numbers that draw its
            examples anew; none: its own.
    """

    folder: Path
    size: Size
    seeds: tuple[int, ...]
    stream: str
    chosen: bool = False
    data: Path | None = None
    threads: int | None = None
    orders: tuple[str, ...] = ()

    def cell(self, method: str, labels: Labels, *settings: str, stream: Sequence[str] = ()) -> Cell:
        """A run at this size; ``stream`` are words that stand in for ``stream=NAME``."""
        source = stream or (f"stream={self.stream}",)
        seed = f"seed={labels['seed']}"
        return Cell(labels, (f"method={method}", *source, *self.size.words, *settings, seed))

    def run_folder(self, name: str) -> Path:
        """Where the run of a cell, or what a probe has found, lies."""
        return self.folder / "runs" / name


def _nothing(_: Any) -> Any:
    return {}


def _none(_: Any) -> Any:
    return ()


@dataclass(frozen=True)
class Study:
    """One question, and how it is answered.

    Attributes:
        streams: the stream by size, ``""`` for every size that is not named.
        grid: the runs.
        text: sentences, each made of measured figures.
        measure: columns of a run's row beyond those of every study.
        probes: measurements after the runs.
        prepare: writes files that the runs read.
        by_stream: whether each stream has a table, and so a folder, of its own; it may then be run
            in several orders.
        beside: other studies, whose runs and rows are taken where the words are the same.
        empty: a row with its labels and a ``reason`` for what cannot be run.
        table: Markdown that stands under the sentences; rows with a ``reason`` have no figures.
    """

    name: str
    title: str
    question: str
    streams: Mapping[str, str]
    grid: Callable[[Plan], Sequence[Cell]]
    plot: Callable[[Rows], Figure]
    text: Callable[[Rows], Iterable[str]]
    measure: Callable[[RunRecord], Row] = _nothing
    probes: Callable[[Plan], Sequence[Probe]] = _none
    prepare: Callable[[Plan], object] = _none
    by_stream: bool = False
    beside: tuple[str, ...] = ()
    empty: Callable[[Plan], Sequence[Row]] = _none
    table: Callable[[Rows], str] | None = None

    def plan(
        self,
        size: str = "small",
        *,
        out: Path | str | None = None,
        seeds: Sequence[int] | None = None,
        stream: str | None = None,
        data: Path | str | None = None,
        threads: int | None = None,
        orders: Sequence[str] = (),
    ) -> Plan:
        """The plan of this study; None stands for the size's own.

        Raises:
            ConfigError: a size that does not exist, seeds or orders that repeat, or orders where
                the study runs one.
        """
        if size not in SIZES:
            raise ConfigError(
                f"unknown size '{size}'.{did_you_mean(size, SIZES)} Allowed: {', '.join(SIZES)}"
            )
        if seeds is not None and (not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0):
            raise ConfigError(f"seeds are {list(seeds)}; give each once, from 0: --seeds 1,2,3")
        if orders and not self.by_stream:
            raise ConfigError(f"study {self.name} runs one order of a stream; leave out --orders")
        if len(set(orders)) < len(orders):
            raise ConfigError(f"orders are {', '.join(orders)}; give each once")
        chosen = str(relative(stream)) if stream else self.streams.get(size, self.streams[""])
        own = Path("studies") / self.name
        return Plan(
            folder=relative(out)
            if out is not None
            else (own / name_of_stream(chosen) if self.by_stream else own),
            size=SIZES[size],
            seeds=SIZES[size].seeds if seeds is None else tuple(seeds),
            stream=chosen,
            chosen=bool(stream),
            data=None if data is None else relative(data),
            threads=threads,
            orders=tuple(orders),
        )
