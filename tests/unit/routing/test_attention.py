"""The shared attention against its formulas in plain numpy, its pooling, and its reflection loss.

q = LayerNorm(SiLU(U D e))   or   LayerNorm(U SiLU(D e))
a = softmax(k_1 . q / temperature, ..., k_T . q / temperature)
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conpet.routing.attention import (
    Remembered,
    SharedAttention,
    padded_reference,
    pool_tokens,
    reflection,
    route,
)

WIDTH, NAMES = 6, ("first", "second.b", "third")
BUSY = settings(deadline=None)


def made(names: tuple[str, ...] = NAMES, **options: Any) -> SharedAttention:
    """With keys of these names; nothing is at its first value."""
    module = SharedAttention(
        WIDTH, bottleneck=4, generator=torch.Generator().manual_seed(0), **options
    )
    for i, name in enumerate(names):
        module.add_key(name, torch.Generator().manual_seed(i))
    g = torch.Generator().manual_seed(9)
    with torch.no_grad():
        norm: Any = module.projection[-1]
        norm.weight.normal_(generator=g)
        norm.bias.normal_(generator=g)
    return module


def pooled(n: int = 5, seed: int = 3) -> Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def by_hand(
    module: SharedAttention, e: Tensor, names: tuple[str, ...], order: str, temperature: float
) -> np.ndarray:
    weights = {key: numbers(p) for key, p in module.named_parameters()}
    matrices = [w for key, w in weights.items() if key.startswith("projection.") and w.ndim == 2]
    down, up = matrices
    (gain,) = (w for k, w in weights.items() if k.endswith("weight") and w.ndim == 1)
    (bias,) = (w for k, w in weights.items() if k.endswith("bias"))
    hidden = numbers(e) @ down.T
    q = silu(hidden @ up.T) if order == "after" else silu(hidden) @ up.T
    q = (q - q.mean(axis=1, keepdims=True)) / np.sqrt(q.var(axis=1, keepdims=True) + 1e-5)
    q = q * gain + bias
    keys = np.stack([numbers(module.parameters_of(name)["key"]) for name in names])
    z = q @ keys.T / temperature
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


# The weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [None, 1.0, 0.3])
@pytest.mark.parametrize("order", ["after", "between"])
def test_the_weights_are_the_formula(order: Any, temperature: float | None) -> None:
    module, e = made(order=order, temperature=temperature), pooled()
    expected = by_hand(module, e, NAMES, order, temperature or math.sqrt(WIDTH))
    np.testing.assert_allclose(numbers(module(e, NAMES)), expected, rtol=1e-5, atol=1e-7)


def test_the_two_orders_differ() -> None:
    after, between = made(order="after"), made(order="between")
    between.load_state_dict(_renamed(after.state_dict(), between))
    assert not torch.allclose(after(pooled(), NAMES), between(pooled(), NAMES), atol=1e-3)


def _renamed(tensors: dict[str, Tensor], other: SharedAttention) -> dict[str, Tensor]:
    """The same tensors, whose places in the sequence are others."""
    return dict(zip(other.state_dict(), tensors.values(), strict=True))


def test_the_first_weights_are_small_matrices_without_bias_and_keys_from_minus_one_to_one() -> None:
    module = SharedAttention(50, bottleneck=20, generator=torch.Generator().manual_seed(0))
    module.add_key("a", torch.Generator().manual_seed(0))
    shapes = {key: tuple(p.shape) for key, p in module.parameters_of("a").items()}
    assert sorted(shapes.values()) == [(20, 50), (50,), (50,), (50,), (50, 20)]
    for matrix in (p for p in module.parameters_of("a").values() if p.dim() == 2):
        assert (
            0.8 / math.sqrt(matrix.shape[1]) < matrix.abs().max() <= 1 / math.sqrt(matrix.shape[1])
        )
    key = module.parameters_of("a")["key"]
    assert -1 <= key.min() < -0.5 and 0.5 < key.max() <= 1


def test_columns_go_by_name_whatever_the_order_of_the_keys() -> None:
    module, other = made(), made(NAMES[::-1])
    other.load_state_dict(module.state_dict())
    mine, theirs = module(pooled(), NAMES), other(pooled(), NAMES)
    assert torch.equal(mine, theirs)
    turned = module(pooled(), NAMES[::-1])
    torch.testing.assert_close(turned, mine.flip(1))
    two = module.logits(pooled(), NAMES[1:])
    torch.testing.assert_close(two, module.logits(pooled(), NAMES)[:, 1:])


def test_one_key_has_a_weight_of_exactly_one_and_gives_no_gradient() -> None:
    module = made(("only",))
    weights = module(pooled(), ("only",))
    assert torch.equal(weights, torch.ones(5, 1))
    (weights * torch.arange(5.0)[:, None]).sum().backward()
    for p in module.parameters_of("only").values():
        assert p.grad is not None and not p.grad.any()


@pytest.mark.parametrize("n", [2, 3, 7])
def test_equal_keys_have_equal_weights(n: int) -> None:
    names = tuple(f"task-{i}" for i in range(n))
    module = made(names)
    with torch.no_grad():
        for name in names:
            module.parameters_of(name)["key"].copy_(torch.ones(WIDTH))
    torch.testing.assert_close(module(pooled(), names), torch.full((5, n), 1 / n))


def test_a_key_is_drawn_by_its_generator_alone_and_may_be_drawn_anew() -> None:
    one, other = made(("a", "b")), made(("b",))
    for module in (one, other):
        module.add_key("a", torch.Generator().manual_seed(7))
    assert torch.equal(one.parameters_of("a")["key"], other.parameters_of("a")["key"])
    assert len(one.keys) == 2


def test_keys_come_with_the_weights_that_are_loaded() -> None:
    module, fresh = made(), made(())
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file))
    assert torch.equal(fresh(pooled(), NAMES), module(pooled(), NAMES))


def test_a_task_may_be_called_as_a_method_is() -> None:
    names = ("items", "keys", "a.b")
    module = made(names)
    assert module(pooled(), names).shape == (5, 3)


# Pooling ------------------------------------------------------------------------------------------


@st.composite
def prompts(draw: st.DrawFn) -> list[np.ndarray]:
    """(S_b, d) of each prompt of a batch; small whole numbers, so that results are exact."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    return [rng.integers(-9, 9, (n, WIDTH)).astype(np.float32) for n in lengths]


def in_batch(rows: list[np.ndarray], extra: int, fill: float) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows)) + extra
    out = np.full((len(rows), longest, WIDTH), fill, np.float32)
    mask = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)], mask[i, : len(row)] = row, 1
    return torch.from_numpy(out), torch.from_numpy(mask)


@BUSY
@given(prompts(), st.integers(0, 9), st.floats(-1e4, 1e4, width=32))
def test_masked_pooling_sees_neither_padding_nor_the_rest_of_the_batch(
    rows: list[np.ndarray], extra: int, fill: float
) -> None:
    found = pool_tokens(*in_batch(rows, extra, fill))
    assert found.numpy().tolist() == [row.max(axis=0).tolist() for row in rows]


@BUSY
@given(prompts(), st.integers(0, 9))
def test_padded_pooling_is_a_maximum_over_all_positions(rows: list[np.ndarray], extra: int) -> None:
    """As the authors' code has it: ``inputs_embeds.max(dim=1)``, padding included."""
    embeddings, mask = in_batch(rows, extra, 5.0)
    found = pool_tokens(embeddings, mask, "padded")
    assert torch.equal(found, embeddings.max(dim=1).values)


def test_padded_pooling_depends_on_the_rest_of_the_batch() -> None:
    rows = [np.full((2, WIDTH), -3, np.float32), np.zeros((4, WIDTH), np.float32)]
    alone = pool_tokens(*in_batch(rows[:1], 0, 1.0), "padded")
    together = pool_tokens(*in_batch(rows, 0, 1.0), "padded")
    assert alone[0].tolist() == [-3] * WIDTH
    assert together[0].tolist() == [1] * WIDTH


def test_half_precision_is_pooled_to_fp32() -> None:
    embeddings, mask = in_batch([np.full((2, WIDTH), 1.5, np.float32)], 1, 9.0)
    found = pool_tokens(embeddings.bfloat16(), mask)
    assert found.dtype == torch.float32
    assert found.tolist() == [[1.5] * WIDTH]


# The mix ------------------------------------------------------------------------------------------

LOGITS = torch.tensor([[0.0, 3.0, 2.0, 1.0], [9.0, 0.0, 1.0, 2.0]])
FOUR = ("a", "b", "c", "d")


def normal(logits: Tensor, kept: list[list[int]]) -> np.ndarray:
    """exp(z) of the kept columns, summing to 1."""
    out = np.zeros(logits.shape)
    for row, columns in enumerate(kept):
        out[row, columns] = np.exp(numbers(logits)[row, columns])
    return out / out.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("top", "newest", "kept"),
    [
        (None, False, [[0, 1, 2, 3]] * 2),
        (4, True, [[0, 1, 2, 3]] * 2),
        (9, False, [[0, 1, 2, 3]] * 2),
        (2, False, [[1, 2], [0, 3]]),
        (2, True, [[1, 3], [0, 3]]),
        (3, True, [[1, 2, 3], [0, 2, 3]]),
        (1, False, [[1], [0]]),
        (1, True, [[3], [3]]),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_the_largest_are_kept_and_sum_to_one(
    top: int | None, newest: bool, kept: list[list[int]], cut: bool
) -> None:
    routing = route(FOUR, LOGITS, top=top, newest=newest, cut=cut)
    assert (routing.names, routing.combine, routing.cut) == (FOUR, "mix", cut)
    assert routing.top == (top if top is not None and top < 4 else None)
    np.testing.assert_allclose(numbers(routing.weights), normal(LOGITS, kept), rtol=1e-6)
    assert [row.nonzero()[:, 0].tolist() for row in routing.weights] == kept


def test_the_gradient_of_kept_weights_is_that_of_weights_by_their_sum() -> None:
    goal = torch.tensor([[0.3, -1.0, 2.0, 0.7], [1.0, 0.5, -0.2, 0.1]])
    found = []
    for by_sum in (False, True):
        logits = LOGITS.clone().requires_grad_()
        if by_sum:
            kept = logits.softmax(dim=1) * torch.tensor([[0.0, 1, 0, 1], [1, 0, 0, 1]])
            weights = kept / kept.sum(dim=1, keepdim=True)
        else:
            weights = route(FOUR, logits, top=2, newest=True, cut=False).weights
        (weights * goal).sum().backward()
        found.append(logits.grad)
    torch.testing.assert_close(found[0], found[1])


def test_what_is_kept_may_be_far_below_what_is_not() -> None:
    """With a low temperature the newest adapter's weight is 0 in fp32; it is to learn all the
    same."""
    logits = torch.tensor([[500.0, 0.0]], requires_grad=True)
    weights = route(("old", "new"), logits, top=1, newest=True, cut=False).weights
    assert weights.tolist() == [[0.0, 1.0]]
    weights.sum().backward()
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())


# The reflection -----------------------------------------------------------------------------------


@st.composite
def remembered(draw: st.DrawFn) -> tuple[Tensor, Remembered]:
    """Logits over T tasks, and targets over the first of them."""
    n, tasks = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    known = draw(st.integers(1, tasks))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    target = rng.dirichlet(np.ones(known), n)
    if draw(st.booleans()):
        target[:, rng.integers(known)] = 0  # a weight that has vanished
        target = target / np.maximum(target.sum(axis=1, keepdims=True), 1e-9)
    whole = padded_reference(torch.from_numpy(target).float(), tasks)
    logits = torch.from_numpy(rng.normal(0, 2, (n, tasks))).float()
    weight = torch.from_numpy(rng.random(n)).float()
    return logits, Remembered(torch.zeros(n, WIDTH), whole, weight)


def divergence(target: np.ndarray, logits: np.ndarray) -> float:
    """KL(target || softmax(logits)) of one query; 0 log 0 is 0."""
    z = logits - logits.max()
    log_a = z - np.log(np.exp(z).sum())
    return sum(t * (math.log(t) - a) for t, a in zip(target, log_a, strict=True) if t > 0)


@BUSY
@given(remembered())
def test_the_reflection_is_the_weighted_divergence(case: tuple[Tensor, Remembered]) -> None:
    logits, old = case
    expected = sum(
        w * divergence(t, z)
        for w, t, z in zip(numbers(old.weight), numbers(old.target), numbers(logits), strict=True)
    )
    assert float(reflection(logits, old)) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert float(reflection(logits, old)) > -1e-5


@BUSY
@given(remembered())
def test_the_reflection_is_zero_where_nothing_has_changed(
    case: tuple[Tensor, Remembered],
) -> None:
    logits, old = case
    same = Remembered(old.pooled, logits.softmax(dim=1), old.weight)
    assert float(reflection(logits, same)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("target", [[0.2, 0.8], [0.501, 0.499], [1.0, 0.0]])
def test_the_reflection_is_positive_where_anything_has(target: list[float]) -> None:
    old = Remembered(torch.zeros(1, 1), torch.tensor([target]), torch.ones(1))
    assert float(reflection(torch.zeros(1, 2), old)) > 1e-7


def test_a_reference_has_zeros_for_the_tasks_that_came_later() -> None:
    assert padded_reference(torch.tensor([0.2, 0.8]), 4).tolist() == pytest.approx([0.2, 0.8, 0, 0])
    rows = padded_reference(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), 3)
    assert rows.tolist() == [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
    assert padded_reference(torch.ones(2), 2).tolist() == [1.0, 1.0]


def test_later_tasks_are_pushed_down_and_old_ones_pulled_up() -> None:
    """The gradient of the logits is softmax minus target, weighted."""
    logits = torch.zeros(2, 3, requires_grad=True)
    target = padded_reference(torch.tensor([[1.0], [1.0]]), 3)
    reflection(logits, Remembered(torch.zeros(2, 1), target, torch.tensor([0.5, 2.0]))).backward()
    expected = torch.tensor([[-2.0, 1.0, 1.0]]) / 3 * torch.tensor([[0.5], [2.0]])
    torch.testing.assert_close(logits.grad, expected)
