"""EWC (arXiv 1612.00796): weights that mattered to old tasks are held in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from conpet.methods.base import LossTerms, Phase, State, Step
from conpet.methods.tune import SHARED, OneAdapter, Tune
from conpet.replay.dynamic import NoReplay

Tensors = Mapping[str, Tensor]
NO_REPLAY = "it keeps old tasks by holding weights, and looks at no old example"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EWC(OneAdapter):
    """Elastic weight consolidation of one adapter and its growing head, on new data alone:

        loss = cross-entropy + strength * sum_{j<k} 1/2 sum_i F_ji (theta_i - theta*_ji)^2

    theta*_j are the weights after task j and F_j their diagonal Fisher information on its data:
    ``empirical``: the mean over examples of the squared gradient of -log p(y | x); ``expected``, as
    in the authors' code: the mean over batches of sum_c p_c g_c^2 with p the batch's mean softmax
    and g_c the gradient of the batch's mean loss if all its labels were c.

    In constant memory: the sum over tasks is 1/2 sum_i F_i (theta_i - m_i)^2 + rest, with
    F = sum_j F_j and m = sum_j F_j theta*_j / F. It is the same number, not an approximation.
    """

    adapter_kinds: ClassVar[tuple[str, ...]] = ("lora", "bottleneck", "full")
    refuses: ClassVar[Mapping[str, str]] = {
        "replay.kind": NO_REPLAY,
        "adapter.kind": "it holds weights that stay the same ones from task to task, and those of "
        "a re-parameterised soft prompt do not",
    }

    strength: float = Field(default=1000.0, ge=0, description="weight of the penalty")
    fisher: Literal["empirical", "expected"] = Field(
        default="empirical", description="how the Fisher information is measured"
    )
    fisher_examples: int = Field(
        default=200, ge=1, description="examples of a task that it is measured on, at most"
    )

    def phases(self, state: State) -> Sequence[Phase]:
        rows = len(state.labels)
        return [Held("adapter", state.spec, SHARED, "shared", rows, NoReplay(), method=self)]


@plain_dataclass(frozen=True, kw_only=True)
class Held(Tune):
    """Tune with the penalty; then measure and add the task's Fisher information."""

    method: EWC

    def loss(self, state: State, step: Step) -> LossTerms:
        terms = dict(super().loss(state, step))
        if "ewc/rest" in state.buffers and self.method.strength:
            weights = state.pool.parameters_of(self.adapter)
            terms["ewc"] = self.method.strength * penalty(weights, state.buffers)
        return terms

    def end(self, state: State) -> None:
        weights = state.pool.parameters_of(self.adapter)
        state.pool.eval()  # no dropout
        add_task(state.buffers, {k: p.detach() for k, p in weights.items()}, self._fisher(state))
        state.pool.train()
        super().end(state)

    def sketch(self, state: State) -> bool:
        weights = {k: p.detach() for k, p in state.pool.parameters_of(self.adapter).items()}
        add_task(state.buffers, weights, {k: torch.zeros_like(p) for k, p in weights.items()})
        super().end(state)
        return True

    def _fisher(self, state: State) -> dict[str, Tensor]:
        rows = state.rng("fisher").permutation(state.task.train)[: self.method.fisher_examples]
        weights = state.pool.parameters_of(self.adapter)
        size = 1 if self.method.fisher == "empirical" else self.spec.batch_size
        n_batches = -(-len(rows) // size)
        total = {key: torch.zeros_like(p) for key, p in weights.items()}
        for i in range(0, len(rows), size):
            batch = state.batch(rows[i : i + size])
            log_p = self._logits(state, batch).float().log_softmax(dim=1)  # (b, C)
            for share, loss in self._losses(log_p, batch.label):
                found = torch.autograd.grad(
                    loss, list(weights.values()), retain_graph=True, allow_unused=True
                )
                for key, g in zip(weights, found, strict=True):
                    if g is not None:
                        total[key] += share * g.square() / n_batches
        return total

    def _losses(self, log_p: Tensor, label: Tensor) -> Iterator[tuple[float, Tensor]]:
        """The losses whose squared gradients are summed, each with its weight."""
        if self.method.fisher == "empirical":
            yield 1.0, -log_p[0, label[0]]
            return
        for c, share in enumerate(log_p.detach().exp().mean(dim=0).tolist()):
            yield share, -log_p[:, c].mean()


def penalty(weights: Tensors, buffers: Tensors) -> Tensor:
    """sum_j 1/2 sum_i F_ji (theta_i - theta*_ji)^2; rows of a head that came later are free."""
    total = buffers["ewc/rest"].to(next(iter(weights.values())).device)
    for key, p in weights.items():
        fisher, mean = (buffers[f"ewc/{name}/{key}"].to(p.device) for name in ("fisher", "mean"))
        total = total + 0.5 * (fisher * (p[: len(fisher)] - mean).square()).sum()
    return total


def add_task(buffers: dict[str, Tensor], weights: Tensors, fisher: Tensors) -> None:
    """Add F_j and theta*_j to the sums: F, its weighted mean m, and what m leaves over."""
    rest = buffers.get("ewc/rest", torch.zeros(())).cpu()
    for key, f_new in fisher.items():
        theta = weights[key]
        f_old, mean = torch.zeros_like(theta), theta.clone()
        if f"ewc/fisher/{key}" in buffers:
            known = buffers[f"ewc/fisher/{key}"].to(theta.device)
            f_old[: len(known)] = known
            mean[: len(known)] = buffers[f"ewc/mean/{key}"].to(theta.device)
        both = f_old + f_new
        share = torch.where(both > 0, f_new / both, torch.zeros_like(both))
        rest = rest + 0.5 * (f_old * share * (theta - mean).square()).sum().cpu()
        buffers[f"ewc/fisher/{key}"] = both
        buffers[f"ewc/mean/{key}"] = mean + share * (theta - mean)
    buffers["ewc/rest"] = rest
