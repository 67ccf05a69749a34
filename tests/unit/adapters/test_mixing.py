"""Mixes of many adapters against a loop over rows and adapters, in float64, gradients included.

Two adapted projections stand behind one another, so that what the upper one passes on to the lower
one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from conpet.adapters.lowrank import LowRank
from conpet.errors import RoutingError
from conpet.types import Routing

BATCH, LENGTH, RANK, SCALE = 4, 3, 2, 1.5
NAMES = ("a", "b", "c", "d", "e")
ACT: dict[str, Callable[[Tensor], Tensor]] = {"lora": lambda u: u, "bottleneck": F.silu}
EXACT: Any = {"rtol": 0, "atol": 1e-12}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_layers() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    for seed, parameter in enumerate(model.parameters()):
        parameter.data.copy_(random(*parameter.shape, seed=seed))
    return model.requires_grad_(False)


def adapters(
    model: nn.Sequential, kind: str, live: tuple[str, ...], names: tuple[str, ...] = NAMES
) -> LowRank:
    """Adapters with random weights on both projections; all but ``live`` frozen."""
    pool = LowRank(
        {"0": model[0], "2": model[2]},  # type: ignore[dict-item]
        rank=RANK,
        scale=SCALE,
        reads="input" if kind == "lora" else "output",
        settings={},
        activation=None if kind == "lora" else ACT[kind],
    )
    for name in names:
        pool.add(name, torch.Generator().manual_seed(0))
    pool.double()
    for seed, name in enumerate(names):
        for number, tensor in enumerate(pool.storage(name).values()):
            tensor.copy_(random(*tensor.shape, seed=10 * seed + number + 100))
    for name in names:
        if name not in live:
            pool.freeze(name)
    return pool


def by_hand(
    model: nn.Sequential,
    kind: str,
    tensors: Mapping[str, Mapping[str, Tensor]],
    live: tuple[str, ...],
    weights: Tensor,
    x: Tensor,
    cut: bool = False,
) -> Tensor:
    for path, layer in model.named_children():
        out = layer(x)
        if not isinstance(layer, nn.Linear):
            x = out
            continue
        z = x if kind == "lora" else out
        rows = []
        for row in range(len(out)):
            total = out[row]
            for column, (name, own) in enumerate(tensors.items()):
                read = z[row].detach() if cut and name not in live else z[row]
                branch = ACT[kind](read @ own[f"{path}.A"].T) @ own[f"{path}.B"].T
                total = total + weights[row, column] * SCALE * branch
            rows.append(total)
        x = torch.stack(rows)
    return x


DENSE = [
    [0.2, 0.1, 0.4, 0.05, 0.25],
    [0.0, 0.0, 0.0, 0.0, 0.0],
    [1.0, 0.0, -2.0, 0.0, 1.0],
    [0.0, 0.0, 0.0, 1.0, 0.0],
]
TOP_2 = [
    [0.6, 0.0, 0.4, 0.0, 0.0],
    [0.0, 0.3, 0.0, 0.0, 0.7],
    [0.0, 0.0, 0.0, 1.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 0.0],
]
NEWEST_ALWAYS = [  # as SAPT trains with top_k
    [0.6, 0.0, 0.0, 0.0, 0.4],
    [0.0, 0.3, 0.0, 0.0, 0.7],
    [0.0, 0.0, 0.0, 0.9, 0.1],
    [0.0, 0.0, 0.0, 0.0, 1.0],
]
FEW = [
    [0.6, 0.4, 0.0, 0.0, 0.0],
    [0.0, 1.0, 0.0, 0.0, 0.0],
    [0.5, 0.5, 0.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 0.0],
]
CASES: dict[str, tuple[list[list[float]], int | None]] = {
    "dense": (DENSE, None),
    "top 2": (TOP_2, 2),
    "top 3, two used": (TOP_2, 3),
    "newest always": (NEWEST_ALWAYS, 2),
    "few": (FEW, 2),
    "top 5": (DENSE, 5),
}
LIVE = {"none live": (), "one live": ("e",), "three live": ("b", "c", "e"), "all live": NAMES}


@pytest.mark.parametrize("cut", [False, True], ids=["", "cut"])
@pytest.mark.parametrize("live", LIVE)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ACT)
def test_equals_a_loop_with_all_gradients(kind: str, case: str, live: str, cut: bool) -> None:
    (rows, top), names = CASES[case], LIVE[live]
    model = two_layers()
    pool = adapters(model, kind, names)
    goal = random(BATCH, LENGTH, 4, seed=1)

    for learned in (True, False):
        x, theirs_x = (random(BATCH, LENGTH, 5, seed=2).requires_grad_() for _ in "12")
        mine, theirs = (torch.tensor(rows, dtype=torch.float64) for _ in "12")
        copies = {n: {k: t.clone() for k, t in pool.storage(n).items()} for n in NAMES}
        for tensor in [theirs, *(t for n in names for t in copies[n].values())]:
            tensor.requires_grad_()
        counted = theirs if top is None else theirs * (theirs != 0)  # a zero is absent
        with pool.routed(Routing(NAMES, mine.requires_grad_(learned), top=top, cut=cut)):
            out = model(x)
        expected = by_hand(model, kind, copies, names, counted, theirs_x, cut)
        torch.testing.assert_close(out, expected, **EXACT)

        (out * goal).sum().backward()
        (expected * goal).sum().backward()
        torch.testing.assert_close(x.grad, theirs_x.grad, **EXACT)
        if learned:
            torch.testing.assert_close(mine.grad, theirs.grad, **EXACT)
        for name in names:
            for key, parameter in pool.parameters_of(name).items():
                found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                torch.testing.assert_close(found, copies[name][key].grad, **EXACT)
                parameter.grad = None

        with torch.no_grad(), pool.routed(Routing(NAMES, mine, top=top, cut=cut)):
            torch.testing.assert_close(model(x), expected, **EXACT)


@pytest.mark.parametrize("case", ["dense", "newest always"])
def test_cut_changes_the_gradient_of_the_input_and_not_the_output(case: str) -> None:
    rows, top = CASES[case]
    model = two_layers()
    pool = adapters(model, "lora", ("e",))
    weights = torch.tensor(rows, dtype=torch.float64)
    found = []
    for cut in (False, True):
        x = random(BATCH, LENGTH, 5, seed=2).requires_grad_()
        with pool.routed(Routing(NAMES, weights, top=top, cut=cut)):
            out = model(x)
        out.sum().backward()
        assert x.grad is not None
        found.append((out.detach(), x.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1], atol=1e-3)


@pytest.mark.parametrize("top", [None, 2])
def test_holes_in_the_stack_and_a_thawed_adapter(top: int | None) -> None:
    """What is removed leaves a hole; what is thawed leaves its old weights in the stack."""
    model = two_layers()
    pool = adapters(model, "lora", ("e",))
    pool.thaw("c")
    for parameter in pool.parameters_of("c").values():
        parameter.data.add_(1.0)
    pool.remove("b")
    names = ("e", "d", "c", "a")
    rows = [[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0, 0.5, 0.5, 0], [0, 0, 0, 1]]
    weights = torch.tensor(rows, dtype=torch.float64)
    x = random(BATCH, LENGTH, 5, seed=2)
    expected = by_hand(model, "lora", {n: pool.storage(n) for n in names}, (), weights, x)
    with torch.no_grad(), pool.routed(Routing(names, weights, top=top)):
        torch.testing.assert_close(model(x), expected, **EXACT)


def test_inputs_without_positions() -> None:
    model = two_layers()
    pool = adapters(model, "lora", ())
    x = random(BATCH, 5, seed=2)
    copies = {name: pool.storage(name) for name in NAMES}
    for rows, top in CASES.values():
        weights = torch.tensor(rows, dtype=torch.float64)
        with pool.routed(Routing(NAMES, weights, top=top)):
            out = model(x)
        torch.testing.assert_close(out, by_hand(model, "lora", copies, (), weights, x), **EXACT)


@pytest.mark.parametrize("case", ["dense", "top 2"])
def test_a_step_leaves_frozen_adapters_as_they_are_bit_for_bit(case: str) -> None:
    rows, top = CASES[case]
    model = two_layers()
    pool = adapters(model, "bottleneck", ("e",))
    before = {n: {k: t.clone() for k, t in pool.storage(n).items()} for n in NAMES}
    assert len(list(pool.parameters())) == 4  # A and B of the live one, twice
    optimiser = torch.optim.AdamW(pool.parameters(), lr=0.1)
    weights = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    with pool.routed(Routing(NAMES, weights, top=top)):
        model(random(BATCH, LENGTH, 5, seed=2)).square().sum().backward()
    optimiser.step()
    for name, tensors in before.items():
        same = all(torch.equal(t, tensors[k]) for k, t in pool.storage(name).items())
        assert same is (name != "e")


def test_freezing_and_thawing_keep_every_bit_and_the_layout() -> None:
    pool = adapters(two_layers(), "lora", NAMES)
    before = {k: t.clone() for k, t in pool.storage("c").items()}
    pool.freeze("c")
    assert all(torch.equal(t, before[k]) for k, t in pool.storage("c").items())
    pool.thaw("c")
    for key, parameter in pool.parameters_of("c").items():
        assert torch.equal(parameter, before[key]) and parameter.is_contiguous()


def test_adjacent_frozen_adapters_are_read_where_they_lie() -> None:
    pool = adapters(two_layers(), "lora", ("e",))
    site = next(pool._sites())
    for stack, found in zip((site.a, site.bt), site.frozen(slice(1, 4)), strict=True):
        assert found.data_ptr() == stack[1].data_ptr() and found.is_contiguous()
        assert torch.equal(found, stack[[1, 2, 3]].flatten(0, 1))


def flops(n: int, top: int | None) -> int:
    """Of the matrix products of a step with n frozen adapters and a live one."""
    model = two_layers()
    names = (*(f"t{i}" for i in range(n)), "new")
    pool = adapters(model, "lora", ("new",), names)
    weights = torch.zeros(BATCH, n + 1)
    weights[:, -1] = 0.5
    weights[torch.arange(BATCH), torch.arange(BATCH) * (n // BATCH)] = 0.5
    weights = weights.double().requires_grad_()
    x = random(BATCH, LENGTH, 5, seed=2).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        with pool.routed(Routing(names, weights, top=top)):
            out = model(x)
        out.sum().backward()
    return int(counter.get_total_flops())


def test_with_top_the_work_does_not_grow_with_the_pool() -> None:
    assert flops(4, top=2) == flops(40, top=2) < flops(4, top=None) < flops(40, top=None)


def test_a_dense_step_multiplies_frozen_weights_four_times_and_no_more() -> None:
    """Down and up, forward and backward; no product for a gradient of the frozen weights."""
    products = 4 * 2 * BATCH * LENGTH * RANK
    sites = (5 + 6 + 6 + 4) / 2
    assert flops(40, top=None) - flops(4, top=None) == products * sites * 36


def test_more_weights_than_top_are_refused_before_the_backbone_is_touched() -> None:
    model = two_layers()
    pool = adapters(model, "lora", ())
    weights = torch.tensor(DENSE, dtype=torch.float64)
    with (
        pytest.raises(RoutingError, match="row 0 of the routing has 5 weights .* top is 2"),
        pool.routed(Routing(NAMES, weights, top=2)),
    ):
        pass
    assert not any(module._forward_hooks for module in model.modules())


def test_top_in_bf16() -> None:
    model = two_layers()
    pool = adapters(model, "lora", ("e",))
    x = random(BATCH, LENGTH, 5, seed=2)
    weights = torch.tensor(TOP_2, dtype=torch.float64)
    with pool.routed(Routing(NAMES, weights, top=2)):
        exact = model(x)
        rough = model.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.double(), exact, rtol=0.1, atol=0.3)
