"""Study ``text-tasks``: what a small backbone can write with one adapter for each task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from conpet.evaluation.collect import RunRecord
from conpet.evaluation.metrics import exact_match, rouge_l, token_f1
from conpet.runtime import RunFolder
from conpet.studies.base import Cell, Labels, Plan, Row, Rows, Study
from conpet.studies.made_up import TINY, made_up, prepare
from conpet.studies.rows import stage_outcomes
from conpet.studies.say import distinct, mean, pick, say
from conpet.training.history import load_task
from conpet.types import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Score = Callable[[str, tuple[str, ...]], float]

METRICS: Mapping[str, Score] = {
    "exact_match": exact_match,
    "rouge_l": rouge_l,
    "token_f1": token_f1,
}
STREAMS = {
    "superni": (
        *("samsum", "sst2", "xsum", "outcome", "quoref", "evalution", "multi-woz", "personachat"),
        *("commonsenseqa", "diplomacy", "glucose", "reddit-tifu", "sciq", "sentiment140"),
        "emotion",
    ),
    "long-sequence": (
        *("yelp", "amazon", "mnli", "cb", "copa", "qqp", "rte", "imdb", "sst2", "dbpedia"),
        *("agnews", "yahoo", "multirc", "boolq", "wic"),
    ),
}
"""All 30 tasks."""
SMALL = {"superni": ("evalution",), "long-sequence": ("agnews", "sst2", "dbpedia")}
"""The tasks that every seed is run with; the others with the first seed alone."""
MADE_UP = {"made-up": ("even", "swap")}
"""Of size tiny, which needs no data."""
WORDS = (
    "backbone=nano",
    "stream.preset=none",
    "stream.train_per_class=null",
    "stream.valid_per_class=100",
    "stream.test_per_class=500",
    "adapter.rank=8",
    "train.batch_size=16",
    "train.epochs=100",
    "train.max_steps=300",
    "train.lr=5e-3",
    "train.schedule=linear",
)


def grid(plan: Plan) -> list[Cell]:
    """The tasks of all seeds first: what is there when it is stopped is what matters most."""
    tiny = plan.size.name == "tiny"
    cells = [
        _cell(plan, stream, task, seed, tiny)
        for seed in plan.seeds
        for stream, tasks in (MADE_UP if tiny else SMALL).items()
        for task in tasks
    ]
    if plan.size.name == "full":
        cells += [
            _cell(plan, stream, task, plan.seeds[0], tiny)
            for stream, tasks in STREAMS.items()
            for task in tasks
            if task not in SMALL[stream]
        ]
    return cells


def _cell(plan: Plan, stream: str, task: str, seed: int, tiny: bool) -> Cell:
    labels: Labels = {"stream": stream, "task": task, "seed": seed}
    source = made_up(plan) if tiny else stream
    only = (f"stream={source}", f"stream.only=[{task}]")
    return plan.cell("per-task", labels, *(TINY if tiny else WORDS), stream=only)


def measure(record: RunRecord) -> Row:
    """Scores of the answers (0..100) by each metric, and of two answers that need no model.

    ``majority``: the commonest training answer, always. ``copy``: the input as it is.
    """
    outcomes = stage_outcomes(record, 1)
    given = [(o.label, o.answers) for o in outcomes]
    task = load_task(RunFolder(record.folder).history / "01.jsonl.gz")
    return {
        **{name: _score(metric, given) for name, metric in METRICS.items()},
        **{f"majority_{name}": _score(m, _majority(task)) for name, m in METRICS.items()},
        **{f"copy_{name}": _score(m, _copies(task)) for name, m in METRICS.items()},
        "train_examples": len(task.train),
        "test_examples": len(task.test),
        "metric": record.metric,
    }


def _score(metric: Score, given: Sequence[tuple[str, tuple[str, ...]]]) -> float:
    return 100.0 * float(np.mean([metric(text, answers) for text, answers in given]))


def _majority(task: Task) -> list[tuple[str, tuple[str, ...]]]:
    ((common, _),) = Counter(e.answers[0] for e in task.train).most_common(1)
    return [(common, e.answers) for e in task.test]


def _copies(task: Task) -> list[tuple[str, tuple[str, ...]]]:
    return [(e.text, e.answers) for e in task.test]


def plot(rows: Rows) -> Figure:
    from conpet.studies.figures import bars

    named = {
        f"{stream}: {task}": pick(rows, stream=stream, task=task)
        for stream in distinct(rows, "stream")
        for task in distinct(pick(rows, stream=stream), "task")
    }
    return bars(
        {
            "exact match, %": ("exact_match", named),
            "ROUGE-L, %": ("rouge_l", named),
            "majority answer: exact match, %": ("majority_exact_match", named),
        }
    )


def text(rows: Rows) -> Iterator[str]:
    for stream in distinct(rows, "stream"):
        here = pick(rows, stream=stream)
        for title, name in (("exact match", "exact_match"), ("ROUGE-L", "rouge_l")):
            each = [
                f"{task} {say(cells, name)} ({say(cells, 'majority_' + name)})"
                for task in distinct(here, "task")
                if (cells := pick(here, task=task))
            ]
            yield f"{stream}, {title} (in brackets the commonest answer): {', '.join(each)}."
        lost = [
            task
            for task in distinct(here, "task")
            if mean(pick(here, task=task), "rouge_l")
            <= max(mean(pick(here, task=task), f"{base}_rouge_l") for base in ("majority", "copy"))
        ]
        yield (
            f"{stream}: no better by ROUGE-L than the commonest answer or a copy of the input: "
            f"{', '.join(lost) or 'none'}."
        )


STUDY = Study(
    name="text-tasks",
    title="What one adapter a task makes of a small backbone that writes",
    question="Which instruction tasks does it learn in at most 300 steps, and which not?",
    streams={"": "superni and long-sequence", "tiny": "made-up"},
    grid=grid,
    plot=plot,
    text=text,
    measure=measure,
    prepare=prepare,
)
