"""The losses of CRL (arXiv 2203.02135): contrast with stored features, distil their geometry.

Shapes: B batch, n stored rows, C old classes, p projected features, d hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FLOOR = 1e-4


def contrastive(
    z: Tensor, label: Tensor, stored: Tensor, stored_label: Tensor, temperature: float
) -> Tensor:
    """Supervised contrast of fresh features z (B, p) with stored ones (n, p), both of length 1.

        s_ij = z_i . m_j / temperature,   e_ij = exp(s_ij - max_j s_ij) + 1e-4,
        L = mean_i mean_{j: y_j = y_i} -log(e_ij / sum_k e_ik)

    An example whose class is not stored has no term.
    """
    s = z @ stored.T / temperature  # (B, n)
    e = (s - s.amax(dim=1, keepdim=True)).exp() + FLOOR
    terms = -(e / e.sum(dim=1, keepdim=True)).log()
    same = (label[:, None] == stored_label[None, :]).to(z.dtype)  # (B, n)
    count = same.sum(dim=1)
    each = (terms * same).sum(dim=1) / count.clamp_min(1)
    return each.sum() / (count > 0).sum().clamp_min(1)


def geometry(
    z: Tensor, column: Tensor, prototypes: Tensor, means: Tensor, sharpness: float
) -> Tensor:
    """KL that keeps old classes as near to each other as they were.

        gold_i = softmax(t P[y_i] P^T),  now_i = softmax(t z_i M^T),  L = mean_i KL(gold_i || now_i)

    with the rows of P and M scaled to length 1.

    Args:
        z: (B, p) fresh features of old examples, of length 1.
        column: (B,) their classes, rows of both tables.
        prototypes: (C, d) the old classes as they were when the last task was learned.
        means: (C, p) means of their stored projected features.
        sharpness: t.
    """
    unit = functional.normalize(prototypes, dim=1)
    gold = (sharpness * unit[column] @ unit.T).log_softmax(dim=1)
    now = (sharpness * z @ functional.normalize(means, dim=1).T).log_softmax(dim=1)
    return functional.kl_div(now, gold, reduction="batchmean", log_target=True)


def some_rows(stored_label: Tensor, wanted: Tensor, at_most: int) -> Tensor:
    """Places of at most ``at_most`` stored rows, drawn by the global generator.

    One of every class in ``wanted`` (B,) comes first, so that rare classes are never missing.
    """
    order = torch.randperm(len(stored_label)).to(stored_label.device)
    if len(order) <= at_most:
        return order
    shuffled = stored_label[order]
    known = wanted.unique()
    known = known[torch.isin(known, shuffled)]
    firsts = [int((shuffled == label).nonzero()[0]) for label in known]
    rest = torch.ones(len(order), dtype=torch.bool, device=order.device)
    rest[firsts] = False
    return torch.cat([order[firsts], order[rest]])[: max(at_most, len(firsts))]
