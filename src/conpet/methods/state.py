"""State: everything that has been learned, and what is computed with it.

Shapes: B batch, S sequence, d hidden, P pairs (example, adapter), C classes seen, T tasks seen,
A positions of an answer, n tokens of all answers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from conpet.adapters.head import each
from conpet.adapters.pool import Pool
from conpet.backbones.base import Backbone
from conpet.backbones.generative import GenerativeBackbone
from conpet.backbones.trunk import Trunk
from conpet.encoding.encode import EncodedTask, TokenStore, length_chunks
from conpet.objectives.classify import ReadOut, read_out, side_by_side
from conpet.objectives.generate import Decoding, Pick, Written, token_log_probs
from conpet.replay.base import FeatureKind, Replay, Rows
from conpet.replay.logits import LogitCache
from conpet.replay.pseudo import PseudoSamples
from conpet.replay.trunk import TrunkCache
from conpet.runtime import derive_seed, rng
from conpet.types import Batch, Routing, SoftPrompt, Task, padded

OF_A_PASS, OF_A_LAUNCH = 64, 8192
"""Tokens that take as long as what a pass takes whatever its size, on a CPU and elsewhere: a batch
is cut by length where that spares more padding."""


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


@dataclass(frozen=True)
class Output:
    """Features (P, d) at the read-out; the example and the routing column of each row, both
    (P,)."""

    features: Tensor
    example: Tensor
    column: Tensor


Block = tuple[str, Tensor, Tensor]
"""An adapter, the examples (P,) that it answers, and the logits (P, C) of its head."""


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
        passes: examples sent through the backbone so far; the unit of the cost report. What went
            through some of its layers (of an encoder-decoder: of its encoder's) counts as that
            share of a pass.
        decoding: how answers in free text are written.
        inputs: the same rows as ``store`` without instructions; None where there are none.
        text: the newest task as text; None before the first.
        pseudo: pseudo-samples of the tasks, by name.
        trunk: the layers below all adapters, where they are run by themselves; None: they are not.
        kept: what the trunk made of texts.
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
    passes: float = 0
    decoding: Decoding = field(default_factory=Decoding)
    inputs: TokenStore | None = None
    text: Task | None = None
    pseudo: dict[str, PseudoSamples] = field(default_factory=dict)
    trunk: Trunk | None = None
    kept: TrunkCache = field(default_factory=TrunkCache)
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
    def writes(self) -> bool:
        """Whether answers are free text; else they are classes."""
        return isinstance(self.backbone, GenerativeBackbone)

    @property
    def device(self) -> torch.device:
        return self.backbone.device

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

    def cut(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Positions of texts to be answered, in batches of similar length that fit the token
        budget; where answers are written, each of their tokens is a pass."""
        answer = self.decoding.max_new_tokens if self.writes else 0
        yield from self._cut(lengths, self.pool.prompt_length + answer, passes=1 + answer)

    def parts(self, batch: Batch, routing: Routing, behind: int = 0) -> list[Tensor]:
        """The places in a batch of the examples of each pass that it takes, with what the routing
        puts beside their texts, and ``behind`` tokens of an answer."""
        n, width = batch.input_ids.shape
        beside = self.pool.positions(routing) + behind
        if n * padded(width) <= self._of_a_pass and n <= self._rows_at_once(width + beside):
            # A second pass would take more than all padding: no need to wait for a GPU's lengths.
            return [torch.arange(n, device=self.device)]
        lengths = batch.attention_mask.sum(dim=1).cpu().numpy()
        cut = self._cut(lengths, beside)
        return [torch.from_numpy(at.copy()).to(self.device) for at in cut]

    def _cut(self, lengths: np.ndarray, beside: int, passes: int = 1) -> Iterator[np.ndarray]:
        """Positions of texts in chunks of similar length, each of which fits the token budget with
        ``beside`` further tokens a row, and takes so many ``passes``."""

        def room(longest: int) -> int:
            return self._rows_at_once(longest + beside)

        return length_chunks(lengths, room, passes * self._of_a_pass)

    @property
    def _of_a_pass(self) -> int:
        """Tokens that take as long as a pass takes whatever its size."""
        return OF_A_PASS if self.device.type == "cpu" else OF_A_LAUNCH

    def _rows_at_once(self, length: int) -> int:
        """Rows of so many tokens, soft prompts included, that fit the token budget."""
        return max(1, self.token_budget // max(1, length))

    def rng(self, *parts: object) -> np.random.Generator:
        """A generator that depends on the run's seed, the task at hand and ``parts`` alone."""
        return rng(self.seed, len(self.history), *parts)

    def seed_of(self, *parts: object) -> int:
        return derive_seed(self.seed, len(self.history), *parts)

    # Computation ---------------------------------------------------------------------------------

    @torch.no_grad()
    def token_embeddings(self, batch: Batch) -> Tensor:
        """(B, S, width) of the prompts' tokens, as the frozen backbone looks them up."""
        embed = self.backbone.model.get_input_embeddings()
        found: Tensor = embed(batch.input_ids)
        return found

    def forward(self, batch: Batch, routing: Routing, how: ReadOut | None = None) -> Output:
        """Features at the read-out (``how``; None is the run's own). ``expand`` makes one row of
        each (example, adapter) pair."""
        if routing.combine != "expand":
            everyone = torch.arange(len(batch), device=self.device)
            features = self._features(batch, routing, how)
            return Output(features, everyone, torch.zeros_like(everyone))
        example, column = routing.weights.nonzero(as_tuple=True)
        if not len(example):
            empty = torch.zeros(0, self.backbone.hidden_size, device=self.device)
            return Output(empty, example, column)
        pairs = one_each(routing.names, column)
        return Output(self._features(batch.select(example), pairs, how), example, column)

    @contextmanager
    def _passing(self, batch: Batch, routing: Routing) -> Iterator[SoftPrompt | None]:
        """One pass of a batch through the backbone, routed: from where its trunk is known, if it
        has one. An adapter's own tokens are known to no other, and go through all layers."""
        with self.pool.routed(routing) as soft_prompt, self._half():
            whole = self.trunk is None or not len(batch)
            if whole or any(self.pool.token_ids(name) for name in routing.names):
                self.passes += len(batch)
                yield soft_prompt
                return
            assert self.trunk is not None
            states, computed = self.kept.get(batch, self.trunk.lower)
            share = self.trunk.share
            self.passes += share * computed + (1 - share) * len(batch)
            with self.trunk.given(states):
                yield soft_prompt

    def _features(self, batch: Batch, routing: Routing, how: ReadOut | None = None) -> Tensor:
        """(B, d) at the read-out under a ``mix`` or ``concat`` routing."""

        def of(part: Batch, routing: Routing) -> Tensor:
            with self._passing(part, routing) as soft_prompt:
                hidden = self.backbone(part.input_ids, part.attention_mask, soft_prompt)
            return read_out(hidden, part, how or self.read_out)

        return self._in_parts(batch, routing, self.parts(batch, routing), of)

    def answer_log_probs(self, batch: Batch, routing: Routing) -> Tensor:
        """(B, A) log p of the answers' tokens under a ``mix`` or ``concat`` routing; 0 behind
        them."""
        longest = batch.answer_ids.shape[1]

        def of(part: Batch, routing: Routing) -> Tensor:
            found = token_log_probs(self.answer_logits(part, routing), part.answer_ids)
            return functional.pad(found, (0, longest - found.shape[1]))

        return self._in_parts(batch, routing, self.parts(batch, routing, longest), of)

    def answer_logits(self, batch: Batch, routing: Routing) -> Tensor:
        """(n, V) the logits of each of the n tokens of the answers, row by row."""
        adapted_head = self._writer.head in self.pool.adapters.hooked
        with self._passing(batch, routing) as soft_prompt:
            return self._writer.answer_logits(
                batch.input_ids,
                batch.attention_mask,
                batch.answer_ids,
                soft_prompt,
                adapted_head=adapted_head,
            )

    def _in_parts(
        self,
        batch: Batch,
        routing: Routing,
        parts: Sequence[Tensor],
        compute: Callable[[Batch, Routing], Tensor],
    ) -> Tensor:
        """What ``compute`` makes of a batch (B, ...), in passes over texts of similar length.

        Padding is computed like text: a batch of texts of all lengths, as replay mixes them, would
        be most of all padding.
        """
        if len(parts) < 2:
            return compute(batch, routing)
        found = [compute(batch.select(at), routing.rows(at)) for at in parts]
        return torch.cat(found)[torch.cat(list(parts)).argsort()]

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        routing: Routing,
        decoding: Decoding | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Written:
        """An answer in free text to each prompt under a ``mix`` or ``concat`` routing.

        Args:
            decoding: None is the run's own.
            seeds: (B,) of what is drawn for each prompt; None: by the prompt's tokens, so that
                equal prompts have equal answers.
        """
        parts: list[Written] = []
        decoding = decoding or self.decoding
        if not decoding.sample:
            seeds = None
        elif seeds is None:
            seeds = self._seeds(batch, decoding.seed)
        beside = self.pool.positions(routing) + decoding.max_new_tokens
        size = self._rows_at_once(batch.input_ids.shape[1] + beside)
        for at in torch.arange(len(batch), device=self.device).split(size):
            chunk = batch.select(at)
            pick = Pick(decoding, [seeds[i] for i in at.tolist()] if seeds is not None else None)
            with self._passing(chunk, routing.rows(at)) as soft_prompt:
                ids = self._writer.write(
                    chunk.input_ids,
                    chunk.attention_mask,
                    soft_prompt,
                    end_id=self.end_id,
                    max_new_tokens=decoding.max_new_tokens,
                    processors=[pick],
                    repetition_penalty=decoding.repetition_penalty,
                )
            parts.append(pick.written(ids, self.end_id))
        ids_of = [row for part in parts for row in part.ids]
        return Written(ids_of, torch.cat([part.log_prob for part in parts]))

    def _seeds(self, batch: Batch, seed: int) -> list[int]:
        """One of each prompt, by its tokens alone."""
        lengths = batch.attention_mask.sum(dim=1).tolist()
        rows = zip(batch.input_ids.tolist(), lengths, strict=True)
        return [derive_seed(seed, "answer", *ids[:n]) for ids, n in rows]

    @property
    def end_id(self) -> int:
        """What ends an answer."""
        assert self.store.encoder.end_id is not None  # else no answer could be encoded
        return self.store.encoder.end_id

    @property
    def _writer(self) -> GenerativeBackbone:
        assert isinstance(self.backbone, GenerativeBackbone)
        return self.backbone

    def _half(self) -> AbstractContextManager[None]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast)

    def class_logits(self, batch: Batch, routing: Routing) -> Tensor:
        """The routed heads side by side, (B, C); null logits for tasks that were not routed to.

        ``mix`` and ``concat``: the features go through the head of the first routed adapter.
        ``expand``: every adapter's head answers for its own task; live adapters with gradient,
        frozen ones without, from the logit cache where it has them.
        """
        shape = (len(batch), self.n_classes)
        if routing.combine != "expand":
            output = self.forward(batch, routing)
            head = self.pool.head(routing.names[0])
            return side_by_side([head(output.features)], [output.example], [0], shape)
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


def one_each(names: Sequence[str], column: Tensor) -> Routing:
    """Each example through the one adapter of its ``column`` (B,)."""
    return Routing(tuple(names), functional.one_hot(column, len(names)).float())
