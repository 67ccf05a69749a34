"""CRL (arXiv 2203.02135): contrastive replay, distilled geometry, the nearest class mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from conpet.methods.base import (
    Computation,
    LossTerms,
    ParamGroup,
    Phase,
    PhaseSpec,
    RowBatches,
    State,
    Step,
)
from conpet.methods.tune import SHARED, KeepExemplars, OneAdapter, place_prototypes, reference
from conpet.objectives.contrastive import contrastive, geometry, some_rows
from conpet.objectives.prototypes import class_means, nearest_mean_scores
from conpet.replay.base import Rows, plain_epoch
from conpet.routing.base import single
from conpet.types import Batch, Routing

PROJECTOR = "projector"
PROTOTYPES = "crl/prototypes"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CRL(OneAdapter):
    """Consistent representation learning. One adapter, no head; z = V relu(U h), length 1.

    Task k:
    1. ``contrast``: on the new task alone, each z against the stored z of all examples of the pool
       (supervised contrastive loss; see ``objectives.contrastive``).
    2. ``memory``: exemplars of the task are kept.
    3. ``replay`` (k >= 2): on the exemplars of all tasks, the same loss, and for examples of old
       classes the KL that keeps their classes as near to each other as the prototypes of the last
       task were.
    4. ``refresh``: exemplars are chosen again; the prototype of a class is the mean h of its own.

    Prediction: the nearest prototype. With dynamic replay, the pool of step 3 is what the stage
    draws, filled up where a class has fewer than ten examples, and no exemplars are kept.

    Where we differ: with dynamic replay, step 3 takes ``train.epochs`` times the batches of an
    epoch (the authors: without the factor 0.8); all loss terms go through one backward; stored z of
    examples that no batch has reached are those of the first pass.
    """

    default_replay: ClassVar[str] = "memory"
    default_selection: ClassVar[str] = "kmeans"
    replay_kinds: ClassVar[tuple[str, ...]] = ("memory", "dynamic", "full")
    has_head: ClassVar[bool] = False

    projection: int = Field(default=64, ge=1, description="size of z")
    temperature: float = Field(default=0.1, gt=0, description="of the contrastive loss")
    sharpness: float = Field(default=10.0, gt=0, description="t of the distilled geometry")
    pool_rows: int = Field(
        default=500, ge=1, description="stored z that a batch is contrasted with, at most"
    )
    clip: float = Field(default=10.0, gt=0, description="largest gradient norm")

    def modules(self, state: State) -> Mapping[str, nn.Module]:
        d = state.backbone.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state.seed_of(PROJECTOR))
            projector = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, self.projection))
        return {PROJECTOR: projector.to(state.device)}

    def phases(self, state: State) -> Sequence[Phase]:
        spec = replace(state.spec, clip=self.clip, select="last")
        new = Contrast("contrast", spec, self)
        if len(state.history) == 1:
            return [new, KeepExemplars("memory"), Prototypes("prototypes", replayed=spec)]
        return [
            new,
            KeepExemplars("memory"),
            ReplayContrast("replay", spec, self),
            KeepExemplars("refresh"),
            Prototypes("prototypes", replayed=spec),
        ]

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        features = state.forward(batch, routing).features
        return nearest_mean_scores(features, state.buffers[PROTOTYPES].to(features.device))


@plain_dataclass(frozen=True)
class Contrast(Phase):
    """Step 1: contrast on the new task alone.

    Buffers while it lasts: the pool's rows (n,), sorted; their labels (n,); their stored z (n, p).
    """

    name: str
    spec: PhaseSpec
    method: CRL

    def pool(self, state: State) -> Rows:
        return np.sort(state.task.train)

    def begin(self, state: State) -> None:
        if SHARED in state.pool.names:
            state.pool.thaw(SHARED)
        else:
            state.pool.add(SHARED, seed=state.seed_of("adapter", "initial weights"), role="shared")
        rows = self.pool(state)
        with torch.no_grad():
            h = torch.from_numpy(state.features(rows, SHARED)).to(state.device)
            stored = self._project(state, h)
        state.buffers["crl/rows"] = torch.from_numpy(rows)
        state.buffers["crl/label"] = torch.from_numpy(state.columns_of(rows))
        state.buffers["crl/stored"] = stored.cpu()

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        projector = state.modules[PROJECTOR].named_parameters()
        own = state.pool.parameters_of(SHARED) | {f"{PROJECTOR}.{k}": p for k, p in projector}
        return [ParamGroup(own, self.spec.lr)]

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        rng = state.rng(self.name, "epoch", epoch)
        rows, size = self.pool(state), self.spec.batch_size
        return RowBatches(state, task=plain_epoch(rows, state.store.lengths, size, rng))

    def loss(self, state: State, step: Step) -> LossTerms:
        batch = step["task"]
        routing = single(SHARED, len(batch), state.device)
        z = self._project(state, state.forward(batch, routing).features)
        stored, label = state.buffers["crl/stored"], state.buffers["crl/label"]
        seen = some_rows(label, batch.label.cpu(), self.method.pool_rows)
        others, theirs = stored[seen].to(z.device), label[seen].to(z.device)
        terms = {
            self.name: contrastive(z, batch.label, others, theirs, self.method.temperature),
            **self._more(state, z, batch.label),
        }
        at = torch.searchsorted(state.buffers["crl/rows"], batch.rows.cpu())
        stored[at] = z.detach().cpu()  # what later batches are contrasted with
        return terms

    def end(self, state: State) -> None:
        state.pool.freeze(SHARED)
        for name in ("rows", "label", "stored"):
            del state.buffers[f"crl/{name}"]

    def _project(self, state: State, h: Tensor) -> Tensor:
        return functional.normalize(state.modules[PROJECTOR](h), dim=1)

    def _more(self, state: State, z: Tensor, label: Tensor) -> LossTerms:
        """Loss terms beside the contrast."""
        return {}


class ReplayContrast(Contrast):
    """Step 3: contrast and distilled geometry on the pool of all tasks."""

    def pool(self, state: State) -> Rows:
        return stage_rows(state, self.spec)

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        rows = state.replay.rehearsal(
            state.history,
            state.buffers["crl/rows"].numpy(),
            state.store.lengths,
            self.spec.batch_size,
            state.rng(self.name, "rehearsal", epoch),
        )
        return RowBatches(state, task=rows)

    def _more(self, state: State, z: Tensor, label: Tensor) -> LossTerms:
        prototypes = state.buffers[PROTOTYPES]  # (C_old, d)
        old = label < len(prototypes)
        if not bool(old.any()):
            return {}
        stored, column = state.buffers["crl/stored"], state.buffers["crl/label"]
        known = column < len(prototypes)
        means = class_means(stored[known], column[known], torch.zeros(len(prototypes), z.shape[1]))
        before, now = prototypes.to(z.device), means.to(z.device)
        return {"geometry": geometry(z[old], label[old], before, now, self.method.sharpness)}


@plain_dataclass(frozen=True, kw_only=True)
class Prototypes(Computation):
    """The mean h of the reference examples of each class; one without any keeps its last.

    ``replayed`` is the specification of the replay phase: where there is no memory, the examples
    are those which that phase draws.
    """

    replayed: PhaseSpec

    def end(self, state: State) -> None:
        place_prototypes(state, PROTOTYPES, stage_rows(state, self.replayed))


def stage_rows(state: State, spec: PhaseSpec) -> Rows:
    """The exemplars of all tasks; or, without a memory, what the replay phase draws."""
    return reference(state, "replay", spec.batch_size, range(spec.epochs))
