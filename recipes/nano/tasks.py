"""Training examples from plain text: filling masked spans, and carrying on.

Notation: B batch, S source tokens, T target tokens.

A target is closed by the end token where it is whole; a continuation that is cut before the end of
a sentence stays open, so that the end token means an end and not a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from corpus import Corpus
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from conpet.errors import DataError
from conpet.runtime import rng

LENGTHS = (24, 94)
"""Least and most tokens of the text in a source; two more stand around it."""
FILL_TARGET, CONTINUE_TARGET = 40, 64
"""Most tokens of a target, the end token included."""
MASKED, SPAN = (0.15, 0.30), 2.5
"""Share of a text's words that is masked, and the mean words of a span: about three tokens."""
POOL = 64
"""Batches that are drawn together, to be sorted by length."""
IGNORED = -100

Ids = NDArray[np.int64]


class Example(NamedTuple):
    """Token ids: the source without the tokens around it, the target with its end token."""

    source: Ids
    target: Ids


class Batch(NamedTuple):
    """Padded: source and its mask (B, S); decoder input and labels (B, T), -100 where padded."""

    source: Tensor
    mask: Tensor
    decoder_input: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Vocabulary:
    """What the examples need to know of a WordPiece vocabulary of V tokens.

    Attributes:
        begin, end, mask, pad: the special tokens; ``mask`` also parts the spans of a target.
        inside: whether a token carries on a word, (V,).
        stops: the tokens that end a sentence.
    """

    begin: int
    end: int
    mask: int
    pad: int
    inside: NDArray[np.bool_]
    stops: Ids

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        return cls(
            begin=tokenizer.cls_token_id,
            end=tokenizer.sep_token_id,
            mask=tokenizer.mask_token_id,
            pad=tokenizer.pad_token_id,
            inside=np.array([piece.startswith("##") for piece in pieces]),
            stops=np.array(tokenizer.convert_tokens_to_ids([".", "?", "!"])),
        )


def fill(tokens: Ids, vocabulary: Vocabulary, random: Generator) -> Example:
    """Mask spans of whole words: each becomes one mask token, and the spans are the target.

    Spans are parted by mask tokens. No two of them touch, so the source shows where each was.
    """
    starts = np.flatnonzero(~vocabulary.inside[tokens] | (np.arange(len(tokens)) == 0))
    bounds = np.append(starts, len(tokens))  # of the words
    n_masked = max(1, round(len(starts) * random.uniform(*MASKED)))
    n_spans = max(1, round(n_masked / SPAN))
    lengths = _composition(n_masked, n_spans, random)
    gaps = _composition(len(starts) - n_masked + 2, n_spans + 1, random)
    gaps[[0, -1]] -= 1  # a span may stand at either end
    source, target, word = [], [], 0
    for gap, length in zip(gaps, lengths, strict=False):
        begin, end = bounds[word + gap], bounds[word + gap + length]
        n_target = sum(map(len, target)) + len(target) + (end - begin) + 1
        if n_target > FILL_TARGET and target:
            break
        source += [tokens[bounds[word] : begin], [vocabulary.mask]]
        target += [tokens[begin:end]]
        word += gap + length
    source.append(tokens[bounds[word] :])
    parted = [part for span in target for part in (span, [vocabulary.mask])]
    return Example(np.concatenate(source), np.concatenate([*parted[:-1], [vocabulary.end]]))


def carry_on(tokens: Ids, cut: int, vocabulary: Vocabulary, random: Generator) -> Example:
    """The text up to ``cut``, and what follows: whole sentences where one ends in time."""
    limit = int(random.integers(20, CONTINUE_TARGET))
    following = tokens[cut : cut + limit]
    ends = np.flatnonzero(np.isin(following, vocabulary.stops)) + 1
    if len(ends) and ends[-1] >= 8:
        return Example(tokens[:cut], np.append(following[: ends[-1]], vocabulary.end))
    return Example(tokens[:cut], following)


class Sampler:
    """Batches that depend on the corpus, the seed and the step only.

    ``POOL`` batches are drawn together and sorted by length before they are cut, so that little
    is padded; the batches of a pool come in random order.

    Args:
        fill_share: share of the examples that fill spans; the others carry on.

    Raises:
        DataError: no document is long enough.
    """

    def __init__(
        self,
        corpus: Corpus,
        vocabulary: Vocabulary,
        *,
        seed: int,
        batch_size: int,
        fill_share: float = 0.5,
    ) -> None:
        self._tokens, self._vocabulary = corpus.tokens, vocabulary
        self._seed, self._batch_size, self._fill_share = seed, batch_size, fill_share
        after_stop = np.flatnonzero(np.isin(corpus.tokens, vocabulary.stops)) + 1
        starts = np.union1d(corpus.offsets[:-1], after_stop)
        starts = starts[starts < corpus.offsets[-1]]
        ends = corpus.offsets[np.searchsorted(corpus.offsets, starts, side="right")]
        roomy = ends - starts >= LENGTHS[0]
        if not roomy.any():
            raise DataError(f"the text has no sentence with {LENGTHS[0]} tokens from its begin on")
        self._starts, self._room = starts[roomy], (ends - starts)[roomy]
        self._pool: tuple[int, list[list[Example]]] = (-1, [])

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        number, place = divmod(step, POOL)
        if self._pool[0] != number:
            self._pool = (number, self._draw_pool(number))
        return collate(self._pool[1][place], self._vocabulary)

    def _draw_pool(self, number: int) -> list[list[Example]]:
        random = rng("nano", self._seed, number)
        examples = [self._draw(random) for _ in range(POOL * self._batch_size)]
        examples.sort(key=lambda e: (len(e.source) // 16, len(e.target)))
        return [
            examples[place * self._batch_size : (place + 1) * self._batch_size]
            for place in random.permutation(POOL)
        ]

    def _draw(self, random: Generator) -> Example:
        place = random.integers(len(self._starts))
        start, room = self._starts[place], self._room[place]
        length = min(int(random.integers(LENGTHS[0], LENGTHS[1] + 1)), room)
        filling = random.random() < self._fill_share
        most = length if filling else min(length + CONTINUE_TARGET, room)
        tokens = self._tokens[start : start + most].astype(np.int64)
        if filling:
            return fill(tokens, self._vocabulary, random)
        return carry_on(tokens, min(length, most - LENGTHS[0] // 2), self._vocabulary, random)


def collate(examples: Sequence[Example], vocabulary: Vocabulary) -> Batch:
    """Pad the examples and put the special tokens around them."""
    begin, end = vocabulary.begin, vocabulary.end
    sources = [np.concatenate([[begin], e.source, [end]]) for e in examples]
    labels = _padded([e.target for e in examples], IGNORED)
    source = _padded(sources, vocabulary.pad)
    shown = np.where(labels == IGNORED, vocabulary.pad, labels)
    decoder_input = np.concatenate([np.full((len(examples), 1), begin), shown[:, :-1]], axis=1)
    lengths = np.array([len(s) for s in sources])
    mask = np.arange(source.shape[1]) < lengths[:, None]
    arrays = (source, mask.astype(np.int64), decoder_input, labels)
    return Batch(*map(torch.from_numpy, arrays))


def _padded(rows: Sequence[Ids], value: int) -> Ids:
    result = np.full((len(rows), max(map(len, rows))), value, np.int64)
    for place, row in enumerate(rows):
        result[place, : len(row)] = row
    return result


def _composition(total: int, n: int, random: Generator) -> Ids:
    """``total`` as the sum of ``n`` positive numbers, all such sums alike likely; (n,)."""
    cuts = np.sort(random.choice(total - 1, n - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))
