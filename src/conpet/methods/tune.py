"""What many methods are made of: tune one adapter and its head by cross-entropy, keep exemplars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from conpet.methods.base import (
    Computation,
    LossTerms,
    Method,
    ParamGroup,
    Phase,
    PhaseSpec,
    RowBatches,
    State,
    Step,
)
from conpet.objectives.classify import cross_entropy
from conpet.objectives.generate import answer_loss, mean_log_prob
from conpet.objectives.prototypes import class_means
from conpet.replay.base import Replay, Rows
from conpet.replay.dynamic import NoReplay
from conpet.routing.base import single
from conpet.types import Batch, Latents, Routing

SHARED = "@shared"
"""The one adapter of a method that has one for all tasks."""
TEACHER = "@teacher"
"""A frozen copy of an adapter as it was before the newest task."""


@dataclass(frozen=True)
class Tune(Phase):
    """Tune adapter ``adapter`` and its head on batches of ``replay``.

    loss = -(1/B) sum_b log softmax(W h_b + c)[y_b] over the columns the head has now.

    The head is created or grown to ``n_classes`` rows; old rows keep their values. ``target`` says
    what y is: the ``label`` among all classes seen, the label ``within`` the newest task, or the
    ``task``. Where answers are free text there is no head of labels, and instead

    loss = -(1/n) sum log p(token | prompt, tokens before it) over the n answer tokens of the batch.
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
            if state.pool.has_head(self.adapter):
                head = state.pool.head(self.adapter)
                head.grow(self.n_classes - head.weight.shape[0], seed)
        else:
            state.pool.add(self.adapter, seed=seed, n_classes=self.n_classes, role=self.role)

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        return [ParamGroup(state.pool.parameters_of(self.adapter), self.spec.lr)]

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        rows = drawn(state, self.replay, self.name, self.spec.batch_size, epoch)
        return RowBatches(state, task=rows)

    def loss(self, state: State, step: Step) -> LossTerms:
        batch = step["task"]
        if self._writes(state):
            log_probs = self._log_probs(state, batch)
            return {self.name: answer_loss(log_probs, batch.answer_ids)}
        wanted = self._wanted(state, batch)
        return {self.name: cross_entropy(self._logits(state, batch), wanted, len(batch))}

    @torch.no_grad()
    def validate(self, state: State) -> float | None:
        """Accuracy averaged over the tasks of the validation rows, 0..100; of free answers the
        probability of a token, as the geometric mean over an answer."""
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
        if int(seen.sum()) < 2 <= len(state.history) and self._means_all_tasks:
            return None  # always naming the newest task would look best
        return float(100 * (right[seen] / total[seen]).mean()) if bool(seen.any()) else None

    @property
    def _means_all_tasks(self) -> bool:
        """Whether the best state is one for old tasks too."""
        return self.role == "selector" or not isinstance(self.replay, NoReplay)

    def end(self, state: State) -> None:
        state.pool.freeze(self.adapter)

    def _features(self, state: State, batch: Batch) -> Tensor:
        """(B, d) hidden states at the read-out."""
        return state.forward(batch, self._routing(state, batch)).features

    def _routing(self, state: State, batch: Batch) -> Routing:
        """What answers while it trains."""
        return single(self.adapter, len(batch), state.device)

    def _answers(self, state: State, features: Tensor) -> Tensor:
        """(B, C) logits of features (B, d)."""
        return state.pool.head(self.adapter)(features)

    def _logits(self, state: State, batch: Batch) -> Tensor:
        return self._answers(state, self._features(state, batch))

    def _writes(self, state: State) -> bool:
        """Whether it learns to write answers; the task of a prompt is a class all the same."""
        return state.writes and self.target != "task"

    def _log_probs(self, state: State, batch: Batch) -> Tensor:
        """(B, A) of the answers' tokens."""
        return state.answer_log_probs(batch, self._routing(state, batch))

    def _hits(self, state: State, batch: Batch) -> Tensor:
        """(B,) what ``validate`` counts as right, 0..1."""
        if self._writes(state):
            return mean_log_prob(self._log_probs(state, batch), batch.answer_ids).exp()
        return self._logits(state, batch).argmax(dim=1) == self._wanted(state, batch)

    def _wanted(self, state: State, batch: Batch) -> Tensor:
        if self.target == "task":
            return batch.task
        return batch.label - (state.task.first_column if self.target == "within" else 0)


def add_teacher(state: State, of: str) -> None:
    """Adapter ``TEACHER``: a copy of the frozen adapter ``of``, frozen itself, until removed."""
    pool = state.pool
    n_classes = pool.head(of).n_classes if pool.has_head(of) else 0
    pool.add(TEACHER, seed=0, n_classes=n_classes, role="teacher")
    pool.freeze(TEACHER)
    pool.load_tensors(TEACHER, pool.tensors(of))


def every_head(state: State, features: Tensor) -> Tensor:
    """(B, C) logits: the heads of all tasks side by side, on the same features (B, d)."""
    return state.pool.logits(state.task_names, features)


def drawn(state: State, replay: Replay, name: str, batch_size: int, epoch: int) -> list[Rows]:
    """The batches that ``replay`` draws for an epoch of phase ``name``; the same whenever asked."""
    rng = state.rng(name, "epoch", epoch)
    return replay.batches(state.history, state.store.lengths, batch_size, rng)


def reference(
    state: State, name: str, batch_size: int, epochs: Iterable[int], *, validating: bool = True
) -> Rows:
    """The rows that stand for the classes of all tasks: exemplars, or what replay draws in these
    epochs of phase ``name``; with or without the exemplars that validate."""

    def draws() -> Rows:
        epochs_ = (drawn(state, state.replay, name, batch_size, epoch) for epoch in epochs)
        return np.concatenate([rows for batches in epochs_ for rows in batches])

    rows = state.replay.reference(state.history, draws, state.rng(name, "reference"))
    if validating:
        return rows
    size, rng = state.spec.eval_batch_size, state.rng(name, "validation")
    return np.setdiff1d(rows, state.replay.validation(state.history, size, rng))


@dataclass(frozen=True)
class FitHead(Tune):
    """Tune the head alone, on the new task's features: the backbone is passed once, not each epoch.

    Buffer while it lasts: the features (n, d), in the order of the training rows.
    """

    def begin(self, state: State) -> None:
        super().begin(state)
        features = state.features(state.task.train, self.adapter)
        state.buffers[f"{self.name}/features"] = torch.from_numpy(features)

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        own = state.pool.parameters_of(self.adapter)
        head = {key: p for key, p in own.items() if key.startswith("head.")}
        return [ParamGroup(head, self.spec.lr)]

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        rng = state.rng(self.name, "epoch", epoch)
        features, label = self.examples(state, rng)
        order = torch.from_numpy(rng.permutation(len(features)))
        return [
            {"task": Latents(features[at].to(state.device), label[at].to(state.device))}
            for at in order.split(self.spec.batch_size)
        ]

    def examples(self, state: State, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Features (N, d) of an epoch and their columns (N,)."""
        label = torch.from_numpy(state.task.train_labels)
        return state.buffers[f"{self.name}/features"], label

    def loss(self, state: State, step: Step) -> LossTerms:
        latents: Latents = step["task"]
        logits = self._answers(state, latents.features)
        return {self.name: cross_entropy(logits, latents.label, len(latents))}

    def end(self, state: State) -> None:
        del state.buffers[f"{self.name}/features"]
        super().end(state)


def place_prototypes(state: State, name: str, rows: Rows) -> None:
    """Buffer ``name`` (C, d): the mean h of each class over ``rows``, by the shared adapter.

    A class without a row among them keeps its last prototype (zeros if it never had one).
    """
    h = torch.from_numpy(state.features(rows, SHARED))
    before = state.buffers.get(name, torch.zeros(0, h.shape[1])).cpu()
    missing = torch.zeros(state.n_classes - len(before), h.shape[1])
    column = torch.from_numpy(state.columns_of(rows))
    state.buffers[name] = class_means(h, column, torch.cat([before, missing]))


@dataclass(frozen=True)
class KeepExemplars(Computation):
    """The memory chooses what it keeps of the newest task, by what the shared adapter makes of it.

    ``before_head`` names a module between the adapter's hidden states and its head.
    """

    before_head: str | None = None

    def end(self, state: State) -> None:
        look = state.look(SHARED, self.before_head)
        state.replay.keep(state.history, look, state.rng("keep"))


class OneAdapter(Method):
    """What the methods share that tune one adapter and one growing head for all tasks."""

    def route(self, state: State, batch: Batch) -> Routing:
        return single(SHARED, len(batch), state.device)
