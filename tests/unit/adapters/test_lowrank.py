"""Routed forward passes against sums written out by hand, gradients included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conpet.adapters.pool import Pool
from conpet.adapters.site import Site
from conpet.errors import RoutingError
from conpet.types import Routing

Fill = Callable[..., Pool]
Pair = tuple[Tensor, Tensor]
NAMES = ("a", "b", "c")
KINDS = ["lora", "bottleneck", "pfeiffer"]
ACT = {"lora": lambda u: u, "bottleneck": F.silu, "pfeiffer": F.relu}


def make(backbone: Any, kind: str) -> Pool:
    if kind == "lora":
        return Pool(backbone, rank=3, alpha=6.0)
    placement: Any = "houlsby" if kind == "bottleneck" else "pfeiffer"
    return Pool(backbone, kind="bottleneck", size=3, placement=placement)


@contextmanager
def by_hand(
    backbone: Any, kind: str, adapters: list[dict[str, Tensor]], weights: Tensor
) -> Iterator[None]:
    """Each adapter alone, each row alone, added up in a Python loop."""

    def hook(path: str) -> Callable[..., Tensor]:
        def add(module: Any, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            z, scale = (args[0], 2.0) if kind == "lora" else (out, 1.0)
            rows = []
            for row in range(len(out)):
                total = out[row]
                for column, tensors in enumerate(adapters):
                    a, b = tensors[f"{path}.A"], tensors[f"{path}.B"]
                    branch = ACT[kind](z[row] @ a.T) @ b.T
                    total = total + weights[row, column] * scale * branch
                rows.append(total)
            return torch.stack(rows)

        return add

    sites = backbone.linears(None)
    if kind != "lora":
        sites = backbone.sublayers("houlsby" if kind == "bottleneck" else "pfeiffer")
    handles = [module.register_forward_hook(hook(path)) for path, module in sites.items()]
    yield
    for handle in handles:
        handle.remove()


ROUTINGS = {
    "single": [[0, 1, 0]] * 4,
    "some rows": [[0, 1, 0], [0, 0, 0], [0, 2, 0], [0, 1, 0]],
    "one-hot": [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]],
    "one-hot weighted": [[0, 0.5, 0], [3, 0, 0], [0, 0, 0], [0, 0, -1]],
    "dense": [[0.2, 0.3, 0.5], [1, 1, 1], [0, 0, 0], [0, 0.7, 0]],
}


@pytest.mark.parametrize("frozen", [(), ("a", "c"), NAMES], ids=["live", "mixed", "frozen"])
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_naive_weighted_sum_with_all_gradients(
    backbone: Any, batch: Pair, filled: Fill, kind: str, routing: str, frozen: tuple[str, ...]
) -> None:
    pool = filled(make(backbone, kind), *NAMES)
    for name in frozen:
        pool.freeze(name)
    embedded = backbone.model.embeddings(batch[0]).detach()
    goal = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(3))
    goal /= goal.norm()

    def run(context: Any) -> tuple[Tensor, Tensor]:
        x = embedded.clone().requires_grad_()
        with context:
            out = backbone.model(inputs_embeds=x, attention_mask=batch[1]).last_hidden_state
        (out * goal).sum().backward()
        return out.detach(), x.grad

    weights = torch.tensor(ROUTINGS[routing], dtype=torch.float32)
    for learned in (False, True):
        mine = weights.clone().requires_grad_(learned)
        out, dx = run(pool.routed(Routing(NAMES, mine)))
        copies = [{k: t.requires_grad_() for k, t in pool.tensors(n).items()} for n in NAMES]
        theirs = weights.clone().requires_grad_()
        expected, expected_dx = run(by_hand(backbone, kind, copies, theirs))
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(dx, expected_dx, rtol=1e-4, atol=1e-5)
        if learned:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
        for name, copy in zip(NAMES, copies, strict=True):
            for key, parameter in pool.parameters_of(name).items():
                grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                torch.testing.assert_close(grad, copy[key].grad, rtol=1e-4, atol=1e-5)
                parameter.grad = None


@pytest.mark.parametrize("kind", KINDS)
def test_zero_rows_and_new_adapters_are_the_plain_backbone(
    backbone: Any, batch: Pair, filled: Fill, kind: str
) -> None:
    pool = filled(make(backbone, kind), *NAMES)
    pool.add("new", seed=0)  # B = 0
    plain = backbone(*batch)
    for routing in (
        Routing((), torch.zeros(4, 0)),
        Routing(NAMES, torch.zeros(4, 3)),
        Routing(("new",), torch.ones(4, 1)),
    ):
        with pool.routed(routing), torch.no_grad():
            assert torch.equal(backbone(*batch), plain)
    mixed = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]])
    for weights in (mixed, mixed * 0.5 + mixed.flip(1) * 0.5):
        with pool.routed(Routing(NAMES, weights)), torch.no_grad():
            out = backbone(*batch)
        torch.testing.assert_close(out[[1, 3]], plain[[1, 3]], rtol=0, atol=1e-5)
        assert not torch.allclose(out[[0, 2]], plain[[0, 2]], atol=1e-3)


def test_columns_go_by_name_and_not_by_position(backbone: Any, batch: Pair, filled: Fill) -> None:
    pool = filled(make(backbone, "lora"), *NAMES)
    weights = torch.tensor([[0.1, 0.9], [1, 0], [0, 1], [0.5, 0.5]])
    with torch.no_grad(), pool.routed(Routing(("a", "c"), weights)):
        one = backbone(*batch)
    with torch.no_grad(), pool.routed(Routing(("c", "a"), weights.flip(1))):
        two = backbone(*batch)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_bf16_autocast_keeps_fp32_weights_and_gradients(
    backbone: Any, batch: Pair, filled: Fill
) -> None:
    pool = filled(make(backbone, "lora"), "a")
    ones = Routing(("a",), torch.ones(4, 1))
    with pool.routed(ones):
        exact = backbone(*batch)
        with torch.autocast("cpu", torch.bfloat16):
            rough = backbone(*batch)
    torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1)
    rough.float().square().sum().backward()
    for parameter in pool.parameters_of("a").values():
        assert parameter.dtype == torch.float32 and parameter.grad is not None
        assert parameter.grad.dtype == torch.float32


def test_a_bf16_backbone_is_computed_in_bf16(backbone: Any, batch: Pair, filled: Fill) -> None:
    pool = filled(make(backbone, "lora"), "a", "b")
    backbone.model.to(torch.bfloat16)
    for weights in (torch.eye(2).repeat(2, 1), torch.full((4, 2), 0.5)):
        with pool.routed(Routing(("a", "b"), weights)):
            assert backbone(*batch).dtype == torch.bfloat16


def test_dropout_only_where_a_live_adapter_is_trained(
    backbone: Any, batch: Pair, filled: Fill
) -> None:
    pool = filled(Pool(backbone, dropout=0.5), "a")
    ones = Routing(("a",), torch.ones(4, 1))

    def twice_equal() -> bool:
        with pool.routed(ones):
            return torch.equal(backbone(*batch), backbone(*batch))

    assert not twice_equal()
    with torch.no_grad():
        assert twice_equal()
    pool.eval()
    assert twice_equal()
    pool.train()
    pool.freeze("a")
    assert twice_equal()


def test_no_gradient_below_the_first_adapted_layer(
    backbone: Any, batch: Pair, filled: Fill
) -> None:
    pool = filled(make(backbone, "lora"), "a")
    seen: list[bool] = []
    handle = backbone.model.encoder.layer[0].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].requires_grad)
    )
    with pool.routed(Routing(("a",), torch.ones(4, 1))):
        backbone(*batch).sum().backward()
    handle.remove()
    assert seen == [False]


def test_unknown_adapters_and_wrong_row_counts_are_refused(
    backbone: Any, batch: Pair, filled: Fill
) -> None:
    pool = filled(make(backbone, "lora"), "people", "b")
    with (
        pytest.raises(RoutingError, match="Did you mean 'people'"),
        pool.routed(Routing(("peopel",), torch.ones(4, 1))),
    ):
        pass
    with (
        pytest.raises(RoutingError, match="combine 'mix' and 'concat', not 'expand'"),
        pool.routed(Routing(("b",), torch.ones(4, 1), "expand")),
    ):
        pass
    for weights in (torch.zeros(3, 2), torch.ones(3, 2), torch.eye(2)):
        with (
            pytest.raises(RoutingError, match=f"routing has {len(weights)} rows and the batch 4"),
            pool.routed(Routing(("people", "b"), weights)),
        ):
            backbone(*batch)


def test_the_backbone_is_left_clean_also_after_an_error(
    backbone: Any, batch: Pair, filled: Fill
) -> None:
    pool = filled(make(backbone, "lora"), "a")
    plain, ones = backbone(*batch), Routing(("a",), torch.ones(4, 1))
    with pytest.raises(RoutingError, match="routed already"), pool.routed(ones), pool.routed(ones):
        pass
    with pytest.raises(KeyError), pool.routed(ones):
        raise KeyError
    assert not any(module._forward_hooks for module in backbone.model.modules())
    assert torch.equal(backbone(*batch), plain)
    with pool.routed(ones):
        assert not torch.equal(backbone(*batch), plain)


@pytest.mark.parametrize("weights", ["one-hot", "dense"])
def test_many_passes_of_one_routing_are_as_one_each(
    backbone: Any, batch: Pair, filled: Fill, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen adapters are picked in the first two; what is kept ends with the routing."""
    pool = filled(make(backbone, "lora"), *NAMES)
    for name in NAMES:
        pool.freeze(name)
    routing = Routing(NAMES, torch.tensor(ROUTINGS[weights], dtype=torch.float))
    with torch.no_grad(), pool.routed(routing):
        once = backbone(*batch)
    picked: list[Site] = []
    frozen = Site.frozen

    def watched(site: Site, at: Any) -> tuple[Tensor, Tensor]:
        picked.append(site)
        return frozen(site, at)

    monkeypatch.setattr(Site, "frozen", watched)
    with torch.no_grad(), pool.routed(routing):
        passes = [backbone(*batch) for _ in range(4)]
        with torch.autocast("cpu", torch.bfloat16):
            rough = backbone(*batch)
    assert all(torch.equal(states, once) for states in passes)
    torch.testing.assert_close(rough.float(), once, rtol=0.1, atol=0.1)
    assert len(picked) == 3 * len(set(picked))  # two passes, and the one in another type
    pool.load_tensors("b", {key: tensor + 0.1 for key, tensor in pool.tensors("b").items()})
    with torch.no_grad(), pool.routed(routing):
        assert not torch.allclose(backbone(*batch), once, atol=1e-3)
