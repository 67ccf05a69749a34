"""Latent replay: the head is refitted on features drawn from a Gaussian of every old class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from conpet.methods.base import LossTerms, ParamGroup, Phase, State, Step
from conpet.methods.tune import SHARED, OneAdapter, Tune, head_of
from conpet.objectives.classify import cross_entropy
from conpet.objectives.gaussian import add_classes, covariance
from conpet.replay.dynamic import NoReplay
from conpet.types import Latents

NO_REPLAY = "it replays features that it draws by itself, and keeps no example"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LatentReplay(OneAdapter):
    """The head is refitted on features drawn from a Gaussian of every old class.

    Features h are those of a frozen model; a class has a mean mu_c, all share one shrunk covariance
    Sigma.

    1. Task 1, with ``features=first-task``: adapter and head are tuned, then the adapter is frozen.
       With ``backbone`` no adapter is ever trained.
    2. Every task: its real features, and ``draws`` of N(mu_c, Sigma) for each old class, refit the
       head: loss = -(1/B) sum_b log softmax(W h_b + c)[y_b] over all classes seen.
    3. mu of the new classes, and their share of Sigma, are added to the tables.

    Nothing but means and one covariance is kept of a task. After EoE and WAVE++; the choice of
    features, of one covariance and of 200 draws is ours. The cost of step 2 grows with the classes,
    by multiplications of (draws, d) with (d, C): no pass through the backbone.
    """

    adapter_kinds: ClassVar[tuple[str, ...]] = ("lora", "bottleneck")
    refuses: ClassVar[Mapping[str, str]] = {
        "replay.kind": NO_REPLAY,
        "adapter.kind": "it needs features that stay, and full tuning would move them",
    }

    features: Literal["backbone", "first-task"] = Field(
        default="first-task", description="of the plain backbone, or adapted on the first task"
    )
    draws: int = Field(default=200, ge=1, description="features that are drawn of an old class")
    shrinkage: float = Field(
        default=0.1, gt=0, le=1, description="g, the share of the sphere in the covariance, 0..1"
    )

    def phases(self, state: State) -> Sequence[Phase]:
        rows, spec = len(state.labels), replace(state.spec, select="last")
        head = Refit("head", spec, SHARED, "shared", rows, NoReplay(), method=self)
        if len(state.history) > 1 or self.features == "backbone":
            return [head]
        return [Tune("adapter", state.spec, SHARED, "shared", rows, NoReplay()), head]


@plain_dataclass(frozen=True)
class Refit(Tune):
    """Steps 2 and 3. Buffer while it lasts: the new task's features (n, d)."""

    method: LatentReplay | None = None

    def begin(self, state: State) -> None:
        super().begin(state)
        state.buffers["latent/new"] = torch.from_numpy(state.features(state.task.train, SHARED))

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        return [ParamGroup(head_of(state, self.adapter), self.spec.lr)]

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        """Real features of new classes and drawn ones of old classes, shuffled."""
        rng = state.rng(self.name, "epoch", epoch)
        h = [state.buffers["latent/new"]]
        label = [torch.from_numpy(state.task.train_labels)]
        if len(state.history) > 1:
            drawn, column = self._draw(state, rng)
            h, label = [*h, drawn], [*label, column]
        features, columns = torch.cat(h), torch.cat(label)
        order = torch.from_numpy(rng.permutation(len(features)))
        return [
            {"task": Latents(features[at].to(state.device), columns[at].to(state.device))}
            for at in order.split(self.spec.batch_size)
        ]

    def loss(self, state: State, step: Step) -> LossTerms:
        latents: Latents = step["task"]
        logits = state.pool.head(self.adapter)(latents.features)
        return {self.name: cross_entropy(logits, latents.label, len(latents))}

    def end(self, state: State) -> None:
        column = torch.from_numpy(state.task.train_labels) - state.task.first_column
        new = state.buffers.pop("latent/new")
        add_classes(state.buffers, "latent", new, column, len(state.task.labels))
        super().end(state)

    def _draw(self, state: State, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Features (C_old * draws, d) of the old classes, and their columns."""
        assert self.method is not None
        mean, scatter, count = (state.buffers[f"latent/{k}"] for k in ("mean", "scatter", "count"))
        factor = torch.linalg.cholesky(covariance(scatter, count, self.method.shrinkage))
        column = torch.arange(len(mean)).repeat_interleave(self.method.draws)
        noise = torch.from_numpy(rng.standard_normal((len(column), mean.shape[1])))
        return (mean[column] + noise @ factor.T).float(), column
