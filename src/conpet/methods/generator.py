"""A generator of pseudo-samples: an adapter that learns to write the inputs of one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from conpet.adapters.tokens import check_tokens
from conpet.encoding.encode import length_buckets
from conpet.errors import ConfigError, DataError
from conpet.methods.base import LossTerms, ParamGroup, Phase, PhaseSpec, State, Step
from conpet.methods.pairs import (
    Pair,
    Recipe,
    check_length,
    pair_batch,
    prompt_encoder,
    sampled,
    sieve_of,
    sifted,
)
from conpet.objectives.generate import answer_loss
from conpet.replay.pseudo import PseudoSamples
from conpet.routing.base import single
from conpet.types import Batch, Example, Task

GENERATOR = "@generator"
CUE = "Write an input for this task."
"""What stands for the instruction of a task that has none."""

UNCUT = 10**6  # tokens; no instruction has so many


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
        if not state.writes:
            raise ConfigError(
                "method.pseudo is 'generated', and a backbone that is to name classes is loaded "
                "without the head that writes texts; use method.pseudo=real or file"
            )
        check_length(state, self.recipe)
        if self.recipe.markers:
            check_tokens(state.backbone.model)
            self._check_room(state, tasks)

    def _check_room(self, state: State, tasks: Sequence[Task]) -> None:
        """ConfigError where all that can be written of a task is its instruction."""
        most, encoder = self.recipe.max_tokens, prompt_encoder(state, self.recipe, UNCUT)
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
        return [{"task": pair_batch(state, [pairs[i] for i in at])} for at in buckets]

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
        sieve, rng = sieve_of(task, self.recipe), state.rng(self.name, "instructions")

        def draw(first: int, n: int) -> list[tuple[str, str | None]]:
            chosen = rng.integers(len(task.train), size=n)
            return self._texts(state, [task.train[i].instruction for i in chosen], first)

        instructions = sifted(sieve, self.recipe.wanted(len(task.train)), draw)
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
        prompts, seed = known.prompts(given), state.seed_of(self.name, "text")
        written = sampled(state, GENERATOR, prompts, recipe, seed, first)
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

    def _encoder(self, state: State) -> PairEncoder:
        """That of the newest task, made once: a phase lasts as long as its task is learned. Not in
        ``begin``, which is not called where a run is resumed."""
        name = state.task.name
        if name not in self._made:
            self._made[name] = PairEncoder(state, self.recipe)
        return self._made[name]


class PairEncoder:
    """Encodes what the generator of the newest task is asked, and what it is to write.

    The adapter of the generator must be there: its marker tokens are among the ids.
    """

    def __init__(self, state: State, recipe: Recipe) -> None:
        assert state.text is not None
        self._examples, self._most = state.text.train, recipe.max_tokens
        self._encoder = prompt_encoder(state, recipe, recipe.max_tokens)
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


def _fits(state: State, instruction: str) -> bool:
    """Whether a prompt that begins with it has room for an input."""
    try:
        state.store.encoder.encode(Example("pseudo", CUE, instruction=instruction))
    except DataError:
        return False
    return True
