"""State: features of any rows, in their order."""

from __future__ import annotations

import numpy as np

from conpet.testing import synthetic_stream, tiny_state


def test_features_come_in_the_order_of_the_rows_and_rows_may_repeat() -> None:
    state = tiny_state(*synthetic_stream(n_tasks=1).tasks)
    state.token_budget = 40  # several chunks
    rows = state.task.train[[5, 0, 5, 3, 0, 7]]
    alone = np.concatenate([state.features(rows[i : i + 1]) for i in range(len(rows))])
    np.testing.assert_allclose(state.features(rows), alone, atol=1e-5)
