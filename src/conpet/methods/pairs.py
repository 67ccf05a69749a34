"""Texts that an adapter is asked to write: as ids, sampled, and sifted.

Shapes: B batch, S positions of what is asked, A of what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from conpet.encoding.encode import Encoder
from conpet.errors import ConfigError
from conpet.methods.base import State
from conpet.objectives.generate import Decoding
from conpet.replay.pseudo import Sieve, wanted, words_of
from conpet.routing.base import single
from conpet.runtime import derive_seed
from conpet.types import NO_TOKEN, Batch, Task

TRIES = 10  # texts that are written, at most, for each that is wanted
ROUND = 32  # of them at a time

SHORTEST_PROMPT = 16  # tokens that an instruction has for itself

Pair = tuple[list[int], list[int]]
"""Ids of what is asked, and of what is to be written."""

T = TypeVar("T")


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

    @property
    def decoding(self) -> Decoding:
        return Decoding(
            max_new_tokens=self.max_tokens,
            sample=True,
            temperature=self.temperature,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
        )


def check_length(state: State, recipe: Recipe) -> None:
    """ConfigError where the backbone cannot write texts of so many tokens."""
    backbone, most = state.backbone, recipe.max_tokens
    alone = backbone.kind == "decoder"  # what it writes stands behind what it is asked
    room = backbone.max_length
    room -= state.pool.prompt_length + SHORTEST_PROMPT if alone else 0
    if most > room:
        raise ConfigError(
            f"method.generator_tokens is {most}, and backbone '{backbone.name}', which has "
            f"{backbone.max_length}, can write no more than {room} of them; lower it"
        )


def prompt_encoder(state: State, recipe: Recipe, max_answer_length: int) -> Encoder:
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


def pair_batch(state: State, pairs: Sequence[Pair]) -> Batch:
    """Pairs as prompts and answers of a batch; they have no row, task or label."""
    prompts, answers = [p for p, _ in pairs], [a for _, a in pairs]
    ids = _filled(prompts, state.store.encoder.pad_id)
    unknown = torch.full((len(pairs),), -1)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()
    batch = Batch(ids, mask, unknown, unknown, unknown, unknown, _filled(answers, NO_TOKEN))
    return batch.to(state.device)


def sampled(
    state: State,
    adapter: str,
    prompts: Sequence[list[int]],
    recipe: Recipe,
    seed: int,
    first: int,
) -> list[list[int]]:
    """What ``adapter`` writes, as ids; the i-th of them depends on its prompt, the seed and the
    number ``first + i`` alone."""
    batch = pair_batch(state, [(prompt, []) for prompt in prompts])
    seeds = [derive_seed(seed, first + i) for i in range(len(batch))]
    routing = single(adapter, len(batch), state.device)
    return state.generate(batch, routing, recipe.decoding, seeds).ids


def sieve_of(task: Task, recipe: Recipe) -> Sieve:
    """Keeps what can stand for the inputs of a task."""
    real = [example.text for example in task.train]
    return Sieve(real, min(recipe.shortest, *(len(words_of(text)) for text in real)))


def sifted(
    sieve: Sieve, n_wanted: int, draw: Callable[[int, int], Sequence[tuple[T, str | None]]]
) -> list[T]:
    """What came with each text that the sieve keeps.

    Args:
        draw: the texts number ``first`` to ``first + n``, asked for until enough are kept, or too
            many were written.
    """
    own: list[T] = []
    for first in range(0, n_wanted * TRIES, ROUND):
        for beside, text in draw(first, min(ROUND, n_wanted * TRIES - first)):
            if len(sieve.kept) < n_wanted and sieve.offer(text):
                own.append(beside)
        if len(sieve.kept) == n_wanted:
            break
    return own


def _filled(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """(B, longest) int64."""
    longest = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows]).long()
