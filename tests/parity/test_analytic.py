"""The closed-form router against plain numpy, written from EPI's formula."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conpet.routing.analytic import add_task, task_scores
from conpet.routing.gaussian import Weigh

D = 6
SIZES = ((5, 4), (7, 1, 6), (3,), (12, 2))
"""Examples of each class of each task; one class has a single example."""


def drawn(seed: int = 0) -> list[list[np.ndarray]]:
    """The features of each class of each task."""
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=(n, D)) + 2 * rng.normal(size=D) for n in task] for task in SIZES]


def router(tasks: list[list[np.ndarray]], **settings: Any) -> dict[str, Tensor]:
    tables: dict[str, Tensor] = {}
    for classes in tasks:
        features = torch.from_numpy(np.concatenate(classes))
        column = torch.cat([torch.full((len(h),), c) for c, h in enumerate(classes)])
        order = torch.randperm(len(column), generator=torch.Generator().manual_seed(1))
        add_task(tables, "r", features[order], column[order], len(classes), **settings)
    return tables


def expected(tasks: list[list[np.ndarray]], h: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """(B, T) min_c (h - mu_c)^T Sigma^-1 (h - mu_c), one by one."""
    inverse, out = np.linalg.inv(sigma), np.zeros((len(h), len(tasks)))
    for b in range(len(h)):
        for t, classes in enumerate(tasks):
            gaps = [h[b] - known.mean(axis=0) for known in classes]
            out[b, t] = min(gap @ inverse @ gap for gap in gaps)
    return out


def shrunk(s: np.ndarray, g: float) -> np.ndarray:
    return (1 - g) * s + g * np.trace(s) / len(s) * np.eye(len(s))


def scatter(h: np.ndarray) -> np.ndarray:
    z = h - h.mean(axis=0)
    return z.T @ z


def pooled(tasks: list[list[np.ndarray]]) -> np.ndarray:
    n = sum(len(h) for task in tasks for h in task)
    return sum((scatter(h) for task in tasks for h in task), np.zeros((D, D))) / n


def averaged(tasks: list[list[np.ndarray]]) -> np.ndarray:
    """(1/T) sum over tasks of the mean over their classes of Cov_c; 0 for a class of one."""
    of = [np.mean([scatter(h) / max(len(h) - 1, 1) for h in task], axis=0) for task in tasks]
    return np.mean(of, axis=0)


def compared(scores: Tensor, distances: np.ndarray) -> None:
    """Scores are -1/2 of the distances, up to a number for each row."""
    best = distances.min(axis=1, keepdims=True)
    np.testing.assert_allclose(scores.numpy(), -0.5 * (distances - best), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shrinkage", [0.01, 0.1, 0.7, 1.0])
@pytest.mark.parametrize(("weigh", "covariance"), [("examples", pooled), ("classes", averaged)])
def test_scores_are_those_of_the_formula(weigh: Weigh, covariance: Any, shrinkage: float) -> None:
    tasks, h = drawn(), np.random.default_rng(1).normal(size=(9, D)) * 2
    found = task_scores(
        router(tasks, shrinkage=shrinkage, weigh=weigh), "r", torch.from_numpy(h).float()
    )
    assert found.shape == (9, len(SIZES)) and found.dtype == torch.float32
    h = torch.from_numpy(h).float().double().numpy()
    compared(found, expected(tasks, h, shrunk(covariance(tasks), shrinkage)))


@pytest.mark.parametrize("n", [1, 3])
def test_without_shrinkage_the_pseudo_inverse_is_that_of_the_formula(n: int) -> None:
    """Of one task alone there are fewer examples than features: S is singular."""
    tasks, h = [task[:1] for task in drawn()[:n]], np.random.default_rng(1).normal(size=(9, D))
    tables = router(tasks, shrinkage=0.0, weigh="classes")
    inverse = np.linalg.pinv(averaged(tasks), hermitian=True)
    found = task_scores(tables, "r", torch.from_numpy(h))
    means = [task[0].mean(axis=0) for task in tasks]
    value = np.stack([h @ inverse @ m - 0.5 * m @ inverse @ m for m in means], axis=1)
    best = value.max(axis=1, keepdims=True)
    np.testing.assert_allclose(found.numpy(), value - best, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weigh", ["examples", "classes"])
def test_any_order_of_the_tasks_gives_the_same_router(weigh: Weigh) -> None:
    tasks, h = drawn(), torch.randn(9, D, generator=torch.Generator().manual_seed(2))
    straight = task_scores(router(tasks, shrinkage=0.1, weigh=weigh), "r", h)
    for order in permutations(range(len(tasks))):
        tables = router([tasks[i] for i in order], shrinkage=0.1, weigh=weigh)
        found = task_scores(tables, "r", h)[:, [order.index(i) for i in range(len(tasks))]]
        torch.testing.assert_close(found, straight, rtol=1e-5, atol=1e-5)


def test_a_sphere_of_one_gives_half_the_squared_euclidean_distance() -> None:
    """Classes of one example have no scatter: with g = 1 Sigma is I. And nothing is NaN."""
    rng = np.random.default_rng(3)
    tasks = [[rng.normal(size=(1, D)) for _ in range(n)] for n in (2, 1, 3)]
    h = rng.normal(size=(5, D))
    for weigh in ("examples", "classes"):
        tables = router(tasks, shrinkage=1.0, weigh=weigh)
        assert all(bool(t.isfinite().all()) for t in tables.values())
        compared(task_scores(tables, "r", torch.from_numpy(h)), expected(tasks, h, np.eye(D)))


def test_the_first_task_alone_is_certain() -> None:
    tables = router(drawn()[:1], shrinkage=0.1)
    assert task_scores(tables, "r", torch.randn(3, D)).tolist() == [[0.0], [0.0], [0.0]]
