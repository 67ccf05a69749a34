"""Which examples of a class stand for it: functions of points (n, d) that return m places of them,
the most telling first."""

from __future__ import annotations

import numpy as np


def kmeans(points: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """The points nearest to the centroids of ``m`` clusters (EMR, arXiv 1903.02588).

    Largest cluster first. Equal points are one: fewer than ``m`` distinct points make fewer
    clusters, and one point that is nearest to two centroids is taken once.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    n_clusters = min(m, len(np.unique(points, axis=0)))
    with threadpool_limits(1):  # sums of threads would come in any order
        found = KMeans(n_clusters, n_init=1, random_state=int(rng.integers(2**31))).fit(points)
    distance = found.transform(points)  # (n, n_clusters)
    sizes = np.bincount(found.labels_, minlength=n_clusters)
    nearest = distance.argmin(axis=0)[np.argsort(-sizes, kind="stable")]
    _, first = np.unique(nearest, return_index=True)
    return nearest[np.sort(first)]


def herding(points: np.ndarray, m: int) -> np.ndarray:
    """Greedy: each next point brings the mean of the chosen nearest to the mean of all.

    iCaRL (arXiv 1611.07725, algorithm 4), on points of length 1. The first k of m are what herding
    would choose for k.
    """
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    mean, chosen_sum = points.mean(axis=0), np.zeros(points.shape[1])
    chosen: list[int] = []
    for k in range(1, min(m, len(points)) + 1):
        distance = np.linalg.norm(mean - (chosen_sum + points) / k, axis=1)  # (n,)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
        chosen_sum += points[chosen[-1]]
    return np.array(chosen)
