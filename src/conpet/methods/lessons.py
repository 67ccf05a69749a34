"""Examples that a prompt both answers and learns to write, so that it keeps them itself (LFPT5).

Shapes: B batch, A answer tokens, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conpet.encoding.encode import TokenStore, length_buckets
from conpet.encoding.encoder import Encoder
from conpet.errors import ConfigError
from conpet.methods.base import Computation, LossTerms, State, Step
from conpet.methods.pairs import (
    Pair,
    Recipe,
    pair_batch,
    prompt_encoder,
    sampled,
    sieve_of,
    sifted,
)
from conpet.methods.tune import TEACHER, Tune, add_teacher
from conpet.objectives.distillation import token_divergence
from conpet.objectives.generate import answer_loss, token_log_probs
from conpet.replay.pseudo import PseudoSamples
from conpet.routing.base import single
from conpet.types import NO_TOKEN, Batch, Example, Task

MARK = "__ans__"
"""Between an input and its answer where both are written."""

Found = tuple[tuple[str, str], str | None]
"""(instruction, answer) and input of what was written; no input where it makes no example."""


class Scribe:
    """Encodes what is asked for an example of a task, and the example as it is to be written.

    An answer takes at most half of ``Recipe.max_tokens``, and the input what is left.
    """

    def __init__(self, state: State, recipe: Recipe) -> None:
        self._most = recipe.max_tokens
        self._encoder: Encoder = prompt_encoder(state, recipe, recipe.max_tokens)
        self.mark = self._ids([MARK])[0]

    def ask(self, task: str, instructions: Sequence[str]) -> list[list[int]]:
        """The ids of what an example is asked for by, one for each instruction."""
        asked = [
            Example(f"{i}", f"Write an input of task {task} and its answer. {given}".strip())
            for i, given in enumerate(instructions)
        ]
        return [ids for ids, _ in self._encoder.encode_all(asked)]

    def pairs(self, task: str, examples: Sequence[Example]) -> list[Pair]:
        """What is asked for each example, and [input, mark, answer, end]."""
        asked = self.ask(task, [example.instruction for example in examples])
        inputs = self._ids([example.text for example in examples])
        answers = [ids[: self._most // 2] for ids in self._ids([e.answers[0] for e in examples])]
        end = self._encoder.end_id
        assert end is not None  # else no answer could be encoded
        return [
            (ask, [*x[: self._room(y)], *self.mark, *y, end])
            for ask, x, y in zip(asked, inputs, answers, strict=True)
        ]

    def check_room(self, tasks: Sequence[Task], shortest: int) -> None:
        """ConfigError where an answer leaves no room for the shortest input that is kept."""
        for task in tasks:
            answers = self._ids([example.answers[0] for example in task.train])
            left = min(self._room(ids[: self._most // 2]) for ids in answers)
            if left < shortest:
                raise ConfigError(
                    f"method.generator_tokens is {self._most}; behind an input of task "
                    f"'{task.name}' come a mark of {len(self.mark)} tokens and its answer, which "
                    f"leave it {max(left, 0)}, and an input that is kept has {shortest} words "
                    "or more; raise generator_tokens"
                )

    def _room(self, answer: Sequence[int]) -> int:
        """Tokens of an input beside its answer, the mark and the end."""
        return self._most - len(self.mark) - len(answer) - 1

    def read(self, ids: Sequence[int]) -> tuple[str, str] | None:
        """Input and answer of what was written; None unless the mark parts it in exactly two."""
        n = len(self.mark)
        at = [i for i in range(len(ids) - n + 1) if list(ids[i : i + n]) == self.mark]
        if len(at) != 1:
            return None
        return self._encoder.decode(ids[: at[0]]), self._encoder.decode(ids[at[0] + n :])

    def legal(self, task: Task) -> set[str] | None:
        """The answers of a task as they are read, where on average each stands twice; None where
        answers are free."""
        first = [example.answers[0] for example in task.train]
        if 2 * len(set(first)) > len(first):
            return None
        cut = [ids[: self._most // 2] for ids in self._ids(sorted(set(first)))]
        return {self._encoder.decode(ids) for ids in cut}

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Without the end token."""
        return [ids[:-1] for ids in self._encoder.encode_answers(texts)]


class Lessons:
    """The examples of the newest task and the pseudo-samples of all older ones, encoded once.

    Attributes:
        store: all of them with their answers, the new ones first.
        n_new: how many of them are new.
        pairs: of each, as it is asked for and written.
    """

    def __init__(self, state: State, recipe: Recipe) -> None:
        assert state.text is not None
        scribe = Scribe(state, recipe)
        groups = [(state.text.name, list(state.text.train))]
        for name in state.task_names[:-1]:
            groups.append((name, list(state.pseudo[name].examples(name))))
        self.store = TokenStore(state.store.encoder)
        self.store.add([example for _, many in groups for example in many])
        self.n_new = len(state.text.train)
        self.pairs = [pair for name, many in groups for pair in scribe.pairs(name, many)]


class LessonBatches(Sequence[Step]):
    """Batches of lessons, made when they are asked for."""

    def __init__(self, state: State, lessons: Lessons, buckets: Sequence[np.ndarray]) -> None:
        self.state, self.lessons, self.buckets = state, lessons, buckets

    def __len__(self) -> int:
        return len(self.buckets)

    def __getitem__(self, i: Any) -> Any:
        return {"task": self.lessons.store.batch(self.buckets[i]).to(self.state.device)}


@dataclass(frozen=True, kw_only=True)
class Lifelong(Tune):
    """Tune to answer and to write all lessons, near what was answered to old ones before.

        (1 - kd) * [CE of answers + generation * CE of written examples] + kd * divergence

    kd is ``distillation``, and 0 where no lesson is an old one. While it lasts ``TEACHER`` is the
    adapter as it was.
    """

    recipe: Recipe
    generation: float
    distillation: float
    _made: dict[str, Lessons] = field(default_factory=dict, init=False, repr=False, compare=False)

    def begin(self, state: State) -> None:
        if self.distillation and self.adapter in state.pool:
            add_teacher(state, self.adapter)  # before it is thawed
        super().begin(state)

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        lessons, rng = self._lessons(state), state.rng(self.name, "epoch", epoch)
        buckets = length_buckets(lessons.store.lengths, self.spec.batch_size, rng)
        return LessonBatches(state, lessons, buckets)

    def loss(self, state: State, step: Step) -> LossTerms:
        batch, lessons = step["task"], self._lessons(state)
        logits = state.answer_logits(batch, self._routing(state, batch))
        log_probs = token_log_probs(logits, batch.answer_ids)
        terms = {self.name: answer_loss(log_probs, batch.answer_ids)}
        if self.generation:
            pairs = pair_batch(state, [lessons.pairs[row] for row in batch.rows.tolist()])
            written = answer_loss(self._log_probs(state, pairs), pairs.answer_ids)
            terms["generation"] = self.generation * written
        if not self.distillation or len(lessons.pairs) == lessons.n_new:
            return terms
        terms = {name: (1 - self.distillation) * term for name, term in terms.items()}
        old = (batch.rows >= lessons.n_new).nonzero()[:, 0]
        if len(old):
            terms["distillation"] = self.distillation * self._divergence(state, batch, old, logits)
        return terms

    def end(self, state: State) -> None:
        super().end(state)
        if TEACHER in state.pool:
            state.pool.remove(TEACHER)

    def _divergence(self, state: State, batch: Batch, old: Tensor, logits: Tensor) -> Tensor:
        """From the teacher's answers to the lessons at ``old``."""
        asked = batch.select(old)
        with torch.no_grad():
            before = state.answer_logits(asked, single(TEACHER, len(asked), state.device))
        example = (batch.answer_ids != NO_TOKEN).nonzero()[:, 0]  # of each token
        return token_divergence(before, logits[torch.isin(example, old)])

    def _lessons(self, state: State) -> Lessons:
        """Those of the newest task, made once. Not in ``begin``, which is not called where a run
        is resumed."""
        name = state.task.name
        if name not in self._made:
            self._made[name] = Lessons(state, self.recipe)
        return self._made[name]


@dataclass(frozen=True, kw_only=True)
class WriteExamples(Computation):
    """Draw examples of the newest task from what the adapter has learned to write; keep those that
    can stand for real ones."""

    adapter: str
    recipe: Recipe

    def end(self, state: State) -> None:
        assert state.text is not None
        task, scribe = state.text, Scribe(state, self.recipe)
        legal, rejected = scribe.legal(task), Counter({"rejected_illegal": 0.0})
        rng, seed = state.rng(self.name, "instructions"), state.seed_of(self.name, "text")

        def draw(first: int, n: int) -> list[Found]:
            given = [task.train[i].instruction for i in rng.integers(len(task.train), size=n)]
            asked = scribe.ask(task.name, given)
            written = sampled(state, self.adapter, asked, self.recipe, seed, first)
            found: list[Found] = []
            for instruction, read in zip(given, map(scribe.read, written), strict=True):
                text, answer = read if read is not None else (None, "")
                if read is not None and (not answer or (legal is not None and answer not in legal)):
                    rejected["rejected_illegal"] += 1
                else:
                    found.append(((instruction, answer), text))
            return found

        sieve = sieve_of(task, self.recipe)
        kept = sifted(sieve, self.recipe.wanted(len(task.train)), draw)
        state.pseudo[task.name] = PseudoSamples(
            "generated",
            tuple((given, text) for (given, _), text in zip(kept, sieve.kept, strict=True)),
            {**sieve.quality(), **rejected},
            answers=tuple(answer for _, answer in kept),
        )

    def sketch(self, state: State) -> bool:
        """As many samples as may be kept."""
        assert state.text is not None
        n = self.recipe.wanted(len(state.text.train))
        inputs, answers = (("", "word"),) * n, ("word",) * n
        state.pseudo[state.task.name] = PseudoSamples("generated", inputs, answers=answers)
        return True
