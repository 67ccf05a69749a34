"""Ask a method for answers, and write down what it said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conpet.encoding.encode import EncodedTask
from conpet.methods.base import Method, State
from conpet.types import Batch, Prediction, Routing


@dataclass(frozen=True)
class Answer:
    """One answer with what is needed to judge it. ``row`` is the example's row in the token
    store."""

    row: int
    label: str
    score: float
    routed: tuple[str, ...]
    oracle: str | None


@torch.no_grad()
def answer(
    state: State, method: Method, batches: Iterable[Batch], *, with_oracle: bool = False
) -> list[Answer]:
    """Predict every example of the batches.

    The method sees neither label nor task, unless it declares ``needs_task_id``. ``with_oracle``
    adds the label it would give if it knew the task (for the split of errors; needs
    ``batch.task``).
    """
    labels, answers = state.labels, []
    for batch in batches:
        seen = batch if method.needs_task_id else batch.without_answers()
        routing = method.route(state, seen)
        scores = method.scores(state, seen, routing)  # (B, C)
        score, column = scores.max(dim=1)
        oracle = (
            _oracle(state, method, batch, routing, scores) if with_oracle else [None] * len(batch)
        )
        answers += [
            Answer(row, labels[c], p, tasks, known)
            for row, c, p, tasks, known in zip(
                batch.rows.tolist(),
                column.tolist(),
                score.exp().tolist(),
                ranked(routing),
                oracle,
                strict=True,
            )
        ]
    return answers


def ranked(routing: Routing) -> list[tuple[str, ...]]:
    """The adapters of each example, largest weight first; shared adapters name no task.

    Where several weigh the same, as when all tasks answer, nothing was routed: an empty tuple.
    """
    weights = routing.weights
    even = (weights == weights[:, :1]).all(dim=1) & (len(routing.names) > 1)
    order = weights.argsort(dim=1, descending=True, stable=True).tolist()
    active = ((weights != 0) & ~even[:, None]).tolist()
    return [
        tuple(routing.names[j] for j in columns if on[j] and not routing.names[j].startswith("@"))
        for columns, on in zip(order, active, strict=True)
    ]


def _oracle(
    state: State, method: Method, batch: Batch, routing: Routing, scores: Tensor
) -> list[str]:
    """The best label within the true task, by the routing that the true task would get."""
    known = method.oracle(state, batch)
    if known.names != routing.names or not torch.equal(known.weights, routing.weights):
        scores = method.scores(state, batch, known)
    labels = state.labels
    out: list[str] = []
    for row, index in zip(scores, batch.task.tolist(), strict=True):
        task = state.history[index]
        columns = row[task.first_column : task.first_column + len(task.labels)]
        out.append(labels[task.first_column + int(columns.argmax())])
    return out


def evaluate(state: State, method: Method, tasks: Sequence[EncodedTask]) -> dict[str, list[Answer]]:
    """Answers to the test parts of ``tasks``, by task name, in the order of the test part."""
    out, learned = {}, set(state.task_names)
    for task in tasks:
        chunks = state.chunks(task.test)
        answers = answer(state, method, chunks, with_oracle=task.name in learned)
        by_row = {a.row: a for a in answers}
        out[task.name] = [by_row[int(row)] for row in task.test]
    return out


def to_predictions(answers: Sequence[Answer], ids: Sequence[str]) -> list[Prediction]:
    """Attach the examples' ids; ``answers`` in the order of ``ids``."""
    return [Prediction(i, a.label, a.score, a.routed) for i, a in zip(ids, answers, strict=True)]
