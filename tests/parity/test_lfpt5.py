"""LFPT5 against its formula, written down once more, example by example.

(1 - kd) * [CE(y | x; P) + lam * CE(x __ans__ y | task; P)]
  + kd * sum over pseudo-samples and answer tokens of KL(p(. | x; P_before) || p(. | x; P))

The prompt is put behind each text by hand, row by row without padding, and transformers' own model
reads it; the losses are numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from conpet.backbones.base import Backbone
from conpet.methods.base import PhaseSpec, State
from conpet.methods.lessons import MARK, Lifelong
from conpet.methods.lfpt5 import LFPT5
from conpet.methods.tune import SHARED, TEACHER
from conpet.objectives.distillation import token_divergence
from conpet.replay.pseudo import PseudoSamples
from conpet.testing import tiny_llama, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream
from conpet.types import NO_TOKEN, Batch

M, KD, LAM = 4, 0.3, 0.6
STREAM = instruction_stream(3, train=8)
WRITERS: dict[str, Callable[..., Backbone]] = {"llama": tiny_llama, "t5": tiny_t5}
OLD = PseudoSamples(
    "generated", (("Do this.", "a made up text"), ("", "and another one")), answers=("yes", "no it")
)


def stage(writer: str, *, old: bool = True) -> tuple[State, Lifelong]:
    """The first phase of the third task as it begins; prompt and teacher are random."""
    method = LFPT5(generation=LAM, distillation=KD, generator_tokens=40)
    state = tiny_state(
        *STREAM.tasks,
        backbone=WRITERS[writer](generative=True),
        spec=PhaseSpec(epochs=1, batch_size=6),
        kind="prompt",
        length=M,
        position="after",
    )
    g = torch.Generator().manual_seed(4)
    state.pool.add(SHARED, seed=0, role="shared")
    weight = 0.5 * torch.randn(M, 32, generator=g)
    state.pool.load_tensors(SHARED, {"prompt": weight})
    state.pool.freeze(SHARED)
    none = PseudoSamples("generated", ())
    state.pseudo = {state.history[0].name: OLD if old else none, state.history[1].name: none}
    phase = method.phases(state)[0]
    assert isinstance(phase, Lifelong)
    phase.begin(state)
    assert torch.equal(state.pool.tensors(TEACHER)["prompt"], weight)
    assert state.pool.role(TEACHER) == "teacher" and not state.pool.is_live(TEACHER)
    moved = weight + 0.5 * torch.randn(M, 32, generator=g)
    state.pool.load_tensors(SHARED, {"prompt": moved})
    return state, phase


def whole_batch(state: State, phase: Lifelong) -> Batch:
    """All lessons at once."""
    lessons = phase._lessons(state)
    return lessons.store.batch(np.arange(len(lessons.pairs)))


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z.astype(np.float64) - z.max()
    return z - np.log(np.exp(z).sum())


def by_hand(state: State, adapter: str, ids: list[int], answer: list[int]) -> np.ndarray:
    """(A, V) log-probabilities of an answer's tokens, the prompt behind the text."""
    model: Any = state.backbone.model
    embed = model.get_input_embeddings()
    before = torch.cat([embed(torch.tensor(ids)), state.pool.tensors(adapter)["prompt"]])
    with torch.no_grad():
        if state.backbone.kind == "decoder":
            whole = torch.cat([before, embed(torch.tensor(answer))])[None]
            logits = model(inputs_embeds=whole).logits[0, len(before) - 1 : -1]
        else:
            given = torch.tensor([[0, *answer[:-1]]])  # 0: tiny-t5's start
            logits = model(inputs_embeds=before[None], decoder_input_ids=given).logits[0]
    return np.stack([log_softmax(z) for z in logits.numpy()])


def real(row: torch.Tensor, mask: torch.Tensor) -> list[int]:
    return [int(i) for i in row[mask.bool()]]


@pytest.mark.parametrize("old", [True, False], ids=["pseudo", "none"])
@pytest.mark.parametrize("writer", WRITERS)
def test_the_loss(writer: str, old: bool) -> None:
    state, phase = stage(writer, old=old)
    batch = whole_batch(state, phase)
    terms = phase.loss(state, {"task": batch})
    lessons = phase._lessons(state)
    n_new = len(STREAM.tasks[2].train)
    assert len(batch) == n_new + 2 * old and lessons.n_new == n_new
    task = generation = divergence = 0.0
    n_task = n_written = 0
    for b in range(len(batch)):
        ids = real(batch.input_ids[b], batch.attention_mask[b])
        answer = real(batch.answer_ids[b], batch.answer_ids[b] != NO_TOKEN)
        log_p = by_hand(state, SHARED, ids, answer)
        task -= sum(log_p[i, token] for i, token in enumerate(answer))
        n_task += len(answer)
        asked, written = lessons.pairs[b]
        log_w = by_hand(state, SHARED, asked, written)
        generation -= sum(log_w[i, token] for i, token in enumerate(written))
        n_written += len(written)
        if b >= n_new:
            log_t = by_hand(state, TEACHER, ids, answer)
            divergence += float((np.exp(log_t) * (log_t - log_p)).sum())
    kd = KD if old else 0.0
    expected = {
        "adapter": (1 - kd) * task / n_task,
        "generation": (1 - kd) * LAM * generation / n_written,
    }
    expected |= {"distillation": kd * divergence} if old else {}
    assert set(terms) == set(expected)
    for name, value in expected.items():
        found = float(terms[name].detach())
        assert found == pytest.approx(value, abs=1e-5 if name != "distillation" else 1e-4), name
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert state.pool.parameters_of(SHARED)["prompt"].grad is not None
    assert state.pool.parameters_of(TEACHER) == {}


def test_what_is_asked_and_written() -> None:
    state, phase = stage("t5")
    lessons = phase._lessons(state)
    text = state.backbone.tokenizer
    asked, written = lessons.pairs[-1]  # a pseudo-sample of the first task
    assert f"task {state.history[0].name} and its answer" in text.decode(asked).replace("</s>", "")
    assert text.decode(written) == f"and another one {MARK} no it</s>"
    assert lessons.pairs[0][0] != asked, "another task is asked for in other words"


def test_divergence_of_tokens() -> None:
    g = torch.Generator().manual_seed(3)
    before, now = torch.randn(3, 4, 7, generator=g), torch.randn(3, 4, 7, generator=g)
    now.requires_grad_()
    answer = torch.tensor([[1, 2, 3, NO_TOKEN], [4, *[NO_TOKEN] * 3], [NO_TOKEN] * 4])
    there = answer != NO_TOKEN
    found = token_divergence(before[there], now[there])
    other = now.detach().clone().requires_grad_()
    total = torch.zeros(())
    for b in range(3):
        for a in range(4):
            if answer[b, a] != NO_TOKEN:
                p, q = before[b, a].softmax(0), other[b, a].softmax(0)
                total = total + (p * (p / q).log()).sum()
    torch.testing.assert_close(found, total, rtol=0, atol=1e-5)
    found.backward()
    total.backward()
    torch.testing.assert_close(now.grad, other.grad, rtol=0, atol=1e-5)
    assert float(token_divergence(before[there], before[there])) == 0.0
    assert float(token_divergence(before[:0, 0], before[:0, 0])) == 0.0
