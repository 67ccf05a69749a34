"""Answers in free text: the loss on their tokens, and how they are chosen one by one.

Shapes: B batch, A positions of the answer, n tokens of all answers, V vocabulary, N new positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from conpet.types import NO_TOKEN


@dataclass(frozen=True)
class Decoding:
    """How answers are written.

    Attributes:
        max_new_tokens: most tokens of an answer, its end included.
        sample: draw each token by its probability instead of taking the likeliest.
        temperature, top_k, top_p: of what is drawn from; 0 for ``top_k`` is the whole vocabulary.
        repetition_penalty: 1 for none (Keskar et al. 2019).
        seed: of what is drawn; the draws of one prompt do not depend on the rest of its batch.
    """

    max_new_tokens: int = 50
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Written:
    """Answers of a batch: ids without the end token, and the mean log-probability of the tokens,
    end token included, (B,)."""

    ids: list[list[int]]
    log_prob: Tensor


def token_log_probs(logits: Tensor, answer: Tensor) -> Tensor:
    """(B, A) fp32: log softmax(logits)[answer], of the logits (n, V) of all answers' tokens; 0
    where ``answer`` is ``NO_TOKEN``."""
    there = answer != NO_TOKEN
    values = -functional.cross_entropy(logits.float(), answer[there], reduction="none")
    return torch.zeros(answer.shape, device=logits.device).masked_scatter(there, values)


def answer_loss(log_probs: Tensor, answer: Tensor) -> Tensor:
    """-(1/n) sum log_probs (B, A), over the n answer tokens of the batch, end tokens included."""
    n = (answer != NO_TOKEN).sum().clamp_min(1)  # stays where it is: a GPU is not waited for
    return -log_probs.sum() / n


def mean_log_prob(log_probs: Tensor, answer: Tensor) -> Tensor:
    """(B,) the mean of an answer's token log-probabilities (B, A)."""
    return log_probs.sum(dim=1) / (answer != NO_TOKEN).sum(dim=1).clamp_min(1)


class Pick(LogitsProcessor):
    """Makes the likeliest token the one to take, and keeps its log-probability.

    To sample is to take the likeliest after Gumbel noise was added to the (warped) scores. The
    noise of a prompt comes from a generator of its own, so that neither the size nor the rest of a
    batch changes what it is answered. The log-probability is the model's before any warping, but
    behind a repetition penalty.

    Args:
        seeds: (B,) of the prompts; None to sample nothing.
    """

    def __init__(self, decoding: Decoding, seeds: Sequence[int] | None = None) -> None:
        self.log_probs: list[Tensor] = []  # (B,) of each step
        self.warpers = LogitsProcessorList()
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds or ()]
        if decoding.temperature != 1.0:
            self.warpers.append(TemperatureLogitsWarper(decoding.temperature))
        if decoding.top_k:
            self.warpers.append(TopKLogitsWarper(decoding.top_k))
        if decoding.top_p < 1.0:
            self.warpers.append(TopPLogitsWarper(decoding.top_p))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        plain = scores.float()
        if self.generators:
            scores = self.warpers(input_ids, plain)  # type: ignore[arg-type]  # int64, as declared
            uniform = [torch.rand(scores.shape[1], generator=g) for g in self.generators]
            scores = scores - torch.log(-torch.log(torch.stack(uniform))).to(scores.device)
        chosen = scores.argmax(dim=1, keepdim=True)
        self.log_probs.append(plain.gather(1, chosen)[:, 0] - plain.logsumexp(dim=1))
        return scores

    def written(self, ids: Tensor, end_id: int) -> Written:
        """What was chosen, (B, N), up to the first end token of each row."""
        ended = (ids == end_id).int().cumsum(dim=1)
        own = (ended - (ids == end_id).int()) == 0  # the end token itself is part of it
        log_probs = torch.stack(self.log_probs, dim=1)[:, : ids.shape[1]]
        mean = (log_probs * own).sum(dim=1) / own.sum(dim=1)
        n = (own & (ids != end_id)).sum(dim=1).tolist()
        return Written([row[:k] for row, k in zip(ids.tolist(), n, strict=True)], mean)
