"""Shrinkage discriminant analysis against scikit-learn's."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from conpet.methods.base import State
from conpet.methods.lda import LDA
from conpet.testing import synthetic_stream, teach, tiny_state
from conpet.types import Task

TASKS = synthetic_stream(n_tasks=3, labels_per_task=3, train=8, test=12).tasks


def learned(tasks: tuple[Task, ...], shrinkage: float) -> State:
    state = tiny_state()
    teach(state, LDA(shrinkage=shrinkage), *tasks)
    return state


def log_probabilities(state: State, shrinkage: float) -> dict[str, dict[str, float]]:
    """Text -> label -> log-probability, for all tests."""
    method, found = LDA(shrinkage=shrinkage), {}
    for task, encoded in zip(TASKS, sorted(state.history, key=lambda t: t.name), strict=True):
        batch = state.batch(encoded.test)
        scores = method.scores(state, batch, method.route(state, batch))
        for example, row in zip(task.test, scores.tolist(), strict=True):
            found[example.id] = dict(zip(state.labels, row, strict=True))
    return found


@pytest.mark.parametrize("shrinkage", [0.01, 0.1, 0.5, 1.0])
def test_predictions_and_probabilities_are_those_of_scikit_learn(shrinkage: float) -> None:
    state = learned(TASKS, shrinkage)
    x = np.concatenate([state.features(t.train) for t in state.history]).astype(np.float64)
    y = np.concatenate([t.train_labels for t in state.history])
    priors = np.full(len(state.labels), 1 / len(state.labels))
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=priors)
    reference.fit(x, y)
    rows = np.concatenate([t.test for t in state.history])
    batch = state.batch(rows)
    method = LDA(shrinkage=shrinkage)
    ours = method.scores(state, batch, method.route(state, batch))
    theirs = reference.predict_log_proba(state.features(rows).astype(np.float64))
    assert ours.argmax(dim=1).tolist() == theirs.argmax(axis=1).tolist()
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-3)


def test_the_order_of_the_tasks_does_not_matter() -> None:
    a, *others = (log_probabilities(learned(order, 0.1), 0.1) for order in permutations(TASKS))
    for b in others:
        for example, scores in a.items():
            for label, value in scores.items():
                assert b[example][label] == pytest.approx(value, abs=1e-4)


def test_classes_of_unequal_size_weigh_by_their_examples() -> None:
    """S is pooled: the sum of squares within classes over the number of examples."""
    fewer = replace(TASKS[1], train=TASKS[1].train[:20])
    state = learned((TASKS[0], fewer), 0.1)
    x = np.concatenate([state.features(t.train) for t in state.history]).astype(np.float64)
    y = np.concatenate([t.train_labels for t in state.history])
    scatter = np.zeros((x.shape[1], x.shape[1]))
    for c in np.unique(y):
        z = x[y == c] - x[y == c].mean(axis=0)
        scatter += z.T @ z
    covariance = state.buffers["lda/scatter"] / state.buffers["lda/count"]
    torch.testing.assert_close(covariance, torch.from_numpy(scatter / len(x)), rtol=0, atol=1e-8)
