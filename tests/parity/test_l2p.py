"""L2P against its formula, written down once more in numpy, example by example.

q = mean over real tokens of the plain backbone's last hidden states; S = the n keys of largest
cosine; loss = cross-entropy behind [P_i for i in S; E(x)] - c * mean cos(q, K_i), i in S.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from conpet.backbones.base import Backbone
from conpet.methods.base import PhaseSpec, State
from conpet.methods.l2p import L2P, FromPool, keys, query
from conpet.routing.prompt_pool import Keys, nearest, nearness
from conpet.testing import synthetic_stream, tiny_bert, tiny_llama, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream
from conpet.types import NO_TOKEN, Batch

M, N, TOP = 3, 6, 2
TEXT, CLASSES = instruction_stream(2, train=8), synthetic_stream(n_tasks=2, train=4)
WRITERS: dict[str, Callable[..., Backbone]] = {"llama": tiny_llama, "t5": tiny_t5}


def stage(writer: str | None = None, **options: Any) -> tuple[State, FromPool]:
    """The phase of the second task as it begins, all weights random."""
    method = L2P(pool=N, top_n=TOP, pull=0.7, **options)
    state = tiny_state(
        *(TEXT if writer else CLASSES).tasks,
        backbone=WRITERS[writer](generative=True) if writer else tiny_bert(),
        spec=PhaseSpec(epochs=1, batch_size=6),
        kind="prompt",
        length=M,
    )
    state.modules = dict(method.modules(state))
    (phase,) = method.phases(state)
    assert isinstance(phase, FromPool)
    phase.begin(state)
    g = torch.Generator().manual_seed(4)
    for name in method.names:
        shapes = {key: tensor.shape for key, tensor in state.pool.tensors(name).items()}
        state.pool.load_tensors(
            name, {k: 0.5 * torch.randn(s, generator=g) for k, s in shapes.items()}
        )
    return state, phase


def ids_of(batch: Batch, b: int) -> Tensor:
    return batch.input_ids[b, : int(batch.attention_mask[b].sum())]


def cosines_by_hand(state: State, ids: Tensor) -> np.ndarray:
    """(N,) of one text."""
    with torch.no_grad():
        states = state.backbone(ids[None], torch.ones_like(ids)[None])[0].numpy()
    q = states.astype(np.float64).mean(axis=0)
    table = keys(state).keys.detach().numpy().astype(np.float64)
    return np.array([q @ k / np.linalg.norm(q) / np.linalg.norm(k) for k in table])


def chosen_by_hand(cosines: np.ndarray) -> list[int]:
    return sorted(np.argsort(-cosines)[:TOP].tolist())


def stack(phase: FromPool, prompts: dict[str, Tensor], chosen: list[int]) -> Tensor:
    return torch.cat([prompts[phase.method.names[i]] for i in chosen])


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z.astype(np.float64) - z.max()
    return z - np.log(np.exp(z).sum())


@pytest.mark.parametrize("old_classes", ["masked", "seen"])
def test_the_loss_on_classes(old_classes: Literal["masked", "seen"]) -> None:
    state, phase = stage(old_classes=old_classes)
    batch = state.batch(state.task.train[:6])
    terms = phase.loss(state, {"task": batch})
    prompts = {name: state.pool.tensors(name)["prompt"] for name in phase.method.names}
    head = {k: v.numpy() for k, v in state.pool.tensors(phase.method.names[0]).items()}
    model: Any = state.backbone.model
    total, near, used = 0.0, [], set()
    for b, column in enumerate(batch.label.tolist()):
        cosines = cosines_by_hand(state, ids_of(batch, b))
        chosen = chosen_by_hand(cosines)
        used |= set(chosen)
        near += [cosines[i] for i in chosen]
        before = stack(phase, prompts, chosen)
        whole = torch.cat([before, model.get_input_embeddings()(ids_of(batch, b))])[None]
        with torch.no_grad():
            hidden = model(inputs_embeds=whole).last_hidden_state[0, TOP * M :].mean(dim=0).numpy()
        logits = head["head.weight"] @ hidden + head["head.bias"]
        first = state.task.first_column if old_classes == "masked" else 0
        total -= log_softmax(logits[first:])[column - first]
    assert float(terms["adapter"].detach()) == pytest.approx(total / len(batch), abs=1e-5)
    assert float(terms["keys"].detach()) == pytest.approx(-0.7 * np.mean(near), abs=1e-5)
    sum(terms.values()).backward()  # type: ignore[union-attr]
    moved = {
        i
        for i, name in enumerate(phase.method.names)
        if state.pool.parameters_of(name)["prompt"].grad is not None
    }
    assert moved == used
    grad = keys(state).keys.grad
    assert grad is not None
    assert {i for i in range(N) if grad[i].abs().sum() > 0} == used


@pytest.mark.parametrize("writer", WRITERS)
def test_the_loss_on_free_answers(writer: str) -> None:
    state, phase = stage(writer)
    batch = state.batch(state.task.train[:5])
    terms = phase.loss(state, {"task": batch})
    prompts = {name: state.pool.tensors(name)["prompt"] for name in phase.method.names}
    model: Any = state.backbone.model
    embed = model.get_input_embeddings()
    total, n_tokens, near = 0.0, 0, []
    for b in range(len(batch)):
        cosines = cosines_by_hand(state, ids_of(batch, b))
        chosen = chosen_by_hand(cosines)
        near += [cosines[i] for i in chosen]
        answer = batch.answer_ids[b][batch.answer_ids[b] != NO_TOKEN]
        before = torch.cat([stack(phase, prompts, chosen), embed(ids_of(batch, b))])
        with torch.no_grad():
            if writer == "llama":
                whole = torch.cat([before, embed(answer)])[None]
                logits = model(inputs_embeds=whole).logits[0, len(before) - 1 : -1]
            else:
                given = torch.cat([torch.tensor([0]), answer[:-1]])[None]  # 0: tiny-t5's start
                logits = model(inputs_embeds=before[None], decoder_input_ids=given).logits[0]
        for z, token in zip(logits.numpy(), answer.tolist(), strict=True):
            total -= log_softmax(z)[token]
        n_tokens += len(answer)
    assert float(terms["adapter"].detach()) == pytest.approx(total / n_tokens, abs=1e-5)
    assert float(terms["keys"].detach()) == pytest.approx(-0.7 * np.mean(near), abs=1e-5)


def test_the_query_is_the_mean_whatever_the_run_reads_out() -> None:
    state, _ = stage()
    state.read_out = "cls"
    batch = state.batch(state.task.train[:3])
    found = query(state, batch)
    for b in range(3):
        ids = ids_of(batch, b)
        states = state.backbone(ids[None], torch.ones_like(ids)[None])[0]
        torch.testing.assert_close(found[b], states.mean(dim=0), rtol=0, atol=1e-5)


def test_cosines_and_their_gradients() -> None:
    g = torch.Generator().manual_seed(2)
    table, queries = Keys(7, 5, g), torch.randn(4, 5, generator=g)
    cosine = table(queries)
    other = table.keys.detach().clone().requires_grad_()
    expected = torch.nn.functional.cosine_similarity(queries[:, None], other[None], dim=2)
    torch.testing.assert_close(cosine, expected, rtol=0, atol=1e-6)
    assert float(table.keys.detach().norm(dim=1).min()) > 0.1, "keys have a direction"
    nearness(cosine, 3).backward()
    expected.topk(3, dim=1).values.sum().div(12).backward()
    torch.testing.assert_close(table.keys.grad, other.grad, rtol=0, atol=1e-6)
    routing = nearest(tuple("abcdefg"), cosine, 3)
    assert routing.weights.sum(dim=1).tolist() == [3.0] * 4 and not routing.weights.requires_grad
    for row, values in zip(routing.weights, cosine, strict=True):
        assert set(row.nonzero()[:, 0].tolist()) == set(values.topk(3).indices.tolist())
