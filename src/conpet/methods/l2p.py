"""L2P (arXiv 2112.08654): soft prompts from a pool, chosen for each input by their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from conpet.adapters.seeding import generator_for
from conpet.errors import ConfigError
from conpet.methods.base import LossTerms, Method, ParamGroup, Phase, State, Step
from conpet.methods.tune import Tune
from conpet.replay.dynamic import NoReplay
from conpet.routing.base import plain
from conpet.routing.prompt_pool import Keys, nearest, nearness
from conpet.types import Batch, Routing

KEYS = "keys"
MASKED = -1e4
"""Logit of an old class while a new task is learned."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class L2P(Method):
    """Learn to prompt: one pool of N prompts P_i (m, d) with keys K_i for all tasks.

        q(x) = mean of the last hidden states of the plain backbone       query, (d,), frozen
        S(x) = the n prompts of largest cos(q(x), K_i)
        what the backbone reads = [P_i for i in S(x); E(x)]               (n * m + S, d)
        loss = task loss - pull * mean over i in S(x) of cos(q(x), K_i)

    Pool, keys and one growing head train, on new examples alone. Each input is asked with its own
    prompts, in training and at prediction alike: an answer depends on nothing but its input.

    Classes: the loss runs over the classes of the new task (``old_classes=masked``, as published),
    or over all that were seen; answers are always among all of them.

    Where we differ from the authors' code and its text variant: prompts are never those that most
    of a batch would choose; keys begin with a direction, not at zero; chosen prompts stand in the
    order of the pool, not of their nearness; the pull is a mean over the chosen keys (theirs: a
    sum).
    """

    adapter_kinds: ClassVar[tuple[str, ...]] = ("prompt",)
    adapter_defaults: ClassVar[Mapping[str, Any]] = {"kind": "prompt"}
    answers: ClassVar[tuple[str, ...]] = ("class", "text")
    refuses: ClassVar[Mapping[str, str]] = {
        "replay.kind": "its pool is what it remembers by, and it looks at no old example",
        "adapter.kind": "its pool holds soft prompts, several of which stand before a text",
    }

    pool: int = Field(default=20, ge=1, description="N, prompts in the pool")
    top_n: int = Field(default=5, ge=1, description="n, prompts that stand before a text")
    pull: float = Field(
        default=0.5, ge=0, description="weight of the term that draws chosen keys to their queries"
    )
    old_classes: Literal["masked", "seen"] = Field(
        default="masked",
        description="in training, classes of old tasks have no part in the loss (masked, as "
        "published), or are among its wrong answers (seen)",
    )

    def check(self, replay: str) -> None:
        if self.top_n > self.pool:
            raise ConfigError(
                f"method.top_n is {self.top_n}, and the pool has {self.pool} prompts; lower it to "
                f"{self.pool} or less, or raise method.pool"
            )

    def prompts(self, n_tasks: int) -> int:
        return self.top_n

    @property
    def names(self) -> tuple[str, ...]:
        """The prompts of the pool; the first has the head."""
        return tuple(f"@prompt-{i:02d}" for i in range(1, self.pool + 1))

    def modules(self, state: State) -> Mapping[str, nn.Module]:
        generator = generator_for(state.seed, "l2p", KEYS)
        return {KEYS: Keys(self.pool, state.backbone.hidden_size, generator).to(state.device)}

    def phases(self, state: State) -> Sequence[Phase]:
        how = ("adapter", state.spec, self.names[0], "shared", len(state.labels), NoReplay())
        return [FromPool(*how, method=self)]

    def route(self, state: State, batch: Batch) -> Routing:
        return nearest(self.names, keys(state)(query(state, batch)), self.top_n)


def keys(state: State) -> Keys:
    module = state.modules[KEYS]
    assert isinstance(module, Keys)
    return module


@torch.no_grad()
def query(state: State, batch: Batch) -> Tensor:
    """(B, d) q(x)."""
    return state.forward(batch, plain(len(batch), state.device), "mean").features


@plain_dataclass(frozen=True, kw_only=True)
class FromPool(Tune):
    """Tune the chosen prompts, their keys and the head.

    Buffers while it lasts: the rows (n,) of the new task, sorted, and their queries (n, d).
    """

    method: L2P

    def begin(self, state: State) -> None:
        super().begin(state)
        seed = state.seed_of(self.name, "initial weights")
        for name in self.method.names[1:]:
            if name in state.pool:
                state.pool.thaw(name)
            else:
                state.pool.add(name, seed=seed, role=self.role)
        rows = np.unique(np.concatenate([state.task.train, state.task.valid]))
        state.buffers["l2p/rows"] = torch.from_numpy(rows)
        state.buffers["l2p/queries"] = torch.from_numpy(state.features(rows, how="mean"))

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        own = {
            f"{name}.{key}": p
            for name in self.method.names
            for key, p in state.pool.parameters_of(name).items()
        }
        return [ParamGroup(own | {KEYS: keys(state).keys}, self.spec.lr)]

    def loss(self, state: State, step: Step) -> LossTerms:
        terms = dict(super().loss(state, step))
        cosine = self._cosine(state, step["task"])
        terms[KEYS] = -self.method.pull * nearness(cosine, self.method.top_n)
        return terms

    def end(self, state: State) -> None:
        for name in ("rows", "queries"):
            state.buffers.pop(f"l2p/{name}", None)
        for name in self.method.names[1:]:
            state.pool.freeze(name)
        super().end(state)

    def _cosine(self, state: State, batch: Batch) -> Tensor:
        """(B, N), of queries that were computed once."""
        at = torch.searchsorted(state.buffers["l2p/rows"], batch.rows.cpu())
        return keys(state)(state.buffers["l2p/queries"][at].to(state.device))

    def _routing(self, state: State, batch: Batch) -> Routing:
        return nearest(self.method.names, self._cosine(state, batch), self.method.top_n)

    def _answers(self, state: State, features: Tensor) -> Tensor:
        logits = super()._answers(state, features)
        if self.method.old_classes == "seen":
            return logits
        old = torch.arange(logits.shape[1], device=logits.device) < state.task.first_column
        return logits.masked_fill(old, MASKED)
