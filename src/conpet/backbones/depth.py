"""A backbone with its first layers alone: less deep, and cheaper."""

from __future__ import annotations

from conpet.backbones.base import Backbone
from conpet.errors import ConfigError


def keep_first(backbone: Backbone, layers: int) -> Backbone:
    """Drop all layers but the first ``layers``; what comes before and behind them stays.

    Of an encoder-decoder the encoder's are dropped; the decoder stays whole.

    Raises:
        ConfigError: it does not have so many, or they were not found.
    """
    config = backbone.config
    n = int(config.num_hidden_layers)
    if not 1 <= layers <= n:
        raise ConfigError(
            f"backbone.layers is {layers}, and backbone '{backbone.name}' has {n}; "
            f"allowed: 1 to {n}, or null for all"
        )
    if layers == n:
        return backbone
    del backbone.layers[layers:]
    if getattr(config, "layer_types", None):  # what each layer attends to
        config.layer_types = config.layer_types[:layers]
    config.num_hidden_layers = layers
    return backbone
