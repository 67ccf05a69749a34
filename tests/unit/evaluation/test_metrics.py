"""Hand-computed values of each metric of one answer."""

from __future__ import annotations

import string
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conpet.evaluation.metrics import accuracy, exact_match, normalised, rouge_l, token_f1
from conpet.registry import METRICS


def test_accuracy_is_letter_for_letter() -> None:
    assert accuracy("Paris", ("Paris",)) == 1.0
    assert accuracy("paris", ("Paris",)) == 0.0
    assert accuracy("Paris ", ("Paris",)) == 0.0
    assert accuracy("a", ("abc",)) == 0.0, "a part of an answer is none"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  The\tCAT,\n sat. ", ["the", "cat", "sat"]),
        ("it's state-of-the-art", ["its", "stateoftheart"]),
        ("U.S.A. ($5)", ["usa", "5"]),
        ("Größe – 北京。", ["größe", "–", "北京。"]),
        ("", []),
        ("+", ["+"]),
        ("?!", ["?!"]),
        (" - + ", ["-", "+"]),
    ],
)
def test_normalised(text: str, words: list[str]) -> None:
    assert normalised(text) == words


@pytest.mark.parametrize(
    ("prediction", "answers", "value"),
    [
        ("Very  Negative.", ("very negative",), 1.0),
        ("negative", ("very negative",), 0.0),
        ("Science & Mathematics", ("Science Mathematics",), 1.0),
        ("the cat", ("cat",), 0.0),  # articles are kept
        ("b", ("a", "B!"), 1.0),
        ("-", ("+",), 0.0),  # not both empty
        ("", ("yes",), 0.0),
    ],
)
def test_exact_match(prediction: str, answers: tuple[str, ...], value: float) -> None:
    assert exact_match(prediction, answers) == value


@pytest.mark.parametrize(
    ("prediction", "answers", "value"),
    [
        ("the cat sat", ("The cat sat.",), 1.0),
        ("sat cat the", ("the cat sat",), 1.0),  # the order is no matter
        ("the cat", ("the cat sat down",), 2 * 2 / (2 + 4)),
        ("no no no", ("no no yes",), 2 * 2 / (3 + 3)),  # a word counts as often as in both
        ("dog", ("cat",), 0.0),
        ("a b", ("c d", "b c", "a b c d"), 2 * 2 / (2 + 4)),  # the best, not the mean
        ("", ("cat",), 0.0),
        ("cat", ("",), 0.0),
        ("", ("",), 1.0),
    ],
)
def test_token_f1(prediction: str, answers: tuple[str, ...], value: float) -> None:
    assert token_f1(prediction, answers) == pytest.approx(value)


@pytest.mark.parametrize(
    ("prediction", "answers", "value"),
    [
        ("the cat sat", ("the cat sat",), 1.0),
        ("police killed the gunman", ("police kill the gunman",), 1.0),  # stems
        ("the gunman kill police", ("police kill the gunman",), 2 / 4),  # P = R = 2/4
        ("the cat", ("the black cat sat",), 2 * 1.0 * 0.5 / 1.5),  # P = 2/2, R = 2/4
        ("a x b y c", ("a b c",), 2 * 0.6 * 1.0 / 1.6),  # P = 3/5, R = 3/3
        ("dog", ("cat",), 0.0),
        ("yes", ("no", "Yes!"), 1.0),
        ("", ("yes",), 0.0),
        ("北京", ("北京",), 0.0),  # no letter that the package knows
    ],
)
def test_rouge_l(prediction: str, answers: tuple[str, ...], value: float) -> None:
    assert rouge_l(prediction, answers) == pytest.approx(value)


texts = st.text(string.ascii_letters + string.digits + " .,-'", max_size=30)


@pytest.mark.parametrize("name", ["accuracy", "rouge-l", "exact-match", "token-f1"])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # rouge-l imports nltk
@given(prediction=texts, answers=st.lists(texts, min_size=1, max_size=3).map(tuple))
def test_every_metric_is_a_share_and_takes_the_best(
    name: str, prediction: str, answers: tuple[str, ...]
) -> None:
    metric = METRICS.load(name)
    value = metric(prediction, answers)
    assert 0.0 <= value <= 1.0
    assert value == max(metric(prediction, (answer,)) for answer in answers)
    if any(c.isalnum() for c in prediction):
        assert metric(prediction, (*answers, prediction)) == pytest.approx(1.0)


def test_what_is_registered_is_all_there() -> None:
    assert set(METRICS) >= {"accuracy", "rouge-l", "exact-match", "token-f1"}
    assert METRICS.load("rouge-l") is rouge_l


def test_rouge_is_imported_only_when_it_is_asked_for() -> None:
    code = (
        "import sys; from conpet.evaluation.metrics import rouge_l, token_f1; token_f1('a', ('a',))"
        "; before = 'nltk' in sys.modules; rouge_l('cats', ('a cat',)); "
        "print(before, 'nltk' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert done.stdout.split() == ["False", "True", "False"]
