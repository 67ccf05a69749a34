"""What a model said before, kept as a target.

Shapes: B examples, C classes, n tokens of answers, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor


def distillation(before: Tensor, now: Tensor, temperature: float) -> Tensor:
    """-(1/B) sum_b sum_c softmax(before_b / t)[c] log softmax(now_b / t)[c], in fp32.

    Args:
        before, now: (B, C) logits of the same classes in the same columns.
    """
    target = (before.float() / temperature).softmax(dim=1)
    return -(target * (now.float() / temperature).log_softmax(dim=1)).sum(dim=1).mean()


def token_divergence(before: Tensor, now: Tensor) -> Tensor:
    """sum over the n tokens of answers of KL(softmax(before) || softmax(now)), in fp32; 0 without
    any.

    Args:
        before, now: (n, V) logits.
    """
    target, log_q = (z.float().log_softmax(dim=1) for z in (before, now))
    return (target.exp() * (target - log_q)).sum()
