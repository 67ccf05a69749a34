"""Dynamic ConPET against its formulas, written down once more in plain numpy, example by example.

A(x): the k tasks of largest selector logit; in training the true task replaces the last of
      them where it is missing
z(x): the heads' logits of the tasks in A(x) side by side, -100 for the classes of all others
loss = -1/B sum_x log softmax(z(x))[y]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conpet.methods.base import Phase, State
from conpet.methods.conpet_dynamic import SELECTOR, ConpetDynamic
from conpet.replay.dynamic import DynamicReplay
from conpet.routing.base import single
from conpet.testing import synthetic_stream, tiny_state
from conpet.types import Batch

STREAM = synthetic_stream(n_tasks=4, labels_per_task=2, train=5)


def stage(n_tasks: int, method: ConpetDynamic, kind: str = "lora") -> tuple[State, Phase]:
    """The state at the start of the last task's adapter phase, all weights random, not trained."""
    state = tiny_state(*STREAM.tasks[:n_tasks], replay=DynamicReplay(10), kind=kind)
    state.pool.add(SELECTOR, seed=0, n_classes=n_tasks, role="selector")
    for task in STREAM.tasks[: n_tasks - 1]:
        state.pool.add(task.name, seed=0, n_classes=len(task.labels))
    phase = method.phases(state)[-1]
    phase.begin(state)
    generator = torch.Generator().manual_seed(5)
    for name in state.pool.names:
        weights = {k: v.shape for k, v in state.pool.tensors(name).items()}
        state.pool.load_tensors(
            name, {k: torch.randn(s, generator=generator) * 0.3 for k, s in weights.items()}
        )
        if name != state.task.name:
            state.pool.freeze(name)
    return state, phase


def drawn(state: State, *, old: int = 3, new: int = 4) -> Batch:
    """Examples of every task: ``old`` of each learned one, ``new`` of the newest."""
    *before, last = state.history
    return state.batch(np.concatenate([*(t.train[:old] for t in before), last.train[:new]]))


def one_by_one(batch: Batch) -> Iterator[Batch]:
    for i in range(len(batch)):
        yield batch.select(torch.tensor([i]))


@torch.no_grad()
def head_logits(state: State, example: Batch, name: str) -> np.ndarray:
    """(C_name,) of one example, by one pass through one adapter."""
    features = state.forward(example, single(name, 1, state.device)).features[0].numpy()
    head = state.pool.tensors(name)
    return head["head.weight"].numpy() @ features + head["head.bias"].numpy()


def chosen(state: State, example: Batch, k: int, *, teach: bool) -> list[int]:
    if k >= len(state.history):
        return list(range(len(state.history)))
    best_first = np.argsort(-head_logits(state, example, SELECTOR), kind="stable")[:k].tolist()
    true = int(example.task[0])
    if teach and true not in best_first:
        best_first[-1] = true
    return best_first


def side_by_side(state: State, example: Batch, tasks: list[int]) -> np.ndarray:
    z = np.full(len(state.labels), -100.0)
    for t in tasks:
        task = state.history[t]
        columns = slice(task.first_column, task.first_column + len(task.labels))
        z[columns] = head_logits(state, example, task.name)
    return z


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z.astype(np.float64) - z.max()
    return z - np.log(np.exp(z).sum())


def gradients(state: State, phase: Phase, batch: Batch) -> dict[str, Tensor]:
    """Of the new adapter and its head; zeros where the loss does not reach them."""
    (group,) = phase.trainable(state)
    for p in group.parameters.values():
        p.grad = None
    loss = sum(phase.loss(state, {"task": batch}).values(), start=torch.zeros(()))
    if loss.requires_grad:
        loss.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in group.parameters.items()
    }


TOP_K = [1, 2, 3, 4, "all"]


def as_number(top_k: Any) -> int:
    return 99 if top_k == "all" else top_k


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
@pytest.mark.parametrize("top_k", TOP_K)
def test_the_loss_is_the_formula(top_k: Any, kind: str) -> None:
    state, phase = stage(4, ConpetDynamic(top_k=top_k, skip_gradless=False), kind)
    batch = drawn(state)
    terms = []
    for x in one_by_one(batch):
        z = side_by_side(state, x, chosen(state, x, as_number(top_k), teach=True))
        terms.append(-log_softmax(z)[int(x.label[0])])
    (loss,) = phase.loss(state, {"task": batch}).values()
    assert float(loss.detach()) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("top_k", TOP_K)
def test_the_loss_without_gradless_examples_keeps_the_divisor(top_k: Any) -> None:
    state, phase = stage(4, ConpetDynamic(top_k=top_k))
    batch, terms = drawn(state), []
    for x in one_by_one(batch):
        tasks = chosen(state, x, as_number(top_k), teach=True)
        if len(state.history) - 1 in tasks:
            z = side_by_side(state, x, tasks)
            terms.append(-log_softmax(z)[int(x.label[0])])
    assert len(terms) < len(batch) or as_number(top_k) >= 4
    (loss,) = phase.loss(state, {"task": batch}).values()
    assert float(loss.detach()) == pytest.approx(np.sum(terms) / len(batch), rel=1e-5)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_leaving_out_gradless_examples_leaves_the_gradients(top_k: int) -> None:
    found = []
    for skip in (True, False):
        state, phase = stage(4, ConpetDynamic(top_k=top_k, skip_gradless=skip))
        found.append(gradients(state, phase, drawn(state)))
    less, whole = found
    assert less.keys() == whole.keys()
    assert any(bool(gradient.any()) for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(less[name], gradient, rtol=0, atol=1e-6)


def test_leaving_them_out_saves_their_forward_passes() -> None:
    counts = []
    for skip in (True, False):
        state, phase = stage(4, ConpetDynamic(skip_gradless=skip))
        batch, before = drawn(state, old=3, new=4), state.passes
        phase.loss(state, {"task": batch})
        counts.append(state.passes - before)
    assert counts == [4, 13]


def test_with_one_adapter_an_example_old_examples_give_exactly_no_gradient() -> None:
    state, phase = stage(4, ConpetDynamic(top_k=1, skip_gradless=False))
    old = state.batch(np.concatenate([task.train for task in state.history[:-1]]))
    assert all(not bool(g.any()) for g in gradients(state, phase, old).values())
    assert ConpetDynamic(top_k=1).phases(state)[-1].loss(state, {"task": old}) == {}


def test_with_one_adapter_an_example_the_loss_is_that_of_its_own_classes() -> None:
    state, phase = stage(4, ConpetDynamic(top_k=1))
    batch = drawn(state, old=0, new=4)
    first = state.task.first_column
    own = [
        -log_softmax(head_logits(state, x, state.task.name))[int(x.label[0]) - first]
        for x in one_by_one(batch)
    ]
    (loss,) = phase.loss(state, {"task": batch}).values()
    assert float(loss.detach()) == pytest.approx(np.mean(own), rel=1e-6)


@pytest.mark.parametrize("top_k", TOP_K)
def test_prediction_is_the_formula_without_teacher_forcing(top_k: Any) -> None:
    method = ConpetDynamic(top_k=top_k)
    state, phase = stage(4, method)
    phase.end(state)
    batch = state.batch(np.concatenate([task.test for task in state.history]))
    with torch.no_grad():
        seen = batch.without_answers()
        scores = method.scores(state, seen, method.route(state, seen))
    for row, x in zip(scores.numpy(), one_by_one(batch), strict=True):
        tasks = chosen(state, x, as_number(top_k), teach=False)
        expected = log_softmax(side_by_side(state, x, tasks))
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_with_all_adapters_the_answer_is_all_heads_side_by_side() -> None:
    method = ConpetDynamic(top_k="all")
    state, phase = stage(4, method)
    phase.end(state)
    batch = state.batch(state.task.test)
    with torch.no_grad():
        scores = method.scores(state, batch, method.route(state, batch))
    for row, x in zip(scores.numpy(), one_by_one(batch), strict=True):
        z = np.concatenate([head_logits(state, x, task.name) for task in state.history])
        np.testing.assert_allclose(row, log_softmax(z), rtol=1e-4, atol=1e-5)


def test_a_selector_of_labels_sums_their_probabilities_by_task() -> None:
    method = ConpetDynamic(top_k=2, selector_target="label")
    state, phase = stage(4, method)
    state.pool.remove(SELECTOR)
    state.pool.add(SELECTOR, seed=3, n_classes=len(state.labels), role="selector")
    state.pool.freeze(SELECTOR)
    phase.end(state)
    batch = drawn(state)
    routing = method.route(state, batch.without_answers())
    for weights, x in zip(routing.weights.numpy(), one_by_one(batch), strict=True):
        p = np.exp(log_softmax(head_logits(state, x, SELECTOR))).reshape(4, 2).sum(axis=1)
        best = np.argsort(-p)[:2]
        expected = np.zeros(4)
        expected[best] = p[best]
        np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", ["task", "label"])
def test_the_balanced_selector_is_adjusted_by_the_share_of_each_task(target: Any) -> None:
    method = ConpetDynamic(balance=True, selector_target=target)
    state, _ = stage(4, method)
    state.pool.remove(SELECTOR)
    phase = method.phases(state)[0]
    phase.begin(state)
    batch = drawn(state, old=2, new=5)  # 6 old examples over 3 tasks, 5 new ones
    share = np.array([6 / 11 / 3] * 3 + [5 / 11])
    terms = []
    for x in one_by_one(batch):
        offset = np.log(share) if target == "task" else np.log(share).repeat(2)
        z = head_logits(state, x, SELECTOR) + offset
        terms.append(-log_softmax(z)[int(x.task[0] if target == "task" else x.label[0])])
    (loss,) = phase.loss(state, {"task": batch}).values()
    assert float(loss.detach()) == pytest.approx(np.mean(terms), rel=1e-5)


def test_cached_logits_are_the_ones_that_would_be_computed() -> None:
    state, _ = stage(4, ConpetDynamic(top_k="all"))
    routing = ConpetDynamic(top_k="all").route(state, batch := drawn(state))
    first = state.class_logits(batch, routing)
    passes = state.passes
    again = state.class_logits(batch, routing)
    assert state.passes - passes == len(batch), "only the live adapter computes again"
    assert torch.equal(first, again)
    unknown = replace(batch, rows=torch.full_like(batch.rows, -1))
    torch.testing.assert_close(state.class_logits(unknown, routing), first, rtol=0, atol=1e-5)


def test_a_batch_that_is_cached_in_part_gets_every_answer_in_its_place() -> None:
    state, phase = stage(4, ConpetDynamic(top_k="all"))
    phase.end(state)
    batch = drawn(state)
    routing = ConpetDynamic(top_k="all").route(state, batch)
    some = torch.tensor([1, 4, 9])
    state.class_logits(batch.select(some), replace(routing, weights=routing.weights[some]))
    mixed = state.class_logits(batch, routing)
    unknown = replace(batch, rows=torch.full_like(batch.rows, -1))
    torch.testing.assert_close(mixed, state.class_logits(unknown, routing), rtol=0, atol=1e-5)


def test_an_adapter_that_changed_is_asked_anew() -> None:
    state, phase = stage(3, ConpetDynamic(top_k="all"))
    phase.end(state)
    batch = drawn(state)
    routing = ConpetDynamic(top_k="all").route(state, batch)
    before = state.class_logits(batch, routing)
    name = state.task_names[0]
    state.pool.thaw(name)
    tensors = state.pool.tensors(name)
    state.pool.load_tensors(name, tensors | {"head.bias": tensors["head.bias"] + 1.0})
    state.pool.freeze(name)
    after = state.class_logits(batch, routing)
    torch.testing.assert_close(after[:, :2], before[:, :2] + 1.0, rtol=0, atol=1e-5)
    assert torch.equal(after[:, 2:], before[:, 2:])


def test_the_selector_grows_without_changing_what_it_says_of_old_tasks() -> None:
    state, _ = stage(4, ConpetDynamic())
    state.pool.remove(SELECTOR)
    state.pool.add(SELECTOR, seed=9, n_classes=3, role="selector")
    state.pool.freeze(SELECTOR)
    batch = state.batch(np.concatenate([task.test for task in state.history]))
    with torch.no_grad():
        before = state.head_logits(batch, SELECTOR)
        rows = state.pool.tensors(SELECTOR)["head.weight"]
        ConpetDynamic().phases(state)[0].begin(state)
        after = state.head_logits(batch, SELECTOR)
    assert after.shape == (len(batch), 4)
    assert torch.equal(state.pool.tensors(SELECTOR)["head.weight"][:3], rows)
    torch.testing.assert_close(after[:, :3], before, rtol=0, atol=1e-6)
