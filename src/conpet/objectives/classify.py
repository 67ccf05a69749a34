"""Classification: the read-out of hidden states, and heads side by side.

Shapes: B batch, S sequence, d hidden, P pairs (example, adapter), C classes seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from conpet.errors import ConfigError
from conpet.types import Batch

ReadOut = Literal["mask", "mean", "cls", "last"]

NULL_LOGIT = -100.0
"""Logit of the classes of an adapter that was not routed to (ConPET's "null logit")."""


def read_out(hidden: Tensor, batch: Batch, how: ReadOut) -> Tensor:
    """Hidden states (B, S, d) to one feature vector an example, (B, d) in fp32.

    ``mask``: at the mask token. ``mean``: over real tokens. ``cls``: the first token. ``last``: the
    last real token.
    """
    at = torch.arange(len(batch), device=hidden.device)
    if how == "mask":
        if bool((batch.mask_position < 0).any()):
            raise ConfigError(
                "read_out 'mask' needs a prompt with a mask token, and this text has none; use "
                "backbone.read_out=mean (or cls, last), or give the examples entity spans"
            )
        return hidden[at, batch.mask_position].float()
    if how == "cls":
        return hidden[:, 0].float()
    if how == "last":
        return hidden[at, batch.attention_mask.sum(dim=1) - 1].float()
    mask = batch.attention_mask.unsqueeze(2).to(torch.float32)  # (B, S, 1)
    return (hidden.float() * mask).sum(dim=1) / mask.sum(dim=1)


def side_by_side(
    logits: Sequence[Tensor],
    example: Sequence[Tensor],
    first_column: Sequence[int],
    shape: tuple[int, int],
) -> Tensor:
    """Place the logits of every routed adapter in the columns of its classes.

    Args:
        logits: per adapter, (P_j, C_j).
        example: per adapter, (P_j,) the example of each row.
        first_column: per adapter, the first of its columns among the classes seen.
        shape: (B, C).

    Returns:
        (B, C) fp32; ``NULL_LOGIT`` where no adapter answered.
    """
    out = logits[0].new_full(shape, NULL_LOGIT, dtype=torch.float32)
    sizes = [values.shape[1] for values in logits]
    where = [
        rows[:, None] * shape[1] + torch.arange(first, first + n, device=out.device)
        for rows, first, n in zip(example, first_column, sizes, strict=True)
    ]
    values = torch.cat([values.float().flatten() for values in logits])
    places = torch.cat([place.flatten() for place in where])
    return out.flatten().index_put((places,), values).view(shape)


def cross_entropy(logits: Tensor, label: Tensor, divisor: int) -> Tensor:
    """-(1/divisor) sum_b log_softmax(logits_b)[label_b], in fp32.

    ``divisor`` is the size of the batch as it was drawn: examples without gradient may have been
    left out of ``logits``, and the loss keeps its scale.
    """
    log_probabilities = logits.float().log_softmax(dim=1)
    return -log_probabilities.gather(1, label[:, None]).sum() / divisor
