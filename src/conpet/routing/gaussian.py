"""Classes as normal distributions with one covariance, updated task by task, in fp64.

Shapes: n examples, C classes seen, d features. Tables: ``mean`` (C, d), ``scatter`` (d, d), the sum
over all examples of the outer product of their distance from the class mean, and ``count`` (), how
many examples there were. They do not depend on the order of the tasks.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Literal

import torch
from torch import Tensor

Weigh = Literal["examples", "classes"]


def add_classes(
    tables: MutableMapping[str, Tensor],
    prefix: str,
    features: Tensor,
    column: Tensor,
    n_new: int,
    *,
    weigh: Weigh = "examples",
) -> None:
    """Add ``n_new`` classes by their features (n, d); ``column`` (n,) counts from the first one.

    The tables are ``prefix/mean``, ``prefix/scatter`` and ``prefix/count``.

    Args:
        weigh: what counts alike in scatter / count: ``examples`` (the pooled covariance), or
            ``classes``: the mean over these classes of each one's own covariance (divided by n - 1;
            zero for a class of one example) is added once, and ``count`` grows by 1.
    """
    h = features.double().cpu()
    d = h.shape[1]
    count = torch.bincount(column, minlength=n_new).double()  # (n_new,)
    mean = torch.zeros(n_new, d, dtype=torch.float64).index_add_(0, column, h)
    mean /= count[:, None]
    within = h - mean[column]
    if weigh == "classes":
        within *= (n_new * (count - 1).clamp_min(1)).rsqrt()[column, None]
        count = torch.ones(1, dtype=torch.float64)
    empty = torch.zeros(0, d, dtype=torch.float64)
    tables[f"{prefix}/mean"] = torch.cat([tables.get(f"{prefix}/mean", empty), mean])
    tables[f"{prefix}/scatter"] = tables.get(f"{prefix}/scatter", 0.0) + within.T @ within
    tables[f"{prefix}/count"] = tables.get(f"{prefix}/count", 0.0) + count.sum()


def covariance(scatter: Tensor, count: Tensor, shrinkage: float) -> Tensor:
    """Sigma = (1 - g) S + g tr(S)/d I, (d, d), with S = scatter / count and g the shrinkage.

    Where S is zero (one example a class) Sigma is I, whatever g is.
    """
    s = scatter / count
    d = s.shape[0]
    spread, sphere = float(s.trace()) / d, torch.eye(d, dtype=s.dtype)
    return (1 - shrinkage) * s + shrinkage * spread * sphere if spread else sphere


def discriminant(mean: Tensor, sigma: Tensor, *, singular: bool = False) -> tuple[Tensor, Tensor]:
    """w (C, d) and b (C,) of w_c h + b_c = -1/2 (h - mu_c)^T Sigma^-1 (h - mu_c) + r(h).

    w_c = Sigma^-1 mu_c and b_c = -1/2 mu_c^T Sigma^-1 mu_c, for class means (C, d) and one Sigma
    (d, d). What is left over, r(h) = 1/2 h^T Sigma^-1 h, is the same for every class.

    Args:
        singular: Sigma may have no inverse; its pseudo-inverse takes the place.
    """
    if singular:
        weight = mean @ torch.linalg.pinv(sigma, hermitian=True)
    else:
        weight = torch.linalg.solve(sigma, mean.T).T
    return weight, -0.5 * (mean * weight).sum(dim=1)
