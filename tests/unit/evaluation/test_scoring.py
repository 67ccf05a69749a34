from __future__ import annotations

import math

import numpy as np
import pytest

from conpet.errors import DataError
from conpet.evaluation.scoring import accuracy, correct, standard_error


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
