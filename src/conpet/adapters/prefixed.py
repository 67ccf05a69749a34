"""Prefixes inside the attentions of a model: before the keys, in the mask, and in the positions.

An attention of transformers hands its keys and values to a cache, if it is given one, and goes on
with what the cache gives back. That is where a prefix comes in: a cache that puts it before them,
around the model's own where one decodes. Nothing of the model is changed.

Shapes: B batch, k prefixes in use, m positions, H heads, d of the keys, S text, n keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conpet.errors import RoutingError


@dataclass(frozen=True, slots=True)
class Chosen:
    """The prefixes of a batch.

    Attributes:
        tables: K_1, V_1, K_2, ... of the prefixes in use, each (k, m, d).
        row: (B,) which of them each example has; None: all have the one.
        there: (B,) bool, whether it has any; None: all have one.
        batch: B.
    """

    tables: tuple[Tensor, ...]
    row: Tensor | None
    there: Tensor | None
    batch: int

    @property
    def length(self) -> int:
        return self.tables[0].shape[1]

    def of(self, place: int, like: Tensor) -> Tensor:
        """(B, H, m, d/H) from the table at ``place``, in the shape and type of keys or values."""
        table = self.tables[place].to(like.dtype)
        k, heads = len(table), like.shape[1]
        table = table.view(k, self.length, heads, -1).transpose(1, 2)
        return table.expand(len(like), -1, -1, -1) if self.row is None else table[self.row]

    def check(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """RoutingError unless a module reads as many rows."""
        names = ("hidden_states", "input_ids", "inputs_embeds", "decoder_input_ids")
        for read in (*args[:1], *(kwargs.get(name) for name in names)):
            if read is not None and len(read) != self.batch:
                raise RoutingError(
                    f"the routing has {self.batch} rows and the batch {len(read)}; give one row "
                    "per example (a zero row is the plain backbone)"
                )

    def moved(self, positions: Tensor) -> Tensor:
        """Positions (1 or B, S) of texts, behind their prefixes."""
        if self.there is None:
            return positions + self.length
        return positions + self.length * self.there[:, None].to(positions.dtype)


def attend(
    chosen: Chosen, layer: int, module: nn.Module, args: Any, kwargs: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The hook of one self-attention: the prefix before its keys, and the mask made wider."""
    chosen.check(module, args, kwargs)
    states: Tensor = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    behind = _Behind(kwargs.get("past_key_values"), chosen, 2 * layer)
    name = "mask" if "mask" in kwargs else "attention_mask"
    mask = _wider(kwargs.get(name), chosen, module, states, behind.text_length(states.shape[1]))
    return args, {**kwargs, "past_key_values": behind, name: mask}


class _Behind:
    """The cache of one layer as its attention sees it: what it holds comes behind a prefix."""

    def __init__(self, cache: Any, chosen: Chosen, place: int) -> None:
        self.cache = getattr(cache, "self_attention_cache", cache)  # of an encoder-decoder
        self.chosen, self.place = chosen, place

    def text_length(self, new: int) -> int:
        """Keys of the text, once ``new`` have come."""
        return new + self._held(self.place // 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.chosen.length + self._held(layer_idx)

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        if self.cache is not None:
            key, value = self.cache.update(key, value, layer_idx, *args, **kwargs)
        keys, values = (self.chosen.of(self.place + i, t) for i, t in enumerate((key, value)))
        return torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)

    def _held(self, layer_idx: int) -> int:
        return 0 if self.cache is None else int(self.cache.get_seq_length(layer_idx))


class Watched:
    """A cache that writes down what it is given."""

    def __init__(self, found: list[Tensor]) -> None:
        self.found = found

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        self.found += [key, value]
        return key, value


def _wider(
    mask: Tensor | None, chosen: Chosen, module: nn.Module, states: Tensor, n_text: int
) -> Tensor | None:
    """An attention's mask with a column for each position of the prefix.

    Masks are (1 or B, 1, 1 or S, n), True or 0 where something is seen; those of flash attention
    (B, n) with 1; None where all, or all that came before, is seen.
    """
    config: Any = module.config
    implementation = config._attn_implementation
    flash, causal = "flash" in implementation, bool(getattr(module, "is_causal", False))
    if mask is None:
        new = states.shape[1]
        if chosen.there is None and (flash or new == 1 or not causal):
            return None
        if flash:
            mask = torch.ones(chosen.batch, n_text, dtype=torch.long, device=states.device)
        else:
            seen = torch.ones(1, 1, new, n_text, dtype=torch.bool, device=states.device)
            mask = seen.tril(n_text - new) if causal else seen
            if implementation == "eager":
                mask = torch.zeros_like(mask, dtype=states.dtype).masked_fill(
                    ~mask, torch.finfo(states.dtype).min
                )
    yes, no = (0.0, torch.finfo(mask.dtype).min) if mask.is_floating_point() else (1, 0)
    if chosen.there is None:
        return F.pad(mask, (chosen.length, 0), value=yes)
    columns = torch.where(chosen.there, yes, no).to(mask.dtype)
    columns = columns.view(-1, *[1] * (mask.dim() - 1))
    mask = mask.expand(chosen.batch, *mask.shape[1:])
    return torch.cat([columns.expand(*mask.shape[:-1], chosen.length), mask], dim=-1)


@contextmanager
def moved(modules: tuple[nn.Module, ...], chosen: Chosen) -> Iterator[None]:
    """While it is open, the modules that turn positions into vectors see them moved."""

    def move(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if isinstance(module, nn.Embedding):
            return (chosen.moved(args[0]), *args[1:]), kwargs
        if "position_ids" in kwargs:  # of rotary embeddings
            return args, {**kwargs, "position_ids": chosen.moved(kwargs["position_ids"])}
        return (args[0], chosen.moved(args[1]), *args[2:]), kwargs

    handles = [module.register_forward_pre_hook(move, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
