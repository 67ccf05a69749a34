"""LoRA (arXiv 2106.09685, eq. 3): out + (alpha / r) * sum_i w_i B_i A_i dropout(x)."""

from __future__ import annotations

from collections.abc import Sequence

from conpet.adapters.base import AdaptableBackbone
from conpet.adapters.lowrank import LowRank
from conpet.errors import ConfigError


def lora(
    backbone: AdaptableBackbone,
    *,
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Sequence[str] | None = None,
    layers: int | None = None,
) -> LowRank:
    """LoRA adapters on the projections called ``targets``.

    Args:
        rank: r, at least 1.
        alpha: the branch is scaled by alpha / r; None is alpha = r, a factor of 1. (The authors of
            ConPET left their library's default, alpha = 1, unnoticed: a factor of 0.25 at r = 4.)
        dropout: probability in [0, 1) on the branch's input while training.
        targets: last names of the projections; None is the default of the backbone's family.
        layers: only in the upper so many layers; None is all of them.
    """
    if rank < 1:
        raise ConfigError(f"LoRA rank is {rank}; allowed is 1 or more (8 is a good start)")
    if not 0 <= dropout < 1:
        raise ConfigError(f"LoRA dropout is {dropout}; allowed is 0 <= dropout < 1")
    alpha = float(rank if alpha is None else alpha)
    if alpha <= 0:
        raise ConfigError(
            f"LoRA alpha is {alpha}; allowed is above 0 (leave it out for alpha = rank)"
        )
    return LowRank(
        backbone.linears(targets, layers),
        rank=rank,
        scale=alpha / rank,
        reads="input",
        dropout=dropout,
        settings={"kind": "lora", "rank": rank, "alpha": alpha},
    )
