"""The losses of the memory-based methods against plain numpy, written from the papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conpet.objectives.contrastive import contrastive, geometry, some_rows
from conpet.objectives.distillation import distillation
from conpet.objectives.prototypes import class_means, nearest_mean_scores
from conpet.routing.gaussian import add_classes, covariance

RNG = np.random.default_rng(0)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x)).float() if x.dtype.kind == "f" else torch.from_numpy(x)


def test_the_contrastive_loss_is_that_of_the_formula() -> None:
    z, m = unit(RNG.normal(size=(5, 8))), unit(RNG.normal(size=(11, 8)))
    y, y_m = np.array([0, 1, 2, 1, 0]), np.arange(11) % 3
    tau, each = 0.1, []
    for i in range(5):
        s = np.array([z[i] @ m[j] / tau for j in range(11)])
        e = np.exp(s - s.max()) + 1e-4
        same = [j for j in range(11) if y_m[j] == y[i]]
        each.append(np.mean([-np.log(e[j] / e.sum()) for j in same]))
    ours = contrastive(tensor(z), tensor(y), tensor(m), tensor(y_m), tau)
    assert float(ours) == pytest.approx(np.mean(each), abs=1e-5)


def test_with_one_class_the_contrast_is_the_mean_log_softmax() -> None:
    z, m = unit(RNG.normal(size=(4, 6))), unit(RNG.normal(size=(7, 6)))
    one = torch.zeros(4, dtype=torch.int64), torch.zeros(7, dtype=torch.int64)
    s = z @ m.T / 0.5
    e = np.exp(s - s.max(axis=1, keepdims=True)) + 1e-4
    expected = -np.log(e / e.sum(axis=1, keepdims=True)).mean()
    ours = contrastive(tensor(z), one[0], tensor(m), one[1], 0.5)
    assert float(ours) == pytest.approx(expected, abs=1e-5)


def test_a_class_that_is_not_stored_has_no_term() -> None:
    z, m = tensor(unit(RNG.normal(size=(3, 4)))), tensor(unit(RNG.normal(size=(5, 4))))
    stored = torch.tensor([0, 0, 1, 1, 1])
    both = contrastive(z, torch.tensor([0, 1, 9]), m, stored, 0.1)
    assert float(both) == pytest.approx(
        float(contrastive(z[:2], torch.tensor([0, 1]), m, stored, 0.1)), abs=1e-6
    )


def test_the_geometry_loss_is_that_of_the_formula() -> None:
    z, p, m = unit(RNG.normal(size=(6, 5))), RNG.normal(size=(4, 9)), RNG.normal(size=(4, 5))
    y, t = np.array([0, 1, 2, 3, 1, 1]), 10.0
    gold = softmax(t * unit(p)[y] @ unit(p).T)
    now = softmax(t * z @ unit(m).T)
    expected = (gold * (np.log(gold) - np.log(now))).sum(axis=1).mean()
    ours = geometry(tensor(z), tensor(y), tensor(p), tensor(m), t)
    assert float(ours) == pytest.approx(expected, abs=1e-5)


def test_the_geometry_loss_is_zero_where_the_geometries_agree() -> None:
    p = RNG.normal(size=(4, 6))
    y = np.array([0, 1, 2, 3, 3])
    z = unit(p)[y]
    assert float(geometry(tensor(z), tensor(y), tensor(p), tensor(p * 3), 10.0)) == pytest.approx(
        0.0, abs=1e-5
    )


def test_a_drawn_part_of_the_pool_holds_every_class_of_the_batch() -> None:
    stored = torch.tensor([0] * 400 + [1])
    for seed in range(20):
        torch.manual_seed(seed)
        rows = some_rows(stored, torch.tensor([0, 1, 1]), 10)
        assert len(rows) == len(set(rows.tolist())) == 10
        assert 400 in rows.tolist()
    assert sorted(some_rows(stored[:8], torch.tensor([0]), 10).tolist()) == list(range(8))


def test_distillation_is_that_of_the_formula() -> None:
    before, now, t = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4)), 2.0
    expected = -(softmax(before / t) * np.log(softmax(now / t))).sum(axis=1).mean()
    ours = distillation(tensor(before), tensor(now), t)
    assert float(ours) == pytest.approx(expected, abs=1e-5)


def test_class_means_and_the_nearest_of_them() -> None:
    h = tensor(np.array([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0]]))
    means = class_means(h, torch.tensor([0, 0, 2]), torch.full((3, 2), 7.0))
    assert means.tolist() == [[1.0, 0.0], [7.0, 7.0], [5.0, 1.0]]
    scores = nearest_mean_scores(tensor(np.array([[1.0, 1.0], [6.0, 4.0]])), means)
    distance = np.array([[1.0, 72.0, 16.0], [41.0, 10.0, 10.0]])
    np.testing.assert_allclose(scores.numpy(), np.log(softmax(-distance)), atol=1e-5)
    assert scores.argmax(dim=1).tolist() == [0, 1]  # of two that are equally near, the first


def test_statistics_of_classes_add_up_to_those_of_all_data() -> None:
    h = RNG.normal(size=(30, 4)) * np.array([1.0, 2.0, 3.0, 4.0])
    y = np.repeat(np.arange(3), 10)
    tables: dict[str, torch.Tensor] = {}
    add_classes(tables, "x", torch.from_numpy(h[:10]), torch.from_numpy(y[:10]), 1)
    add_classes(tables, "x", torch.from_numpy(h[10:]), torch.from_numpy(y[10:] - 1), 2)
    mean = np.stack([h[y == c].mean(axis=0) for c in range(3)])
    s = (h - mean[y]).T @ (h - mean[y]) / 30
    expected = 0.9 * s + 0.1 * np.trace(s) / 4 * np.eye(4)
    np.testing.assert_allclose(tables["x/mean"].numpy(), mean, atol=1e-12)
    found = covariance(tables["x/scatter"], tables["x/count"], 0.1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)
