"""Bottleneck adapters: h + sum_i w_i B_i act(A_i h), h the output of a sublayer's last projection.

Houlsby (arXiv 1902.00751) after attention and MLP, Pfeiffer (arXiv 2005.00247) after the MLP only.
The skip around the adapter is always kept, so that a new adapter (B = 0) leaves the pretrained
function as it is. (ConPET's code drops the skip on LLaMA.)
"""

from __future__ import annotations

from torch.nn import functional as F

from conpet.adapters.base import PLACEMENTS, AdaptableBackbone, Placement
from conpet.adapters.lowrank import Activation, LowRank
from conpet.errors import ConfigError, did_you_mean

ACTIVATIONS: dict[str, Activation] = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu}
USUAL_ACTIVATION: dict[Placement, str] = {"houlsby": "silu", "pfeiffer": "relu"}


def bottleneck(
    backbone: AdaptableBackbone,
    *,
    size: int = 64,
    placement: Placement = "houlsby",
    activation: str | None = None,
    layers: int | None = None,
) -> LowRank:
    """Bottleneck adapters of ``size`` units.

    Args:
        placement: ``houlsby`` or ``pfeiffer``.
        activation: ``silu``, ``relu`` or ``gelu``; None is silu for Houlsby, relu for Pfeiffer.
        layers: only in the upper so many layers; None is all of them.
    """
    if size < 1:
        raise ConfigError(f"bottleneck size is {size}; allowed is 1 or more (64 is a good start)")
    if placement not in PLACEMENTS:
        raise ConfigError(
            f"unknown bottleneck placement '{placement}'.{did_you_mean(placement, PLACEMENTS)} "
            f"Allowed: {', '.join(PLACEMENTS)}"
        )
    activation = activation or USUAL_ACTIVATION[placement]
    if activation not in ACTIVATIONS:
        raise ConfigError(
            f"unknown activation '{activation}'.{did_you_mean(activation, ACTIVATIONS)} "
            f"Allowed: {', '.join(ACTIVATIONS)}"
        )
    return LowRank(
        backbone.sublayers(placement, layers),
        rank=size,
        scale=1.0,
        reads="output",
        activation=ACTIVATIONS[activation],
        settings={
            "kind": "bottleneck",
            "size": size,
            "placement": placement,
            "activation": activation,
        },
    )
