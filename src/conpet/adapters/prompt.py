"""Soft prompts (Lester et al. 2021, arXiv 2104.08691): m trained embeddings before a text's own,
or behind them (as LFPT5 has it, arXiv 2110.07298).

With weights w of the routing, before the text of example b stands

    sum_i w_bi P_i          (m, d)

A row of zeros has no prompt: the plain backbone. (It is no prompt of zeros: that would be m
positions more to attend to.) So no gradient reaches the weights of such a row.

A routing of combine ``concat`` puts them behind one another instead: [P_i; P_j; ...], (k * m, d),
of the k weights of a row that are not zero, in the order of the routing's names.

Optionally P_i is re-parameterised while it is trained (Progressive Prompts, arXiv 2301.12314):

    P_i = E_i + W relu(V E_i + v) + u           V (h, d), W (d, h)

each adapter with a network of its own, which starts as the identity: W and u are zero. When the
adapter is frozen P_i takes the place of E_i and the network is dropped; when it is thawed it has a
fresh one. Where we differ from the authors' code: no layer norm behind W, with which P_i would not
begin at E_i; no network that all prompts share.

Shapes: B batch, n adapters, m positions, d of the embeddings, h hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from conpet.adapters.base import AdaptableBackbone
from conpet.adapters.seeding import generator_for
from conpet.adapters.weights import fingerprint
from conpet.errors import ConfigError
from conpet.types import POSITIONS, Position, Routing, SoftPrompt


class Prompt(nn.Module):
    """All soft prompts of a pool, in fp32. Implements ``AdapterKind``.

    Args:
        length: m, at least 1.
        bottleneck: h of the re-parameterisation; None is without one.
        position: ``before`` the text, or ``after`` its last token.

    Raises:
        ConfigError: a size that is out of range; a prompt behind the text of a causal backbone that
            writes nothing: no position that is read out would see it.
    """

    def __init__(
        self,
        backbone: AdaptableBackbone,
        *,
        length: int = 10,
        bottleneck: int | None = None,
        position: Position = "before",
    ) -> None:
        super().__init__()
        if length < 1:
            raise ConfigError(
                f"prompt length is {length}; allowed is 1 or more (10 is a good start)"
            )
        if bottleneck is not None and bottleneck < 1:
            raise ConfigError(
                f"prompt bottleneck is {bottleneck}; allowed is 1 or more, or none for no "
                "re-parameterisation"
            )
        if position not in POSITIONS:
            raise ConfigError(f"prompt position is '{position}'; allowed: {', '.join(POSITIONS)}")
        if position == "after" and backbone.kind == "decoder" and not _writes(backbone):
            raise ConfigError(
                f"prompt position is 'after', and backbone '{backbone.name}' is causal: what it "
                "makes of a text never sees what stands behind it, so such a prompt would change "
                "no class; use adapter.position=before, an encoder, or answers in free text"
            )
        self.length, self.bottleneck, self.position = length, bottleneck, position
        self._backbone = (backbone,)  # a tuple, so that it becomes no submodule
        self._prompts = nn.ModuleDict()

    @property
    def hooked(self) -> tuple[nn.Module, ...]:
        return ()  # it is part of the input

    def settings(self) -> dict[str, Any]:
        where = {} if self.position == "before" else {"position": self.position}
        return {"kind": "prompt", "length": self.length, **where}

    def add(self, name: str, generator: Generator) -> None:
        """E begins as the embeddings of ordinary tokens, drawn at random."""
        (backbone,) = self._backbone
        tokens = torch.tensor(backbone.ordinary_tokens)
        ids = tokens[torch.randint(len(tokens), (self.length,), generator=generator)]
        with torch.no_grad():
            start = backbone.embed(ids.to(self._device)).float().clone()
        self._prompts[_key(name)] = OnePrompt(start, self.bottleneck, generator)

    def freeze(self, name: str) -> None:
        with torch.no_grad():
            weight = self._of(name)().clone()  # in no optimiser
        self._prompts[_key(name)] = OnePrompt(weight).requires_grad_(False)

    def thaw(self, name: str) -> None:
        weight = self._of(name).weight.detach().clone()
        # By the name and the weights alone, so that a run that is resumed draws the same network.
        seed = generator_for(0, "prompt", name, fingerprint({}, {"prompt": weight}))
        self._prompts[_key(name)] = OnePrompt(weight, self.bottleneck, seed)

    def remove(self, name: str) -> None:
        del self._prompts[_key(name)]

    def parameters_of(self, name: str) -> dict[str, nn.Parameter]:
        return self._of(name).named()

    def storage(self, name: str) -> dict[str, Tensor]:
        return {key: p.detach() for key, p in self._of(name).named().items()}

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        (backbone,) = self._backbone
        width = backbone.embed(torch.zeros(1, dtype=torch.long, device=self._device)).shape[-1]
        return {"prompt": (self.length, width)}

    @contextmanager
    def routed(self, routing: Routing) -> Iterator[SoftPrompt | None]:
        """Nothing happens by itself: the prompt that is given has to be handed to the backbone."""
        yield self._behind(routing) if routing.combine == "concat" else self._mixed(routing)

    def positions(self, routing: Routing) -> int:
        """Most positions that stand with a text under a routing."""
        used = routing.weights.detach() != 0
        most = int(used.sum(dim=1).max()) if used.numel() else 0
        return self.length * (most if routing.combine == "concat" else min(most, 1))

    def _mixed(self, routing: Routing) -> SoftPrompt | None:
        """sum_i w_bi P_i for every row b; None where no row has a prompt."""
        values = routing.weights.detach().cpu()  # the only device synchronisation of a call
        there = values.any(dim=1)
        if not bool(there.any()):
            return None
        learned = routing.weights.requires_grad and torch.is_grad_enabled()
        everyone = learned and routing.top is None  # a weight of zero has a gradient too
        used = values.any(dim=0).nonzero().flatten().tolist()
        columns = list(range(len(routing.names))) if everyone else used
        weights = routing.weights.to(self._device)[:, columns].float()
        if learned and routing.top is not None:
            weights = weights * (weights != 0)  # here it has none
        with torch.autocast(self._device.type, enabled=False):
            prompts = torch.stack([self._of(routing.names[c])() for c in columns])  # (n, m, d)
            mixed = torch.einsum("bn,nmd->bmd", weights, prompts)
        if bool(there.all()):
            return SoftPrompt(mixed, None, self.position)
        mask = there.long()[:, None].expand(-1, self.length)
        return SoftPrompt(mixed, mask.to(self._device), self.position)

    def _behind(self, routing: Routing) -> SoftPrompt | None:
        """The prompts of each row behind one another, (B, k * m, d), k the most that a row has;
        None where no row has any. Rows with fewer have their missing positions masked."""
        used = routing.weights.detach().cpu() != 0
        counts = used.sum(dim=1)  # (B,)
        k = int(counts.max()) if used.numel() else 0
        if not k:
            return None
        columns = used.any(dim=0).nonzero().flatten().tolist()
        # Of each row those that are used first, in the order of the names
        order = used[:, columns].int().argsort(dim=1, descending=True, stable=True)[:, :k]
        with torch.autocast(self._device.type, enabled=False):
            prompts = torch.stack([self._of(routing.names[c])() for c in columns])  # (n, m, d)
            chosen = prompts[order.to(self._device)].flatten(1, 2)  # (B, k * m, d)
        if bool((counts == k).all()):
            return SoftPrompt(chosen, None, self.position)
        mask = (torch.arange(k)[None, :] < counts[:, None]).long()
        mask = mask.repeat_interleave(self.length, dim=1).to(self._device)
        return SoftPrompt(chosen, mask, self.position)

    def _of(self, name: str) -> OnePrompt:
        found = self._prompts[_key(name)]
        assert isinstance(found, OnePrompt)
        return found

    @property
    def _device(self) -> torch.device:
        return next(self._backbone[0].model.parameters()).device


class OnePrompt(nn.Module):
    """P (m, d) of one adapter, and the network behind it where ``bottleneck`` says its size."""

    def __init__(
        self, weight: Tensor, bottleneck: int | None = None, generator: Generator | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.network = nn.ParameterDict()
        if bottleneck is None:
            return
        d, bound = weight.shape[1], 1 / math.sqrt(weight.shape[1])
        start = {
            "V": torch.empty(bottleneck, d).uniform_(-bound, bound, generator=generator),
            "v": torch.zeros(bottleneck),
            "W": torch.zeros(d, bottleneck),
            "u": torch.zeros(d),
        }
        self.network.update({key: nn.Parameter(t.to(weight.device)) for key, t in start.items()})

    def forward(self) -> Tensor:
        if not self.network:
            return self.weight
        V, v, W, u = (self.network[key] for key in ("V", "v", "W", "u"))
        return self.weight + F.linear(F.relu(F.linear(self.weight, V, v)), W, u)

    def named(self) -> dict[str, nn.Parameter]:
        """``prompt``, and ``network.V`` and so on."""
        return {"prompt": self.weight} | {f"network.{k}": p for k, p in self.network.items()}


def _writes(backbone: AdaptableBackbone) -> bool:
    """Whether it has the head that writes answers."""
    model: Any = backbone.model
    return bool(model.get_output_embeddings() is not None)


def _key(name: str) -> str:
    """A submodule name: no dots, never the name of a method, and one for each adapter name."""
    return "prompt:" + name.encode().hex()
