"""SAPT against its formulas, written down once more, example by example.

e  = max over a prompt's tokens of the frozen embeddings
q  = LayerNorm(SiLU(U D e)),   a = softmax(k_1 . q, ..., k_t . q; temperature)
W' = W + scale * sum_i a_i B_i A_i in every adapted projection: one merged model for each prompt
loss = task loss + strength * sum_{i<t} mean over samples x of task i of KL(a_i, 0, ..., 0 || a(x))

The attention and the heads are numpy; the merged model is transformers' own, without our hooks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conpet.backbones.base import Backbone
from conpet.backbones.generative import GenerativeBackbone
from conpet.methods.base import PhaseSpec, State
from conpet.methods.reflection import QUERIES, REFERENCE, attention
from conpet.methods.sapt import SAPT, Attend
from conpet.routing.base import plain
from conpet.testing import synthetic_stream, tiny_bert, tiny_llama, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream
from conpet.types import NO_TOKEN, Batch

RANK, ALPHA, STRENGTH = 2, 6, 0.7
SCALE = ALPHA / RANK
TEXT, CLASSES = instruction_stream(3, train=8), synthetic_stream(n_tasks=3, train=4)
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "bert": tiny_bert,
    "llama": lambda: tiny_llama(generative=True),
    "t5": lambda: tiny_t5(generative=True),
}
KNOWN = [np.array([1.0]), np.array([0.3, 0.7])]
"""Reference attention of the first two tasks."""


def stage(backbone: str, method: SAPT) -> tuple[State, Attend]:
    """The first phase of the third task as it begins, all weights random."""
    stream = CLASSES if backbone == "bert" else TEXT
    state = tiny_state(
        *stream.tasks,
        backbone=BACKBONES[backbone](),
        spec=PhaseSpec(epochs=1, batch_size=6),
        rank=RANK,
        alpha=ALPHA,
    )
    state.modules = dict(method.modules(state))
    phase = method.phases(state)[0]
    assert isinstance(phase, Attend)
    g = torch.Generator().manual_seed(4)
    for i, task in enumerate(state.history):
        if task is state.task:
            phase.begin(state)
        else:
            state.pool.add(task.name, seed=i, n_classes=len(task.labels))
            attention(state).add_key(task.name, g)
            width = attention(state).width
            state.buffers[QUERIES + task.name] = torch.randn(4 + 3 * i, width, generator=g)
            state.buffers[REFERENCE + task.name] = torch.from_numpy(KNOWN[i]).float()
        shapes = {key: tensor.shape for key, tensor in state.pool.tensors(task.name).items()}
        state.pool.load_tensors(
            task.name, {k: 0.4 * torch.randn(s, generator=g) for k, s in shapes.items()}
        )
        if task is not state.task:
            state.pool.freeze(task.name)
    return state, phase


def drawn(state: State) -> Batch:
    return state.batch(np.concatenate([task.train[:3] for task in state.history]))


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max()
    return z - np.log(np.exp(z).sum())


def weights_by_hand(state: State, e: np.ndarray, temperature: float | None = None) -> np.ndarray:
    """(t,) log a of one pooled prompt e (d,)."""
    tensors = {key: numbers(p) for key, p in attention(state).state_dict().items()}
    down, up = tensors["projection.0.weight"], tensors["projection.1.weight"]
    x = up @ (down @ e)
    x = x / (1 + np.exp(-x))
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    q = x * tensors["projection.3.weight"] + tensors["projection.3.bias"]
    keys = [tensors[f"keys.key:{name}"] for name in state.task_names]
    return log_softmax(np.array([k @ q for k in keys]) / (temperature or np.sqrt(len(e))))


def pooled_by_hand(state: State, batch: Batch) -> list[np.ndarray]:
    table = numbers(state.backbone.model.get_input_embeddings().weight)
    rows = zip(batch.input_ids.numpy(), batch.attention_mask.numpy(), strict=True)
    return [table[ids[mask == 1]].max(axis=0) for ids, mask in rows]


def merged(state: State, own: Backbone, a: np.ndarray) -> Backbone:
    """A copy of the backbone whose projections hold the mix of one prompt."""
    backbone = copy.copy(own)
    backbone._modules = {**own._modules, "model": copy.deepcopy(own.model)}
    modules: dict[str, Any] = dict(backbone.model.named_modules())
    with torch.no_grad():
        for name, weight in zip(state.task_names, a, strict=True):
            tensors = state.pool.tensors(name)
            for key in (key for key in tensors if key.endswith(".A")):
                path = key.removesuffix(".A")
                product = tensors[f"{path}.B"] @ tensors[key]
                modules[path].weight.add_(float(weight) * SCALE * product)
    return backbone


def by_hand(state: State, batch: Batch, a: list[np.ndarray]) -> list[np.ndarray]:
    """Each example through a model of its own: log-probabilities of all classes, or of the tokens
    of its answer."""
    own, found = state.backbone, []
    try:
        for i, weights in enumerate(a):
            one = batch.select(torch.tensor([i]))
            state.backbone = merged(state, own, weights)
            with torch.no_grad():
                if state.writes:
                    tokens = one.answer_ids[0] != NO_TOKEN
                    logits = answer_logits(state.backbone, one, one.answer_ids[:, tokens])
                    rows = zip(numbers(logits), one.answer_ids[0][tokens], strict=True)
                    found.append(np.array([log_softmax(z)[int(y)] for z, y in rows]))
                    continue
                h = numbers(state.forward(one, plain(1, state.device)).features[0])
            z = []
            for name in state.task_names:
                head = state.pool.tensors(name)
                z.append(numbers(head["head.weight"]) @ h + numbers(head["head.bias"]))
            found.append(log_softmax(np.concatenate(z)))
    finally:
        state.backbone = own
    return found


def answer_logits(backbone: Backbone, one: Batch, answer: Tensor) -> Tensor:
    """(n, V) of the tokens of one answer (1, n), by transformers' own forward."""
    prompt, n = one.input_ids[one.attention_mask == 1][None], answer.shape[1]
    model: Any = backbone.model
    assert isinstance(backbone, GenerativeBackbone)
    if backbone.kind == "decoder":
        found: Tensor = model(input_ids=torch.cat([prompt, answer], dim=1)).logits[0, -n - 1 : -1]
        return found
    start = torch.full((1, 1), backbone.start_id())
    given = torch.cat([start, answer[:, :-1]], dim=1)
    found = model(input_ids=prompt, decoder_input_ids=given).logits[0]
    return found


def reflection_by_hand(state: State, temperature: float | None = None) -> float:
    total = 0.0
    for i, reference in enumerate(KNOWN):
        queries = numbers(state.buffers[QUERIES + state.task_names[i]])
        terms = []
        for e in queries:
            log_a = weights_by_hand(state, e, temperature)
            known = reference[reference > 0]  # zeros behind it: of tasks that came later
            terms.append((known * (np.log(known) - log_a[: len(known)])).sum())
        total += np.mean(terms)
    return total


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_weights_of_every_prompt_are_the_formula(backbone: str) -> None:
    method = SAPT(pseudo="real", temperature=0.8)
    state, _ = stage(backbone, method)
    batch = drawn(state)
    with torch.no_grad():
        routing = method.route(state, batch)
    expected = [np.exp(weights_by_hand(state, e, 0.8)) for e in pooled_by_hand(state, batch)]
    np.testing.assert_allclose(numbers(routing.weights), np.stack(expected), rtol=1e-4, atol=1e-6)
    assert np.ptp(np.stack(expected), axis=0).min() > 1e-4


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_is_that_of_a_model_of_its_own_for_each_prompt(backbone: str) -> None:
    method = SAPT(pseudo="real", reflection=STRENGTH)
    state, phase = stage(backbone, method)
    step = phase.batches(state, 0)[0]
    batch = step["task"]
    terms = {key: float(term.detach()) for key, term in phase.loss(state, step).items()}
    a = [np.exp(weights_by_hand(state, e)) for e in pooled_by_hand(state, batch)]
    found = by_hand(state, batch, a)
    if state.writes:
        expected = -np.concatenate(found).mean()  # over the tokens of the batch
    else:
        expected = -np.mean([z[int(y)] for z, y in zip(found, batch.label, strict=True)])
    assert terms.keys() == {"adapter", "reflection"}
    assert terms["adapter"] == pytest.approx(expected, rel=1e-4)


def test_the_reflection_is_the_mean_of_each_old_task_added_up() -> None:
    """With batches that hold all samples of a task."""
    for temperature in (None, 1.0):
        method = SAPT(pseudo="real", reflection=STRENGTH, temperature=temperature)
        state, phase = stage("t5", method)
        phase = Attend(**{**vars(phase), "spec": PhaseSpec(epochs=1, batch_size=7)})
        found = phase.loss(state, phase.batches(state, 0)[0])["reflection"]
        expected = STRENGTH * reflection_by_hand(state, temperature)
        assert float(found.detach()) == pytest.approx(expected, rel=1e-4)


def test_answers_with_classes_are_the_heads_side_by_side_on_mixed_features() -> None:
    for top_k in ("all", 2):
        method = SAPT(pseudo="real", top_k=top_k)
        state, _ = stage("bert", method)
        state.pool.freeze(state.task.name)
        batch = drawn(state).without_answers()
        with torch.no_grad():
            scores = numbers(method.scores(state, batch, method.route(state, batch)))
        a = []
        for e in pooled_by_hand(state, batch):
            weights = np.exp(weights_by_hand(state, e))
            if top_k == 2:
                weights[weights.argmin()] = 0
            a.append(weights / weights.sum())
        for row, expected in zip(scores, by_hand(state, batch, a), strict=True):
            np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_gradients_of_adapter_and_attention_are_finite_differences_of_the_loss() -> None:
    state, phase = stage("t5", SAPT(pseudo="real", reflection=STRENGTH))
    step = phase.batches(state, 0)[0]
    named = {key: p for group in phase.trainable(state) for key, p in group.parameters.items()}
    for p in named.values():
        p.requires_grad_(True)
        p.grad = None

    def total() -> Tensor:
        return sum(phase.loss(state, step).values(), start=torch.zeros(()))

    total().backward()
    g = torch.Generator().manual_seed(2)
    for key, p in named.items():
        assert p.grad is not None
        direction = torch.randn(p.shape, generator=g)
        direction /= direction.norm()
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                p.add_(sign * 0.002 * direction)
                values.append(float(total()))
                p.sub_(sign * 0.002 * direction)
        slope = (values[0] - values[1]) / 0.004
        assert float((p.grad * direction).sum()) == pytest.approx(slope, rel=0.05, abs=3e-3), key
