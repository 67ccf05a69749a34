import pytest
import torch

from conpet.errors import RoutingError
from conpet.routing.base import oracle, plain, single
from conpet.routing.selector import top_k
from conpet.types import Routing

NAMES = ("a", "b", "c", "d")
LOGITS = torch.tensor([[0.0, 3.0, 2.0, 1.0], [9.0, 0.0, 1.0, 2.0]])


def active(routing: Routing) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in routing.weights]


def test_top_k_takes_the_largest_logits() -> None:
    assert active(top_k(NAMES, LOGITS, 2)) == [[1, 2], [0, 3]]


def test_a_missing_true_task_replaces_the_weakest_pick() -> None:
    routing = top_k(NAMES, LOGITS, 2, true_task=torch.tensor([0, 3]))
    assert active(routing) == [[0, 1], [0, 3]]


def test_one_pick_with_teacher_forcing_is_the_true_task() -> None:
    assert active(top_k(NAMES, LOGITS, 1, true_task=torch.tensor([3, 1]))) == [[3], [1]]


def test_k_beyond_the_number_of_tasks_takes_all() -> None:
    assert active(top_k(NAMES, LOGITS, 9)) == [[0, 1, 2, 3]] * 2


def test_a_chosen_task_of_vanishing_probability_stays_active() -> None:
    assert active(top_k(NAMES, torch.tensor([[0.0, 500.0, -500.0, -900.0]]), 3)) == [[0, 1, 2]]


def test_plain_routings() -> None:
    cpu = torch.device("cpu")
    assert single("a", 3, cpu).weights.tolist() == [[1.0]] * 3
    assert plain(3, cpu).weights.shape == (3, 0)
    assert active(oracle(NAMES, torch.tensor([2, 0]))) == [[2], [0]]


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        (("a",), torch.ones(2), "shape"),
        (("a", "b"), torch.ones(2, 1), "expected"),
        (("a", "a"), torch.ones(2, 2), "repeat"),
    ],
)
def test_routing_of_a_wrong_form_is_refused(
    names: tuple, weights: torch.Tensor, message: str
) -> None:
    with pytest.raises(RoutingError, match=message):
        Routing(names, weights)
