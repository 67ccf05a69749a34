"""State: features of any rows, in their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from conpet.testing import synthetic_stream, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream
from conpet.types import Batch, Routing


def test_features_come_in_the_order_of_the_rows_and_rows_may_repeat() -> None:
    state = tiny_state(*synthetic_stream(n_tasks=1).tasks)
    state.token_budget = 40  # several chunks
    rows = state.task.train[[5, 0, 5, 3, 0, 7]]
    alone = np.concatenate([state.features(rows[i : i + 1]) for i in range(len(rows))])
    np.testing.assert_allclose(state.features(rows), alone, atol=1e-5)


def test_a_batch_is_divided_by_what_stands_before_its_texts() -> None:
    (task,) = instruction_stream(1, train=8).tasks
    state = tiny_state(task, backbone=tiny_t5(generative=True), kind="prompt", length=20)
    for i, name in enumerate("abc"):
        state.pool.add(name, seed=i)
    batch = state.batch(state.task.train)
    weights = torch.ones(len(batch), 3)
    weights[::2, 1] = 0
    routing = Routing(tuple("abc"), weights, "concat")
    whole = 60 + batch.input_ids.shape[1] + batch.answer_ids.shape[1]
    found, sizes = [], []
    features = state._features

    def counted(some: Batch, *how: Any) -> Tensor:
        sizes.append(len(some))
        return features(some, *how)

    state._features = counted  # type: ignore[method-assign]
    for budget in (10**6, 3 * whole):
        state.token_budget = budget
        with torch.no_grad():
            found.append(
                (state.forward(batch, routing).features, state.answer_log_probs(batch, routing))
            )
    assert sizes == [8, 3, 3, 2]
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    few, many = state.generate(batch, routing), None
    state.token_budget = 10**6
    many = state.generate(batch, routing)
    assert few.ids == many.ids
