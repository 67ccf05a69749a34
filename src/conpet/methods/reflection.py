"""Reflection (SAPT, arXiv 2401.08295): inputs of old tasks stay routed as they were when their task
had been learned.

Shapes: B batch, d width of the token embeddings, T tasks, n samples of a task, N of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from conpet.encoding.encode import TokenStore
from conpet.methods.base import Computation, State, Step
from conpet.replay.pseudo import PseudoSamples
from conpet.routing.attention import (
    Pooling,
    Remembered,
    SharedAttention,
    padded_reference,
    pool_tokens,
)
from conpet.types import Batch

ATTENTION = "attention"
"""The module that all tasks share."""
QUERIES, REFERENCE = "queries/", "reference/"
"""Buffers of each task: pooled token embeddings (n, d) of its pseudo-samples, and how they were
routed when it was learned, (i,) or (n, i) over the i tasks known then."""


def attention(state: State) -> SharedAttention:
    module = state.modules[ATTENTION]
    assert isinstance(module, SharedAttention)
    return module


def pooled(state: State, batch: Batch, query: Pooling) -> Tensor:
    """(B, d) what the query is made of."""
    return pool_tokens(state.token_embeddings(batch), batch.attention_mask, query)


@dataclass(frozen=True, kw_only=True)
class Reference(Computation):
    """How the newest task is routed now, and the queries that will ask for the same.

    Attributes:
        query: what a query pools.
        of: the ``mean`` over prompts of the task; or of each pseudo-``sample`` itself.
        prompts: ``valid`` or ``train``; without any of ``valid``, those of ``train``.
    """

    query: Pooling = "masked"
    of: Literal["mean", "sample"] = "mean"
    prompts: Literal["valid", "train"] = "valid"

    @torch.no_grad()
    def end(self, state: State) -> None:
        name = state.task.name
        queries = self._queries(state, state.pseudo[name])
        state.buffers[QUERIES + name] = queries
        state.buffers[REFERENCE + name] = (
            attention(state)(queries.to(state.device), state.task_names)
            if self.of == "sample"
            else self._mean(state)
        )

    def _mean(self, state: State) -> Tensor:
        """(T,)"""
        task, total = state.task, torch.zeros(len(state.history), device=state.device)
        rows = task.valid if self.prompts == "valid" and len(task.valid) else task.train
        for batch in state.chunks(rows):
            seen = pooled(state, batch.without_answers(), self.query)
            total += attention(state)(seen, state.task_names).sum(dim=0)
        return total / len(rows)

    def _queries(self, state: State, samples: PseudoSamples) -> Tensor:
        """(n, d)"""
        store = TokenStore(state.store.encoder)
        rows = store.add(samples.examples(state.task.name))
        found = [torch.zeros(0, attention(state).width)]
        for at in np.array_split(rows, -(-len(rows) // 16) or 1):
            if len(at):
                found.append(pooled(state, store.batch(at).to(state.device), self.query).cpu())
        return torch.cat(found)


@dataclass(frozen=True)
class OldTasks:
    """What is remembered of the tasks before the newest.

    Attributes:
        pooled: (N, d) queries before the projection, task after task.
        target: (N, T) reference attention over all tasks.
        sizes: how many of each task.
    """

    pooled: Tensor
    target: Tensor
    sizes: Sequence[int]

    @staticmethod
    def of(state: State) -> OldTasks | None:
        """None where there is nothing to remember."""
        queries, targets, n_tasks = [], [], len(state.history)
        for name in state.task_names[:-1]:
            found = state.buffers[QUERIES + name].to(state.device)
            if len(found):
                reference = padded_reference(state.buffers[REFERENCE + name], n_tasks)
                queries.append(found)
                targets.append(reference.to(state.device).expand(len(found), n_tasks))
        if not queries:
            return None
        return OldTasks(torch.cat(queries), torch.cat(targets), [len(q) for q in queries])

    def draw(self, rng: np.random.Generator, most: int, over: Literal["sum", "mean"]) -> Remembered:
        """At most so many of each task, whose weights sum to 1, or to 1 by the number of tasks."""
        share = 1.0 if over == "sum" else 1 / len(self.sizes)
        starts = np.cumsum([0, *self.sizes[:-1]])
        picks = [
            start + rng.permutation(n)[:most] for start, n in zip(starts, self.sizes, strict=True)
        ]
        weight = np.concatenate([np.full(len(pick), share / len(pick)) for pick in picks])
        at = torch.from_numpy(np.concatenate(picks)).to(self.pooled.device)
        weights = torch.from_numpy(weight).to(self.pooled)
        return Remembered(self.pooled[at], self.target[at], weights)


class Reflecting(Sequence[Step]):
    """Batches of the new task, with samples of old ones beside every n-th.

    Args:
        draw: what stands beside the i-th batch.
    """

    def __init__(
        self, steps: Sequence[Step], draw: Callable[[int], Remembered], every: int = 1
    ) -> None:
        self.steps, self.draw, self.every = steps, draw, every

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, i: Any) -> Any:
        step = dict(self.steps[i])
        if i % self.every == 0:
            step["reflection"] = self.draw(i)
        return step
