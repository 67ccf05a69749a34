"""Progressive Prompts against their formula, written down once more, example by example.

What is read: [P_t; ...; P_1; E(x)], put together row by row without padding and handed to
transformers' own model; heads in numpy. Only P_t and its head have a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conpet.backbones.base import Backbone
from conpet.methods.base import PhaseSpec, State
from conpet.methods.progprompt import OnTop, ProgPrompt
from conpet.testing import synthetic_stream, tiny_bert, tiny_llama, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream
from conpet.types import NO_TOKEN, Batch

M = 4
TEXT, CLASSES = instruction_stream(3, train=8), synthetic_stream(n_tasks=3, train=4)
WRITERS: dict[str, Callable[..., Backbone]] = {"llama": tiny_llama, "t5": tiny_t5}


def stage(method: ProgPrompt, writer: str | None = None) -> tuple[State, OnTop]:
    """The phase of the third task as it begins, all weights random."""
    state = tiny_state(
        *(TEXT if writer else CLASSES).tasks,
        backbone=WRITERS[writer](generative=True) if writer else tiny_bert(),
        spec=PhaseSpec(epochs=1, batch_size=6),
        kind="prompt",
        length=M,
    )
    (phase,) = method.phases(state)
    assert isinstance(phase, OnTop)
    g = torch.Generator().manual_seed(4)
    for i, task in enumerate(state.history):
        if task is state.task:
            phase.begin(state)
        else:
            state.pool.add(task.name, seed=i, n_classes=len(task.labels))
        shapes = {key: tensor.shape for key, tensor in state.pool.tensors(task.name).items()}
        state.pool.load_tensors(
            task.name, {k: 0.5 * torch.randn(s, generator=g) for k, s in shapes.items()}
        )
        if task is not state.task:
            state.pool.freeze(task.name)
    return state, phase


def stack_by_hand(state: State, upto: int, prompts: dict[str, Tensor]) -> Tensor:
    """[P_upto; ...; P_1], tasks counted from 0."""
    return torch.cat([prompts[state.history[i].name] for i in range(upto, -1, -1)])


def prompts_of(state: State) -> dict[str, Tensor]:
    return {name: state.pool.tensors(name)["prompt"].requires_grad_() for name in state.pool.names}


def features_by_hand(state: State, batch: Batch, b: int, stack: Tensor) -> Tensor:
    """(d,) the mean over the text's positions, behind the stack."""
    model: Any = state.backbone.model
    ids = batch.input_ids[b, : int(batch.attention_mask[b].sum())]
    embeddings = torch.cat([stack, model.get_input_embeddings()(ids)])[None]
    assert embeddings.shape[1] == len(stack) + len(ids)
    states = model(inputs_embeds=embeddings, attention_mask=torch.ones(embeddings.shape[:2]))
    return states.last_hidden_state[0, len(stack) :].mean(dim=0)


def logits_by_hand(state: State, features: Tensor, task: int) -> np.ndarray:
    head = {k: v.numpy() for k, v in state.pool.tensors(state.history[task].name).items()}
    return head["head.weight"] @ features.detach().numpy() + head["head.bias"]


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z.astype(np.float64) - z.max()
    return z - np.log(np.exp(z).sum())


@pytest.mark.parametrize("task_id", [False, True])
def test_the_loss_on_classes(task_id: bool) -> None:
    state, phase = stage(ProgPrompt(task_id=task_id))
    batch = state.batch(state.task.train[:6])
    (term,) = phase.loss(state, {"task": batch}).values()
    prompts, total = prompts_of(state), 0.0
    for b, column in enumerate(batch.label.tolist()):
        features = features_by_hand(state, batch, b, stack_by_hand(state, 2, prompts))
        tasks = [2] if task_id else [0, 1, 2]
        log_p = log_softmax(np.concatenate([logits_by_hand(state, features, i) for i in tasks]))
        total -= log_p[column - (state.task.first_column if task_id else 0)]
    assert float(term.detach()) == pytest.approx(total / len(batch), abs=1e-5)
    term.backward()
    moved = {name for name in state.pool.names if state.pool.parameters_of(name)}
    assert moved == {state.task.name}
    assert all(p.grad is not None for p in state.pool.parameters_of(state.task.name).values())


@pytest.mark.parametrize("task_id", [False, True])
@torch.no_grad()
def test_the_scores(task_id: bool) -> None:
    state, phase = stage(ProgPrompt(task_id=task_id))
    phase.end(state)
    method = ProgPrompt(task_id=task_id)
    batch = state.batch(np.concatenate([task.test[:2] for task in state.history]))
    seen = batch if task_id else batch.without_answers()
    scores = method.scores(state, seen, method.route(state, seen))
    prompts = prompts_of(state)
    for b, task in enumerate(batch.task.tolist()):
        upto = task if task_id else 2
        features = features_by_hand(state, batch, b, stack_by_hand(state, upto, prompts))
        logits = [logits_by_hand(state, features, i) for i in range(3)]
        if task_id:  # the others answer nothing
            logits = [one if i == task else np.full_like(one, -100) for i, one in enumerate(logits)]
        expected = log_softmax(np.concatenate(logits))
        np.testing.assert_allclose(scores[b].numpy(), expected, atol=1e-4 if task_id else 1e-5)


@pytest.mark.parametrize("writer", WRITERS)
def test_the_loss_on_free_answers(writer: str) -> None:
    state, phase = stage(ProgPrompt(), writer)
    batch = state.batch(state.task.train[:5])
    (term,) = phase.loss(state, {"task": batch}).values()
    prompts = prompts_of(state)
    losses, n_tokens = [], 0
    for b in range(len(batch)):
        stack = stack_by_hand(state, 2, prompts)
        ids = batch.input_ids[b, : int(batch.attention_mask[b].sum())]
        answer = batch.answer_ids[b][batch.answer_ids[b] != NO_TOKEN]
        log_p = written_by_hand(state, stack, ids, answer).log_softmax(dim=1)
        losses.append(-log_p[torch.arange(len(answer)), answer].sum())
        n_tokens += len(answer)
    expected = torch.stack(losses).sum() / n_tokens
    torch.testing.assert_close(term, expected, rtol=0, atol=1e-5)
    term.backward()
    expected.backward()
    own = state.pool.parameters_of(state.task.name)["prompt"].grad
    assert own is not None and own.abs().max() > 1e-3
    torch.testing.assert_close(own, prompts[state.task.name].grad, rtol=0, atol=1e-5)


def written_by_hand(state: State, stack: Tensor, ids: Tensor, answer: Tensor) -> Tensor:
    """(A, V) logits of an answer's tokens."""
    model: Any = state.backbone.model
    embed = model.get_input_embeddings()
    before = torch.cat([stack, embed(ids)])
    if state.backbone.kind == "decoder":
        whole = torch.cat([before, embed(answer)])[None]
        found: Tensor = model(inputs_embeds=whole).logits[0, len(before) - 1 : -1]
        return found
    start = torch.tensor([state.backbone.start_id()])  # type: ignore[attr-defined]
    given = torch.cat([start, answer[:-1]])[None]
    found = model(inputs_embeds=before[None], decoder_input_ids=given).logits[0]
    return found
