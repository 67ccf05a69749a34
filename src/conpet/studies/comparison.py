"""Study ``comparison``: every method on one stream, beside its bounds; a table for each stream.

What is compared, and with which words, stands in ``arms.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from conpet.errors import ConfigError, did_you_mean
from conpet.evaluation.collect import RunRecord
from conpet.evaluation.continual import backward_transfer
from conpet.registry import STREAMS
from conpet.studies.arms import (
    BOUNDS,
    Words,
    alone,
    answers_in_text,
    arms,
    cell_of,
    keeps_texts,
    refusal,
    told,
)
from conpet.studies.base import Cell, Labels, Plan, Row, Rows, Study, name_of_stream
from conpet.studies.made_up import MADE_UP, prepare
from conpet.studies.say import UNKNOWN, distinct, gap, mean, numbers, pick, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORE = "average_accuracy"
COLUMNS = {
    "average score (AP)": (SCORE, 1, 1),
    "whole": ("whole_accuracy", 1, 1),
    "F.Ra": ("forgetting", 1, 1),
    "BWT": ("backward_transfer", 1, 1),
    "FWT": ("", 1, 1),
    "routing": ("selector_accuracy", 1, 1),
    "tuned": ("tuned_parameters", 1, 0),
    "stored": ("stored_parameters", 1, 0),
    "steps": ("steps", 1, 0),
    "examples": ("examples", 1, 0),
    "forward passes": ("forward_passes", 1, 0),
    "seconds": ("seconds", 1, 0),
    "peak MiB": ("peak_memory_bytes", 2**20, 0),
}
"""Head of a column of the table: the column of the rows, its unit, and digits."""
BEST = 5


def grid(plan: Plan) -> list[Cell]:
    """Seed after seed: what is there when it is stopped is as even as can be."""
    return [cell for _, cell, reason in _cells(plan) if reason is None]


def empty(plan: Plan) -> list[Row]:
    """The arms that cannot learn the stream, once each."""
    found: dict[str, Row] = {}
    for arm, cell, reason in _cells(plan):
        if reason is not None:
            found.setdefault(arm, {"stream": cell.labels["stream"], "arm": arm, "reason": reason})
    return list(found.values())


def _cells(plan: Plan) -> Iterator[tuple[str, Cell, str | None]]:
    """Arm, run, and why it is none."""
    found = arms(answers_in_text(plan))
    reasons: dict[str, str | None] = {}
    for seed in plan.seeds:
        for order, ordered in _orders(plan).items():
            for arm, words in found.items():
                cell = cell_of(plan, words, _labels(plan, arm, order, seed), ordered)
                if arm not in reasons:
                    reasons[arm] = refusal(plan, arm, cell)
                yield arm, cell, reasons[arm]


def _labels(plan: Plan, arm: str, order: str, seed: int) -> Labels:
    named = {"order": order} if order else {}
    return {"stream": name_of_stream(plan.stream), "arm": arm, **named, "seed": seed}


def _orders(plan: Plan) -> dict[str, Words]:
    """The words that give the stream each order; its own has none."""
    return {order: (_order(plan, order),) for order in plan.orders} or {"": ()}


def _order(plan: Plan, order: str) -> str:
    if order.isdecimal():
        return f"stream.seed={order}"
    named = (STREAMS.load(plan.stream).orders or {}) if plan.stream in STREAMS else {}
    if order not in named:
        raise ConfigError(
            f"stream '{plan.stream}' has no order '{order}'.{did_you_mean(order, named)} Allowed: "
            f"{', '.join([*named, 'numbers, which draw its examples anew'])}"
        )
    return f"stream.order={order}"


def measure(record: RunRecord) -> Row:
    return {"backward_transfer": backward_transfer(record.matrix)}


def prepared(plan: Plan) -> None:
    """Write the stream, where it is the made-up one."""
    if plan.stream == MADE_UP:
        prepare(plan)


# What is made of the rows ------------------------------------------------------------------------


def ranked(rows: Rows) -> list[str]:
    """The arms that were run: the methods, best first, then the bounds."""
    known = [arm for arm in distinct(_runs(rows), "arm")]
    methods = [arm for arm in known if arm not in BOUNDS]
    best = sorted(methods, key=lambda arm: -mean(pick(_runs(rows), arm=arm), SCORE))
    return [*best, *(arm for arm in BOUNDS if arm in known)]


def _runs(rows: Rows) -> list[Row]:
    return [row for row in rows if "run" in row]


def table(rows: Rows) -> str:
    """Every arm with all figures: means, ± the sample standard deviation of several runs."""
    heads = ["method", "runs", *COLUMNS, "remark"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm in ranked(rows):
        here = pick(_runs(rows), arm=arm)
        cells = [figure(rows, arm, head) for head in COLUMNS]
        remark = _remarks(arm, here, [r for r in rows if r.get("arm") == arm and "run" not in r])
        lines.append(f"| {' | '.join([arm, str(len(here)), *cells, remark])} |")
    for row in rows:
        if "run" not in row and row["arm"] not in ranked(rows):
            lines.append(f"| {row['arm']} | 0 |{' – |' * len(COLUMNS)} {_flat(row['reason'])} |")
    return "\n".join(dict.fromkeys(lines))


def figure(rows: Rows, arm: str, head: str) -> str:
    """One cell of the table; a dash where there is no such figure."""
    here, (name, unit, digits) = pick(_runs(rows), arm=arm), COLUMNS[head]
    if head == "FWT":
        bound = alone(arm)
        other = pick(_runs(rows), arm=bound) if bound else []
        text = gap(here, other, "learning_accuracy")
    else:
        scaled = [{**r, name: r[name] / unit} for r in here if r.get(name) is not None]
        text = say(scaled, name, digits)
    return "–" if text == UNKNOWN else text.removesuffix(" ± 0")


def _remarks(arm: str, runs: Rows, failed: Rows) -> str:
    words = ["told the task"] if told(arm) else []
    words += ["keeps real old inputs"] if keeps_texts(arm) else []
    words += [f"runs of study {name}" for name in distinct(runs, "origin")]
    words += [f"seed {row['seed']}: {_flat(row['reason'])}" for row in failed]
    return "; ".join(words)


def _flat(text: str) -> str:
    """One cell of a Markdown table."""
    return " ".join(text.replace("|", "/").split())


def plot(rows: Rows) -> Figure:
    """Score over cost: the upper left corner is best."""
    from conpet.studies.figures import Line, Panel, panels

    runs = _runs(rows)

    def points(cost: str) -> list[Line]:
        found = []
        for arm in ranked(rows):
            known = [r for r in pick(runs, arm=arm) if r.get(cost) and r.get(SCORE) is not None]
            if known:
                found.append(Line(arm, (mean(known, cost),), (tuple(numbers(known, SCORE)),)))
        return found

    costs = {"forward_passes": "forward passes", "seconds": "seconds"}
    drawn = [Panel(f"Score over {t}", t, "average score", points(c), "x") for c, t in costs.items()]
    return panels(drawn, height=6.0)


def text(rows: Rows) -> Iterator[str]:
    runs = _runs(rows)

    def scores(names: Sequence[str]) -> str:
        return ", ".join(f"{arm} {say(pick(runs, arm=arm), SCORE)}" for arm in names)

    methods = [arm for arm in ranked(rows) if arm not in BOUNDS]
    untold = [arm for arm in methods if not told(arm)]
    if untold:
        yield f"Best by average score, the task not told: {scores(untold[:BEST])}."
    bounds = [arm for arm in BOUNDS if pick(runs, arm=arm)]
    if bounds:
        yield f"Bounds: {scores(bounds)}."
    for name in ("conpet-dynamic", "sapt"):
        trained, free = pick(runs, arm=f"{name}-fresh"), pick(runs, arm=f"{name}-analytic")
        trained = trained or pick(runs, arm=name)  # both with adapters that begin alike
        if trained and free:
            parts = {SCORE: "average score", "selector_accuracy": "routing", "steps": "steps"}
            told_ = [f"{title} {gap(free, trained, key)}" for key, title in parts.items()]
            yield f"Router in closed form instead of a trained one, {name}: {', '.join(told_)}."
    names = [arm for arm in ranked(rows) if told(arm)]
    if names:
        yield f"Told the task of each input, and so no competitors: {', '.join(names)}."
    for origin in distinct(runs, "origin"):
        names = distinct(pick(runs, origin=origin), "arm")
        yield f"Runs of study {origin}, whose words are the same, were taken: {', '.join(names)}."
    orders = distinct(runs, "order")
    if orders:
        these = ", ".join(orders)
        yield f"Orders or draws of the stream: {these}; means and spreads are over them too."
    yield (
        "In the table, parameters are the most of any task, steps to seconds sums over tasks; the "
        "mean over runs, ± their sample standard deviation. A dash: nothing is routed; nothing can "
        "be forgotten by what learns all tasks at once; FWT is against per-task runs with the same "
        "kind of adapter."
    )


STUDY = Study(
    name="comparison",
    title="Every method on one stream",
    question="What does each method keep of the stream, and at what cost?",
    streams={"": "banking77"},
    grid=grid,
    plot=plot,
    text=text,
    measure=measure,
    prepare=prepared,
    by_stream=True,
    beside=("sapt",),
    empty=empty,
    table=table,
)
