"""ROUGE-L of the package against a plain restatement of Lin (2004), and stems by hand."""

from __future__ import annotations

import random
import re

import pytest
from rouge_score.rouge_scorer import RougeScorer

from conpet.evaluation.metrics import rouge_l

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PLAIN = RougeScorer(["rougeL"], use_stemmer=False)


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def longest_common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, one row of the table at a time."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = row
        row = [0]
        for j, other in enumerate(b, start=1):
            row.append(before[j - 1] + 1 if word == other else max(before[j], row[j - 1]))
    return row[-1]


def f1(prediction: str, answer: str) -> float:
    given, wanted = words_of(prediction), words_of(answer)
    common = longest_common(given, wanted)
    if not common:
        return 0.0
    precision, recall = common / len(given), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def sentence(draw: random.Random, vocabulary: list[str]) -> str:
    """Words, some with capitals and punctuation that are to make no difference."""
    words = [draw.choice(vocabulary) for _ in range(draw.randrange(0, 14))]
    return " ".join(draw.choice(("{}", "{},", "{}!", "({})")).format(word) for word in words)


@pytest.mark.parametrize("seed", range(40))
def test_the_package_is_lin_without_stemming(seed: int) -> None:
    draw = random.Random(seed)
    size = draw.randrange(2, 12)
    vocabulary = ["".join(draw.choices(LETTERS, k=draw.randrange(1, 8))) for _ in range(size)]
    vocabulary += [word.capitalize() for word in vocabulary]
    for _ in range(20):
        prediction, answer = sentence(draw, vocabulary), sentence(draw, vocabulary)
        found = PLAIN.score(answer, prediction)["rougeL"].fmeasure
        assert found == pytest.approx(f1(prediction, answer), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_ours_is_lin_where_stems_change_nothing(seed: int) -> None:
    """Words of at most three letters are not stemmed."""
    draw = random.Random(seed)
    vocabulary = ["".join(draw.choices(LETTERS, k=draw.randrange(1, 4))) for _ in range(8)]
    for _ in range(20):
        prediction = sentence(draw, vocabulary)
        answers = tuple(sentence(draw, vocabulary) for _ in range(draw.randrange(1, 4)))
        best = max(f1(prediction, answer) for answer in answers)
        assert rouge_l(prediction, answers) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "answer", "value"),
    [
        ("running dogs", "run dog", 1.0),
        ("relational conditions", "relate condition", 1.0),  # relat, condit
        ("ponies", "pony", 1.0),  # poni
        ("generalizations oscillators", "general oscillate", 1.0),
        ("caress", "caresses", 1.0),
        ("universe", "university", 1.0),  # Porter's stems go far: univers
        ("cats", "cat", 1.0),
        ("ran home", "run home", 0.5),  # no stem is shared
        ("has", "have", 0.0),
        ("The cats are sitting", "a cat sits on the mat", 2 * (2 / 4) * (2 / 6) / (2 / 4 + 2 / 6)),
    ],
)
def test_stems_by_hand(prediction: str, answer: str, value: float) -> None:
    assert rouge_l(prediction, (answer,)) == pytest.approx(value)
    assert rouge_l(answer, (prediction,)) == pytest.approx(value), "F1 is symmetric"
