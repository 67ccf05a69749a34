"""The contracts of a method: State (what has been learned), Phase (what is trained), Method.

Shapes: B batch, S sequence, d hidden, P pairs (example, adapter), C classes seen, T tasks seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from conpet.adapters.pool import Pool
from conpet.backbones.base import Backbone
from conpet.encoding.encode import EncodedTask, TokenStore
from conpet.objectives.classify import ReadOut, read_out, side_by_side
from conpet.replay.base import FeatureKind, Replay, Rows
from conpet.replay.logits import LogitCache
from conpet.runtime import derive_seed, rng
from conpet.types import Batch, Routing

LossTerms = Mapping[str, Tensor]
Step = Mapping[str, Any]
"""What one step sees, an entry per loader: a ``Batch`` of tokens, or ``Latents``."""


@dataclass(frozen=True)
class PhaseSpec:
    """How a phase is optimised.

    Attributes:
        epochs: passes over what ``Phase.batches`` yields.
        steps: optimiser steps; where given, it replaces ``epochs``.
        batch_size: examples a batch.
        eval_batch_size: examples a batch of a replayed validation chunk.
        lr: learning rate of AdamW.
        schedule: ``constant``, or ``linear``: down to 0 at the end of the phase.
        weight_decay: of AdamW, on matrices only.
        eps: of AdamW.
        clip: largest gradient norm; None for no clipping.
        select: keep the ``best`` state by ``Phase.validate``, or the ``last``.
        accumulate: batches an optimiser step.
    """

    epochs: int = 6
    steps: int | None = None
    batch_size: int = 32
    eval_batch_size: int = 32
    lr: float = 2e-3
    schedule: str = "constant"
    weight_decay: float = 0.01
    eps: float = 1e-8
    clip: float | None = 1.0
    select: str = "best"
    accumulate: int = 1


@dataclass(frozen=True)
class ParamGroup:
    """Parameters by stable names, trained at one learning rate."""

    parameters: Mapping[str, nn.Parameter]
    lr: float


@dataclass(frozen=True)
class Output:
    """Features (P, d) at the read-out; the example and the routing column of each row, both
    (P,)."""

    features: Tensor
    example: Tensor
    column: Tensor


@dataclass
class State:
    """Everything that has been learned, and what learning needs. Saved whole.

    Attributes:
        history: the tasks 1..k with the rows of their data; the last one may still be in training.
        planned: tasks in the whole stream, as far as it is known.
        spec: the phase specification of the run configuration; methods derive theirs from it.
        buffers: named tensors of a method (class means, sums, ...).
        modules: named trainable modules of a method.
        token_budget: tokens of one forward chunk where a batch is expanded.
        autocast: half-precision type of the backbone's computation; None for its own.
        passes: examples sent through the backbone so far; the unit of the cost report.
    """

    backbone: Backbone
    pool: Pool
    store: TokenStore
    replay: Replay
    logits: LogitCache
    spec: PhaseSpec
    read_out: ReadOut
    seed: int
    planned: int = 1
    token_budget: int = 8192
    history: list[EncodedTask] = field(default_factory=list)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    autocast: torch.dtype | None = None
    passes: int = 0
    _by_row: np.ndarray = field(default_factory=lambda: np.full((2, 0), -1), repr=False)
    _indexed: int = field(default=0, repr=False)

    # What is known of the classes and tasks ------------------------------------------------------

    @property
    def task(self) -> EncodedTask:
        """The task that is being learned, or was learned last."""
        return self.history[-1]

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.history)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes seen so far, in learning order: the columns of every score."""
        return tuple(label for task in self.history for label in task.labels)

    @property
    def n_classes(self) -> int:
        """How many classes were seen so far."""
        return self.task.first_column + len(self.task.labels) if self.history else 0

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    # Data ----------------------------------------------------------------------------------------

    def batch(self, rows: np.ndarray) -> Batch:
        """Encode rows of the token store, with the true task and label of each."""
        known = self._answers_by_row()
        return self.store.batch(rows, known[0, rows], known[1, rows]).to(self.device)

    def _answers_by_row(self) -> np.ndarray:
        """(2, rows in the store): the task index and the label column of every stored example."""
        missing = len(self.store.lengths) - self._by_row.shape[1]
        if missing:  # rows that belong to no task of the history keep -1
            self._by_row = np.pad(self._by_row, ((0, 0), (0, missing)), constant_values=-1)
        for task in self.history[self._indexed :]:
            for rows, labels in task.parts():
                self._by_row[0, rows], self._by_row[1, rows] = task.index, labels
            self._indexed += 1
        return self._by_row

    def chunks(self, rows: np.ndarray) -> Iterator[Batch]:
        """Rows in batches of similar length that fit the token budget; their order changes."""
        order = np.argsort(self.store.lengths[rows], kind="stable")[::-1]
        start = 0
        while start < len(order):
            longest = int(self.store.lengths[rows[order[start]]])
            size = max(1, self.token_budget // longest)
            yield self.batch(rows[order[start : start + size]])
            start += size

    def rng(self, *parts: object) -> np.random.Generator:
        """A generator that depends on the run's seed, the task at hand and ``parts`` alone."""
        return rng(self.seed, len(self.history), *parts)

    def seed_of(self, *parts: object) -> int:
        return derive_seed(self.seed, len(self.history), *parts)

    # Computation ---------------------------------------------------------------------------------

    def forward(self, batch: Batch, routing: Routing) -> Output:
        """Features at the read-out. ``expand`` makes one row of each (example, adapter) pair."""
        if routing.combine == "mix":
            everyone = torch.arange(len(batch), device=self.device)
            return Output(self._features(batch, routing), everyone, torch.zeros_like(everyone))
        example, column = routing.weights.nonzero(as_tuple=True)
        size = max(1, self.token_budget // batch.input_ids.shape[1])
        features = [
            self._features(
                batch.select(example[i : i + size]),
                _one_each(routing.names, column[i : i + size]),
            )
            for i in range(0, len(example), size)
        ]
        empty = torch.zeros(0, self.backbone.hidden_size, device=self.device)
        return Output(torch.cat(features) if features else empty, example, column)

    def _features(self, batch: Batch, routing: Routing) -> Tensor:
        self.passes += len(batch)
        half = torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)
        with self.pool.routed(routing), half:
            hidden = self.backbone(batch.input_ids, batch.attention_mask)
        return read_out(hidden, batch, self.read_out)

    def class_logits(self, batch: Batch, routing: Routing) -> Tensor:
        """The routed heads side by side, (B, C); null logits for tasks that were not routed to.

        ``mix``: the features go through the head of the one routed adapter. ``expand``: every
        adapter's head answers for its own task; live adapters with gradient, frozen ones without,
        from the logit cache where it has them.
        """
        shape = (len(batch), self.n_classes)
        if routing.combine == "mix":
            output = self.forward(batch, routing)
            head = self.pool.head(routing.names[0])
            return side_by_side([head(output.features)], [output.example], [0], shape)
        live = [name for name in routing.names if self.pool.is_live(name)]
        blocks: list[tuple[str, Tensor, Tensor]] = []  # adapter, examples, logits
        if live:
            blocks += self._answers(batch, _only(routing, live))
        frozen = _only(routing, [name for name in routing.names if name not in live])
        blocks += self._frozen_answers(batch, frozen)
        first = {task.name: task.first_column for task in self.history}
        return side_by_side(
            [logits for _, _, logits in blocks],
            [example for _, example, _ in blocks],
            [first[name] for name, _, _ in blocks],
            shape,
        )

    def _answers(self, batch: Batch, routing: Routing) -> list[tuple[str, Tensor, Tensor]]:
        output = self.forward(batch, routing)
        blocks = []
        for column in output.column.unique().tolist():
            mine = output.column == column
            name = routing.names[column]
            blocks.append((name, output.example[mine], self.pool.head(name)(output.features[mine])))
        return blocks

    @torch.no_grad()
    def _frozen_answers(self, batch: Batch, routing: Routing) -> list[tuple[str, Tensor, Tensor]]:
        """Logits of frozen adapters: known pairs from the cache, the rest as one batch."""
        todo = torch.zeros_like(routing.weights)
        blocks = []
        rows = batch.rows.cpu().numpy()
        for column in routing.weights.any(dim=0).nonzero()[:, 0].tolist():
            name = routing.names[column]
            example = routing.weights[:, column].nonzero()[:, 0]
            n_classes = self.pool.head(name).weight.shape[0]
            values, known = self.logits.get(
                self.cache_key(name), rows[example.cpu().numpy()], n_classes
            )
            hit = torch.from_numpy(known).to(self.device)
            todo[example[~hit], column] = 1.0
            if known.any():
                blocks.append((name, example[hit], torch.from_numpy(values[known]).to(self.device)))
        for name, example, logits in self._answers(batch, Routing(routing.names, todo, "expand")):
            self.logits.put(
                self.cache_key(name), rows[example.cpu().numpy()], logits.float().cpu().numpy()
            )
            blocks.append((name, example, logits))
        return blocks

    def head_logits(self, batch: Batch, name: str, keep: bool = False) -> Tensor:
        """Logits (B, C_name) of one adapter's head; ``keep`` them where the adapter is frozen."""
        weights = torch.ones(len(batch), 1, device=self.device)
        if not keep:
            return self.pool.head(name)(self.forward(batch, Routing((name,), weights)).features)
        blocks = self._frozen_answers(batch, Routing((name,), weights, "expand"))
        values = [logits for _, _, logits in blocks]
        return torch.cat(values)[torch.cat([example for _, example, _ in blocks]).argsort()]

    def columns_of(self, rows: np.ndarray) -> np.ndarray:
        """(n,) the label columns of stored examples; -1 where the label is not known."""
        return self._answers_by_row()[1, rows]

    def cache_key(self, name: str) -> str:
        return f"{name}-{self.pool.fingerprint(name)[:16]}"

    @torch.no_grad()
    def features(self, rows: np.ndarray, routing_of: str | None = None) -> np.ndarray:
        """Hidden states at the read-out, (n, d) float32, in the order of ``rows`` (may repeat).

        Through the adapter ``routing_of``, or the plain backbone where it is None.
        """
        names = () if routing_of is None else (routing_of,)
        distinct, place = np.unique(rows, return_inverse=True)
        out = np.empty((len(distinct), self.backbone.hidden_size), np.float32)
        for batch in self.chunks(distinct):
            weights = torch.ones(len(batch), len(names), device=self.device)
            features = self.forward(batch, Routing(names, weights)).features.cpu().numpy()
            out[np.searchsorted(distinct, batch.rows.cpu().numpy())] = features
        return out[place]

    def look(
        self, adapter: str, before_head: str | None = None
    ) -> Callable[[Rows, FeatureKind], np.ndarray]:
        """What an adapter makes of stored examples: hidden states (n, d), or logits (n, C).

        ``before_head`` names a module that the hidden states pass on their way to the head.
        """

        def at(rows: Rows, kind: FeatureKind) -> np.ndarray:
            hidden = self.features(rows, adapter)
            if kind == "hidden":
                return hidden
            with torch.no_grad():
                h = torch.from_numpy(hidden).to(self.device)
                h = self.modules[before_head](h) if before_head else h
                logits = self.pool.head(adapter)(h)
            return logits.float().cpu().numpy()

        return at


def _only(routing: Routing, names: Sequence[str]) -> Routing:
    where = {name: column for column, name in enumerate(routing.names)}
    columns = [where[name] for name in names]
    return Routing(tuple(names), routing.weights[:, columns], routing.combine)


def _one_each(names: Sequence[str], column: Tensor) -> Routing:
    """Each example through the one adapter of its ``column`` (B,)."""
    return Routing(tuple(names), functional.one_hot(column, len(names)).float())


class RowBatches(Sequence[Step]):
    """Batches of rows, encoded when they are asked for; those of a second loader behind the first.

    ``RowBatches(state, task=[rows, ...], memory=[rows, ...])``
    """

    def __init__(self, state: State, **loaders: Sequence[np.ndarray]) -> None:
        self.state = state
        self.rows = [(loader, rows) for loader, many in loaders.items() for rows in many]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        loader, rows = self.rows[i]
        return {loader: self.state.batch(rows)}


class Phase(Protocol):
    """What trains, where its batches come from, and what its loss terms are. The trainer runs it.

    ``begin`` and ``end`` depend only on the committed state and the seed: a crash inside them
    repeats them with the same result.
    """

    name: str
    spec: PhaseSpec

    def begin(self, state: State) -> None:
        """Add an adapter, grow a head, compute reference features."""
        return None

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        """What the optimiser moves; pure, for it is asked again on resume."""
        ...

    def begin_epoch(self, state: State, epoch: int) -> None:
        """Recompute what an epoch holds fixed; not called again when it is resumed half-way."""
        return None

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        """The batches of an epoch, one entry per loader; seeded by (seed, task, phase, epoch)."""
        ...

    def loss(self, state: State, step: Step) -> LossTerms:
        """Named terms; the trainer sums, differentiates and logs them."""
        ...

    def validate(self, state: State) -> float | None:
        """Score (higher is better) on validation data; None where there is none."""
        return None

    def after_backward(self, state: State) -> None:
        """Gradient projection and the like."""
        return None

    def after_step(self, state: State, step: Step) -> None:
        """Running statistics."""
        return None

    def end(self, state: State) -> None:
        """Freeze, store exemplars, class statistics."""
        return None


@dataclass(frozen=True)
class Computation(Phase):
    """A phase that takes no step: its ``end`` computes something from what was learned."""

    name: str
    spec: PhaseSpec = PhaseSpec(epochs=0, select="last")

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        return []

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        return ()

    def loss(self, state: State, step: Step) -> LossTerms:
        return {}


class Method(Protocol):
    """A continual-learning method. Implementations are frozen dataclasses of hyper-parameters.

    Attributes:
        needs_task_id: it answers only where the task of an input is known.
        default_replay, replay_kinds: the kind of replay it takes, and those it can take.
        refuses: why it cannot take other kinds: a reason for ``replay.kind``, ``adapter.kind``.
        default_selection: how the exemplars of a memory are chosen.
        adapter_kinds: the kinds of adapter it can train.
        has_head: its adapter has a head that gives logits.
    """

    needs_task_id: ClassVar[bool] = False
    default_replay: ClassVar[str] = "none"
    replay_kinds: ClassVar[tuple[str, ...]] = ("none",)
    refuses: ClassVar[Mapping[str, str]] = {}
    default_selection: ClassVar[str] = "random"
    adapter_kinds: ClassVar[tuple[str, ...]] = ("lora", "bottleneck", "full")
    has_head: ClassVar[bool] = True

    def modules(self, state: State) -> Mapping[str, nn.Module]:
        """The method's own modules, as they are before anything is learned; saved with the
        state."""
        return {}

    def check(self, replay: str) -> None:
        """Raise ConfigError where an option does not go with another or with the kind of replay.

        Asked before anything is learned.
        """
        return None

    def warnings(self, state: State) -> Sequence[str]:
        """What a person should know of the newest task before it is learned."""
        return ()

    def phases(self, state: State) -> Sequence[Phase]:
        """What is optimised for the newest task of the history, in order."""
        ...

    def route(self, state: State, batch: Batch) -> Routing:
        """Which adapters answer. Never reads ``batch.task``, unless ``needs_task_id``."""
        ...

    def oracle(self, state: State, batch: Batch) -> Routing:
        """The routing if the true task (``batch.task``) were known, to split the errors."""
        return self.route(state, batch)

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        """(B, C) log-probabilities of the classes seen, in learning order."""
        return state.class_logits(batch, routing).log_softmax(dim=1)

    def ready(self, state: State) -> bool:
        """Whether the method can answer after the newest task."""
        return True
