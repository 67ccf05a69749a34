"""Dynamic ConPET (arXiv 2309.14763): one adapter per task, a selector, cached logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from conpet.errors import ConfigError
from conpet.methods.base import (
    LossTerms,
    Method,
    ParamGroup,
    Phase,
    PhaseSpec,
    RowBatches,
    State,
    Step,
)
from conpet.methods.closed_form import AddToRouter, check_router, scores_of_tasks
from conpet.methods.tune import Tune, drawn
from conpet.objectives.classify import cross_entropy
from conpet.replay.dynamic import NoReplay
from conpet.routing.base import oracle
from conpet.routing.selector import top_k
from conpet.types import Batch, Routing

SELECTOR = "@selector"
OPTIONS_OF = {
    "selector": ("balance", "selector_target", "start", "selector_epochs", "selector_lr"),
    "analytic": ("shrinkage",),
}
"""Options that concern one router alone."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ConpetDynamic(Method):
    """Learn task k in two phases, on batches of replay (half new, half old by default).

    1. Selector (k >= 2): its head grows by one row; cross-entropy of the task index.
    2. Adapter k and its head, fresh: A(x) = the selector's top-k tasks, the true one forced in.
       The logits of the adapters in A(x) stand side by side, -100 for all others;
       loss = -(1/B) sum_b log softmax(logits_b)[y_b] over all classes seen. Old adapters are frozen
       and answer from the logit cache.

    Prediction: selector, its top-k adapters as one expanded batch, softmax over the logits side by
    side.

    With ``router=analytic`` nothing is trained to choose: before phase 2 the task's class means and
    its share of one covariance are added to a router in closed form (``conpet.routing.analytic``),
    whose scores stand where the selector's logits do. (Ours, to compare with.)

    Answers in free text have no logits to stand side by side: adapter k learns from its own task
    alone, each of the top-k adapters writes an answer, and the best by log p(task | prompt) of the
    selector + mean log p(token) is given. (The papers have no such case.)

    Where we differ from the authors' code: selector and adapters are separate on every
    backbone; softmax in fp32; one fixed validation chunk a stage; examples that can give no
    gradient (adapter k not in A(x)) are not computed, at the same loss scale (``skip_gradless``).
    """

    default_replay: ClassVar[str] = "dynamic"
    replay_kinds: ClassVar[tuple[str, ...]] = ("dynamic", "full", "memory", "none")
    adapter_kinds: ClassVar[tuple[str, ...]] = ("lora", "bottleneck", "prompt", "prefix")
    answers: ClassVar[tuple[str, ...]] = ("class", "text")

    top_k: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        default=1, description="adapters that answer an example: 1 and up, or 'all' (no selector)"
    )
    router: Literal["selector", "analytic"] = Field(
        default="selector",
        description="what chooses the adapters: a selector that is trained (the paper), or the "
        "nearest class mean of the plain backbone's features, in closed form (analytic)",
    )
    shrinkage: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="router=analytic: g, the share of the sphere in the covariance, 0..1",
    )
    skip_gradless: bool = Field(
        default=True, description="leave out examples that give the new adapter no gradient"
    )
    balance: bool = Field(
        default=False,
        description="correct the selector's loss by the log share of each task in its batches "
        "(logit adjustment): new tasks are no longer favoured",
    )
    selector_target: Literal["task", "label"] = Field(
        default="task",
        description="what the selector learns to tell apart: tasks (the paper), or labels, whose "
        "probabilities are then summed by task",
    )
    start: Literal["fresh", "selector"] = Field(
        default="fresh",
        description="first weights of a new adapter: fresh (the paper), or those of the selector, "
        "which has seen all tasks",
    )
    selector_epochs: int | None = Field(
        default=None, ge=1, description="epochs of the selector phase; None: train.epochs"
    )
    selector_lr: float | None = Field(
        default=None, gt=0.0, description="learning rate of the selector phase; None: train.lr"
    )

    def check(self, replay: str) -> None:
        check_router(self, self.router, OPTIONS_OF)
        if self.router == "analytic" and self.top_k == "all":
            raise ConfigError(
                "method.router=analytic chooses adapters, and with method.top_k=all every adapter "
                "answers; give a number as method.top_k, or leave method.router out"
            )
        if self.balance and replay != "dynamic":
            raise ConfigError(
                "method.balance=true knows the shares of tasks in a batch for replay.kind=dynamic "
                f"alone, and this run's is {replay}; leave one of the two out"
            )
        if self.start == "selector" and self.top_k == "all":
            raise ConfigError(
                "method.start=selector needs a selector, and with method.top_k=all there is none; "
                "leave one of the two out"
            )

    def check_text(self) -> None:
        if self.selector_target == "label":
            raise ConfigError(
                "method.selector_target is 'label', and answers in free text have no labels; "
                "leave it out (task)"
            )

    def warnings(self, state: State) -> Sequence[str]:
        task = state.task
        if state.writes:
            return ()
        if len(task.labels) > 1 and len(task.train) > 1:
            return ()
        what = "one label" if len(task.labels) == 1 else "one training example"
        router = "a selector" if self.router == "selector" else "the router"
        return [f"it has {what}; an adapter of its own cannot learn from that, {router} can"]

    def phases(self, state: State) -> Sequence[Phase]:
        phases: list[Phase] = []
        if self.router == "analytic":
            phases.append(AddToRouter("router", shrinkage=self.shrinkage))
        elif len(state.history) >= 2 and self.top_k != "all":
            spec = replace(
                state.spec,
                epochs=self.selector_epochs or state.spec.epochs,
                lr=self.selector_lr or state.spec.lr,
            )
            phases.append(self._selector(state, spec))
        if state.writes:
            return [*phases, OwnAnswers.of(state, self.start)]
        epochs = state.spec.epochs if self._trains_adapter(state) else 0
        phases.append(NewAdapter("adapter", replace(state.spec, epochs=epochs), self))
        return phases

    def _trains_adapter(self, state: State) -> bool:
        """Alone, an adapter of one label or one example learns nothing: the selector decides it."""
        alone = self.top_k == 1 or len(state.history) == 1
        return not alone or (len(state.task.labels) > 1 and len(state.task.train) > 1)

    def _selector(self, state: State, spec: PhaseSpec) -> Phase:
        by_label = self.selector_target == "label"
        rows = len(state.labels) if by_label else len(state.history)
        kind = BalancedSelector if self.balance else Selector
        target = self.selector_target
        return kind("selector", spec, SELECTOR, "selector", rows, state.replay, target)

    def route(self, state: State, batch: Batch) -> Routing:
        return self.routed(state, batch)

    @torch.no_grad()
    def routed(self, state: State, batch: Batch, true_task: Tensor | None = None) -> Routing:
        """A(x), with teacher forcing where ``true_task`` (B,) is given."""
        names = state.task_names
        k = len(names) if self.top_k == "all" else self.top_k
        if k >= len(names):
            return Routing(names, torch.ones(len(batch), len(names), device=state.device), "expand")
        if k == 1 and true_task is not None:  # A(x) = {true task}, whatever the selector says
            return oracle(names, true_task)
        if self.router == "analytic":
            return top_k(names, scores_of_tasks(state, batch), k, true_task)
        if SELECTOR not in state.pool:
            raise ConfigError(
                f"method.top_k is {k}, and this run has no selector that could choose: it was "
                "learned with method.top_k=all, and answers with all adapters alone"
            )
        logits = state.head_logits(batch, SELECTOR, keep=true_task is not None)
        if self.selector_target == "label":
            logits = by_task(state, logits)
        return top_k(names, logits, k, true_task)

    def oracle(self, state: State, batch: Batch) -> Routing:
        return oracle(state.task_names, batch.task)


def by_task(state: State, logits: Tensor) -> Tensor:
    """(B, C) logits of labels to (B, T): the log of each task's summed probability."""
    groups = logits.split([len(task.labels) for task in state.history], dim=1)
    return torch.stack([group.logsumexp(dim=1) for group in groups], dim=1)


class Selector(Tune):
    """The selector phase; whatever its head tells apart, the best state is the one that routes
    best."""

    def _hits(self, state: State, batch: Batch) -> Tensor:
        logits = self._logits(state, batch)
        if self.target == "label":
            logits = by_task(state, logits)
        return logits.argmax(dim=1) == batch.task


class BalancedSelector(Selector):
    """The selector phase with logit adjustment: softmax over logits + log p(task in a batch).

    After Menon et al. 2021 (arXiv 2007.07314): the trained logits then estimate p(x | task) up to a
    constant, so at prediction all tasks are equally likely before the text is seen. Old tasks are
    taken to be equally frequent, as dynamic replay draws them.
    """

    def loss(self, state: State, step: Step) -> LossTerms:
        batch, n_old = step["task"], len(state.history) - 1
        new = float((batch.task == n_old).float().mean().clamp(0.01, 0.99))
        share = torch.tensor([(1 - new) / n_old] * n_old + [new], device=state.device)
        if self.target == "label":  # every row of the head by the share of its task
            share = torch.cat([share[i].expand(len(t.labels)) for i, t in enumerate(state.history)])
        logits = self._logits(state, batch) + share.log()
        return {self.name: cross_entropy(logits, self._wanted(state, batch), len(batch))}


def take_over(state: State, first: int | None = None) -> None:
    """Give the newest adapter the selector's weights, once there is one; and of its head the rows
    from ``first`` on, where they stand for the new labels."""
    if SELECTOR not in state.pool:
        return
    tensors = state.pool.tensors(state.task.name)
    for key, value in state.pool.tensors(SELECTOR).items():
        if not key.startswith("head."):
            tensors[key] = value
        elif first is not None:
            tensors[key] = value[first:]
    state.pool.load_tensors(state.task.name, tensors)


@plain_dataclass(frozen=True)
class OwnAnswers(Tune):
    """Phase 2 where answers are free text: the new adapter, on the new task's examples alone."""

    start: str = "fresh"

    @staticmethod
    def of(state: State, start: str) -> OwnAnswers:
        own = ("adapter", state.spec, state.task.name, "task", 0, NoReplay())
        return OwnAnswers(*own, start=start)

    def begin(self, state: State) -> None:
        super().begin(state)
        if self.start == "selector":
            take_over(state)

    def end(self, state: State) -> None:
        super().end(state)
        state.replay.keep(state.history, state.look(self.adapter), state.rng("keep"))


@plain_dataclass(frozen=True)
class NewAdapter(Phase):
    """Phase 2: the new task's adapter and head beside the frozen ones."""

    name: str
    spec: PhaseSpec
    method: ConpetDynamic

    def begin(self, state: State) -> None:
        state.pool.add(
            state.task.name,
            seed=state.seed_of("adapter", "initial weights"),
            n_classes=len(state.task.labels),
            role="task",
        )
        if self.method.start == "selector":
            rows = state.task.first_column if self.method.selector_target == "label" else None
            take_over(state, rows)

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        return [ParamGroup(state.pool.parameters_of(state.task.name), self.spec.lr)]

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        rows = drawn(state, state.replay, self.name, self.spec.batch_size, epoch)
        return RowBatches(state, task=rows)

    def loss(self, state: State, step: Step) -> LossTerms:
        whole = step["task"]
        batch, routing = self._teaching(state, whole)
        if not len(batch):
            return {}
        logits = state.class_logits(batch, routing)
        return {self.name: cross_entropy(logits, batch.label, len(whole))}

    @torch.no_grad()
    def validate(self, state: State) -> float | None:
        """Accuracy on the validation rows that the new adapter answers for, 0..100."""
        rows = state.replay.validation(
            state.history, self.spec.eval_batch_size, state.rng(self.name, "validation")
        )
        right = total = 0
        for chunk in state.chunks(rows):
            batch, routing = self._teaching(state, chunk)
            if len(batch):
                hit = state.class_logits(batch, routing).argmax(dim=1) == batch.label
                right, total = right + int(hit.sum()), total + len(batch)
        return 100 * right / total if total else None

    def end(self, state: State) -> None:
        state.pool.freeze(state.task.name)
        state.replay.keep(state.history, state.look(state.task.name), state.rng("keep"))

    def _teaching(self, state: State, whole: Batch) -> tuple[Batch, Routing]:
        """The examples that give the new adapter a gradient, and the adapters that answer them."""
        routing = self.method.routed(state, whole, whole.task)
        if not self.method.skip_gradless:
            return whole, routing
        mine = routing.weights[:, -1].nonzero()[:, 0]
        return whole.select(mine), routing.rows(mine)
