"""Passes: a frozen backbone run with routed adapters, in batches that fit.

Shapes: B batch, S sequence, d hidden, P pairs (example, adapter), A positions of an answer, n
tokens of all answers, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from conpet.adapters.pool import Pool
from conpet.backbones.base import Backbone
from conpet.backbones.generative import GenerativeBackbone
from conpet.backbones.trunk import Trunk
from conpet.encoding.encode import length_chunks
from conpet.objectives.classify import ReadOut, read_out
from conpet.objectives.generate import Decoding, Pick, Written, token_log_probs
from conpet.replay.trunk import TrunkCache
from conpet.runtime import derive_seed
from conpet.types import Batch, Routing, SoftPrompt, padded

OF_A_PASS, OF_A_LAUNCH = 64, 8192
"""Tokens that take as long as what a pass takes whatever its size, on a CPU and elsewhere: a batch
is cut by length where that spares more padding."""


@dataclass(frozen=True)
class Output:
    """Features (P, d) at the read-out; the example and the routing column of each row, both
    (P,)."""

    features: Tensor
    example: Tensor
    column: Tensor


@dataclass(kw_only=True)
class Passes(ABC):
    """A backbone, the adapters beside it, and how they are run.

    Attributes:
        token_budget: tokens of one forward chunk where a batch is expanded.
        autocast: half-precision type of the backbone's computation; None for its own.
        passes: examples sent through the backbone so far; the unit of the cost report. What went
            through some of its layers (of an encoder-decoder: of its encoder's) counts as that
            share of a pass.
        decoding: how answers in free text are written.
        trunk: the layers below all adapters, where they are run by themselves; None: they are not.
        kept: what the trunk made of texts.
    """

    backbone: Backbone
    pool: Pool
    read_out: ReadOut
    token_budget: int = 8192
    autocast: torch.dtype | None = None
    passes: float = 0
    decoding: Decoding = field(default_factory=Decoding)
    trunk: Trunk | None = None
    kept: TrunkCache = field(default_factory=TrunkCache)

    @property
    def writes(self) -> bool:
        """Whether answers are free text; else they are classes."""
        return isinstance(self.backbone, GenerativeBackbone)

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @property
    @abstractmethod
    def end_id(self) -> int:
        """What ends an answer."""

    # How batches are cut -------------------------------------------------------------------------

    def cut(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Positions of texts to be answered, in batches that fit the token budget.

        Where answers are written they are of similar length, and each token is a pass. Else they
        are few, so that heads are asked once: a batch is cut into its passes when it is run.
        """
        answer = self.decoding.max_new_tokens if self.writes else 0
        passes = 1 + answer if self.writes else len(lengths)
        yield from self._cut(lengths, self.pool.prompt_length + answer, passes=passes)

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

    # Features ------------------------------------------------------------------------------------

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
    def _writer(self) -> GenerativeBackbone:
        assert isinstance(self.backbone, GenerativeBackbone)
        return self.backbone

    def _half(self) -> AbstractContextManager[None]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast)


def one_each(names: Sequence[str], column: Tensor) -> Routing:
    """Each example through the one adapter of its ``column`` (B,)."""
    return Routing(tuple(names), functional.one_hot(column, len(names)).float())
