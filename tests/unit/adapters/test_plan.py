"""The cheapest exact plan is chosen, and its fields say what they should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conpet.adapters.plan import Part, Plan, make_plan
from conpet.errors import RoutingError
from conpet.types import Routing

SLOTS = {"a": 0, "b": 1, "c": 2, "new": 3, "d": 5, "newer": 6}
Rows = list[list[float]]


def plan(
    names: tuple[str, ...],
    weights: Rows,
    grad: bool = False,
    scale: float = 1.0,
    top: int | None = None,
    cut: bool = False,
) -> Plan:
    tensor = torch.tensor(weights, dtype=torch.float32, requires_grad=grad)
    routing = Routing(names, tensor, top=top, cut=cut)
    device = torch.device("cpu")
    return make_plan(routing, SLOTS, {"new", "newer"}, rank=2, scale=scale, device=device)


def dense(part: Part | None) -> list[int]:
    """The places that every row runs."""
    assert part is not None
    if isinstance(part.at, slice):
        return list(range(part.at.start, part.at.stop))
    assert part.at.dim() == 1
    return part.at.tolist()


def gathered(part: Part | None) -> Rows:
    """The places that each row runs."""
    assert part is not None and isinstance(part.at, Tensor) and part.at.dim() == 2
    return part.at.tolist()


def weight(part: Part | None) -> Rows:
    assert part is not None and part.weight is not None
    assert part.weight.shape[1] == 1
    return part.weight[:, 0].tolist()


def test_one_adapter_for_all_rows_needs_no_weights() -> None:
    made = plan(("a", "b"), [[0, 1], [0, 1]])
    assert dense(made.frozen) == [1] and made.live is None
    assert made.frozen is not None and made.frozen.weight is None


def test_adapters_that_are_only_added_need_no_weights() -> None:
    made = plan(("a", "new", "b"), [[1, 1, 1], [1, 1, 1]])
    assert made.frozen == Part(slice(0, 2)) and made.live == Part(slice(0, 1))


def test_one_adapter_for_some_rows_is_weighted() -> None:
    made = plan(("a",), [[1], [0]], scale=3)
    assert dense(made.frozen) == [0] and weight(made.frozen) == [[3, 3], [0, 0]]


def test_one_hot_rows_gather_only_the_adapters_in_use() -> None:
    made = plan(("c", "b", "a"), [[1, 0, 0], [0, 0, 1], [1, 0, 0]])
    assert gathered(made.frozen) == [[2], [0], [2]]
    assert made.frozen is not None and made.frozen.weight is None


def test_one_hot_rows_with_weights_and_a_zero_row() -> None:
    made = plan(("a", "b"), [[0.5, 0], [0, 2], [0, 0]], scale=2)
    assert gathered(made.frozen)[:2] == [[0], [1]]
    assert weight(made.frozen) == [[1, 1], [4, 4], [0, 0]]


def test_one_hot_rows_of_frozen_and_live_adapters() -> None:
    made = plan(("newer", "a", "c", "new"), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    assert made.keys == ("6",) and dense(made.live) == [0]
    assert weight(made.live) == [[1, 1], [0, 0], [0, 0]]
    assert gathered(made.frozen)[1:] == [[0], [2]]
    assert weight(made.frozen) == [[0, 0], [1, 1], [1, 1]]
    many = plan(("newer", "new"), [[1, 0], [0, 1], [1, 0]])
    assert many.frozen is None and many.keys == ("3", "6")
    assert gathered(many.live) == [[1], [0], [1]]


def test_dense_rows_leave_unused_adapters_out_and_keep_live_ones_apart() -> None:
    made = plan(("new", "a", "b", "c"), [[0.25, 0, 0.5, 1], [1, 0, 0, 0]])
    assert dense(made.frozen) == [1, 2] and weight(made.frozen)[0] == [0.5, 0.5, 1, 1]
    assert made.keys == ("3",) and weight(made.live) == [[0.25, 0.25], [1, 1]]


def test_adjacent_slots_are_a_slice_in_whatever_order_they_are_named() -> None:
    made = plan(("c", "a", "b"), [[0.3, 0.1, 0.2]])
    assert made.frozen is not None and made.frozen.at == slice(0, 3)
    torch.testing.assert_close(weight(made.frozen), [[0.1, 0.1, 0.2, 0.2, 0.3, 0.3]])
    gap = plan(("d", "c"), [[0.3, 0.1]])
    assert gap.frozen is not None and isinstance(gap.frozen.at, Tensor)
    assert dense(gap.frozen) == [2, 5]


def test_weights_with_gradient_run_all_named_adapters() -> None:
    made = plan(("a", "b"), [[0, 1], [0, 1]], grad=True)
    assert made.frozen is not None and made.frozen.weight is not None
    assert dense(made.frozen) == [0, 1] and made.frozen.weight.requires_grad
    with torch.no_grad():
        assert dense(plan(("a", "b"), [[0, 1], [0, 1]], grad=True).frozen) == [1]


@pytest.mark.parametrize("grad", [False, True])
def test_with_top_each_row_gathers_its_own(grad: bool) -> None:
    rows = [[0, 0.5, 0.5, 0, 0], [0.25, 0, 0, 0.75, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    made = plan(("d", "a", "b", "c", "new"), rows, grad=grad, top=2, scale=4)
    assert made.live is None and made.frozen is not None
    at, factor = gathered(made.frozen), weight(made.frozen)
    for row, expected in enumerate([{0: 2, 1: 2}, {5: 1, 2: 3}, {2: 4}, {}]):
        pairs = zip(at[row], factor[row][::2], factor[row][1::2], strict=True)
        assert {slot: w for slot, w, same in pairs if w == same != 0} == expected
    assert made.frozen.weight is not None and made.frozen.weight.requires_grad is grad


def test_with_top_a_row_has_as_many_places_as_any_row_needs() -> None:
    made = plan(("a", "b", "c", "new"), [[0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 1, 1]], top=3)
    assert gathered(made.frozen) == [[1], [0], [2]]  # one frozen adapter each, beside the live one
    assert dense(made.live) == [0] and made.frozen == Part(made.frozen.at)


def test_with_top_few_distinct_adapters_are_dense() -> None:
    made = plan(("a", "b", "c"), [[0.5, 0.5, 0], [0, 1, 0]], grad=True, top=2)
    assert dense(made.frozen) == [0, 1]
    assert weight(made.frozen) == [[0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1]]


def test_a_weight_that_is_absent_has_no_gradient() -> None:
    for rows in ([[0.0, 1.0, 2.0], [1.0, 2.0, 0.0]], [[1.0, 2.0, 0.0], [0.0, 1.0, 0.0]]):
        weights = torch.tensor(rows, requires_grad=True)
        routing = Routing(("a", "b", "c"), weights, top=2)
        made = make_plan(routing, SLOTS, (), rank=2, scale=3, device=torch.device("cpu"))
        assert made.frozen is not None and made.frozen.weight is not None
        made.frozen.weight.sum().backward()
        assert weights.grad is not None
        assert weights.grad.tolist() == [[6.0 * (w != 0) for w in row] for row in rows]


def test_more_weights_than_top_are_refused() -> None:
    with pytest.raises(RoutingError, match="row 1 of the routing has 3 weights .* top is 2"):
        plan(("a", "b", "new"), [[0, 1, 1], [0.2, 0.3, 0.5]], top=2)


def test_cut_is_handed_on() -> None:
    assert plan(("a",), [[1]], cut=True).cut and not plan(("a",), [[1]]).cut


@pytest.mark.parametrize("top", [None, 1])
def test_zero_routing_and_no_names_are_empty(top: int | None) -> None:
    assert plan(("a",), [[0], [0]], top=top).empty
    nobody = Routing((), torch.zeros(3, 0), top=top)
    made = make_plan(nobody, SLOTS, (), rank=2, scale=1, device=torch.device("cpu"))
    assert made.empty and made.batch == 3
