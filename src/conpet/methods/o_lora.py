"""O-LoRA (arXiv 2310.14152): each task learns in a subspace orthogonal to those of the old ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from conpet.config import at_task
from conpet.errors import ConfigError
from conpet.methods.base import LossTerms, Method, Phase, State, Step
from conpet.methods.tune import Tune, every_head
from conpet.replay.dynamic import NoReplay
from conpet.types import Batch, Routing

Weights = Mapping[str, Tensor]
FromTask = dict[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=0)]]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class OLoRA(Method):
    """A LoRA for each task; the old ones are frozen and stay active, their outputs are added.

        every adapted projection:  W x + (alpha / r) sum_{i<=t} B_i A_i x

        loss = task loss + lambda1 * sum over projections of sum |A_old A_t^T|
                         + lambda2 * sum over A_t and B_t of their Frobenius norm

    A_old (r(t-1), d) are the old down-projections behind one another, A_t (r, d) is the new one:
    the subspaces that they span are to be orthogonal. (The paper calls the other factor A; its code
    and ours mean the one that reads the input.) To answer: all adapters, for every input; no task
    id, and nothing to route.

    Classes: the authors' backbone writes its labels with an output layer that is never tuned, so
    here the rows of a head are frozen with their adapter: each task has a head of its own, only the
    newest trains, and all of them compete on the same features. One growing head that went on
    training would forget, whatever the adapters do.

    Where we differ from the authors' code: adapters are found by their place in the pool, not by
    parameter names, and a term of orthogonality that is 0 from the second task on is an error.
    """

    adapter_kinds: ClassVar[tuple[str, ...]] = ("lora",)
    answers: ClassVar[tuple[str, ...]] = ("class", "text")
    refuses: ClassVar[Mapping[str, str]] = {
        "adapter.kind": "it adds LoRAs up and keeps their down-projections orthogonal",
        "replay.kind": "it keeps old tasks in subspaces of their own, and looks at no old example",
    }

    orthogonality: float = Field(
        default=0.5, ge=0, description="lambda1, weight of the orthogonality to the old adapters"
    )
    orthogonality_from: FromTask = Field(
        default={}, description="another one from a task on: {10: 5.0} for tasks 10, ..."
    )
    norm: float = Field(
        default=0.0, ge=0, description="lambda2, weight of the norms of the new adapter's matrices"
    )
    norm_from: FromTask = Field(
        default={}, description="another one from a task on: {5: 0.1, 8: 0.0}"
    )

    def phases(self, state: State) -> Sequence[Phase]:
        rows = len(state.task.labels)
        phase = Orthogonal(
            "adapter", state.spec, state.task.name, "task", rows, NoReplay(), method=self
        )
        return [phase]

    def route(self, state: State, batch: Batch) -> Routing:
        weights = torch.ones(len(batch), len(state.history), device=state.device)
        return Routing(state.task_names, weights)

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        features = state.forward(batch, routing).features
        return every_head(state, features).log_softmax(dim=1)


@plain_dataclass(frozen=True, kw_only=True)
class Orthogonal(Tune):
    """The new adapter beside the frozen ones, and its two terms."""

    method: OLoRA

    def loss(self, state: State, step: Step) -> LossTerms:
        terms = dict(super().loss(state, step))
        task, new = len(state.history), state.pool.parameters_of(self.adapter)
        strength = at_task(self.method.orthogonality_from, task, self.method.orthogonality)
        if task > 1 and strength:
            terms["orthogonality"] = strength * self._overlap(state, new)
        weight = at_task(self.method.norm_from, task, self.method.norm)
        if weight:
            terms["norm"] = weight * norms(new)
        return terms

    def _overlap(self, state: State, new: Weights) -> Tensor:
        old = state.task_names[:-1]
        found = overlap(state.pool.stacked(old), new)
        if float(found.detach()) == 0:
            raise ConfigError(
                f"the orthogonality of task '{self.adapter}' to {', '.join(old)} is exactly 0, so "
                "nothing holds it to a subspace of its own: the adapters on one side have no "
                "weights. Learn the old tasks with this method first; or, to do without the term, "
                "give method.orthogonality=0"
            )
        return found

    def _routing(self, state: State, batch: Batch) -> Routing:
        return self.method.route(state, batch)

    def _answers(self, state: State, features: Tensor) -> Tensor:
        return every_head(state, features)


def overlap(old: Weights, new: Weights) -> Tensor:
    """sum over projections of sum_jk |A_old A_t^T|_jk, in fp32.

    Args:
        old: ``path.A`` -> (n * r, d), the down-projections of n old adapters.
        new: ``path.A`` -> (r, d), that of the new one; what else there is does not count.

    Raises:
        KeyError: the new adapter lacks a projection of the old ones.
    """
    parts = [(a.detach() @ new[key].T).abs().sum() for key, a in old.items()]
    return torch.stack(parts).sum()


def norms(new: Weights) -> Tensor:
    """sum of the Frobenius norms of all A (r, d_in) and B (d_out, r) of one adapter."""
    parts = [p.norm() for key, p in new.items() if key.endswith((".A", ".B"))]
    return torch.stack(parts).sum()
