"""The cheapest exact plan is chosen, and its fields say what they should."""

from __future__ import annotations

import torch

from conpet.adapters.plan import Plan, make_plan
from conpet.types import Routing

SLOTS = {"a": 0, "b": 1, "c": 2, "new": 3}


def plan(names: tuple[str, ...], weights: object, grad: bool = False) -> Plan:
    tensor = torch.tensor(weights, dtype=torch.float32, requires_grad=grad)
    return make_plan(Routing(names, tensor), SLOTS, {"new"}, rank=2, device=torch.device("cpu"))


def frozen(made: Plan) -> list[int]:
    return [] if made.frozen is None else made.frozen.tolist()


def test_one_adapter_for_all_rows_needs_no_weights() -> None:
    made = plan(("a", "b"), [[0, 1], [0, 1]])
    assert frozen(made) == [1] and made.row is None and made.weight is None


def test_one_adapter_for_some_rows_is_weighted() -> None:
    made = plan(("a",), [[1], [0]])
    assert made.row is None and made.weight is not None
    assert made.weight.tolist() == [[[1, 1]], [[0, 0]]]


def test_one_hot_rows_gather_only_the_adapters_in_use() -> None:
    made = plan(("c", "b", "a"), [[1, 0, 0], [0, 0, 1], [1, 0, 0]])
    assert frozen(made) == [2, 0] and made.row is not None and made.weight is None
    assert made.row.tolist() == [0, 1, 0]


def test_one_hot_rows_with_weights_and_a_zero_row() -> None:
    made = plan(("a", "b"), [[0.5, 0], [0, 2], [0, 0]])
    assert made.row is not None and made.row.tolist()[:2] == [0, 1]
    assert made.weight is not None and made.weight.flatten().tolist() == [0.5, 2, 0]


def test_dense_rows_leave_unused_adapters_out_and_put_live_ones_last() -> None:
    made = plan(("new", "a", "b"), [[0.25, 0, 0.75], [1, 0, 0]])
    assert frozen(made) == [1] and made.live == ("3",) and made.row is None
    assert made.weight is not None
    assert made.weight[0, 0].tolist() == [0.75, 0.75, 0.25, 0.25]


def test_weights_with_gradient_run_all_named_adapters() -> None:
    made = plan(("a", "b"), [[0, 1], [0, 1]], grad=True)
    assert frozen(made) == [0, 1] and made.weight is not None and made.weight.requires_grad
    with torch.no_grad():
        assert frozen(plan(("a", "b"), [[0, 1], [0, 1]], grad=True)) == [1]


def test_zero_routing_and_no_names_are_empty() -> None:
    assert plan(("a",), [[0], [0]]).empty
    nobody = make_plan(
        Routing((), torch.zeros(3, 0)), SLOTS, (), rank=2, device=torch.device("cpu")
    )
    assert nobody.empty and nobody.batch == 3
