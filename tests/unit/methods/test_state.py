"""State: features of any rows, in their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from conpet.methods import passes
from conpet.routing.base import single
from conpet.testing import synthetic_stream, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream
from conpet.types import Example, Routing, padded


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
        monkeypatch.setattr(passes, "OF_A_PASS", of_a_pass)
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


def test_a_batch_that_no_second_pass_could_shorten_is_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without its lengths there is one pass, where with them there would be one too."""
    state = tiny_state(*synthetic_stream(n_tasks=1).tasks)
    batch = state.batch(state.task.train[:6])
    plain = Routing((), torch.zeros(6, 0))
    tokens = 6 * padded(batch.input_ids.shape[1])
    looked: list[int] = []
    cut = type(state)._cut

    def watched(state: Any, lengths: np.ndarray, beside: int) -> Any:
        looked.append(len(lengths))
        return cut(state, lengths, beside)

    monkeypatch.setattr(type(state), "_cut", watched)
    monkeypatch.setattr(passes, "OF_A_PASS", tokens)
    (whole,) = state.parts(batch, plain)
    assert whole.tolist() == [0, 1, 2, 3, 4, 5] and not looked
    lengths = batch.attention_mask.sum(dim=1).numpy()
    assert len(list(cut(state, lengths, 0))) == 1  # what they would have said
    monkeypatch.setattr(passes, "OF_A_PASS", tokens - 1)
    state.parts(batch, plain)
    assert looked == [6]
    monkeypatch.setattr(passes, "OF_A_PASS", tokens)
    state.token_budget = tokens // 2  # and where it does not fit
    assert len(state.parts(batch, plain)) > 1 and looked == [6, 6]


def test_a_batch_is_divided_by_what_stands_before_its_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (task,) = instruction_stream(1, train=8).tasks
    state = tiny_state(task, backbone=tiny_t5(generative=True), kind="prompt", length=20)
    for i, name in enumerate("abc"):
        state.pool.add(name, seed=i)
    batch = state.batch(state.task.train)
    weights = torch.ones(len(batch), 3)
    weights[::2, 1] = 0
    routing = Routing(tuple("abc"), weights, "concat")
    whole = 60 + batch.input_ids.shape[1] + batch.answer_ids.shape[1]
    monkeypatch.setattr(passes, "OF_A_PASS", 10**6)  # by the budget alone
    found, sizes = [], []
    once = state.backbone.forward

    def counted(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(ids))
        return once(ids, *rest)

    monkeypatch.setattr(state.backbone, "forward", counted)
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
