"""O-LoRA against its formulas, written down once more.

W'   = W + scale * sum_{i<=t} B_i A_i in every adapted projection: one merged model
loss = task loss + lambda1 * sum_l sum_{i<t} sum_jk |(A_i A_t^T)_jk|
                 + lambda2 * sum_l ( ||A_t||_F + ||B_t||_F )

The norms and products are numpy; the merged model is transformers' own, without our hooks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from conpet.backbones.base import Backbone
from conpet.errors import ConfigError
from conpet.methods.base import PhaseSpec, State
from conpet.methods.o_lora import OLoRA, Orthogonal, norms, overlap
from conpet.routing.base import plain
from conpet.testing import synthetic_stream, tiny_bert, tiny_llama, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream
from conpet.types import NO_TOKEN, Batch

RANK, ALPHA = 2, 6
SCALE = ALPHA / RANK
TEXT, CLASSES = instruction_stream(3, train=8), synthetic_stream(n_tasks=3, train=4)
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "bert": tiny_bert,
    "llama": lambda: tiny_llama(generative=True),
    "t5": lambda: tiny_t5(generative=True),
}
METHOD = OLoRA(orthogonality=0.3, orthogonality_from={3: 0.7}, norm_from={2: 0.2})


def stage(backbone: str, n_tasks: int = 3, method: OLoRA = METHOD) -> tuple[State, Orthogonal]:
    """A task as its phase begins, with random weights in all adapters and heads."""
    stream = CLASSES if backbone == "bert" else TEXT
    state = tiny_state(
        *stream.tasks[:n_tasks],
        backbone=BACKBONES[backbone](),
        spec=PhaseSpec(epochs=1, batch_size=6),
        rank=RANK,
        alpha=ALPHA,
    )
    (phase,) = method.phases(state)
    assert isinstance(phase, Orthogonal)
    g = torch.Generator().manual_seed(4)
    for i, task in enumerate(state.history):
        if task is state.task:
            phase.begin(state)
        else:
            state.pool.add(task.name, seed=i, n_classes=0 if state.writes else len(task.labels))
        shapes = {key: tensor.shape for key, tensor in state.pool.tensors(task.name).items()}
        state.pool.load_tensors(
            task.name, {k: 0.4 * torch.randn(s, generator=g) for k, s in shapes.items()}
        )
        if task is not state.task:
            state.pool.freeze(task.name)
    return state, phase


def drawn(state: State) -> Batch:
    return state.batch(np.concatenate([task.train[:3] for task in state.history]))


def factors(state: State, name: str, end: str) -> dict[str, np.ndarray]:
    """Projection -> A or B of an adapter."""
    tensors = state.pool.tensors(name).items()
    return {k[:-2]: p.numpy().astype(np.float64) for k, p in tensors if k.endswith(end)}


def merged(state: State) -> Backbone:
    """The backbone with the sum of all adapters in its weights."""
    backbone = copy.deepcopy(state.backbone)
    modules = dict(backbone.model.named_modules())
    for name in state.task_names:
        a, b = factors(state, name, ".A"), factors(state, name, ".B")
        for path in a:
            weight = modules[path].weight
            with torch.no_grad():
                weight += torch.from_numpy(SCALE * b[path] @ a[path]).to(weight.dtype)
    return backbone


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_all_adapters_stacked_are_the_sum_of_each(backbone: str) -> None:
    """Two frozen ones as one matrix of rank 2r, and the live one, against merged weights."""
    state, _ = stage(backbone)
    batch = drawn(state)
    routing = METHOD.route(state, batch)
    assert routing.names == state.task_names
    assert torch.equal(routing.weights, torch.ones(len(batch), 3))
    with torch.no_grad():
        ours = state.forward(batch, routing).features
        bare = state.forward(batch, plain(len(batch), state.device)).features
        state.backbone = merged(state)
        theirs = state.forward(batch, plain(len(batch), state.device)).features
    assert (bare - ours).abs().max() > 0.05, "else nothing is compared"
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_the_terms_are_those_of_the_formula(backbone: str) -> None:
    state, phase = stage(backbone)
    terms = phase.loss(state, {"task": drawn(state)})
    old, new = state.task_names[:-1], state.task_names[-1]
    a, b = factors(state, new, ".A"), factors(state, new, ".B")
    expected = 0.0
    for name in old:
        for path, other in factors(state, name, ".A").items():
            for row in other:
                expected += sum(abs(float(row @ mine)) for mine in a[path])
    assert expected > 0
    assert terms["orthogonality"].item() == pytest.approx(0.7 * expected, rel=1e-5)
    size = sum(float(np.sqrt((m**2).sum())) for m in (*a.values(), *b.values()))
    assert terms["norm"].item() == pytest.approx(0.2 * size, rel=1e-5)
    assert terms[phase.name].item() == pytest.approx(task_loss(state), rel=1e-5)


def task_loss(state: State) -> float:
    """Of the merged model: over the heads side by side, or the tokens of the answers."""
    batch, model = drawn(state), merged(state)
    state = copy.copy(state)
    state.backbone = model
    everyone = plain(len(batch), state.device)
    with torch.no_grad():
        if not state.writes:
            h = state.forward(batch, everyone).features
            heads = [state.pool.head(name) for name in state.task_names]
            logits = np.concatenate([(h @ k.weight.T + k.bias).numpy() for k in heads], axis=1)
            shifted = np.exp(logits.astype(np.float64))
            right = shifted[np.arange(len(batch)), batch.label] / shifted.sum(axis=1)
            return float(-np.log(right).mean())
        log_probs = state.answer_log_probs(batch, everyone).double().numpy()
    return float(-log_probs.sum() / (batch.answer_ids != NO_TOKEN).sum().item())


def test_the_gradient_moves_the_new_adapter_alone_and_out_of_the_old_subspace() -> None:
    """d/dA_t of sum |A_old A_t^T| is sign(A_t A_old^T) A_old."""
    state, phase = stage("bert")
    term = phase.loss(state, {"task": drawn(state)})["orthogonality"]
    new = state.pool.parameters_of(state.task.name)
    keys = [key for key in new if key.endswith(".A")]
    found = torch.autograd.grad(term, [new[key] for key in keys])
    stacked = state.pool.stacked(state.task_names[:-1])
    assert sorted(stacked) == sorted(keys)
    for key, gradient in zip(keys, found, strict=True):
        old, mine = stacked[key], new[key].detach()
        assert old.shape == (2 * RANK, mine.shape[1])
        expected = 0.7 * torch.sign(mine @ old.T) @ old
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5)


def test_there_is_no_orthogonality_at_the_first_task() -> None:
    state, phase = stage("bert", n_tasks=1)
    assert phase.loss(state, {"task": drawn(state)}).keys() == {"adapter"}, "and no norm before 2"


def test_orthogonal_rows_cost_nothing_and_others_do() -> None:
    q = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    new = {"x.A": q[4:6], "x.B": torch.ones(3, 2)}
    assert overlap({"x.A": q[:4]}, new).item() == pytest.approx(0, abs=1e-5)
    assert overlap({"x.A": q[2:6]}, new).item() == pytest.approx(2, abs=1e-5)
    assert norms(new).item() == pytest.approx(2**0.5 + 6**0.5, rel=1e-5)


@pytest.mark.parametrize("empty", ["old", "new"])
def test_a_term_that_is_silently_zero_is_an_error(empty: str) -> None:
    state, phase = stage("bert")
    names = state.task_names[:-1] if empty == "old" else state.task_names[-1:]
    for name in names:
        zeros: dict[str, Tensor] = {
            key: torch.zeros_like(p) for key, p in state.pool.tensors(name).items()
        }
        state.pool.load_tensors(name, zeros)
    with pytest.raises(ConfigError, match=r"orthogonality of task 'task-3' .* is exactly 0"):
        phase.loss(state, {"task": drawn(state)})
    free = OLoRA(orthogonality=0).phases(state)[0]
    assert free.loss(state, {"task": drawn(state)}).keys() == {"adapter"}
