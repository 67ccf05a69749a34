"""The phase that most methods are made of: tune one adapter and its head by cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from conpet.methods.base import LossTerms, ParamGroup, Phase, PhaseSpec, RowBatches, State
from conpet.objectives.classify import cross_entropy
from conpet.replay.base import Replay
from conpet.routing.base import single
from conpet.types import Batch


@dataclass(frozen=True)
class Tune(Phase):
    """Tune adapter ``adapter`` and its head on batches of ``replay``.

    loss = -(1/B) sum_b log softmax(W h_b + c)[y_b] over the columns the head has now.

    The head is created or grown to ``n_classes`` rows; old rows keep their values. ``target`` says
    what y is: the ``label`` among all classes seen, the label ``within`` the newest task, or the
    ``task``.
    """

    name: str
    spec: PhaseSpec
    adapter: str
    role: str
    n_classes: int
    replay: Replay
    target: Literal["label", "within", "task"] = "label"

    def begin(self, state: State) -> None:
        seed = state.seed_of(self.name, "initial weights")
        if self.adapter in state.pool.names:
            state.pool.thaw(self.adapter)
            head = state.pool.head(self.adapter)
            head.grow(self.n_classes - head.weight.shape[0], seed)
        else:
            state.pool.add(self.adapter, seed=seed, n_classes=self.n_classes, role=self.role)

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        return [ParamGroup(state.pool.parameters_of(self.adapter), self.spec.lr)]

    def batches(self, state: State, epoch: int) -> Sequence[Mapping[str, Batch]]:
        drawn = self.replay.batches(
            state.history,
            state.store.lengths,
            self.spec.batch_size,
            state.rng(self.name, "epoch", epoch),
        )
        return RowBatches(state, drawn)

    def loss(self, state: State, step: Mapping[str, Batch]) -> LossTerms:
        batch = step["task"]
        return {
            self.name: cross_entropy(
                self._logits(state, batch), self._wanted(state, batch), len(batch)
            )
        }

    @torch.no_grad()
    def validate(self, state: State) -> float | None:
        """Accuracy averaged over the tasks of the validation rows, 0..100."""
        rows = self.replay.validation(
            state.history, self.spec.eval_batch_size, state.rng(self.name, "validation")
        )
        right = torch.zeros(len(state.history))
        total = torch.zeros(len(state.history))
        for batch in state.chunks(rows):
            hit = self._hits(state, batch)
            right.index_add_(0, batch.task.cpu(), hit.float().cpu())
            total.index_add_(0, batch.task.cpu(), torch.ones(len(batch)))
        seen = total > 0
        if self.role == "selector" and int(seen.sum()) < 2:
            return None  # always naming the newest task would look best
        return float(100 * (right[seen] / total[seen]).mean()) if bool(seen.any()) else None

    def end(self, state: State) -> None:
        state.pool.freeze(self.adapter)

    def _logits(self, state: State, batch: Batch) -> torch.Tensor:
        features = state.forward(batch, single(self.adapter, len(batch), state.device)).features
        return state.pool.head(self.adapter)(features)

    def _hits(self, state: State, batch: Batch) -> torch.Tensor:
        """(B,) what ``validate`` counts as right."""
        return self._logits(state, batch).argmax(dim=1) == self._wanted(state, batch)

    def _wanted(self, state: State, batch: Batch) -> torch.Tensor:
        if self.target == "task":
            return batch.task
        return batch.label - (state.task.first_column if self.target == "within" else 0)
