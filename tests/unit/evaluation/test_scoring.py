from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conpet.errors import DataError
from conpet.evaluation.scoring import accuracy, correct, grade, standard_error, standard_error_of


def test_accuracy_counts_exact_matches() -> None:
    assert accuracy(["a", "b", "c", "A"], ["a", "x", "c", "a"]) == 50.0
    assert correct(["a", "b"], ["a", "x"]).tolist() == [True, False]


def test_accuracy_ends() -> None:
    assert accuracy(["a"], ["a"]) == 100.0
    assert accuracy(["b"], ["a"]) == 0.0


def test_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="2 predictions were given for 1 true labels"):
        accuracy(["a", "b"], ["a"])


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(DataError, match="no example to score"):
        accuracy([], [])


def test_standard_error_is_that_of_the_mean_of_zeros_and_hundreds() -> None:
    hits = 100.0 * np.array([1, 1, 1, 0, 1, 0, 0, 1])
    expected = hits.std(ddof=1) / math.sqrt(len(hits))
    assert standard_error(float(hits.mean()), len(hits)) == pytest.approx(expected)


def test_standard_error_of_too_few_examples_is_not_known() -> None:
    assert math.isnan(standard_error(100.0, 1))
    assert math.isnan(standard_error(float("nan"), 10))
    assert standard_error(100.0, 2) == 0.0


def test_standard_error_refuses_what_is_no_percentage() -> None:
    with pytest.raises(DataError, match=r"allowed is 0\.\.100"):
        standard_error(101.0, 10)


# Graded values ------------------------------------------------------------------------------------


def share(prediction: str, answers: tuple[str, ...]) -> float:
    """The best share of equal letters, place by place; wrong (above 1) for "!"."""
    if prediction == "!":
        return 57.0
    pairs = [list(zip(prediction, answer, strict=False)) for answer in answers]
    return max(sum(a == b for a, b in one) / 4 for one in pairs)


def test_grade_asks_the_metric_for_each_example() -> None:
    values = grade(share, ["abcd", "abxx", "x"], [("abcd",), ("ab", "abx"), ("b",)])
    assert values.tolist() == [1.0, 0.75, 0.0]
    assert values.dtype == np.float64


def test_grade_refuses_what_cannot_be_scored() -> None:
    with pytest.raises(DataError, match="2 predictions were given for 1 true labels"):
        grade(share, ["a", "b"], [("a",)])
    with pytest.raises(DataError, match="no example to score"):
        grade(share, [], [])
    with pytest.raises(DataError, match="example 2 of 2 has no right answer"):
        grade(share, ["a", "b"], [("a",), ()])
    with pytest.raises(DataError, match=r"metric 'share' gave 57.0 .* allowed is 0\.\.1"):
        grade(share, ["a", "!"], [("a",), ("b",)])


def test_standard_error_of_values_by_hand() -> None:
    values = [0.0, 0.5, 1.0, 0.5]  # mean 0.5, squares of the rest 0.5, over 3
    assert standard_error_of(values) == pytest.approx(100 * math.sqrt(0.5 / 3) / 2)
    assert math.isnan(standard_error_of([1.0])) and math.isnan(standard_error_of([]))


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=60))
def test_standard_error_of_right_and_wrong_is_that_of_the_accuracy(hits: list[bool]) -> None:
    values = np.array(hits, float)
    expected = standard_error(100 * float(values.mean()), len(values))
    assert standard_error_of(values) == pytest.approx(expected, abs=1e-9)
