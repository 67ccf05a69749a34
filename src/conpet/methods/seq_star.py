"""SEQ* (after "Learn or Recall?", arXiv 2312.07887): stop tuning early, only heads grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional

from conpet.methods.base import LossTerms, Phase, State, Step
from conpet.methods.tune import SHARED, FitHead, OneAdapter, Tune
from conpet.objectives.classify import cross_entropy
from conpet.replay.dynamic import NoReplay
from conpet.types import Batch, Latents, Routing

NO_REPLAY = "what it learned of old tasks is frozen, so an old example would teach it nothing"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SeqStar(OneAdapter):
    """The adapter is tuned on the first task and frozen; later tasks add rows to the head.

    Task 1: a short warm-up of the head alone, then adapter and head.
    Task k >= 2: the new rows of the head are trained on the new data; old rows stay as they are.
    Prediction: all rows compete.

        logits_c = w_c . h + b_c, or with ``logits=cosine``: scale * cos(w_c, h)

    ``columns`` says over which classes the loss runs: the ``new`` ones, or all ``seen``.
    """

    refuses: ClassVar[Mapping[str, str]] = {"replay.kind": NO_REPLAY}

    warm_up_epochs: int = Field(default=1, ge=0, description="epochs of the head alone, task 1")
    logits: Literal["linear", "cosine"] = Field(
        default="cosine", description="how rows of the head answer; cosines of tasks compare"
    )
    scale: float = Field(default=20.0, gt=0, description="cosine: factor of the logits")
    columns: Literal["new", "seen"] = Field(
        default="new", description="classes that the loss of a later task runs over"
    )

    def phases(self, state: State) -> Sequence[Phase]:
        rows, spec = len(state.labels), state.spec
        head = NewRows("head", spec, SHARED, "shared", rows, NoReplay(), method=self)
        if len(state.history) > 1:
            return [head]
        warm_up = replace(head, name="warm-up", spec=replace(spec, epochs=self.warm_up_epochs))
        tune = Compared("adapter", spec, SHARED, "shared", rows, NoReplay(), method=self)
        return [warm_up, tune] if self.warm_up_epochs else [tune]

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        features = state.forward(batch, routing).features
        return self.compare(state, features).log_softmax(dim=1)

    def compare(self, state: State, features: Tensor) -> Tensor:
        """(B, C) logits of all rows of the head."""
        head = state.pool.head(SHARED)
        if self.logits == "linear":
            return head(features)
        unit = functional.normalize(head.weight, dim=1)
        return self.scale * functional.normalize(features, dim=1) @ unit.T


@plain_dataclass(frozen=True, kw_only=True)
class Compared(Tune):
    """Tune adapter and head, with the method's logits."""

    method: SeqStar

    def _answers(self, state: State, features: Tensor) -> Tensor:
        return self.method.compare(state, features)


@plain_dataclass(frozen=True, kw_only=True)
class NewRows(FitHead):
    """Fit the head's rows of the newest task; adapter and old rows stay.

    Buffers while it lasts: the old rows, weight (C_old, d) and bias (C_old,).
    """

    method: SeqStar

    def begin(self, state: State) -> None:
        super().begin(state)
        for key, p in self._rows(state):
            state.buffers[f"seq/{key}"] = p.detach()[: state.task.first_column].clone()

    def loss(self, state: State, step: Step) -> LossTerms:
        latents: Latents = step["task"]
        first = state.task.first_column if self.method.columns == "new" else 0
        logits = self._answers(state, latents.features)[:, first:]
        return {self.name: cross_entropy(logits, latents.label - first, len(latents))}

    @torch.no_grad()
    def after_step(self, state: State, step: Step) -> None:
        for key, p in self._rows(state):  # weight decay has moved them
            old = state.buffers[f"seq/{key}"]
            p[: len(old)] = old.to(p.device)

    def end(self, state: State) -> None:
        for key, _ in self._rows(state):
            del state.buffers[f"seq/{key}"]
        super().end(state)

    def _answers(self, state: State, features: Tensor) -> Tensor:
        return self.method.compare(state, features)

    def _rows(self, state: State) -> list[tuple[str, Tensor]]:
        """The head's weight and bias, which hold a row a class."""
        return list(state.pool.head(self.adapter).named_parameters())
