"""Inputs that are asked of a run and not kept: encoded, put in batches, answered or routed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from conpet.encoding.encode import TokenStore
from conpet.evaluation.evaluator import Answer, answer, by_weight
from conpet.events import Observer
from conpet.methods.base import Method, State
from conpet.types import Batch, Example

Said = TypeVar("Said")


def as_examples(inputs: Sequence[str | Example]) -> list[Example]:
    """Texts get their place as an id."""
    return [e if isinstance(e, Example) else Example(str(i), e) for i, e in enumerate(inputs)]


class Inputs:
    """Inputs encoded for a state, in batches of similar length.

    No cache knows them: what is asked of them is computed anew.

    Attributes:
        batches: the places of the inputs of each, the longest first.
    """

    def __init__(self, state: State, inputs: Sequence[str | Example]) -> None:
        self.device = state.device
        self._store = TokenStore(state.store.encoder)
        self._rows = self._store.add(as_examples(inputs))
        self.batches = list(state.cut(self._store.lengths[self._rows]))

    def __len__(self) -> int:
        return len(self._rows)

    def ask(
        self,
        what: Callable[[Batch], Sequence[Said]],
        observer: Observer | None = None,
        phase: str = "answers",
    ) -> list[Said]:
        """What is said of each input, in the order of the inputs."""
        observer = observer or Observer()
        observer.phase_started(phase, len(self.batches))
        by_place: dict[int, Said] = {}
        for step, places in enumerate(self.batches, start=1):
            batch = self._batch(places)
            by_place |= zip(places.tolist(), what(batch), strict=True)
            observer.step(step, {}, len(batch))
        observer.phase_ended(phase)
        return [by_place[place] for place in range(len(self))]

    def ask_longest(self, what: Callable[[Batch], Sequence[Said]]) -> None:
        """Ask of the batch of the longest inputs alone, so that what is done once is done."""
        what(self._batch(self.batches[0]))

    def _batch(self, places: np.ndarray) -> Batch:
        batch = self._store.batch(self._rows[places]).to(self.device)
        return replace(batch, rows=torch.full_like(batch.rows, -1))


def answering(state: State, method: Method) -> Callable[[Batch], list[Answer]]:
    """Answers that no memo knows: free ones are written."""
    return lambda batch: answer(state, method, [batch])


def routing(state: State, method: Method) -> Callable[[Batch], list[dict[str, float]]]:
    """The weight of each task, see ``by_weight``."""

    @torch.no_grad()
    def weights(batch: Batch) -> list[dict[str, float]]:
        return by_weight(method.route(state, batch.without_answers()))

    return weights
