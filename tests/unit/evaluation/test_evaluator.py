"""Answers: what the method may see, how adapters are ranked, the oracle, and rows ahead of time."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conpet import fit
from conpet.evaluation.evaluator import answer, evaluate, ranked, to_predictions
from conpet.methods.base import Method, Phase, State
from conpet.routing.base import oracle, plain
from conpet.testing import synthetic_stream, tiny_state
from conpet.types import Batch, Routing

STREAM = synthetic_stream(n_tasks=3, test=2)


@dataclass
class Fixed(Method):
    """Scores that are given: (rows of the store, C) logits; routes all examples alike."""

    logits: Tensor
    weights: tuple[float, ...] = (0.0, 1.0, 0.0)
    seen: list[Batch] = field(default_factory=list)

    def phases(self, state: State) -> list[Phase]:
        return []

    def route(self, state: State, batch: Batch) -> Routing:
        self.seen.append(batch)
        return Routing(state.task_names, torch.tensor([self.weights] * len(batch)), "expand")

    def oracle(self, state: State, batch: Batch) -> Routing:
        return oracle(state.task_names, batch.task)

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        mask = routing.weights.repeat_interleave(2, dim=1) == 0
        return self.logits[batch.rows].masked_fill(mask, -100.0).log_softmax(dim=1)


@pytest.fixture
def state() -> State:
    return tiny_state(*STREAM.tasks)


def fixed(state: State, logits: list[float], **options: tuple[float, ...]) -> Fixed:
    return Fixed(torch.tensor([logits] * len(state.store.lengths)), **options)


def test_the_method_sees_neither_task_nor_label(state: State) -> None:
    method = fixed(state, [0.0] * 6)
    answer(state, method, [state.batch(state.task.test)])
    (batch,) = method.seen
    assert batch.task.tolist() == batch.label.tolist() == [-1] * len(state.task.test)


def test_a_method_that_needs_the_task_id_is_told(state: State) -> None:
    class Told(Fixed):
        needs_task_id = True

    method = Told(torch.zeros(len(state.store.lengths), 6))
    answer(state, method, [state.batch(state.task.test)])
    assert method.seen[0].task.tolist() == [2] * len(state.task.test)


def test_label_score_and_route_of_an_answer(state: State) -> None:
    rows = state.task.test[:1]
    (a,) = answer(state, fixed(state, [9.0, 0.0, 2.0, 1.0, 0.0, 9.0]), [state.batch(rows)])
    assert a.label == state.labels[2], "the best of the task that was routed to"
    assert a.score == pytest.approx(math.e / (math.e + 1))
    assert a.routed == (STREAM.tasks[1].name,)
    assert a.oracle is None
    assert a.row == rows[0]


def test_the_oracle_is_the_best_label_of_the_true_task(state: State) -> None:
    method = fixed(state, [1.0, 0.0, 5.0, 0.0, 0.0, 1.0])
    answers = evaluate(state, method, state.history)
    assert {task: {a.oracle for a in found} for task, found in answers.items()} == {
        "task-1": {state.labels[0]},
        "task-2": {state.labels[2]},
        "task-3": {state.labels[5]},
    }
    assert {a.label for found in answers.values() for a in found} == {state.labels[2]}


def test_without_a_routing_of_its_own_the_oracle_is_the_best_of_the_true_columns(
    state: State,
) -> None:
    class Unrouted(Fixed):
        def route(self, state: State, batch: Batch) -> Routing:
            return plain(len(batch), state.device)

        oracle = route

        def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
            return self.logits[batch.rows].log_softmax(dim=1)

    logits = torch.tensor([[3.0, 2.0, 1.0, 0.5, 0.2, 0.1]] * len(state.store.lengths))
    answers = evaluate(state, Unrouted(logits), state.history)
    assert [answers[t.name][0].oracle for t in state.history] == [
        state.labels[i] for i in (0, 2, 4)
    ]
    assert all(a.routed == () for found in answers.values() for a in found)


def test_answers_are_in_the_order_of_the_test_part(state: State) -> None:
    state.token_budget = 20  # several chunks, by length
    method = Fixed(torch.randn(len(state.store.lengths), 6, generator=torch.Generator()))
    answers = evaluate(state, method, state.history)
    for task in state.history:
        assert [a.row for a in answers[task.name]] == task.test.tolist()


def test_adapters_are_ranked_by_weight() -> None:
    weights = torch.tensor([[0.2, 0.0, 0.5, 0.3], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    routing = Routing(("a", "b", "c", "@shared"), weights, "expand")
    assert ranked(routing) == [("c", "a"), ("b",), ()]


def test_adapters_of_equal_weight_are_not_ranked() -> None:
    """All tasks answer: to call the first of them the router's choice would be an invention."""
    everyone = Routing(("a", "b", "c"), torch.ones(2, 3), "expand")
    assert ranked(everyone) == [(), ()]
    assert ranked(Routing(("a",), torch.ones(1, 1), "expand")) == [("a",)]


def test_predictions_carry_the_ids(state: State) -> None:
    method = fixed(state, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    answers = answer(state, method, [state.batch(state.task.test)])
    ids = [e.id for e in STREAM.tasks[2].test]
    found = to_predictions(answers, ids)
    assert [p.id for p in found] == ids
    assert {(p.label, p.tasks) for p in found} == {(state.labels[2], ("task-2",))}
    with pytest.raises(ValueError, match="zip"):
        to_predictions(answers, ids[:-1])


@pytest.mark.parametrize("method", ["sequential", "conpet-dynamic", "lda"])
def test_rows_ahead_of_time_are_measured_where_asked_for(method: str, tmp_path: Path) -> None:
    runs = {}
    for ahead in (False, True):
        runs[ahead] = fit(
            STREAM,
            out=tmp_path / str(ahead),
            method=method,
            backbone="tiny-bert",
            forward_rows=ahead,
            train__epochs=1,
            train__batch_size=4,
            replay__batch_limit=4,
            threads=1,
            device="cpu",
            precision="fp32",
        )
    later = np.triu_indices(3, 1)
    values = {ahead: model.matrix.values for ahead, model in runs.items()}
    assert np.isnan(values[False][later]).all()
    assert (values[True][later] == 0.0).all(), "no label of a task is known before it is learned"
    earlier = np.tril_indices(3)
    np.testing.assert_array_equal(values[True][earlier], values[False][earlier])
    lines = (runs[True].folder.predictions / "01.jsonl").read_text().splitlines()
    ahead_of_time = [json.loads(line) for line in lines][4:]
    assert len(ahead_of_time) == 8
    assert {line["oracle"] for line in ahead_of_time} == {None}
