"""EA-EMR (arXiv 1903.02588): memory replay, then old examples are brought back to their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional

from conpet.methods.base import (
    LossTerms,
    ParamGroup,
    Phase,
    PhaseSpec,
    RowBatches,
    State,
    Step,
)
from conpet.methods.tune import SHARED, KeepExemplars, OneAdapter, Tune, reference
from conpet.replay.base import Rows, plain_epoch
from conpet.types import Batch, Routing

ALIGNMENT = "alignment"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EAEMR(OneAdapter):
    """Embedding-aligned EMR: logits = W A(h) + c with A a linear map d -> d, first the identity.

    Task k:
    1. Before training, the old examples x (exemplars, or with dynamic replay what this stage will
       draw) are embedded: e(x) = A(h(x)).
    2. Adapter and head are tuned on new and old examples; A stays.
    3. The memory keeps exemplars of the task.
    4. A is trained, all else stays: mean (A(h(x)) - e(x))^2 / d over old and new x, h by the tuned
       adapter. e of new examples: A(h) as it is now (``new_target=aligned``), or h (``identity``).

    Where we differ: A works on every backbone, in fp32, and starts as the identity (the authors of
    ConPET apply it on BERT alone); its optimiser is AdamW without decay; with dynamic replay the
    authors take ``identity`` for new examples, which the tuned head has not seen.
    """

    default_replay: ClassVar[str] = "memory"
    default_selection: ClassVar[str] = "kmeans"
    replay_kinds: ClassVar[tuple[str, ...]] = ("memory", "dynamic", "full")

    align_epochs: int = Field(default=20, ge=1, description="epochs of the alignment")
    align_lr: float = Field(default=1e-4, gt=0, description="learning rate of the alignment")
    new_target: Literal["aligned", "identity"] = Field(
        default="aligned", description="where examples of the new task are to lie"
    )

    def modules(self, state: State) -> Mapping[str, nn.Module]:
        d = state.backbone.hidden_size
        align = nn.Linear(d, d)
        nn.init.eye_(align.weight)
        nn.init.zeros_(align.bias)
        return {ALIGNMENT: align.to(state.device)}

    def phases(self, state: State) -> Sequence[Phase]:
        rows = len(state.labels)
        tune = TuneAligned("adapter", state.spec, SHARED, "shared", rows, state.replay)
        phases: list[Phase] = [tune, KeepExemplars("memory", before_head=ALIGNMENT)]
        if len(state.history) > 1:
            spec = PhaseSpec(
                epochs=self.align_epochs,
                lr=self.align_lr,
                batch_size=state.spec.batch_size,
                weight_decay=0.0,
                clip=None,
                select="last",
            )
            phases.append(Align("align", spec, tune, self.new_target))
        return phases

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        features = state.modules[ALIGNMENT](state.forward(batch, routing).features)
        return state.pool.head(SHARED)(features).log_softmax(dim=1)


class TuneAligned(Tune):
    """Tune with A between features and head; where old examples lie is written down before."""

    def begin(self, state: State) -> None:
        if len(state.history) > 1:
            rows = self.reference(state)
            old = rows[~np.isin(rows, state.task.train)]
            state.buffers["align/rows"] = torch.from_numpy(old)
            state.buffers["align/target"] = embed(state, old)
        super().begin(state)

    def reference(self, state: State) -> Rows:
        epochs, size = range(self.spec.epochs), self.spec.batch_size
        return reference(state, self.name, size, epochs, validating=False)

    def _answers(self, state: State, features: Tensor) -> Tensor:
        return super()._answers(state, state.modules[ALIGNMENT](features))


@plain_dataclass(frozen=True)
class Align(Phase):
    """Train A so that A(h) of every reference example lies where it is to lie."""

    name: str
    spec: PhaseSpec
    tuned: TuneAligned
    new_target: str

    def begin(self, state: State) -> None:
        """Buffers by example: its row (sorted), h, and the target."""
        rows = self.tuned.reference(state)
        new = rows[np.isin(rows, state.task.train)]
        held = np.isin(state.buffers["align/rows"].numpy(), rows)  # the memory may have shrunk
        old, target = (state.buffers[f"align/{k}"].cpu()[held] for k in ("rows", "target"))
        h_new = torch.from_numpy(state.features(new, SHARED))
        target_new = h_new if self.new_target == "identity" else embed(state, new)
        h_old = torch.from_numpy(state.features(old.numpy(), SHARED))
        everyone = torch.cat([old, torch.from_numpy(new)])
        order = everyone.argsort()
        state.buffers["align/rows"] = everyone[order]
        state.buffers["align/target"] = torch.cat([target, target_new.cpu()])[order]
        state.buffers["align/h"] = torch.cat([h_old, h_new])[order]

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        named = {f"{ALIGNMENT}.{k}": p for k, p in state.modules[ALIGNMENT].named_parameters()}
        return [ParamGroup(named, self.spec.lr)]

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        rows = state.buffers["align/rows"].numpy()
        rng = state.rng(self.name, "epoch", epoch)
        return RowBatches(
            state, task=plain_epoch(rows, state.store.lengths, self.spec.batch_size, rng)
        )

    def loss(self, state: State, step: Step) -> LossTerms:
        at = torch.searchsorted(state.buffers["align/rows"], step["task"].rows.cpu())
        h = state.buffers["align/h"][at].to(state.device)
        target = state.buffers["align/target"][at].to(state.device)
        return {self.name: functional.mse_loss(state.modules[ALIGNMENT](h), target)}

    def end(self, state: State) -> None:
        for name in ("rows", "target", "h"):
            del state.buffers[f"align/{name}"]


@torch.no_grad()
def embed(state: State, rows: Rows) -> Tensor:
    """(n, d) A(h) of stored examples, as adapter and A are now."""
    h = torch.from_numpy(state.features(rows, SHARED)).to(state.device)
    return state.modules[ALIGNMENT](h).cpu()
