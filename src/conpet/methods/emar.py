"""EMAR (Han et al. 2020, "Continual Relation Learning via Episodic Memory Activation and
Reconsolidation"): replay, then reconsolidation around prototypes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from conpet.methods.base import LossTerms, Phase, RowBatches, State, Step
from conpet.methods.tune import (
    SHARED,
    KeepExemplars,
    OneAdapter,
    Tune,
    drawn,
    place_prototypes,
    reference,
)
from conpet.objectives.classify import cross_entropy
from conpet.replay.base import Rows
from conpet.types import Batch, Routing

PROTOTYPES = "emar/prototypes"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EMAR(OneAdapter):
    """Episodic memory activation and reconsolidation: replay, then classes gather at prototypes.

    Task k:
    1. Adapter and head are tuned on new and old examples, as in ``replay``.
    2. The memory keeps exemplars of the task.
    3. Reconsolidation. At the start of an epoch p_c is the mean h of the exemplars of class c. Then
       one pass as in 1, and one over the exemplars of all classes with logits <h, p_c>, p fixed:

           loss = -(1/B) sum_b log softmax(<h_b, p>)[y_b]

    Prediction: softmax over <h, p_c>, p made anew when the task is learned. With dynamic replay,
    what the epoch draws takes the place of the exemplars, filled up where a class has fewer than
    ten; the last p are made of what all epochs drew. Exemplars that validate are in no batch.
    """

    default_replay: ClassVar[str] = "memory"
    default_selection: ClassVar[str] = "kmeans"
    replay_kinds: ClassVar[tuple[str, ...]] = ("memory", "dynamic", "full")

    prototype_epochs: int | None = Field(
        default=None, ge=1, description="epochs of step 3; null: train.epochs"
    )

    def phases(self, state: State) -> Sequence[Phase]:
        rows, spec = len(state.labels), state.spec
        again = replace(spec, epochs=self.prototype_epochs or spec.epochs)
        return [
            Tune("adapter", spec, SHARED, "shared", rows, state.replay),
            KeepExemplars("memory"),
            Reconsolidate("prototypes", again, SHARED, "shared", rows, state.replay),
        ]

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        return prototype_logits(state, state.forward(batch, routing).features).log_softmax(dim=1)


@plain_dataclass(frozen=True)
class Reconsolidate(Tune):
    """One pass with the head, one with the prototypes."""

    def begin_epoch(self, state: State, epoch: int) -> None:
        place_prototypes(state, PROTOTYPES, self._reference(state, [epoch]))

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        size = self.spec.batch_size
        rehearsed = self.replay.rehearsal(
            state.history,
            self._reference(state, [epoch], validating=False),
            state.store.lengths,
            size,
            state.rng(self.name, "rehearsal", epoch),
        )
        rows = drawn(state, self.replay, self.name, size, epoch)
        return RowBatches(state, task=rows, memory=rehearsed)

    def loss(self, state: State, step: Step) -> LossTerms:
        if "task" in step:
            return super().loss(state, step)
        batch = step["memory"]
        logits = prototype_logits(state, self._features(state, batch))
        return {"memory": cross_entropy(logits, batch.label, len(batch))}

    def end(self, state: State) -> None:
        place_prototypes(state, PROTOTYPES, self._reference(state, range(self.spec.epochs)))
        super().end(state)

    def _hits(self, state: State, batch: Batch) -> Tensor:
        logits = prototype_logits(state, self._features(state, batch))
        return logits.argmax(dim=1) == batch.label

    def _reference(self, state: State, epochs: Iterable[int], *, validating: bool = True) -> Rows:
        size = self.spec.batch_size
        return reference(state, self.name, size, epochs, validating=validating)


def prototype_logits(state: State, features: Tensor) -> Tensor:
    """(B, C) <h, p_c>."""
    return features @ state.buffers[PROTOTYPES].to(features.device).T
