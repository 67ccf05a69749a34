"""The choice of ConPET's selector: the top-k tasks of a task classifier (arXiv 2309.14763)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from conpet.types import Routing


def top_k(names: Sequence[str], logits: Tensor, k: int, true_task: Tensor | None = None) -> Routing:
    """Route each example to the k adapters of largest selector logit.

    Args:
        names: the adapters, one per task in learning order (T of them).
        logits: (B, T) selector logits.
        k: adapters an example; k >= T takes all.
        true_task: (B,) for teacher forcing in training: where the true task is not among the k, it
            replaces the weakest pick. None at prediction.

    Returns:
        Routing with ``expand``. Its weights are the selector's probabilities of the chosen tasks
        and exactly zero elsewhere, so a reader can rank them; ``expand`` uses only which are
        non-zero.
    """
    k = min(k, len(names))
    chosen = logits.topk(k, dim=1).indices  # (B, k), best first
    if true_task is not None:
        missed = (chosen != true_task[:, None]).all(dim=1)
        chosen[missed, -1] = true_task[missed]
    active = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, chosen, True)
    tiny = torch.finfo(torch.float32).tiny  # a chosen task must stay non-zero
    weights = logits.float().softmax(dim=1).clamp_min(tiny) * active
    return Routing(tuple(names), weights, "expand")
