"""Heads: fp32 logits, growth that leaves old classes as they were."""

from __future__ import annotations

import pytest
import torch

from conpet.adapters.head import Head
from conpet.adapters.pool import Pool
from conpet.errors import ConfigError
from conpet.testing import tiny_bert


def test_growth_keeps_old_rows_bitwise_and_old_logits() -> None:
    head, features = Head(16, 3, seed=0), torch.randn(5, 16)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    rows, logits = head.weight.detach().clone(), head(features)
    head.grow(4, seed=1)
    assert head.n_classes == 7
    assert torch.equal(head.weight[:3], rows) and head.bias.tolist() == [1, 2, 3, 0, 0, 0, 0]
    torch.testing.assert_close(head(features)[:, :3], logits, rtol=0, atol=1e-6)


def test_growth_is_seeded_and_independent_of_the_global_state() -> None:
    def grown(noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        head = Head(8, 2, seed=3, name="x")
        head.grow(2, seed=3)
        return head.weight.detach()

    assert torch.equal(grown(0), grown(1))
    assert not torch.equal(grown(0)[:2], grown(0)[2:])
    assert not torch.equal(Head(8, 2, seed=3, name="y").weight, Head(8, 2, seed=3, name="x").weight)


def test_growth_by_zero_keeps_the_parameters_and_shrinking_is_refused() -> None:
    head = Head(8, 2, seed=0)
    weight = head.weight
    head.grow(0, seed=0)
    assert head.weight is weight
    with pytest.raises(ConfigError, match="by -1 classes"):
        head.grow(-1, seed=0)


def test_first_logits_do_not_depend_on_the_width() -> None:
    for width in (64, 4096):
        features = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
        std = float(Head(width, 50, seed=0)(features).detach().std())
        assert 0.5 < std < 0.65


def test_logits_are_fp32_under_autocast_and_from_bf16_features() -> None:
    head, features = Head(16, 3, seed=0), torch.randn(5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(features)
    assert logits.dtype == torch.float32 and torch.equal(logits, head(features))
    assert head(features.bfloat16()).dtype == torch.float32


def test_heads_side_by_side_are_those_of_now() -> None:
    """Frozen ones lie in one matrix until one of them changes, a live one is as it is."""
    pool = Pool(tiny_bert(), rank=2)
    names = ["a", "b", "c"]
    for i, name in enumerate(names):
        pool.add(name, seed=i, n_classes=i + 1)
    features = torch.randn(4, pool.backbone.hidden_size, requires_grad=True)

    def check() -> None:
        found = pool.logits(names, features)
        apart = torch.cat([pool.head(name)(features) for name in names], dim=1)
        torch.testing.assert_close(found, apart, rtol=0, atol=1e-6)

    check()
    pool.freeze("a")
    pool.freeze("b")
    check()
    pool.logits(names, features).sum().backward()
    assert features.grad is not None and pool.head("c").weight.grad is not None
    assert pool.head("a").weight.grad is None
    tensors = pool.tensors("b")
    pool.load_tensors("b", {key: tensor + 1 for key, tensor in tensors.items()})
    check()
    pool.thaw("a")
    with torch.no_grad():
        pool.head("a").weight.mul_(2)
    check()
    pool.freeze("a")
    check()
    pool.remove("b")
    pool.add("b", seed=9, n_classes=2)
    check()
