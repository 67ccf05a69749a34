"""A router in closed form: the nearest class mean in Mahalanobis distance, nothing trained.

    score of task t  =  -1/2 min_{c in t} (h - mu_c)^T Sigma^-1 (h - mu_c)  +  r(h)
    Sigma = (1 - g) S + g tr(S)/d I

h are features of the frozen backbone, mu_c the mean of class c, S one covariance within classes for
all tasks. r(h) is the same for every task: the largest score is the least distance, and a softmax
over the scores is the posterior of the tasks' nearest classes. Where answers are free text a task
is one class.

From EPI (Wang et al. 2023, ACL 2023). The shrinkage g is ours: with fewer examples than features S
has no inverse, and for the authors' pseudo-inverse, which g = 0 stands for, a difference outside of
what was seen counts nothing.

What is kept are sums that commute (``conpet.routing.gaussian``): tasks in any order give the same
router. No example is looked at again.

Shapes: B batch, n examples, d features, C classes seen, T tasks seen. Tables, all fp64 or int64:
``mean`` (C, d), ``scatter`` (d, d), ``count`` (), ``classes`` (T,), how many each task has; and,
made from them, ``weight`` (C, d) and ``bias`` (C,).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor

from conpet.routing.gaussian import Weigh, add_classes, covariance, discriminant


def add_task(
    tables: MutableMapping[str, Tensor],
    prefix: str,
    features: Tensor,
    column: Tensor,
    n_classes: int,
    *,
    shrinkage: float,
    weigh: Weigh = "examples",
) -> None:
    """Add a task by the features (n, d) of its examples, ``column`` (n,) their class in it.

    Args:
        shrinkage: g, 0..1.
        weigh: see ``add_classes``; ``classes`` is what EPI's authors do.
    """
    add_classes(tables, prefix, features, column, n_classes, weigh=weigh)
    known = tables.get(f"{prefix}/classes", torch.zeros(0, dtype=torch.long))
    tables[f"{prefix}/classes"] = torch.cat([known, torch.tensor([n_classes])])
    sigma = covariance(tables[f"{prefix}/scatter"], tables[f"{prefix}/count"], shrinkage)
    mean, singular = tables[f"{prefix}/mean"], shrinkage == 0
    weight, bias = discriminant(mean, sigma, singular=singular)
    tables[f"{prefix}/weight"], tables[f"{prefix}/bias"] = weight.contiguous(), bias


def task_scores(tables: Mapping[str, Tensor], prefix: str, features: Tensor) -> Tensor:
    """(B, T) fp32 scores of features (B, d), on their device.

    The score of a row's best task is 0: the common term is no use, and fp32 could not hold it.
    """
    h = features.double().cpu()
    classes = h @ tables[f"{prefix}/weight"].T + tables[f"{prefix}/bias"]  # (B, C)
    groups = classes.split(tables[f"{prefix}/classes"].tolist(), dim=1)
    scores = torch.stack([group.amax(dim=1) for group in groups], dim=1)
    return (scores - scores.amax(dim=1, keepdim=True)).float().to(features.device)
