"""State: everything that has been learned, and what is computed with it.

Shapes: B batch, S sequence, d hidden, P pairs (example, adapter), C classes seen, T tasks seen,
A positions of an answer, n tokens of all answers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from conpet.adapters.head import each
from conpet.encoding.encode import EncodedTask, TokenStore
from conpet.methods.passes import Passes
from conpet.objectives.classify import NULL_LOGIT, ReadOut, side_by_side
from conpet.replay.base import FeatureKind, Replay, Rows
from conpet.replay.logits import LogitCache
from conpet.replay.pseudo import PseudoSamples
from conpet.runtime import derive_seed, rng
from conpet.types import Batch, Routing, Task


@dataclass(frozen=True)
class PhaseSpec:
    """How a phase is optimised.

    Attributes:
        epochs: passes over what ``Phase.batches`` yields.
        steps: optimiser steps; where given, it replaces ``epochs``.
        max_steps: most optimiser steps, where ``epochs`` would take more.
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
    max_steps: int | None = None
    batch_size: int = 32
    eval_batch_size: int = 32
    lr: float = 2e-3
    schedule: str = "constant"
    weight_decay: float = 0.01
    eps: float = 1e-8
    clip: float | None = 1.0
    select: str = "best"
    accumulate: int = 1


Block = tuple[str, Tensor, Tensor]
"""An adapter, the examples (P,) that it answers, and the logits (P, C) of its head."""


@dataclass(kw_only=True)
class State(Passes):
    """Everything that has been learned, and what learning needs. Saved whole.

    Attributes:
        history: the tasks 1..k with the rows of their data; the last one may still be in training.
        planned: tasks in the whole stream, as far as it is known.
        spec: the phase specification of the run configuration; methods derive theirs from it.
        buffers: named tensors of a method (class means, sums, ...).
        modules: named trainable modules of a method.
        inputs: the same rows as ``store`` without instructions; None where there are none.
        text: the newest task as text; None before the first.
        pseudo: pseudo-samples of the tasks, by name.
    """

    store: TokenStore
    replay: Replay
    logits: LogitCache
    spec: PhaseSpec
    seed: int
    planned: int = 1
    history: list[EncodedTask] = field(default_factory=list)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    inputs: TokenStore | None = None
    text: Task | None = None
    pseudo: dict[str, PseudoSamples] = field(default_factory=dict)
    _by_row: np.ndarray = field(default_factory=lambda: np.full((2, 0), -1), repr=False)
    _indexed: int = field(default=0, repr=False)
    _labels: tuple[EncodedTask | None, tuple[str, ...]] = field(default=(None, ()), repr=False)

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
        newest = self.history[-1] if self.history else None
        if self._labels[0] is not newest or len(self._labels[1]) != self.n_classes:
            self._labels = newest, tuple(label for task in self.history for label in task.labels)
        return self._labels[1]

    @property
    def n_classes(self) -> int:
        """How many classes were seen so far."""
        return self.task.first_column + len(self.task.labels) if self.history else 0

    # Data ----------------------------------------------------------------------------------------

    def batch(self, rows: np.ndarray) -> Batch:
        """Encode rows of the token store, with the true task and label of each."""
        known = self._answers_by_row()
        return self.store.batch(rows, known[0, rows], known[1, rows]).to(self.device)

    def batch_of_inputs(self, rows: np.ndarray) -> Batch:
        """The same rows without their instructions, and without what is known of them."""
        assert self.inputs is not None
        return self.inputs.batch(rows).to(self.device).without_answers()

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
        for at in self.cut(self.store.lengths[rows]):
            yield self.batch(rows[at])

    @property
    def end_id(self) -> int:
        """What ends an answer."""
        assert self.store.encoder.end_id is not None  # else no answer could be encoded
        return self.store.encoder.end_id

    def rng(self, *parts: object) -> np.random.Generator:
        """A generator that depends on the run's seed, the task at hand and ``parts`` alone."""
        return rng(self.seed, len(self.history), *parts)

    def seed_of(self, *parts: object) -> int:
        return derive_seed(self.seed, len(self.history), *parts)

    # What is made of them ------------------------------------------------------------------------

    def class_logits(self, batch: Batch, routing: Routing) -> Tensor:
        """The routed heads side by side, (B, C); null logits for tasks that were not routed to.

        ``mix`` and ``concat``: the features go through the head of the first routed adapter.
        ``expand``: every adapter's head answers for its own task; live adapters with gradient,
        frozen ones without, from the logit cache where it has them.
        """
        shape = (len(batch), self.n_classes)
        if routing.combine != "expand":
            output = self.forward(batch, routing)
            logits: Tensor = self.pool.head(routing.names[0])(output.features)
            missing = shape[1] - logits.shape[1]
            return functional.pad(logits, (0, missing), value=NULL_LOGIT) if missing else logits
        live = [name for name in routing.names if self.pool.is_live(name)]
        blocks: list[Block] = []
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

    def _answers(self, batch: Batch, routing: Routing) -> list[Block]:
        """Logits of each routed adapter's head, by the adapter."""
        output = self.forward(batch, routing)
        order = output.column.argsort(stable=True)
        columns, sizes = output.column[order].unique_consecutive(return_counts=True)
        features = output.features[order].split(sizes.tolist())
        examples = output.example[order].split(sizes.tolist())
        names = [routing.names[column] for column in columns.tolist()]
        logits = each([self.pool.head(name) for name in names], features)
        return list(zip(names, examples, logits, strict=True))

    @torch.no_grad()
    def _frozen_answers(self, batch: Batch, routing: Routing) -> list[Block]:
        """Logits of frozen adapters: known pairs from the cache, the rest as one batch."""
        if not bool((batch.rows >= 0).any()):  # inputs that no cache knows
            return self._answers(batch, routing)
        todo = torch.zeros_like(routing.weights)
        blocks = []
        rows = batch.rows.cpu().numpy()
        for column in routing.weights.any(dim=0).nonzero()[:, 0].tolist():
            name = routing.names[column]
            example = routing.weights[:, column].nonzero()[:, 0]
            values, known = self.logits.get(
                self.cache_key(name), rows[example.cpu().numpy()], self.pool.n_classes(name)
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
    def features(
        self, rows: np.ndarray, routing_of: str | None = None, how: ReadOut | None = None
    ) -> np.ndarray:
        """Hidden states at the read-out, (n, d) float32, in the order of ``rows`` (may repeat).

        Through the adapter ``routing_of``, or the plain backbone where it is None; read out as
        ``how`` says, or as the run does.
        """
        names = () if routing_of is None else (routing_of,)
        distinct, place = np.unique(rows, return_inverse=True)
        # zeros: a dry run, which cannot tell rows apart, does not fill all of them
        out = np.zeros((len(distinct), self.backbone.hidden_size), np.float32)
        for batch in self.chunks(distinct):
            weights = torch.ones(len(batch), len(names), device=self.device)
            features = self.forward(batch, Routing(names, weights), how).features.cpu().numpy()
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
