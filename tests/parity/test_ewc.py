"""EWC against closed forms and the sum that its constant memory stands for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conpet.methods.base import PhaseSpec, State
from conpet.methods.ewc import EWC, add_task, penalty
from conpet.methods.tune import SHARED
from conpet.testing import synthetic_stream, teach, tiny_state

TASKS = synthetic_stream(n_tasks=2, labels_per_task=3).tasks
SPEC = PhaseSpec(epochs=2, batch_size=4, lr=1e-2)


def test_one_quadratic_is_the_sum_of_one_for_each_task() -> None:
    """With a head that grows, on random tensors, against autograd on the plain sum."""
    torch.manual_seed(0)
    shapes = [(2, 3), (3, 3), (5, 3)]
    buffers: dict[str, torch.Tensor] = {}
    tasks = []
    for shape in shapes:
        theta, fisher = torch.randn(shape), torch.rand(shape)
        add_task(buffers, {"head.weight": theta}, {"head.weight": fisher})
        tasks.append((theta, fisher))
    weight = torch.randn(6, 3, requires_grad=True)
    plain = sum(
        0.5 * (fisher * (weight[: len(theta)] - theta).square()).sum() for theta, fisher in tasks
    )
    ours = penalty({"head.weight": weight}, buffers)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)
    expected = torch.autograd.grad(plain, weight)[0]
    torch.testing.assert_close(torch.autograd.grad(ours, weight)[0], expected, rtol=0, atol=1e-5)


def learned(method: EWC, n: int = 1) -> State:
    state = tiny_state(spec=SPEC)
    teach(state, method, *TASKS[:n])
    return state


def softmax_of_head(state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """h (n, d), p (n, C) and one-hot y (n, C) on the training data of the newest task."""
    h = state.features(state.task.train, SHARED).astype(np.float64)
    head = state.pool.head(SHARED)
    logits = h @ head.weight.detach().numpy().T.astype(np.float64) + head.bias.detach().numpy()
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return h, p, np.eye(p.shape[1])[state.task.train_labels]


def test_the_empirical_fisher_of_the_head_is_its_closed_form() -> None:
    """d/dW of -log p_y is (p - y) h^T, so F_W = mean (p - y)^2 h^2 and F_b = mean (p - y)^2."""
    state = learned(EWC())
    h, p, y = softmax_of_head(state)
    weight = ((p - y) ** 2).T @ h**2 / len(h)
    bias = ((p - y) ** 2).mean(axis=0)
    found = state.buffers["ewc/fisher/head.weight"].numpy()
    np.testing.assert_allclose(found, weight, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        state.buffers["ewc/fisher/head.bias"].numpy(), bias, rtol=1e-3, atol=1e-5
    )


def test_the_expected_fisher_of_the_head_is_its_closed_form() -> None:
    """F = mean over batches of sum_c mean(p)_c g_c^2, g_c = mean_b (p_b - e_c) h_b^T."""
    method = EWC(fisher="expected")
    state = learned(method)
    h, p, _ = softmax_of_head(state)
    place = {int(row): i for i, row in enumerate(state.task.train)}
    rows = state.rng("fisher").permutation(state.task.train)
    batches = [rows[i : i + 4] for i in range(0, len(rows), 4)]
    total = np.zeros((3, h.shape[1]))
    for batch in batches:
        at = [place[int(row)] for row in batch]
        for c, share in enumerate(p[at].mean(axis=0)):
            g = (p[at] - np.eye(3)[c]).T @ h[at] / len(at)
            total += share * g**2 / len(batches)
    found = state.buffers["ewc/fisher/head.weight"].numpy()
    np.testing.assert_allclose(found, total, rtol=1e-3, atol=1e-5)


def test_the_penalty_pulls_weights_back() -> None:
    """What mattered to the old task moves less: sum F (theta - theta*)^2 after the next one."""
    moved = []
    for strength in (0.0, 1e5):
        spec = replace(SPEC, epochs=10, select="last")
        state = tiny_state(spec=spec)
        teach(state, EWC(strength=strength), TASKS[0])
        first = dict(state.buffers)
        teach(state, EWC(strength=strength), TASKS[1])
        moved.append(float(penalty(state.pool.tensors(SHARED), first)))
    assert moved[1] < moved[0] / 2
