"""SAPT (arXiv 2401.08295): one attention both mixes the adapters and selects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import fields, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from conpet.adapters.seeding import generator_for
from conpet.errors import ConfigError
from conpet.methods.base import LossTerms, Method, ParamGroup, Phase, State, Step
from conpet.methods.closed_form import AddToRouter, check_router, scores_of_tasks
from conpet.methods.generator import Generate
from conpet.methods.pairs import Recipe
from conpet.methods.passes import one_each
from conpet.methods.reflection import (
    ATTENTION,
    OldTasks,
    Reference,
    Reflecting,
    attention,
    pooled,
)
from conpet.methods.samples import AbsolutePath, GivenSamples
from conpet.methods.tune import Tune, every_head
from conpet.replay.dynamic import NoReplay
from conpet.replay.pseudo import about, wanted
from conpet.routing.attention import (
    Order,
    Pooling,
    Remembered,
    SharedAttention,
    reflection,
    route,
)
from conpet.routing.base import single
from conpet.types import Batch, Routing, Task


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SAPT(Method):
    """Learn task t with all adapters at once, mixed by an attention that is shared by all layers.

        q = f(max over the prompt's tokens of their frozen embeddings)
        a = softmax(k_1 . q, ..., k_t . q; temperature)
        every adapted projection:  W x + (alpha / r) sum_i a_i B_i A_i x

    1. Adapter t, key t and the projection f, on the new task's examples; the old adapters and keys
       are frozen.
         loss = task loss + reflection * sum_{i<t} mean over pseudo-samples x of task i of
                KL(a as it was when task i was learned, 0 for later tasks || a(x))
    2. A generator adapter learns to write the task's inputs; pseudo-samples are drawn from it and
       kept, the adapter is not (``pseudo=generated``).
    3. The reference attention of task t: its mean over the task's validation (or training) prompts.

    Prediction: the same attention mixes the adapters; no task id. Classes: the heads of all tasks
    stand side by side on the mixed features, and only the newest trains.

    With ``router=analytic`` there is no attention, and so neither phase 2 nor 3: each adapter
    learns alone, its head among the task's own classes; a is then the posterior of the tasks under
    a router in closed form (``conpet.routing.analytic``), and class c of task i has the probability
    a_i p_i(c), p_i the softmax of head i on the mixed features. (Ours, to compare with.)

    Where we differ from the authors' code: padding has no part in the query; the instruction of a
    pseudo-sample is the task's own; the gradient through frozen adapters is exact; references never
    come from test data; the weight of the reflection does not depend on accumulation. Each has an
    option that brings theirs back, but for the last two.
    """

    adapter_kinds: ClassVar[tuple[str, ...]] = ("lora", "bottleneck", "prompt")
    answers: ClassVar[tuple[str, ...]] = ("class", "text")
    refuses: ClassVar[Mapping[str, str]] = {
        "replay.kind": "what it keeps of old tasks is chosen by method.pseudo"
    }

    router: Literal["attention", "analytic"] = Field(
        default="attention",
        description="what weighs the adapters: the shared attention (the paper), or the posterior "
        "of the nearest class mean of the plain backbone's features, in closed form (analytic)",
    )
    shrinkage: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="router=analytic: g, the share of the sphere in the covariance, 0..1",
    )
    top_k: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        default="all", description="adapters with the largest weights that answer, or 'all'"
    )
    train_top_k: bool = Field(
        default=False, description="top_k in training too; the new adapter is always among them"
    )
    attend: Literal["both", "selection"] = Field(
        default="both",
        description="the attention mixes while learning and answering (both, the paper); or it "
        "learns only to select, and each adapter learns alone (an ablation)",
    )
    selection: float = Field(
        default=0.0,
        ge=0,
        description="weight of -log a_t on the new task's inputs, which ties them to its key; 0: "
        "none (the paper), or 1 where each adapter learns alone (attend=selection, train_top_k=1)",
    )
    bottleneck: int = Field(default=100, ge=1, description="width inside the projection f")
    order: Order = Field(
        default="after", description="SiLU after both layers of f (the code) or between (the paper)"
    )
    temperature: float | None = Field(
        default=None, gt=0, description="of the attention; None: the root of the embedding's width"
    )
    query: Pooling = Field(
        default="masked", description="pool real tokens (masked), or padding too (padded: the code)"
    )
    attention_lr: float | None = Field(
        default=None, gt=0, description="learning rate of f and the key; None: train.lr"
    )
    cut: bool = Field(
        default=False,
        description="no gradient to lower layers through frozen adapters (the code); soft prompts "
        "have none to cut",
    )
    reflection: float = Field(
        default=1.0, ge=0, description="weight of the reflection loss; 0: none"
    )
    reflection_over: Literal["sum", "mean"] = Field(
        default="sum", description="its terms of the old tasks are summed (the code), or averaged"
    )
    reflection_every: int = Field(default=1, ge=1, description="in every n-th batch of an epoch")
    reflection_from: int = Field(default=0, ge=0, description="from this epoch on, counted from 0")
    reference: Literal["mean", "sample"] = Field(
        default="mean",
        description="reference attention: the mean over a task, or of each pseudo-sample itself",
    )
    reference_from: Literal["valid", "train"] = Field(
        default="valid", description="prompts whose attention is averaged; without any: train"
    )
    pseudo: Literal["auto", "generated", "real", "file"] = Field(
        default="auto",
        description="what stands for old inputs: generated texts, real ones (an upper bound), or "
        "those of a file; auto: generated where the backbone writes, else real",
    )
    pseudo_file: AbsolutePath | None = Field(
        default=None, description="pseudo=file: JSONL, CSV or Parquet with task, input, instruction"
    )
    pseudo_share: float = Field(
        default=0.02, gt=0, le=1, description="pseudo-samples of a task by its training examples"
    )
    generator_format: Literal["instruction", "markers"] = Field(
        default="instruction",
        description="the generator is given the instruction; or it writes it too, between two "
        "marker tokens of its own (markers: the code)",
    )
    generator_steps: int = Field(default=300, ge=1, description="optimiser steps of a generator")
    generator_batch_size: int = Field(default=16, ge=1, description="examples of its batches")
    generator_lr: float = Field(
        default=1e-3, gt=0, description="its learning rate; soft prompts want a larger one"
    )
    generator_tokens: int = Field(
        default=96, ge=8, description="tokens of a generated input, its end included"
    )
    generator_temperature: float = Field(default=1.0, gt=0, description="of sampling")
    generator_top_k: int = Field(
        default=20, ge=0, description="likeliest tokens that are drawn from"
    )
    generator_penalty: float = Field(
        default=1.2, gt=0, description="of repeated tokens; 1: none (the code: 2.5)"
    )
    generator_shortest: int = Field(default=3, ge=1, description="fewest words of a kept text")

    def check(self, replay: str) -> None:
        of_any = ("router", "top_k", "shrinkage")
        of_attention = [field.name for field in fields(self) if field.name not in of_any]
        own = {"attention": of_attention, "analytic": ["shrinkage"]}
        check_router(self, self.router, own)
        if (self.pseudo == "file") != (self.pseudo_file is not None):
            raise ConfigError(
                f"method.pseudo is '{self.pseudo}' and method.pseudo_file {self.pseudo_file}; give "
                "both pseudo=file and the file, or neither"
            )
        if self.train_top_k and self.top_k == "all":
            raise ConfigError(
                "method.train_top_k=true needs a number as method.top_k; give one, or leave it out"
            )
        if self.train_top_k and self.attend == "selection":
            raise ConfigError(
                "method.attend is 'selection', so that each adapter learns alone; leave out "
                "method.train_top_k, which mixes some"
            )

    @property
    def learns_from_valid(self) -> bool:
        return self.attends and self.reference_from == "valid"

    @property
    def attends(self) -> bool:
        """Whether there is an attention, and what holds it in place."""
        return self.router == "attention"

    def check_tasks(self, state: State, tasks: Sequence[Task]) -> None:
        if self.attends:
            self._samples(state).check(state, tasks)

    def modules(self, state: State) -> Mapping[str, nn.Module]:
        if not self.attends:
            return {}
        width = state.backbone.model.get_input_embeddings().weight.shape[1]
        attention = SharedAttention(
            width,
            bottleneck=self.bottleneck,
            order=self.order,
            temperature=self.temperature,
            generator=generator_for(state.seed, ATTENTION, "projection"),
        )
        return {ATTENTION: attention.to(state.device)}

    def warnings(self, state: State) -> Sequence[str]:
        if not self.attends:
            return ()
        said = []
        if self.pseudo == "auto" and not state.writes:
            share = 100 * self.pseudo_share
            said.append(
                f"its backbone cannot write: {share:g} % of the real texts are kept in the run"
            )
        if not self.reflection and self.source(state) == "generated":
            said.append(
                "method.reflection is 0, so that no pseudo-sample is looked at, and they are "
                "generated all the same; method.pseudo=real spares the generator"
            )
        return said

    def phases(self, state: State) -> Sequence[Phase]:
        name, n_classes = state.task.name, len(state.task.labels)
        own = ("adapter", state.spec, name, "task", n_classes, NoReplay())
        if not self.attends:
            return [Tune(*own, "within"), AddToRouter("router", shrinkage=self.shrinkage)]
        learn = Attend(*own, method=self)
        refer = Reference(
            "reference", query=self.query, of=self.reference, prompts=self.reference_from
        )
        return [learn, self._samples(state), refer]

    def _samples(self, state: State) -> Generate | GivenSamples:
        source = self.source(state)
        if source != "generated":
            return GivenSamples("pseudo", share=self.pseudo_share, file=self.pseudo_file)
        spec = replace(
            state.spec,
            steps=self.generator_steps,
            batch_size=self.generator_batch_size,
            lr=self.generator_lr,
            select="last",
            accumulate=1,
        )
        return Generate("generator", spec, self.recipe)

    def source(self, state: State) -> str:
        """``pseudo``, with ``auto`` resolved."""
        if self.pseudo == "auto":
            return "generated" if state.writes else "real"
        return self.pseudo

    @property
    def pull(self) -> float:
        """``selection``, with its default resolved: 1 where nothing else would train the
        attention, as each adapter learns alone."""
        alone = self.attend == "selection" or (self.train_top_k and self.top_k == 1)
        return self.selection or float(alone)

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            self.generator_format == "markers",
            self.pseudo_share,
            self.generator_tokens,
            self.generator_temperature,
            self.generator_top_k,
            self.generator_penalty,
            self.generator_shortest,
        )

    def route(self, state: State, batch: Batch) -> Routing:
        top = None if self.top_k == "all" else self.top_k
        return route(state.task_names, self.attend_to(state, batch), top=top, cut=self.cut)

    def oracle(self, state: State, batch: Batch) -> Routing:
        if self.attends:  # an adapter has learned in the mix, not to answer alone
            return self.route(state, batch)
        return one_each(state.task_names, batch.task)

    def attend_to(self, state: State, batch: Batch) -> Tensor:
        """(B, T) the logits of the adapters' weights."""
        if not self.attends:
            return scores_of_tasks(state, batch)
        return attention(state).logits(pooled(state, batch, self.query), state.task_names)

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        if self.attends:
            return class_logits(state, batch, routing).log_softmax(dim=1)
        return posterior(state, batch, routing)

    def notes(self, state: State) -> Sequence[str]:
        if not self.attends:
            return ()
        assert state.text is not None
        n_wanted = wanted(self.pseudo_share, len(state.text.train))
        return [about(state.pseudo[state.task.name], n_wanted)]


def class_logits(state: State, batch: Batch, routing: Routing) -> Tensor:
    """(B, C) the heads of all tasks side by side, on the mixed features."""
    return every_head(state, state.forward(batch, routing).features)


def posterior(state: State, batch: Batch, routing: Routing) -> Tensor:
    """(B, C) log a_i + log p_i(c), with p_i the softmax of head i on the mixed features."""
    tiny = torch.finfo(torch.float32).tiny
    sizes = [len(task.labels) for task in state.history]
    heads = class_logits(state, batch, routing).split(sizes, dim=1)
    log_a = routing.weights.clamp_min(tiny).log().split(1, dim=1)
    own = [a + logits.log_softmax(dim=1) for a, logits in zip(log_a, heads, strict=True)]
    return torch.cat(own, dim=1)


@plain_dataclass(frozen=True, kw_only=True)
class Attend(Tune):
    """Phase 1: the new adapter, its key and the projection, beside the frozen ones."""

    method: SAPT

    def begin(self, state: State) -> None:
        super().begin(state)
        seed = state.seed_of(self.name, "initial weights")
        attention(state).add_key(self.adapter, generator_for(seed, "key", self.adapter))

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        shared = attention(state).parameters_of(self.adapter)
        named = {f"{ATTENTION}.{key}": p for key, p in shared.items()}
        lr = self.method.attention_lr or self.spec.lr
        return [*super().trainable(state), ParamGroup(named, lr)]

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        steps = super().batches(state, epoch)
        old = OldTasks.of(state)
        if old is None or not self.method.reflection or epoch < self.method.reflection_from:
            return steps
        most, over = self.spec.batch_size, self.method.reflection_over

        def draw(i: int) -> Remembered:
            return old.draw(state.rng(self.name, "reflection", epoch, i), most, over)

        return Reflecting(steps, draw, self.method.reflection_every)

    def loss(self, state: State, step: Step) -> LossTerms:
        terms = dict(super().loss(state, step))
        if self.method.pull:
            logits = self.method.attend_to(state, step["task"])
            terms["selection"] = -self.method.pull * logits.log_softmax(dim=1)[:, -1].mean()
        if "reflection" in step:
            old: Remembered = step["reflection"]
            logits = attention(state).logits(old.pooled, state.task_names)
            terms["reflection"] = self.method.reflection * reflection(logits, old)
        return terms

    def _routing(self, state: State, batch: Batch) -> Routing:
        if self.method.attend == "selection":
            return single(self.adapter, len(batch), state.device)
        logits = self.method.attend_to(state, batch)
        k = self.method.top_k
        top = None if k == "all" or not self.method.train_top_k else k
        return route(state.task_names, logits, top=top, newest=True, cut=self.method.cut)

    def _logits(self, state: State, batch: Batch) -> Tensor:
        return class_logits(state, batch, self._routing(state, batch))
