"""Shrinkage discriminant analysis on frozen features: the figure that training must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from conpet.methods.base import LossTerms, Method, ParamGroup, Phase, PhaseSpec, State
from conpet.routing.base import plain
from conpet.types import Batch, Routing


@plain_dataclass(frozen=True)
class Statistics(Phase):
    """Add the classes of the newest task: their means, and their share of the pooled scatter.

    No step is taken. The result does not depend on the order of the tasks.
    """

    name: str
    spec: PhaseSpec

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        return []

    def batches(self, state: State, epoch: int) -> Sequence[Mapping[str, Batch]]:
        return ()

    def loss(self, state: State, step: Mapping[str, Batch]) -> LossTerms:
        return {}

    def end(self, state: State) -> None:
        task, d = state.task, state.backbone.hidden_size
        h = torch.from_numpy(state.features(task.train)).double()  # (N, d)
        column = torch.from_numpy(task.train_labels) - task.first_column
        count = torch.bincount(column, minlength=len(task.labels)).double()  # (C_task,)
        mean = torch.zeros(len(task.labels), d, dtype=torch.float64).index_add_(0, column, h)
        mean /= count[:, None]
        within = h - mean[column]
        empty = torch.zeros(0, d, dtype=torch.float64)
        state.buffers["lda/mean"] = torch.cat([state.buffers.get("lda/mean", empty), mean])
        state.buffers["lda/scatter"] = state.buffers.get("lda/scatter", 0.0) + within.T @ within
        state.buffers["lda/count"] = state.buffers.get("lda/count", 0.0) + count.sum()


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LDA(Method):
    """Linear discriminant analysis with one shared covariance, closed form, nothing trained.

        Sigma = (1 - g) S + g tr(S)/d I,   score_c(h) = mu_c^T Sigma^-1 h - mu_c^T Sigma^-1 mu_c / 2

    with S the pooled within-class covariance (divided by N), equal class priors, and features h of
    the plain backbone. Scores go through a softmax over the classes seen.
    """

    # No adapter is ever added. ``full`` is out: what is tuned there is the backbone itself.
    adapter_kinds: ClassVar[tuple[str, ...]] = ("lora", "bottleneck")
    shrinkage: float = Field(
        default=0.1,
        gt=0.0,
        le=1.0,
        description="g, the share of the sphere in the covariance, 0..1",
    )

    def phases(self, state: State) -> Sequence[Phase]:
        return [Statistics("statistics", PhaseSpec(epochs=0, select="last"))]

    def route(self, state: State, batch: Batch) -> Routing:
        return plain(len(batch), state.device)

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        mean = state.buffers["lda/mean"]  # (C, d)
        covariance = state.buffers["lda/scatter"] / state.buffers["lda/count"]
        d = covariance.shape[0]
        spread = float(covariance.trace()) / d or 1.0  # one example a class: the nearest mean
        sphere = spread * torch.eye(d, dtype=covariance.dtype)
        sigma = (1 - self.shrinkage) * covariance + self.shrinkage * sphere
        weight = torch.linalg.solve(sigma, mean.T)  # (d, C)
        bias = -0.5 * (mean.T * weight).sum(dim=0)  # (C,)
        h = state.forward(batch, routing).features.double().cpu()
        return (h @ weight + bias).log_softmax(dim=1).float().to(state.device)
