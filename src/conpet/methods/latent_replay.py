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

from conpet.methods.base import Phase, State
from conpet.methods.tune import SHARED, FitHead, OneAdapter, Tune
from conpet.replay.dynamic import NoReplay
from conpet.routing.gaussian import add_classes, covariance

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
        "adapter.kind": "it needs features that stay, and full tuning would move them; those of "
        "an untrained soft prompt are not the backbone's",
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


@plain_dataclass(frozen=True, kw_only=True)
class Refit(FitHead):
    """Steps 2 and 3: the new task's real features, and drawn ones of old classes."""

    method: LatentReplay

    def examples(self, state: State, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        h, label = super().examples(state, rng)
        if len(state.history) == 1:
            return h, label
        drawn, column = self._draw(state, rng)
        return torch.cat([h, drawn]), torch.cat([label, column])

    def end(self, state: State) -> None:
        column = torch.from_numpy(state.task.train_labels) - state.task.first_column
        new = state.buffers[f"{self.name}/features"]
        add_classes(state.buffers, "latent", new, column, len(state.task.labels))
        super().end(state)

    def _draw(self, state: State, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Features (C_old * draws, d) of the old classes, and their columns."""
        mean, scatter, count = (state.buffers[f"latent/{k}"] for k in ("mean", "scatter", "count"))
        factor = torch.linalg.cholesky(covariance(scatter, count, self.method.shrinkage))
        column = torch.arange(len(mean)).repeat_interleave(self.method.draws)
        noise = torch.from_numpy(rng.standard_normal((len(column), mean.shape[1])))
        return (mean[column] + noise @ factor.T).float(), column
