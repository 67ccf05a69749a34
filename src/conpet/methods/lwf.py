"""LwF (arXiv 1606.09282): on new data, say of the old classes what was said before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from conpet.methods.base import LossTerms, Phase, State, Step
from conpet.methods.tune import SHARED, OneAdapter, Tune
from conpet.objectives.classify import cross_entropy
from conpet.objectives.distillation import distillation
from conpet.replay.dynamic import NoReplay

NO_REPLAY = "it keeps old tasks by their answers to new examples, and looks at no old example"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LwF(OneAdapter):
    """Learning without forgetting, with one adapter and one growing head, on new data alone.

    Before task k the model answers every new training example x: o(x), over the old classes. Then

        loss = cross-entropy - strength * mean_x sum_c softmax(o / t)[c] log softmax(n / t)[c]

    with c the old classes and n the logits of the same columns now. Where we differ from the
    authors of ConPET: the mean over the batch instead of the sum (theirs at 0.1 and batches of 8 is
    ours at 0.8); both softmaxes address columns as the cross-entropy does (theirs mixed orders).
    """

    refuses: ClassVar[Mapping[str, str]] = {"replay.kind": NO_REPLAY}

    strength: float = Field(default=1.0, ge=0, description="weight of the distillation")
    temperature: float = Field(default=1.0, gt=0, description="t, of both softmaxes")

    def phases(self, state: State) -> Sequence[Phase]:
        rows = len(state.labels)
        return [Distilled("adapter", state.spec, SHARED, "shared", rows, NoReplay(), method=self)]


@plain_dataclass(frozen=True, kw_only=True)
class Distilled(Tune):
    """Tune beside the old answers. Buffers while it lasts: rows (n,), sorted; answers (n, C)."""

    method: LwF

    def begin(self, state: State) -> None:
        if len(state.history) > 1:
            rows = np.sort(state.task.train)
            state.buffers["lwf/rows"] = torch.from_numpy(rows)
            answers = state.look(self.adapter)(rows, "logits")  # before the head grows
            state.buffers["lwf/answers"] = torch.from_numpy(answers)
        super().begin(state)

    def loss(self, state: State, step: Step) -> LossTerms:
        batch = step["task"]
        logits = self._logits(state, batch)
        terms = {self.name: cross_entropy(logits, batch.label, len(batch))}
        if "lwf/rows" in state.buffers and self.method.strength:
            at = torch.searchsorted(state.buffers["lwf/rows"], batch.rows.cpu())
            before = state.buffers["lwf/answers"][at].to(logits.device)
            now = logits[:, : before.shape[1]]
            terms["lwf"] = self.method.strength * distillation(before, now, self.method.temperature)
        return terms

    def end(self, state: State) -> None:
        for name in ("rows", "answers"):
            state.buffers.pop(f"lwf/{name}", None)
        super().end(state)
