"""The shared attention of SAPT (arXiv 2401.08295): how much of each adapter an input gets.

    q = f(max over the tokens of a prompt of their frozen embeddings)        query, (d,)
    a = softmax over tasks of (k_i . q / temperature)                        one key a task

Shapes: B batch, S positions, d width of the token embeddings, T tasks, N remembered queries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from conpet.types import Routing

Order = Literal["after", "between"]
Pooling = Literal["masked", "padded"]


class SharedAttention(nn.Module):
    """The projection f, which is handed on from task to task, and the keys of the tasks.

    Args:
        width: d.
        bottleneck: of f.
        order: where f has its SiLU: ``after`` both linear layers (the authors' code), or
            ``between`` them (the paper's formula). LayerNorm comes last in both.
        temperature: None is sqrt(d).
        generator: of the first weights.
    """

    def __init__(
        self,
        width: int,
        *,
        bottleneck: int = 100,
        order: Order = "after",
        temperature: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        down, up = (
            nn.Linear(width, bottleneck, bias=False),
            nn.Linear(bottleneck, width, bias=False),
        )
        with torch.no_grad():  # by hand: loaders of pretrained models patch torch.nn.init
            for layer in (down, up):
                bound = 1 / math.sqrt(layer.in_features)
                layer.weight.uniform_(-bound, bound, generator=generator)
        inner = [down, up, nn.SiLU()] if order == "after" else [down, nn.SiLU(), up]
        self.projection = nn.Sequential(*inner, nn.LayerNorm(width))
        self.keys = nn.ParameterDict()
        self.width = width
        self.temperature = math.sqrt(width) if temperature is None else temperature

    @property
    def device(self) -> torch.device:
        return next(self.projection.parameters()).device

    def add_key(self, name: str, generator: torch.Generator) -> None:
        """A key in U(-1, 1)^d; one that is there already is drawn anew."""
        key = torch.empty(self.width).uniform_(-1, 1, generator=generator)
        self.keys[_of(name)] = nn.Parameter(key.to(self.device))

    def parameters_of(self, name: str) -> dict[str, nn.Parameter]:
        """What trains with task ``name``: the projection and its key."""
        own = {f"projection.{key}": p for key, p in self.projection.named_parameters()}
        return own | {"key": self.keys[_of(name)]}

    def logits(self, pooled: Tensor, names: Sequence[str]) -> Tensor:
        """(N, T) k_i . f(e) / temperature, of pooled embeddings e (N, d). Of the keys the last one
        alone has a gradient: those before it are frozen."""
        own = dict(self.keys.named_parameters())  # one look, however many there are
        old = [own[_of(name)].detach() for name in names[:-1]]
        keys = torch.stack([*old, own[_of(names[-1])]])
        scores: Tensor = self.projection(pooled) @ keys.T / self.temperature
        return scores

    def forward(self, pooled: Tensor, names: Sequence[str]) -> Tensor:
        """(N, T) the weights; each row sums to 1."""
        return self.logits(pooled, names).softmax(dim=1)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Make room for the keys that are to be loaded."""
        for key in state_dict:
            if key.startswith(f"{prefix}keys."):
                name = key.removeprefix(f"{prefix}keys.")
                if name not in self.keys:
                    self.keys[name] = nn.Parameter(torch.empty(self.width, device=self.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _of(name: str) -> str:
    """A parameter's name: no dots, and never the name of an attribute."""
    return "key:" + name.replace(".", "/")


def pool_tokens(embeddings: Tensor, mask: Tensor, how: Pooling = "masked") -> Tensor:
    """(B, d) the largest value of each dimension over a prompt's token embeddings (B, S, d).

    ``masked`` looks at real tokens alone; ``padded`` at the padding too, as the authors' code does:
    the result then depends on the rest of the batch.
    """
    if how == "masked":
        embeddings = embeddings.masked_fill(mask[:, :, None] == 0, -torch.inf)
    return embeddings.amax(dim=1).float()


def route(
    names: Sequence[str], logits: Tensor, *, top: int | None, newest: bool = False, cut: bool
) -> Routing:
    """The mix of adapters by the softmax of ``logits`` (B, T).

    Args:
        top: keep the largest so many of each row, and let their weights sum to 1 again; None keeps
            all.
        newest: the last one is always among them, as training needs it.
        cut: see ``Routing``.
    """
    if top is None or top >= len(names):
        return Routing(tuple(names), logits.softmax(dim=1), "mix", cut=cut)
    ranks = logits.detach().clone()
    if newest:
        ranks[:, -1] = torch.inf
    left_out = torch.ones_like(ranks).scatter_(1, ranks.topk(top, dim=1).indices, 0.0).bool()
    # The same as weights divided by their sum, and finite where all that are kept are very small
    weights = logits.masked_fill(left_out, -torch.inf).softmax(dim=1)
    return Routing(tuple(names), weights, "mix", top=top, cut=cut)


@dataclass(frozen=True)
class Remembered:
    """Queries of old tasks' (pseudo-)samples, and how they were routed when their task was learned.

    Attributes:
        pooled: (N, d) pooled token embeddings.
        target: (N, T) reference attention; 0 for tasks that came later.
        weight: (N,) of each in the loss.
    """

    pooled: Tensor
    target: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.pooled)


def reflection(logits: Tensor, remembered: Remembered) -> Tensor:
    """sum_n weight_n KL(target_n || softmax(logits_n)), logits (N, T).

    The entropy of the targets is included, so that the loss is 0 where nothing has changed.
    """
    target = remembered.target
    log_a = logits.float().log_softmax(dim=1)
    divergence = (torch.xlogy(target, target) - target * log_a).sum(dim=1)
    return (remembered.weight * divergence).sum()


def padded_reference(reference: Tensor, n_tasks: int) -> Tensor:
    """(..., i) -> (..., T): the tasks behind the i that were known had no part in it."""
    return functional.pad(reference, (0, n_tasks - reference.shape[-1]))
