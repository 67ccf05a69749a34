"""State: features of any rows, in their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conpet.methods import state as states
from conpet.routing.base import single
from conpet.testing import synthetic_stream, tiny_state
from conpet.types import Example


def test_features_come_in_the_order_of_the_rows_and_rows_may_repeat() -> None:
    state = tiny_state(*synthetic_stream(n_tasks=1).tasks)
    state.token_budget = 40  # several chunks
    rows = state.task.train[[5, 0, 5, 3, 0, 7]]
    alone = np.concatenate([state.features(rows[i : i + 1]) for i in range(len(rows))])
    np.testing.assert_allclose(state.features(rows), alone, atol=1e-5)


def test_a_batch_of_all_lengths_goes_in_passes_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    state = tiny_state(*synthetic_stream(n_tasks=1).tasks)
    texts = [f"{'a few words more ' * n}and no end" for n in (0, 6, 1, 0, 5, 1)]
    batch = state.store.batch(state.store.add([Example(f"x{i}", t) for i, t in enumerate(texts)]))
    state.pool.add("a", seed=1)
    with torch.no_grad():
        for key, tensor in state.pool.tensors("a").items():
            if key.endswith(".B"):
                tensor.normal_(generator=torch.Generator().manual_seed(0))
    widths: list[int] = []
    once = state.backbone.forward

    def watched(ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        widths.append(ids.shape[1])
        return once(ids, *rest)

    monkeypatch.setattr(state.backbone, "forward", watched)

    def computed(of_a_pass: int) -> tuple[torch.Tensor, list[torch.Tensor], list[int]]:
        monkeypatch.setattr(states, "OF_A_PASS", of_a_pass)
        widths.clear()
        features = state.forward(batch, single("a", len(batch), state.device)).features
        parameters = list(state.pool.parameters_of("a").values())
        gradient = torch.autograd.grad(features.square().sum(), parameters)
        return features, list(gradient), list(widths)

    whole, gradient, one = computed(10**6)
    parts, same, several = computed(0)
    assert one == [batch.input_ids.shape[1]] and len(several) == len(set(several)) > 1
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(same, gradient, atol=1e-4, rtol=1e-3)
