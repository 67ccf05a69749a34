"""A generator of pseudo-samples: an adapter that learns to write the inputs of one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from conpet.adapters.tokens import check_tokens
from conpet.encoding.encode import Encoder, length_buckets
from conpet.errors import ConfigError, DataError
from conpet.methods.base import LossTerms, ParamGroup, Phase, PhaseSpec, State, Step
from conpet.objectives.generate import Decoding, answer_loss
from conpet.replay.pseudo import PseudoSamples, Sieve, wanted, words_of
from conpet.routing.base import single
from conpet.runtime import derive_seed
from conpet.types import NO_TOKEN, Batch, Example, Task

GENERATOR = "@generator"
CUE = "Write an input for this task."
"""What stands for the instruction of a task that has none."""

TRIES = 10  # texts that are written, at most, for each that is wanted
ROUND = 32  # of them at a time

SHORTEST_PROMPT = 16  # tokens that an instruction has for itself
UNCUT = 10**6  # tokens; no instruction has so many


@dataclass(frozen=True)
class Recipe:
    """How pseudo-samples are written.

    Attributes:
        markers: the generator is asked by a marker, and writes the instruction, a second marker and
            the input (the authors' form); else it is asked with the instruction.
        share: of the training examples, so many pseudo-samples, at least one.
        max_tokens: of a text, its end included.
        temperature, top_k, repetition_penalty: of sampling.
        shortest: fewest words of a text.
    """

    markers: bool
    share: float
    max_tokens: int
    temperature: float
    top_k: int
    repetition_penalty: float
    shortest: int

    def wanted(self, n_train: int) -> int:
        return wanted(self.share, n_train)


@dataclass(frozen=True)
class Generate(Phase):
    """Train an adapter of its own to write an input of the newest task, given its instruction; then
    sample pseudo-samples, keep what can stand for an input, and drop the adapter.

        loss = -(1/n) sum log p(token of the input | instruction, tokens before it)

    SAPT (arXiv 2401.08295) lets the generator write the instruction too, between two markers that
    are new tokens (``Recipe.markers``), and one written instruction then serves all samples of the
    task. By default the instruction is the task's own, which is no private datum.
    """

    name: str
    spec: PhaseSpec
    recipe: Recipe
    _made: dict[str, PairEncoder] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def check(self, state: State, tasks: Sequence[Task]) -> None:
        """ConfigError where no input of one of the tasks can be written."""
        backbone, most = state.backbone, self.recipe.max_tokens
        if not state.writes:
            raise ConfigError(
                "method.pseudo is 'generated', and a backbone that is to name classes is loaded "
                "without the head that writes texts; use method.pseudo=real or file"
            )
        alone = backbone.kind == "decoder"  # what it writes stands behind what it is asked
        room = backbone.max_length
        room -= state.pool.prompt_length + SHORTEST_PROMPT if alone else 0
        if most > room:
            raise ConfigError(
                f"method.generator_tokens is {most}, and backbone '{backbone.name}', which has "
                f"{backbone.max_length}, can write no more than {room} of them; lower it"
            )
        if self.recipe.markers:
            check_tokens(backbone.model)
            self._check_room(state, tasks)

    def _check_room(self, state: State, tasks: Sequence[Task]) -> None:
        """ConfigError where all that can be written of a task is its instruction."""
        most, encoder = self.recipe.max_tokens, _encoder(state, self.recipe, UNCUT)
        for task in tasks:
            given = sorted({example.instruction for example in task.train})
            taken = min(map(len, encoder.encode_answers(given)), default=0)
            if taken + 1 + self.recipe.shortest > most:  # the end is counted; the marker is not
                raise ConfigError(
                    f"method.generator_tokens is {most}, and the instruction of task "
                    f"'{task.name}' alone takes {taken - 1}, so that no input would follow it; "
                    "raise it, or use method.generator_format=instruction"
                )

    def begin(self, state: State) -> None:
        seed = state.seed_of(self.name, "initial weights")
        n_tokens = 2 if self.recipe.markers else 0
        state.pool.add(GENERATOR, seed=seed, role="generator", n_tokens=n_tokens)

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        return [ParamGroup(state.pool.parameters_of(GENERATOR), self.spec.lr)]

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        pairs = self._encoder(state).pairs
        lengths = np.array([len(prompt) + len(answer) for prompt, answer in pairs])
        rng = state.rng(self.name, "epoch", epoch)
        buckets = length_buckets(lengths, self.spec.batch_size, rng)
        return [{"task": self._batch(state, [pairs[i] for i in at])} for at in buckets]

    def loss(self, state: State, step: Step) -> LossTerms:
        batch: Batch = step["task"]
        log_probs = state.answer_log_probs(batch, single(GENERATOR, len(batch), state.device))
        return {self.name: answer_loss(log_probs, batch.answer_ids)}

    def end(self, state: State) -> None:
        assert state.text is not None
        state.pool.freeze(GENERATOR)
        state.pseudo[state.task.name] = self._write(state, state.text)
        state.pool.remove(GENERATOR)

    def sketch(self, state: State) -> bool:
        """As many samples as may be kept."""
        assert state.text is not None
        state.pool.remove(GENERATOR)
        inputs = (("", "word"),) * self.recipe.wanted(len(state.text.train))
        state.pseudo[state.task.name] = PseudoSamples("generated", inputs)
        return True

    def _write(self, state: State, task: Task) -> PseudoSamples:
        """Sample until enough texts are kept, or too many were written."""
        wanted = self.recipe.wanted(len(task.train))
        real = [example.text for example in task.train]
        sieve = Sieve(real, min(self.recipe.shortest, *(len(words_of(text)) for text in real)))
        instructions: list[str] = []
        rng = state.rng(self.name, "instructions")
        for first in range(0, wanted * TRIES, ROUND):
            chosen = rng.integers(len(task.train), size=min(ROUND, wanted * TRIES - first))
            given = [task.train[i].instruction for i in chosen]
            for instruction, text in self._texts(state, given, first):
                if len(sieve.kept) < wanted and sieve.offer(text):
                    instructions.append(instruction)
            if len(sieve.kept) == wanted:
                break
        if self.recipe.markers and instructions:
            one = state.rng(self.name, "one instruction").integers(len(instructions))
            instructions = [instructions[one]] * len(instructions)
        inputs = tuple(zip(instructions, sieve.kept, strict=True))
        return PseudoSamples("generated", inputs, sieve.quality())

    def _texts(
        self, state: State, given: Sequence[str], first: int
    ) -> list[tuple[str, str | None]]:
        """(instruction, input) as they were written; no input where its marker is missing."""
        recipe, known = self.recipe, self._encoder(state)
        batch = self._batch(state, [(prompt, []) for prompt in known.prompts(given)])
        decoding = Decoding(
            max_new_tokens=recipe.max_tokens,
            sample=True,
            temperature=recipe.temperature,
            top_k=recipe.top_k,
            repetition_penalty=recipe.repetition_penalty,
        )
        seed = state.seed_of(self.name, "text")
        seeds = [derive_seed(seed, first + i) for i in range(len(batch))]
        routing = single(GENERATOR, len(batch), state.device)
        written = state.generate(batch, routing, decoding, seeds).ids
        if not recipe.markers:
            return [(text, known.decode(ids)) for text, ids in zip(given, written, strict=True)]
        found: list[tuple[str, str | None]] = []
        _, marker = known.markers
        for ids in written:
            at = ids.index(marker) if marker in ids else len(ids)
            instruction = known.decode(ids[:at])
            told = at < len(ids) and _fits(state, instruction)
            found.append((instruction, known.decode(ids[at + 1 :]) if told else None))
        return found

    def _batch(self, state: State, pairs: Sequence[Pair]) -> Batch:
        prompts, answers = [p for p, _ in pairs], [a for _, a in pairs]
        ids = _filled(prompts, state.store.encoder.pad_id)
        unknown = torch.full((len(pairs),), -1)
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()
        batch = Batch(ids, mask, unknown, unknown, unknown, unknown, _filled(answers, NO_TOKEN))
        return batch.to(state.device)

    def _encoder(self, state: State) -> PairEncoder:
        """That of the newest task, made once: a phase lasts as long as its task is learned. Not in
        ``begin``, which is not called where a run is resumed."""
        name = state.task.name
        if name not in self._made:
            self._made[name] = PairEncoder(state, self.recipe)
        return self._made[name]


Pair = tuple[list[int], list[int]]
"""Ids of what is asked, and of what is to be written."""


class PairEncoder:
    """Encodes what the generator of the newest task is asked, and what it is to write.

    The adapter of the generator must be there: its marker tokens are among the ids.
    """

    def __init__(self, state: State, recipe: Recipe) -> None:
        assert state.text is not None
        self._examples, self._most = state.text.train, recipe.max_tokens
        self._encoder = _encoder(state, recipe, recipe.max_tokens)
        self.markers = state.pool.token_ids(GENERATOR)

    @cached_property
    def pairs(self) -> list[Pair]:
        """The training examples the other way round: what is asked, and the input."""
        prompts = self.prompts([example.instruction for example in self._examples])
        answers = self._encoder.encode_answers([example.text for example in self._examples])
        if self.markers:
            _, marker = self.markers
            headed = self._encoder.encode_answers([e.instruction for e in self._examples])
            answers = [
                [*[*head[:-1], marker, *answer[:-1]][: self._most - 1], answer[-1]]
                for head, answer in zip(headed, answers, strict=True)
            ]
        return list(zip(prompts, answers, strict=True))

    def prompts(self, instructions: Sequence[str]) -> list[list[int]]:
        if self.markers:
            marker, _ = self.markers
            begin, end = self._encoder.frame
            return [[*begin, marker, *end] for _ in instructions]
        asked = [Example(f"{i}", text.strip() or CUE) for i, text in enumerate(instructions)]
        return [ids for ids, _ in self._encoder.encode_all(asked)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoder.decode(ids)


def _encoder(state: State, recipe: Recipe, max_answer_length: int) -> Encoder:
    """Of prompts that are a text alone; a decoder needs room behind them."""
    room = state.backbone.max_length - state.pool.prompt_length
    room -= recipe.max_tokens if state.backbone.kind == "decoder" else 0
    return Encoder(
        state.backbone.tokenizer,
        max_length=min(state.store.encoder.max_length, room),
        backbone_kind=state.backbone.kind,
        template="{input}",
        max_answer_length=max_answer_length,
    )


def _fits(state: State, instruction: str) -> bool:
    """Whether a prompt that begins with it has room for an input."""
    try:
        state.store.encoder.encode(Example("pseudo", CUE, instruction=instruction))
    except DataError:
        return False
    return True


def _filled(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """(B, longest) int64."""
    longest = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows]).long()
