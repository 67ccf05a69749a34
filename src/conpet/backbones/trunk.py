"""The frozen layers below the adapters: run apart from those above, or left out where it is known
what they give.

The model's own forward runs in both cases, with all that it prepares (embeddings, positions, masks
of attention). To stop it half-way a hook on the first layer above takes what comes in; to go on
from there the layers below give the states, for the time, instead of computing them.

Shapes: B batch, S sequence, d hidden.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.mt5.modeling_mt5 import MT5Block
from transformers.models.t5.modeling_t5 import T5Block

from conpet.backbones.base import Backbone
from conpet.backbones.generative import CausalLM
from conpet.errors import ConfigError


class Trunk:
    """The layers of a backbone below its ``upper`` ones; of an encoder-decoder, of its encoder.

    Attributes:
        depth: how many they are.
        share: of all layers.

    Raises:
        ConfigError: there are none, or this model cannot be run in two parts; with the reason.
    """

    def __init__(self, backbone: Backbone, upper: int) -> None:
        self.backbone, self.layers = backbone, backbone.layers
        self.depth = len(self.layers) - upper
        self.share = self.depth / len(self.layers)
        if self.depth < 1:
            raise self._refused("the adapters lie in all of its layers; lower adapter.layers")
        if isinstance(backbone, CausalLM):
            raise self._refused(
                "a decoder that writes needs keys and values of all layers at each token"
            )
        self._parts = 0
        if not self._joins():
            raise self._refused(
                f"a '{backbone.config.model_type}' model gives other states when its layers are "
                "run in two parts"
            )

    def key(self, *precision: object) -> str:
        """What its states depend on beside a text, as the name of a file: the layers, and the
        ``precision`` in which they are run and what they give is kept."""
        facts = f"{self.backbone.fingerprint} {self.depth} {self.backbone.device.type} {precision}"
        return hashlib.sha256(facts.encode()).hexdigest()[:32]

    def lower(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What the first layer above reads, (B, S, d), without gradient."""
        hook = self.layers[self.depth].register_forward_pre_hook(_take, with_kwargs=True)
        try:
            with torch.no_grad():
                self.backbone(input_ids, attention_mask)
        except _Reached as reached:
            return reached.states
        finally:
            hook.remove()
        raise AssertionError("the layers above were not reached")

    @contextmanager
    def given(self, states: Tensor) -> Iterator[None]:
        """While it is open, the layers below do not run: they give ``states`` (B, S, d)."""
        value = self._as_layers_give(states)
        below = [vars(layer) for layer in self.layers[: self.depth]]
        own = [{k: v for k, v in names.items() if k == "forward"} for names in below]
        try:
            for names in below:  # of the object, before that of its class
                names["forward"] = lambda *_, **__: value
            yield
        finally:
            for names, before in zip(below, own, strict=True):
                del names["forward"]
                names |= before  # where another library has put one there

    def _as_layers_give(self, states: Tensor) -> Any:
        """A tensor or, in some models, a tuple that begins with it."""
        first: Any = self.layers[0]
        if isinstance(first, T5Block | MT5Block):  # it makes what all layers add to their scores
            attention: Any = first.layer[0].SelfAttention
            return states, attention.compute_bias(states.shape[1], states.shape[1]), None
        return (states, *[None] * (self._parts - 1)) if self._parts else states

    def _joins(self) -> bool:
        """Whether two texts give the same states in two parts as in one."""
        device = self.backbone.device
        ids = torch.tensor(self.backbone.ordinary_tokens[:12], device=device).repeat(12)[:12]
        ids, mask = ids.view(2, 6), torch.ones(2, 6, dtype=torch.long, device=device)
        mask[1, 4:] = 0
        hook = self.layers[self.depth - 1].register_forward_hook(self._note_form)
        try:
            with torch.no_grad():
                whole = self.backbone(ids, mask)
                with self.given(self.lower(ids, mask)):
                    parts = self.backbone(ids, mask)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return False
        finally:
            hook.remove()
        real = mask.bool()
        return torch.allclose(whole[real].float(), parts[real].float(), rtol=1e-2, atol=1e-2)

    def _note_form(self, layer: nn.Module, args: Any, out: Any) -> None:
        self._parts = len(out) if isinstance(out, tuple) else 0

    def _refused(self, reason: str) -> ConfigError:
        return ConfigError(
            f"backbone.keep_trunk is true, and backbone '{self.backbone.name}' has no layers that "
            f"could be computed once and kept: {reason}. Leave it out (auto)"
        )


class _Reached(Exception):
    """The layers below are done."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


def _take(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    raise _Reached(args[0] if args else kwargs["hidden_states"])
