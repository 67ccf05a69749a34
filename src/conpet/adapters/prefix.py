"""Prefixes (Li and Liang 2021, arXiv 2101.00190): m trained keys and values in each self-attention.

In layer l the text of an example attends to its adapter's prefix as well as to itself:

    softmax(q [K_l; k]^T) [V_l; v]            K_l, V_l (m, d)

The prefix stands before the text, as a cache of m earlier tokens would: the text's positions begin
at m, as in peft, whether the model has position embeddings, rotary ones or relative biases. (A
sliding window never leaves the prefix out.) Encoders and decoders have prefixes in all their
layers; of an encoder and a decoder that writes, the decoder has them, as in peft.

An example has one prefix or none: rows of the routing are one-hot or zero. What a softmax makes of
two prefixes is no sum of what it makes of each, so mixing them has no meaning, and is refused. A
row of zeros is the plain backbone.

A new prefix is what m ordinary tokens, drawn at random, leave in the cache of the plain backbone:
of the right scale in every layer. (peft draws it from N(0, 1).)

Shapes: B batch, k prefixes in use, m positions, L layers, H heads, d of the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from conpet.adapters.base import AdaptableBackbone
from conpet.adapters.prefixed import Chosen, Watched, attend, moved
from conpet.errors import ConfigError, RoutingError
from conpet.types import Routing


class Prefix(nn.Module):
    """All prefixes of a pool, in fp32. Implements ``AdapterKind``.

    A prefix is one tensor (m, 2 L d): K_1, V_1, K_2, V_2, ... side by side, as peft lays them out.

    Args:
        length: m, at least 1.

    Raises:
        ConfigError: the backbone is of a family whose self-attention takes none.
    """

    def __init__(self, backbone: AdaptableBackbone, *, length: int = 10) -> None:
        super().__init__()
        if length < 1:
            raise ConfigError(
                f"prefix length is {length}; allowed is 1 or more (10 is a good start)"
            )
        self.length = length
        self._backbone = (backbone,)  # tuples, so that nothing frozen becomes a submodule
        places = backbone.self_attentions()
        self._attentions = tuple(places)
        self.width = next(iter(places.values()))  # d
        if set(places.values()) != {self.width}:
            raise ConfigError(
                f"the layers of backbone '{backbone.name}' have keys of different widths, and a "
                "prefix has one width; use adapter.kind=lora, or prompt"
            )
        self._positions = tuple(backbone.positions())
        self._prefixes = nn.ParameterDict()

    @property
    def hooked(self) -> tuple[nn.Module, ...]:
        return self._attentions

    def settings(self) -> dict[str, Any]:
        return {"kind": "prefix", "length": self.length}

    @property
    def sizes(self) -> dict[str, int]:
        """Length m, width d of the keys in each layer, their heads, and the layers."""
        config: Any = self._attentions[0].config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        layers = len(self._attentions)
        return {"length": self.length, "width": self.width, "heads": heads, "n_layers": layers}

    @property
    def _shape(self) -> tuple[int, int]:
        return self.length, 2 * len(self._attentions) * self.width

    def add(self, name: str, generator: Generator) -> None:
        (backbone,) = self._backbone
        tokens = torch.tensor(backbone.ordinary_tokens)
        ids = tokens[torch.randint(len(tokens), (self.length,), generator=generator)]
        if self._device.type == "meta":  # sizes alone
            start = torch.empty(self._shape, device="meta")
        else:
            start = self._left_by(ids[None].to(self._device))
        self._prefixes[_key(name)] = nn.Parameter(start)

    @torch.no_grad()
    def _left_by(self, ids: Tensor) -> Tensor:
        """(m, 2 L d) what tokens (1, m) leave in the caches of all layers."""
        found: dict[int, list[Tensor]] = {}

        def watch(layer: int, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
            found[layer] = []
            return args, {**kwargs, "past_key_values": Watched(found[layer])}

        with self._hooked(watch):
            self._backbone[0].read(ids)
        # (1, H, m, d/H) -> (m, d)
        rows = [t[0].transpose(0, 1).flatten(1) for layer in sorted(found) for t in found[layer]]
        return torch.cat(rows, dim=1).float().clone()

    def freeze(self, name: str) -> None:
        weight = self._of(name).detach().clone()  # in no optimiser
        self._prefixes[_key(name)] = nn.Parameter(weight, requires_grad=False)

    def thaw(self, name: str) -> None:
        self._prefixes[_key(name)] = nn.Parameter(self._of(name).detach().clone())

    def remove(self, name: str) -> None:
        del self._prefixes[_key(name)]

    def parameters_of(self, name: str) -> dict[str, nn.Parameter]:
        return {"prefix": self._of(name)}

    def storage(self, name: str) -> dict[str, Tensor]:
        return {"prefix": self._of(name).detach()}

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prefix": self._shape}

    @contextmanager
    def routed(self, routing: Routing) -> Iterator[None]:
        chosen = self._chosen(routing)
        if chosen is None:
            yield
            return
        model = self._backbone[0].model
        check = model.register_forward_pre_hook(chosen.check, with_kwargs=True)
        try:
            with self._hooked(partial(attend, chosen)), moved(self._positions, chosen):
                yield
        finally:
            check.remove()

    def _chosen(self, routing: Routing) -> Chosen | None:
        """The prefix of every row; None where no row has one."""
        weights = routing.weights.detach().cpu()  # the only device synchronisation of a call
        used = weights != 0
        if routing.weights.requires_grad or bool(((weights != 1) & used).any()):
            _refuse("weights that are neither 0 nor 1, or learned")
        if bool((used.sum(dim=1) > 1).any()):
            _refuse("several prefixes for one example")
        columns = used.any(dim=0).nonzero().flatten().tolist()
        if not columns:
            return None
        table = torch.stack([self._of(routing.names[c]) for c in columns])  # (k, m, 2 L d)
        there = used.any(dim=1)
        row = used[:, columns].int().argmax(dim=1)
        return Chosen(
            table.split(self.width, dim=2),
            None if len(columns) == 1 else row.to(self._device),
            None if bool(there.all()) else there.to(self._device),
            len(weights),
        )

    @contextmanager
    def _hooked(self, before: Callable[[int, nn.Module, Any, Any], Any]) -> Iterator[None]:
        """While it is open, ``before`` sees what each self-attention is called with."""
        handles = [
            module.register_forward_pre_hook(partial(before, layer), with_kwargs=True)
            for layer, module in enumerate(self._attentions)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _of(self, name: str) -> nn.Parameter:
        found: nn.Parameter = self._prefixes[_key(name)]
        return found

    @property
    def _device(self) -> torch.device:
        return next(self._backbone[0].model.parameters()).device


def _refuse(what: str) -> None:
    raise RoutingError(
        f"the routing has {what}; prefixes cannot be mixed: a softmax over two of them is no sum "
        "of two softmaxes. Route each example to one prefix with weight 1, or to none; or use "
        "adapter.kind=prompt or lora, which can be mixed"
    )


def _key(name: str) -> str:
    """A parameter's name: no dots, never the name of a method, and one for each adapter name."""
    return "prefix:" + name.encode().hex()
