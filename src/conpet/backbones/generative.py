"""Backbones with their language-model head: besides hidden states they give answers in free text.

Shapes: B batch, S positions of the prompt, A of the answer, n tokens of all answers, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from conpet.backbones.base import Backbone, Family
from conpet.backbones.decoder import DecoderBackbone
from conpet.backbones.encdec import EncoderDecoderBackbone
from conpet.errors import ConfigError
from conpet.types import NO_TOKEN, SoftPrompt

_BERT_PAIR = Family(
    ("query", "value"),
    attention=r"(?:attention|crossattention)\.output\.dense",
    mlp=r"\d+\.output\.dense",
    prefix=r"decoder\.(?:.*\.)?attention\.self",
    keys="key",
    positions=r"decoder\.(?:.*\.)?position_embeddings",
)


class GenerativeBackbone(Backbone, ABC):
    """A frozen language model that is trained on answers and writes them.

    Raises:
        ConfigError: on construction, where model and tokenizer cannot go together.
    """

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__(name, model, tokenizer)
        known = len(next(model.get_input_embeddings().parameters()))
        if len(tokenizer) > known:
            raise ConfigError(
                f"backbone '{name}' has embeddings for {known} tokens, and its tokenizer makes "
                f"{len(tokenizer)} different ones: they do not belong together. Take the tokenizer "
                "that the model was trained with"
            )

    def answer_logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        answer: Tensor,
        soft_prompt: SoftPrompt | None = None,
        *,
        adapted_head: bool = False,
    ) -> Tensor:
        """(n, V): the logits of each token of ``answer`` (B, A), row by row, given the prompt
        (B, S), behind a soft prompt where there is one, and the answer's tokens before it.

        ``NO_TOKEN`` stands behind an answer. The head reads none of what is there; with
        ``adapted_head`` it reads the whole batch, as what is hooked to it has to.
        """
        at = (answer != NO_TOKEN).flatten().nonzero()[:, 0]

        def of_tokens(states: Tensor) -> Tensor:
            return states[:, : answer.shape[1]].flatten(0, 1).index_select(0, at)

        if adapted_head:
            return of_tokens(self._logits(input_ids, attention_mask, answer, soft_prompt))
        picked: list[bool] = []

        def pick(head: nn.Module, args: tuple[Tensor, ...]) -> Tensor | None:
            picked.append(args[0].dim() == 3)  # a head of another kind reads all
            return of_tokens(args[0]) if picked[-1] else None

        handle = self.head.register_forward_pre_hook(pick)
        try:
            logits = self._logits(input_ids, attention_mask, answer, soft_prompt)
        finally:
            handle.remove()
        return logits if picked == [True] else of_tokens(logits)

    @property
    def head(self) -> nn.Module:
        """What makes logits of the last states."""
        head: nn.Module = self.model.get_output_embeddings()
        return head

    @abstractmethod
    def _logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        answer: Tensor,
        soft_prompt: SoftPrompt | None,
    ) -> Tensor:
        """(B, >= A, V): what the head makes of the states that come before each token of an answer,
        and perhaps of others behind them."""

    def write(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        soft_prompt: SoftPrompt | None = None,
        *,
        end_id: int,
        max_new_tokens: int,
        processors: Sequence[LogitsProcessor] = (),
        repetition_penalty: float = 1.0,
    ) -> Tensor:
        """(B, <= max_new_tokens) the ids of answers, each the likeliest token at every step.

        Behind an end token stands whatever fills the batch. ``processors`` see (and may change) the
        scores (B, V) of each step.
        """
        pad = self.tokenizer.pad_token_id
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            repetition_penalty=repetition_penalty,
            eos_token_id=end_id,
            pad_token_id=end_id if pad is None else pad,
            bos_token_id=self.tokenizer.bos_token_id,
            decoder_start_token_id=self.start_id(),
        )
        return self._write(
            input_ids,
            attention_mask,
            soft_prompt,
            generation_config=config,
            logits_processor=LogitsProcessorList(processors),
        )

    @abstractmethod
    def _write(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        soft_prompt: SoftPrompt | None,
        **how: Any,
    ) -> Tensor:
        """The new ids alone; ``how`` is for transformers' ``generate``."""

    def start_id(self) -> int | None:
        """What a decoder beside an encoder begins with."""
        return None


class CausalLM(GenerativeBackbone):
    """LLaMA, Qwen and their relatives, which go on where the prompt ends."""

    kind = "decoder"
    families = DecoderBackbone.families
    auto_class = AutoModelForCausalLM

    def _states(self, **inputs: Tensor) -> Tensor:
        states: Tensor = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        return states

    def _logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        answer: Tensor,
        soft_prompt: SoftPrompt | None,
    ) -> Tensor:
        given = answer.masked_fill(answer == NO_TOKEN, 0)
        ids, mask, embeddings = self._prompt(input_ids, attention_mask, soft_prompt)
        if embeddings is None:
            inputs = {"input_ids": torch.cat([ids, given], dim=1)}
        else:
            inputs = {"inputs_embeds": torch.cat([embeddings, self.embed(given)], dim=1)}
        mask = torch.cat([mask, (answer != NO_TOKEN).long()], dim=1)
        logits: Tensor = self.model(
            **inputs,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp_min(0),
            logits_to_keep=answer.shape[1] + 1,
            use_cache=False,
        ).logits
        return logits

    def _write(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        soft_prompt: SoftPrompt | None,
        **how: Any,
    ) -> Tensor:
        # Where there are embeddings they are what is read first; the ids beside them are those that
        # a repetition penalty looks at.
        ids, mask, embeddings = self._prompt(input_ids, attention_mask, soft_prompt)
        first = ids.gather(1, mask.argmax(dim=1, keepdim=True))  # so that padding is no token of
        ids = torch.where(mask == 0, first, ids)  # its own: the length of a batch must not count
        found = self.model.generate(
            input_ids=ids, inputs_embeds=embeddings, attention_mask=mask, **how
        )
        return found[:, ids.shape[1] :]

    def _prompt(
        self, input_ids: Tensor, attention_mask: Tensor, soft_prompt: SoftPrompt | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Ids and mask (B, N) with the padding on the left, and the embeddings (B, N, d) where a
        soft prompt stands before the text."""
        if soft_prompt is None:
            return *on_the_left(input_ids, attention_mask), None
        whole = self.with_prompt(soft_prompt, input_ids, attention_mask, padding="left")
        return whole.ids(input_ids), whole.mask, whole.embeddings


class Seq2SeqLM(GenerativeBackbone):
    """T5 and its relatives, and pairs of BERTs: an encoder reads the prompt, a decoder answers."""

    kind = "encoder-decoder"
    families: ClassVar[dict[str, Family]] = {
        **{
            name: replace(family, prefix=rf"decoder\.(?:.*\.)?{family.prefix}")
            for name, family in EncoderDecoderBackbone.families.items()
        },
        "encoder-decoder": _BERT_PAIR,
    }
    auto_class = AutoModelForSeq2SeqLM

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.get_encoder().config

    def read(self, input_ids: Tensor) -> None:
        """Prefixes are the decoder's; what the encoder reads has no part in them."""
        with self.computing():
            self.answer_logits(input_ids, torch.ones_like(input_ids), input_ids)

    def _states(self, **inputs: Tensor) -> Tensor:
        states: Tensor = self.model.get_encoder()(**inputs).last_hidden_state
        return states

    def _logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        answer: Tensor,
        soft_prompt: SoftPrompt | None,
    ) -> Tensor:
        start = answer.new_full((len(answer), 1), self.start_id())
        given = torch.cat([start, answer[:, :-1]], dim=1)
        logits: Tensor = self.model(
            **self._inputs(input_ids, attention_mask, soft_prompt),
            decoder_input_ids=given.masked_fill(given == NO_TOKEN, 0),
            use_cache=False,
        ).logits
        return logits

    def _write(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        soft_prompt: SoftPrompt | None,
        **how: Any,
    ) -> Tensor:
        inputs = self._inputs(input_ids, attention_mask, soft_prompt)
        found: Tensor = self.model.generate(**inputs, **how)
        return found[:, 1:]  # behind the start token

    def _inputs(
        self, input_ids: Tensor, attention_mask: Tensor, soft_prompt: SoftPrompt | None
    ) -> dict[str, Tensor]:
        """What the encoder reads; the decoder attends to all of it, the soft prompt included."""
        if soft_prompt is None:
            return {"input_ids": input_ids, "attention_mask": attention_mask}
        whole = self.with_prompt(soft_prompt, input_ids, attention_mask)
        return {"inputs_embeds": whole.embeddings, "attention_mask": whole.mask}

    def start_id(self) -> int:
        own = self.model.generation_config
        ids = (
            own.decoder_start_token_id if own is not None else None,
            self.tokenizer.cls_token_id,
            self.tokenizer.pad_token_id,
        )
        start = next((i for i in ids if i is not None), None)
        if start is None:
            raise ConfigError(
                f"backbone '{self.name}' does not say with which token its decoder begins: neither "
                "a decoder_start_token_id, nor a cls or pad token of its tokenizer; set one of "
                "them in its files"
            )
        return start


def on_the_left(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same rows (B, S) with their padding before the tokens instead of behind them."""
    order = attention_mask.argsort(dim=1, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)
