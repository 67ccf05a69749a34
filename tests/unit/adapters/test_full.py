"""Full tuning: one adapter, the backbone's own weights, and the way back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from conpet.adapters.pool import Pool
from conpet.errors import ConfigError, RoutingError
from conpet.types import Routing

Pair = tuple[Tensor, Tensor]
ONES = Routing(("all",), torch.ones(4, 1))


def tuned(backbone: Any, batch: Pair) -> Pool:
    """A pool whose one adapter has taken a step away from the pretrained weights."""
    pool = Pool(backbone, kind="full")
    pool.add("all", seed=0, n_classes=3)
    parameters = pool.parameters_of("all").values()
    optimiser = torch.optim.SGD(parameters, lr=0.5)
    with pool.routed(ONES):
        features = backbone(*batch)[:, 0]
    pool.head("all")(features).logsumexp(1).sum().backward()
    optimiser.step()
    return pool


def test_all_weights_train_freeze_and_come_back(backbone: Any, batch: Pair) -> None:
    plain = backbone(*batch)
    pool = tuned(backbone, batch)
    pool.freeze("all")
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert all(p.grad is None for p in backbone.model.parameters())
    with pool.routed(ONES):
        assert not torch.allclose(backbone(*batch), plain)
    assert pool.parameters_of("all") == {}
    pool.thaw("all")
    assert all(p.requires_grad for p in pool.parameters_of("all").values())
    pool.remove("all")
    assert torch.equal(backbone(*batch), plain) and not backbone(*batch).requires_grad
    pool.add("another", seed=0)  # there is room again


def test_tensors_and_count_are_all_of_the_backbone(backbone: Any, batch: Pair) -> None:
    pool = tuned(backbone, batch)
    size = sum(p.numel() for p in backbone.model.parameters())
    assert pool.count("all") == (size, 3 * 32 + 3)
    kept, digest = pool.tensors("all"), pool.fingerprint("all")
    with torch.no_grad():
        next(backbone.model.parameters()).add_(1)
    assert pool.fingerprint("all") != digest
    pool.load_tensors("all", kept)
    assert pool.fingerprint("all") == digest


def test_a_second_adapter_is_refused_and_changes_nothing(backbone: Any, batch: Pair) -> None:
    pool = tuned(backbone, batch)
    digest = pool.fingerprint("all")
    with pytest.raises(ConfigError, match="full tuning has one adapter, and 'all' is it"):
        pool.add("second", seed=0, n_classes=2)
    assert pool.names == ("all",) and pool.fingerprint("all") == digest


@pytest.mark.parametrize(
    "routing",
    [
        Routing(("all",), torch.full((4, 1), 0.5)),
        Routing(("all",), torch.tensor([[1.0], [0.0], [1.0], [1.0]])),
        Routing((), torch.zeros(4, 0)),
    ],
)
def test_weights_other_than_one_are_refused(backbone: Any, batch: Pair, routing: Routing) -> None:
    pool = tuned(backbone, batch)
    with pytest.raises(RoutingError, match="weight exactly 1"), pool.routed(routing):
        backbone(*batch)


def test_integer_weights_cannot_be_tuned(backbone: Any) -> None:
    backbone.model.embeddings.word_embeddings.weight = torch.nn.Parameter(
        torch.zeros(4, 32, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(ConfigError, match="is quantised"):
        Pool(backbone, kind="full")
