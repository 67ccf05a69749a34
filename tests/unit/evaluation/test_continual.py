"""Hand-computed values, and properties that follow from the formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conpet.errors import DataError
from conpet.evaluation.continual import (
    Outcome,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
    routing_confusion,
    selector_accuracy,
    selector_accuracy_by_input,
    split_errors,
    whole_accuracy,
    zero_shot,
)
from conpet.types import AccuracyMatrix

NAN = float("nan")
TOY = AccuracyMatrix.from_rows("abc", [[80], [60, 70], [50, 65, 90]])
JOINT = AccuracyMatrix.from_rows("abc", [[None], [None, None], [50, 65, 90]])
ONE = AccuracyMatrix.from_rows("a", [[80]])

# A busy machine is no defect.
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
scores = st.floats(0, 100)


@st.composite
def matrices(draw: st.DrawFn) -> AccuracyMatrix:
    n = draw(st.integers(2, 6))
    rows = [draw(st.lists(scores, min_size=i + 1, max_size=i + 1)) for i in range(n)]
    return AccuracyMatrix.from_rows([f"t{i}" for i in range(n)], rows)


# The matrix ---------------------------------------------------------------------------------------


def test_toy_matrix() -> None:
    assert average_accuracy([50, 65, 90]) == pytest.approx(68.3333, abs=1e-4)
    assert forgetting(TOY) == 17.5
    assert backward_transfer(TOY) == -17.5
    assert backward_transfer(TOY, "T") == pytest.approx(-11.6667, abs=1e-4)
    assert forward_transfer(TOY, [78, 72, 88]) == pytest.approx(0.6667, abs=1e-4)
    assert learning_accuracy(TOY) == 80.0


def test_whole_accuracy_weighs_by_test_examples() -> None:
    assert whole_accuracy([50, 65, 90], [10, 20, 70]) == pytest.approx(81.0)
    assert whole_accuracy([50, 100], [1, 0]) == 50.0


def test_forgetting_takes_the_best_stage_before_the_last() -> None:
    rising = AccuracyMatrix.from_rows("abc", [[10], [40, 70], [90, 20, 30]])
    assert forgetting(rising) == ((40 - 90) + (70 - 20)) / 2  # 90 is of the last stage
    assert backward_transfer(rising) == ((90 - 10) + (20 - 70)) / 2


def test_all_at_once_has_only_the_last_row() -> None:
    assert average_accuracy(JOINT.values[-1]) == pytest.approx(68.3333, abs=1e-4)
    assert whole_accuracy(JOINT.values[-1], [1, 1, 1]) == pytest.approx(68.3333, abs=1e-4)
    for value in (
        forgetting(JOINT),
        backward_transfer(JOINT),
        backward_transfer(JOINT, "T"),
        forward_transfer(JOINT, [1, 2, 3]),
        learning_accuracy(JOINT),
        average_accuracy(JOINT.values[1, :2]),
    ):
        assert math.isnan(value)


def test_one_unmeasured_stage_is_not_skipped() -> None:
    gap = AccuracyMatrix.from_rows("abc", [[80], [None, 70], [50, 65, 90]])
    assert math.isnan(forgetting(gap))  # the best of task a is not known
    assert backward_transfer(gap) == -17.5  # needs the diagonal and the last row alone


def test_one_task() -> None:
    assert average_accuracy([80]) == whole_accuracy([80], [7]) == learning_accuracy(ONE) == 80.0
    assert forward_transfer(ONE, [75]) == 5.0
    assert math.isnan(forgetting(ONE))
    assert math.isnan(backward_transfer(ONE))
    assert math.isnan(backward_transfer(ONE, "T"))


def test_forward_transfer_needs_single_task_scores() -> None:
    assert math.isnan(forward_transfer(TOY, None))
    assert math.isnan(forward_transfer(TOY, [78, None, 88])), "never from what happens to be there"
    with pytest.raises(DataError, match="2 single-task scores were given for 3 tasks"):
        forward_transfer(TOY, [1, 2])


def test_zero_shot_is_each_task_just_before_it_is_learned() -> None:
    ahead = AccuracyMatrix.from_rows("abc", [[80, 30, 10], [60, 70, 20], [50, 65, 90]])
    assert zero_shot(ahead) == (30 + 20) / 2
    assert math.isnan(zero_shot(TOY)) and math.isnan(zero_shot(ONE))
    gap = AccuracyMatrix.from_rows("abc", [[80, 30, 10], [60, 70, None], [50, 65, 90]])
    assert math.isnan(zero_shot(gap))


def test_bad_counts_are_refused() -> None:
    with pytest.raises(DataError, match="2 test counts were given for 3 scores"):
        whole_accuracy([1, 2, 3], [1, 2])
    with pytest.raises(DataError, match="at least 1 in all"):
        whole_accuracy([1, 2], [0, 0])
    with pytest.raises(DataError, match="0 or more each"):
        whole_accuracy([1, 2], [-1, 3])
    with pytest.raises(DataError, match="no score"):
        average_accuracy([])


@BUSY
@given(matrices())
def test_relations_between_metrics(matrix: AccuracyMatrix) -> None:
    n = len(matrix.tasks)
    last = matrix.values[-1]
    assert backward_transfer(matrix, "T") * n == pytest.approx(backward_transfer(matrix) * (n - 1))
    assert average_accuracy(last) == pytest.approx(
        learning_accuracy(matrix) + backward_transfer(matrix, "T")
    )
    assert forgetting(matrix) >= -backward_transfer(matrix) - 1e-9  # the best is at least R[j, j]
    assert forward_transfer(matrix, list(np.diag(matrix.values))) == 0.0


@BUSY
@given(st.lists(st.tuples(scores, st.integers(1, 50)), min_size=1, max_size=8), st.randoms())
def test_whole_accuracy_lies_between_and_ignores_order(pairs: list, random: object) -> None:
    row, counts = zip(*pairs, strict=True)
    whole = whole_accuracy(row, counts)
    assert min(row) - 1e-9 <= whole <= max(row) + 1e-9
    assert whole_accuracy(row, [3] * len(row)) == pytest.approx(average_accuracy(row))
    random.shuffle(pairs)
    row, counts = zip(*pairs, strict=True)
    assert whole_accuracy(row, counts) == pytest.approx(whole)


# Single outcomes ----------------------------------------------------------------------------------


def outcome(task: str, label: str, routed: tuple[str, ...], oracle: str | None) -> Outcome:
    """The true label is ``<task>1``."""
    return Outcome("id", task, f"{task}1", label, 0.5, routed, oracle)


RIGHT = outcome("a", "a1", ("a",), "a1")
MISROUTED = outcome("a", "b1", ("b", "c"), "a1")
OUTSHONE = outcome("a", "b1", ("b", "a"), "a1")
WRONG_WITHIN = outcome("b", "b2", ("b",), "b2")
WRONG_ANYWAY = outcome("b", "a1", ("a",), "b2")
RESCUED = outcome("b", "b1", ("b", "a"), "b2")


@pytest.mark.parametrize(
    ("one", "part"),
    [
        (RIGHT, "accuracy"),
        (MISROUTED, "routing"),
        (OUTSHONE, "competition"),
        (WRONG_WITHIN, "within_task"),
        (WRONG_ANYWAY, "within_task"),
        (RESCUED, "accuracy"),
    ],
)
def test_each_outcome_is_in_one_part(one: Outcome, part: str) -> None:
    split = split_errors([one])
    parts = ("accuracy", "routing", "competition", "within_task")
    assert {name: getattr(split, name) for name in parts} == dict.fromkeys(parts, 0.0) | {
        part: 100.0
    }


def test_split_by_hand() -> None:
    some = [RIGHT, RIGHT, MISROUTED, OUTSHONE, WRONG_WITHIN, WRONG_ANYWAY, RESCUED, RIGHT]
    split = split_errors(some)
    assert split.accuracy == 50.0
    assert (split.routing, split.competition, split.within_task) == (12.5, 12.5, 25.0)
    assert split.rescued == 12.5
    assert split.oracle == 62.5  # 5 of 8 oracles are right


def test_without_routing_all_tasks_compete() -> None:
    shared = [replace(MISROUTED, routed=()), replace(RIGHT, routed=())]
    assert split_errors(shared).competition == 50.0
    assert split_errors(shared).routing == 0.0
    assert math.isnan(selector_accuracy(shared))


def test_without_an_oracle_only_the_accuracy_is_known() -> None:
    split = split_errors([RIGHT, replace(MISROUTED, oracle=None)])
    assert split.accuracy == 50.0
    assert math.isnan(split.routing) and math.isnan(split.within_task) and math.isnan(split.oracle)


def test_selector_accuracy_is_about_the_first_routed_task() -> None:
    some = [RIGHT, RIGHT, OUTSHONE, WRONG_ANYWAY]  # task a: 2 of 3; task b: 0 of 1
    assert selector_accuracy(some) == 50.0
    assert selector_accuracy(some, "macro") == pytest.approx((200 / 3 + 0) / 2)


def test_routing_confusion() -> None:
    some = [RIGHT, RIGHT, OUTSHONE, WRONG_ANYWAY, WRONG_WITHIN, replace(RIGHT, routed=())]
    assert routing_confusion(some, ["a", "b"]).tolist() == [[2, 1], [1, 1]]
    with pytest.raises(DataError, match="names task 'b', but the run's tasks are a, c"):
        routing_confusion(some, ["a", "c"])


def test_nothing_to_judge_is_refused() -> None:
    with pytest.raises(DataError, match="no prediction to judge"):
        split_errors([])
    with pytest.raises(DataError, match="no prediction to judge"):
        selector_accuracy([])


# Graded answers -----------------------------------------------------------------------------------


def graded(
    value: float, oracle: float | None, routed: tuple[str, ...] = ("a",), task: str = "a"
) -> Outcome:
    known = None if oracle is None else "other words"
    return Outcome("id", task, None, "words", 0.5, routed, known, ("right words",), value, oracle)


def test_what_a_line_does_not_say_follows_from_equality() -> None:
    assert (RIGHT.value, RIGHT.oracle_value) == (1.0, 1.0)
    assert (MISROUTED.value, MISROUTED.oracle_value) == (0.0, 1.0)
    assert replace(MISROUTED, oracle=None).oracle_value is None
    free = Outcome("id", "a", None, "yes", 0.5, ("a",), "no", ("Yes", "yes"))
    assert (free.value, free.oracle_value, free.right) == (1.0, 0.0, ("Yes", "yes"))


def test_graded_split_by_hand() -> None:
    some = [
        graded(0.25, 1.0, ("b",)),  # 0.75 lost by routing
        graded(0.5, 0.75, ("b", "a")),  # 0.25 by competition, 0.25 within
        graded(0.5, 0.25),  # 0.25 rescued, 0.5 within
        graded(0.75, 0.75, ()),  # 0.25 within
    ]
    split = split_errors(some)
    assert split.accuracy == 50.0
    assert (split.routing, split.competition, split.within_task) == (18.75, 6.25, 25.0)
    assert split.rescued == 6.25
    assert split.oracle == 68.75  # the mean of o
    assert math.isnan(split_errors([*some, graded(0.5, None)]).oracle)


shares = st.floats(0, 1)
routes = st.lists(st.sampled_from("ab"), max_size=2, unique=True).map(tuple)


@BUSY
@given(st.lists(st.builds(graded, shares, shares, routes), min_size=1, max_size=30), st.randoms())
def test_graded_parts_add_up_whatever_the_order(some: list[Outcome], random: object) -> None:
    split = split_errors(some)
    total = split.accuracy + split.routing + split.competition + split.within_task
    assert total == pytest.approx(100.0)
    assert split.oracle == pytest.approx(100.0 * np.mean([o.oracle_value for o in some]))
    random.shuffle(some)
    assert split_errors(some) == split


def test_routing_by_the_input_alone() -> None:
    some = [
        replace(graded(1.0, 1.0), routed_by_input=("b", "a")),
        replace(graded(1.0, 1.0), routed_by_input=("a",)),
        replace(graded(1.0, 1.0, ("b",), "b"), routed_by_input=("b",)),
    ]
    assert selector_accuracy(some) == 100.0
    assert selector_accuracy_by_input(some) == pytest.approx(200 / 3)
    assert selector_accuracy_by_input(some, "macro") == 75.0
    assert math.isnan(selector_accuracy_by_input([RIGHT, MISROUTED]))


# Properties of labels -----------------------------------------------------------------------------

tasks = st.sampled_from("abc")
labels = st.builds(lambda t, i: f"{t}{i}", tasks, st.integers(1, 3))
outcomes = st.lists(
    st.builds(outcome, tasks, labels, st.lists(tasks, max_size=3, unique=True).map(tuple), labels),
    min_size=1,
    max_size=30,
)


@BUSY
@given(outcomes, st.randoms())
def test_parts_add_up_whatever_the_order(some: list[Outcome], random: object) -> None:
    split = split_errors(some)
    total = split.accuracy + split.routing + split.competition + split.within_task
    assert total == pytest.approx(100.0)
    knows = [o.oracle == o.truth for o in some]
    assert split.oracle == pytest.approx(100.0 * sum(knows) / len(knows))
    counts = routing_confusion(some, list("abc"))
    selector = selector_accuracy(some, "macro")
    random.shuffle(some)
    assert split_errors(some) == split
    assert np.array_equal(routing_confusion(some, list("abc")), counts)
    assert selector_accuracy(some, "macro") == pytest.approx(selector, nan_ok=True)


@BUSY
@given(outcomes)
def test_confusion_diagonal_is_the_selector_accuracy(some: list[Outcome]) -> None:
    routed = [o for o in some if o.routed]
    if routed:
        counts = routing_confusion(routed, list("abc"))
        assert 100.0 * counts.trace() / counts.sum() == pytest.approx(selector_accuracy(routed))
