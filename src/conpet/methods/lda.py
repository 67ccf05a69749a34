"""Shrinkage discriminant analysis on frozen features: the figure that training must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from conpet.methods.base import Computation, Method, Phase, State
from conpet.routing.base import plain
from conpet.routing.gaussian import add_classes, covariance, discriminant
from conpet.types import Batch, Routing


class Statistics(Computation):
    """Add the classes of the newest task: their means, and their share of the pooled scatter.

    The result does not depend on the order of the tasks.
    """

    def end(self, state: State) -> None:
        task = state.task
        h = torch.from_numpy(state.features(task.train))  # (N, d)
        column = torch.from_numpy(task.train_labels) - task.first_column
        add_classes(state.buffers, "lda", h, column, len(task.labels))


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
        return [Statistics("statistics")]

    def route(self, state: State, batch: Batch) -> Routing:
        return plain(len(batch), state.device)

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        mean = state.buffers["lda/mean"]  # (C, d)
        sigma = covariance(state.buffers["lda/scatter"], state.buffers["lda/count"], self.shrinkage)
        weight, bias = discriminant(mean, sigma)
        h = state.forward(batch, routing).features.double().cpu()
        return (h @ weight.T + bias).log_softmax(dim=1).float().to(state.device)
