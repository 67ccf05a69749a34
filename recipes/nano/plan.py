"""What is trained how: the plan, the loss, the optimiser, and where the head begins."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from corpus import Corpus
from tasks import IGNORED, Batch, Vocabulary
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import EncoderDecoderModel


@dataclass(frozen=True)
class Plan:
    """What is trained how. Two runs with the same plan and text give the same decoder.

    Attributes:
        steps: at the last of them the learning rate has come down to nothing.
        batch_size: examples a step.
        lr: the highest learning rate.
        warmup: share of the steps in which it rises to that.
        weight_decay: of matrices; biases and norms have none.
        clip: most that the norm of a gradient may be.
        precision: ``fp32``, or ``bf16`` for autocast.
        seed: of the batches.
        save_every: steps from one checkpoint to the next.
        log_every: steps that a row of the curve stands for.
    """

    steps: int
    batch_size: int = 32
    lr: float = 7e-4
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    precision: str = "fp32"
    seed: int = 1
    save_every: int = 100
    log_every: int = 100

    def lr_at(self, step: int) -> float:
        """The learning rate of a step from 0: a linear rise, then a linear fall to zero."""
        rise = max(1, math.ceil(self.warmup * self.steps))
        return self.lr * min((step + 1) / rise, (self.steps - step) / max(1, self.steps - rise))


def loss_of(model: EncoderDecoderModel, batch: Batch) -> Tensor:
    """Mean cross-entropy per target token, in nats. Only their positions go through the head."""
    with torch.no_grad():
        states = model.encoder(input_ids=batch.source, attention_mask=batch.mask).last_hidden_state
    hidden = model.decoder.bert(
        input_ids=batch.decoder_input,
        encoder_hidden_states=states,
        encoder_attention_mask=batch.mask,
        use_cache=False,
    ).last_hidden_state  # (B, T, d)
    real = batch.labels != IGNORED
    logits = model.decoder.cls(hidden[real])  # (number of real positions, V)
    return cross_entropy(logits.float(), batch.labels[real])


def optimiser_for(parameters: dict[str, torch.nn.Parameter], plan: Plan) -> torch.optim.AdamW:
    """AdamW over the decoder's parameters; only matrices decay."""
    decayed = [p for p in parameters.values() if p.ndim > 1]
    others = [p for p in parameters.values() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": plan.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.98), fused=True)


@torch.no_grad()
def start_head(model: EncoderDecoderModel, text: Corpus, vocabulary: Vocabulary) -> None:
    """Let the head's bias begin at the logarithm of how frequent each token is.

    Adam moves a bias by at most the learning rate a step: left to itself, it would not get there.
    """
    bias = model.decoder.cls.predictions.bias
    counts = np.bincount(text.tokens, minlength=len(bias)) + 1.0
    counts[[vocabulary.end, vocabulary.mask]] = counts.sum() / 25  # about one each in a target
    bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))
