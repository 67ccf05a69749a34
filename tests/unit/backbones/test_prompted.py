"""A soft prompt before or behind a text: what a row gives depends on no padding and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from conpet.backbones import nano
from conpet.backbones.generative import GenerativeBackbone, Seq2SeqLM
from conpet.backbones.loading import load_backbone
from conpet.errors import RoutingError
from conpet.objectives.generate import Decoding, Pick, mean_log_prob, token_log_probs
from conpet.testing import tiny_bert, tiny_llama, tiny_qwen, tiny_t5
from conpet.types import NO_TOKEN, POSITIONS, Position, SoftPrompt

M, END = 3, 2
TEXTS = [[9, 40, 17, 23], [11, 30], [50, 51, 52, 53, 54, 12, 13], [21, 22]]
ANSWERS = [[31, 8, END], [14, 15, 16, 19, END], [END], [41, END]]
PROMPTS = torch.randn(4, M, 32, generator=torch.Generator().manual_seed(1))
ALL = SoftPrompt(PROMPTS)
SOME = SoftPrompt(PROMPTS, torch.tensor([[1] * M, [0] * M, [1] * M, [0, 1, 1]]))
"""The second row has no prompt, the last one a shorter one."""
AFTER, SOME_AFTER = replace(ALL, position="after"), replace(SOME, position="after")
EVERY = {"all": ALL, "some": SOME, "after": AFTER, "some-after": SOME_AFTER}


def tiny_pair(*, generative: bool) -> Any:
    """A random pair of BERTs, as ``nano`` is one."""
    bert: Any = tiny_bert()
    model: Any = nano.build(encoder=bert.model, begin=7, end=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in nano.decoder_parameters(model).values():
            if p.dim() > 1:  # norms and biases keep their 1 and 0
                p.normal_(std=0.5, generator=generator)
    return Seq2SeqLM("tiny-pair", model, bert.tokenizer)


WRITERS = {"llama": tiny_llama, "qwen": tiny_qwen, "t5": tiny_t5, "pair": tiny_pair}


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest) -> GenerativeBackbone:
    make: Callable[..., Any] = WRITERS[request.param]
    found: GenerativeBackbone = make(generative=True)
    return found


@pytest.fixture(params=["tiny-bert", "tiny-llama", "tiny-qwen", "tiny-t5"])
def reader(request: pytest.FixtureRequest) -> Any:
    return load_backbone(request.param)


def padded(rows: list[list[int]], *, fill: int = 0, to: int = 0) -> tuple[Tensor, Tensor]:
    size = max(to, *map(len, rows))
    ids = torch.tensor([[*row, *[fill] * (size - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (size - len(row)) for row in rows])
    return ids, mask


def alone(soft_prompt: SoftPrompt, i: int) -> SoftPrompt | None:
    """Row i without positions that are left out."""
    there = torch.ones(M) if soft_prompt.mask is None else soft_prompt.mask[i]
    kept = soft_prompt.embeddings[i : i + 1, there.bool()]
    return SoftPrompt(kept, None, soft_prompt.position) if there.any() else None


@pytest.mark.parametrize("soft_prompt", EVERY.values(), ids=EVERY)
def test_hidden_states(reader: Any, soft_prompt: SoftPrompt) -> None:
    if soft_prompt.position == "after" and reader.kind == "decoder":
        with pytest.raises(RoutingError, match="the states of a text never see a soft prompt beh"):
            reader(*padded(TEXTS), soft_prompt)
        return
    ids, mask = padded(TEXTS, to=12)
    together = reader(ids, mask, soft_prompt)
    assert together.shape == (4, 12, 32)
    for i, text in enumerate(TEXTS):
        single = reader(*padded([text]), alone(soft_prompt, i))
        torch.testing.assert_close(together[i, : len(text)], single[0], rtol=0, atol=2e-5)
    plain = reader(ids, mask)
    assert not torch.allclose(together[0, 0], plain[0, 0], atol=1e-2)


@pytest.mark.parametrize("soft_prompt", EVERY.values(), ids=EVERY)
def test_logits_of_an_answer(writer: GenerativeBackbone, soft_prompt: SoftPrompt) -> None:
    answer, _ = padded(ANSWERS, fill=NO_TOKEN, to=8)
    together = writer.answer_logits(*padded(TEXTS, to=16), answer, soft_prompt)
    each = together.split([len(own) for own in ANSWERS])
    for i, (text, own) in enumerate(zip(TEXTS, ANSWERS, strict=True)):
        single = writer.answer_logits(*padded([text]), torch.tensor([own]), alone(soft_prompt, i))
        torch.testing.assert_close(each[i], single, rtol=0, atol=2e-4)


@pytest.mark.parametrize("soft_prompt", EVERY.values(), ids=EVERY)
def test_what_is_written(writer: GenerativeBackbone, soft_prompt: SoftPrompt) -> None:
    """With a cache as without one, alone as in a batch; its log-probability is reported."""
    texts, pick = padded(TEXTS, to=10), Pick(Decoding())
    how: dict[str, Any] = {"end_id": 10**6, "max_new_tokens": 6}
    written = writer.write(*texts, soft_prompt, **how, processors=[pick])
    assert written.shape == (4, 6)
    logits = writer.answer_logits(*texts, written, soft_prompt)
    assert torch.equal(logits.argmax(dim=1).view(4, 6), written)
    told = pick.written(written, 10**6)
    forced = mean_log_prob(token_log_probs(logits, written), written)
    torch.testing.assert_close(told.log_prob, forced, rtol=0, atol=1e-4)
    for i, text in enumerate(TEXTS):
        assert torch.equal(
            writer.write(*padded([text]), alone(soft_prompt, i), **how)[0], written[i]
        )
    plain = Pick(Decoding())
    without = writer.write(*texts, **how, processors=[plain])
    other = plain.written(without, 10**6).log_prob
    assert not torch.allclose(told.log_prob[0], other[0], atol=1e-3), "the prompt is read"


@pytest.mark.parametrize("soft_prompt", [SOME, SOME_AFTER], ids=["before", "after"])
@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen], ids=["llama", "qwen"])
def test_a_repetition_penalty_sees_the_text_and_not_the_prompt(
    make: Any, soft_prompt: SoftPrompt
) -> None:
    """A decoder's penalty is on the tokens of the text too; the soft prompt has none."""
    writer = make(generative=True)
    how: dict[str, Any] = {"end_id": 10**6, "max_new_tokens": 5}
    written = writer.write(*padded(TEXTS, to=10), soft_prompt, **how, repetition_penalty=3.0)
    for i, text in enumerate(TEXTS):
        own: list[int] = []
        for _ in range(5):
            answer = torch.tensor([[*own, 0]])
            own_prompt = alone(soft_prompt, i)
            scores = writer.answer_logits(*padded([text]), answer, own_prompt)[-1].detach()
            used = torch.tensor([*text, *own])
            scores[used] = torch.where(scores[used] < 0, scores[used] * 3, scores[used] / 3)
            own.append(int(scores.argmax()))
        assert written[i].tolist() == own, i


@pytest.mark.parametrize("position", POSITIONS)
def test_gradients_reach_the_prompt_alone(writer: GenerativeBackbone, position: Position) -> None:
    embeddings = PROMPTS.clone().requires_grad_()
    answer, _ = padded(ANSWERS, fill=NO_TOKEN)
    soft_prompt = SoftPrompt(embeddings, SOME.mask, position)
    logits = writer.answer_logits(*padded(TEXTS), answer, soft_prompt)
    token_log_probs(logits, answer).sum().backward()
    assert embeddings.grad is not None and SOME.mask is not None
    assert torch.equal(embeddings.grad.abs().sum(dim=2) > 0, SOME.mask.bool())
    assert not any(p.requires_grad or p.grad is not None for p in writer.parameters())


def test_half_precision_backbones_take_it() -> None:
    backbone: Any = tiny_bert(dtype="bf16")
    states = backbone(*padded(TEXTS), ALL)
    assert states.dtype == torch.bfloat16 and states.shape == (4, 7, 32)


def test_behind_a_text_is_behind_its_last_token() -> None:
    """Against transformers' own model on [text, prompt], row by row, without padding."""
    bert: Any = tiny_bert()
    ids, mask = padded(TEXTS, to=12)
    together, before = bert(ids, mask, AFTER), bert(ids, mask, ALL)
    for i, text in enumerate(TEXTS):
        whole = torch.cat([bert.embed(torch.tensor(text)), PROMPTS[i]])[None]
        states = bert.model(inputs_embeds=whole).last_hidden_state[0, : len(text)]
        torch.testing.assert_close(together[i, : len(text)], states, rtol=0, atol=2e-5)
        assert not torch.allclose(together[i, : len(text)], before[i, : len(text)], atol=1e-2)


def test_answers_go_on_behind_a_prompt_that_is_behind_the_text() -> None:
    llama: Any = tiny_llama(generative=True)
    answer, _ = padded(ANSWERS, fill=NO_TOKEN)
    found = llama.answer_logits(*padded(TEXTS, to=10), answer, AFTER)
    each = found.split([len(own) for own in ANSWERS])
    for i, (text, own) in enumerate(zip(TEXTS, ANSWERS, strict=True)):
        text_part, answer_part = (llama.embed(torch.tensor(ids)) for ids in (text, own))
        whole = torch.cat([text_part, PROMPTS[i], answer_part])[None]
        logits = llama.model(inputs_embeds=whole).logits[0, len(text) + M - 1 : -1]
        torch.testing.assert_close(each[i], logits, rtol=0, atol=2e-4)
