"""A soft prompt and a text in one row of embeddings, so that the padding changes nothing.

In every row stand first the prompt's positions that are there, then the text's, or the other way
round, without a gap; all padding is on one side. A row without a prompt is then the text alone, at
the positions it has without one, whatever the model makes of positions.

Shapes: B batch, m positions of the soft prompt, S of the text, N = m + S, d of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from conpet.errors import RoutingError
from conpet.types import Position, SoftPrompt


@dataclass(frozen=True)
class Prompted:
    """What a model reads.

    Attributes:
        embeddings: (B, N, d) in the type of the text's.
        mask: (B, N) int64, 1 for real positions.
        order: (B, N) int64, where each position stood in [soft prompt, text], or in [text, soft
            prompt]; None: it is there.
        position: of the soft prompt.
    """

    embeddings: Tensor
    mask: Tensor
    order: Tensor | None
    position: Position = "before"

    def text(self, states: Tensor, length: int) -> Tensor:
        """The states (B, S, d) of the ``length`` positions of the text, of all states (B, N, d)."""
        own = slice(-length, None) if self.position == "before" else slice(length)
        if self.order is None:
            return states[:, own]
        place = self.order.argsort(dim=1)[:, own]
        return states.gather(1, _wide(place, states))

    def ids(self, input_ids: Tensor) -> Tensor:
        """(B, N) an id for each position, of the text's ids (B, S); those of the soft prompt, which
        has none, repeat the text's first."""
        m = self.mask.shape[1] - input_ids.shape[1]
        whole = _joined(input_ids[:, :1].expand(-1, m), input_ids, self.position)
        return whole if self.order is None else whole.gather(1, self.order)


def prompted(
    soft_prompt: SoftPrompt,
    embeddings: Tensor,
    attention_mask: Tensor,
    *,
    padding: Literal["left", "right"],
) -> Prompted:
    """``soft_prompt`` before or behind texts that are padded on the right.

    Args:
        embeddings: (B, S, d) of the texts.
        attention_mask: (B, S).
        padding: the side on which it is to be afterwards.

    Raises:
        RoutingError: it has more or fewer rows than there are texts.
    """
    batch, m = soft_prompt.embeddings.shape[:2]
    if batch != len(embeddings):
        raise RoutingError(
            f"the soft prompt has {batch} rows and the batch {len(embeddings)}; give the routing "
            "one row per example (a zero row is the plain backbone)"
        )
    given = soft_prompt.mask
    there = attention_mask.new_ones(batch, m) if given is None else given.to(attention_mask)
    position = soft_prompt.position
    mask = _joined(there, attention_mask, position)
    whole = _joined(soft_prompt.embeddings.to(embeddings.dtype), embeddings, position)
    if padding == "right" and given is None and position == "before":
        return Prompted(whole, mask, None)
    order = mask.argsort(dim=1, stable=True, descending=padding == "right")
    moved = whole.gather(1, _wide(order, whole))
    return Prompted(moved, mask.gather(1, order), order, position)


def _joined(prompt: Tensor, text: Tensor, position: Position) -> Tensor:
    """Both beside each other, (B, N, ...)."""
    return torch.cat([prompt, text] if position == "before" else [text, prompt], dim=1)


def _wide(index: Tensor, like: Tensor) -> Tensor:
    """An index (B, n) of positions for tensors (B, N, d)."""
    return index.unsqueeze(2).expand(-1, -1, like.shape[2])
