"""Classes as points: their means, and answers by what lies nearest.

Shapes: n examples, B batch, C classes, d features.
"""

from __future__ import annotations

import torch
from torch import Tensor


def class_means(features: Tensor, column: Tensor, otherwise: Tensor) -> Tensor:
    """(C, d) mean of the features (n, d) of each class; ``column`` (n,) says whose they are.

    A class without an example keeps its row of ``otherwise`` (C, d).
    """
    count = torch.bincount(column, minlength=len(otherwise)).to(features.dtype)  # (C,)
    total = torch.zeros_like(otherwise).index_add_(0, column, features)
    return torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], otherwise)


def nearest_mean_scores(features: Tensor, means: Tensor) -> Tensor:
    """(B, C) log softmax of minus the squared distance to each class mean, in fp32.

    The largest is the nearest class mean; of equal ones the first.
    """
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(features.float(), means.float(), compute_mode=exact)  # (B, C)
    return (-distance.square()).log_softmax(dim=1)
