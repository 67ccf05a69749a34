"""EPI (Wang et al. 2023, ACL): a prefix for each task, chosen by the nearest class mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from conpet.methods.base import Method, Phase, State
from conpet.methods.closed_form import AddToRouter, scores_of_tasks
from conpet.methods.tune import Tune
from conpet.replay.dynamic import NoReplay
from conpet.routing.base import oracle
from conpet.routing.gaussian import Weigh
from conpet.routing.selector import top_k
from conpet.types import Batch, Routing

Start = Literal["fresh", "last", "mean"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EPI(Method):
    """Efficient parameter isolation. Learn task t in two phases, on its own examples alone.

    1. Prefix t (m keys and values in every layer) and its head, beside nothing else:
         loss = -(1/B) sum_b log softmax(W_t h_b + c_t)[y_b] over the task's own classes
       or, where answers are free text, -(1/n) sum log p(token | prompt, tokens before it).
    2. Class means mu_c of features q of the plain backbone, the mean over the tokens of a prompt,
       and the task's share of one covariance Sigma of all classes. Nothing is trained.

    Prediction: the prefix and the head of

        argmin_t  min_{c in t} (q - mu_c)^T Sigma^-1 (q - mu_c)
        Sigma = (1 - g) S + g tr(S)/d I

    (``conpet.routing.analytic``). The probability of a class is that of its head. Where answers are
    free text a task is one class, which the authors do not have.

    Where we differ from the authors' code: S is pooled over examples and shrunk, so that a class of
    one example gives no NaN, and g > 0 no pseudo-inverse; ``weigh=classes`` and ``shrinkage=0`` are
    theirs. The text's embeddings pass the embedding layer once (theirs: twice). No dropout, on
    prefixes neither. Reduced features (``mask``, ``pca``) are left out: shrinkage takes their
    place, and averages of the principal axes of tasks are no principal axes.
    """

    adapter_kinds: ClassVar[tuple[str, ...]] = ("prefix",)
    adapter_defaults: ClassVar[Mapping[str, Any]] = {"kind": "prefix", "length": 16}
    answers: ClassVar[tuple[str, ...]] = ("class", "text")
    refuses: ClassVar[Mapping[str, str]] = {
        "replay.kind": "it keeps class means and one covariance, and looks at no old example",
        "adapter.kind": "what it isolates are prefixes; conpet-dynamic with method.router=analytic "
        "chooses other adapters in the same way",
    }

    shrinkage: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="g, the share of the sphere in the covariance, 0..1; 1: Euclidean distance, "
        "0: none, and the pseudo-inverse (the authors)",
    )
    weigh: Weigh = Field(
        default="examples",
        description="what counts alike in the covariance: all examples, or all classes of a task, "
        "and then all tasks (classes: the authors)",
    )
    start: Start = Field(
        default="fresh",
        description="first weights of a prefix: fresh, those of the last one, or the mean of all",
    )

    def warnings(self, state: State) -> Sequence[str]:
        if state.writes or len(state.task.labels) > 1:
            return ()
        return ["it has one label; a prefix of its own cannot learn from that, the router can"]

    def phases(self, state: State) -> Sequence[Phase]:
        name, n_classes = state.task.name, len(state.task.labels)
        own = ("adapter", state.spec, name, "task", n_classes, NoReplay())
        learn = NewPrefix(*own, target="within", start=self.start)
        return [learn, AddToRouter("router", shrinkage=self.shrinkage, weigh=self.weigh)]

    def route(self, state: State, batch: Batch) -> Routing:
        return top_k(state.task_names, scores_of_tasks(state, batch), 1)

    def oracle(self, state: State, batch: Batch) -> Routing:
        return oracle(state.task_names, batch.task)


@plain_dataclass(frozen=True, kw_only=True)
class NewPrefix(Tune):
    """Phase 1: tune the new prefix and its head, from the weights that ``start`` names."""

    start: Start

    def begin(self, state: State) -> None:
        super().begin(state)
        old = state.task_names[:-1]
        if self.start == "fresh" or not old:
            return
        known = [state.pool.tensors(name)["prefix"] for name in old]
        first = known[-1] if self.start == "last" else torch.stack(known).mean(dim=0)
        own = state.pool.tensors(self.adapter)
        state.pool.load_tensors(self.adapter, own | {"prefix": first})
