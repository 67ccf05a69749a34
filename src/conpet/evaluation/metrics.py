"""Metrics of one answer: the text that was given against the right answers, 0..1.

A metric is a function ``(prediction, answers) -> float``; of several right answers the best counts,
and a class label is the only right answer of its example. To add one, write the function here and a
line in METRICS of ``registry``. The score of a task is 100 times the mean over its test examples
(``scoring.grade``).
"""

from __future__ import annotations

import string
from collections import Counter
from functools import lru_cache
from typing import Any

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(prediction: str, answers: tuple[str, ...]) -> float:
    """1 where the text is one of the answers, letter for letter, else 0."""
    return float(prediction in answers)


def exact_match(prediction: str, answers: tuple[str, ...]) -> float:
    """1 where the text is one of the answers after ``normalised``, else 0."""
    words = normalised(prediction)
    return float(any(words == normalised(answer) for answer in answers))


def token_f1(prediction: str, answers: tuple[str, ...]) -> float:
    """F1 of the two bags of words after ``normalised``, as SQuAD has it; the order is no matter.

    ``2 * common / (words given + words wanted)``, where a word counts as often as in both texts.
    Unlike SQuAD's, the normalisation keeps the articles a, an and the.
    """
    given = Counter(normalised(prediction))
    return max(_overlap(given, Counter(normalised(answer))) for answer in answers)


def _overlap(given: Counter[str], wanted: Counter[str]) -> float:
    size = given.total() + wanted.total()
    return 2.0 * (given & wanted).total() / size if size else 1.0  # nothing, and nothing wanted


def rouge_l(prediction: str, answers: tuple[str, ...]) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of stemmed words.

    ``2PR / (P + R)`` with ``P = LCS / words given`` and ``R = LCS / words wanted``. By the package
    rouge-score: words are runs of a-z and 0-9 after lower-casing, and those of more than three
    letters are stemmed (Porter). A text without such a word, in another script or of punctuation
    alone, scores 0 whatever is wanted; measure those by ``token_f1`` or ``exact_match``.
    """
    scorer = _rouge_scorer()
    return max(float(scorer.score(answer, prediction)["rougeL"].fmeasure) for answer in answers)


def normalised(text: str) -> list[str]:
    """The words of a text in lower case and without ASCII punctuation: ``Yes, it's`` -> yes its.

    As in the released code of SAPT, which joins them with one blank each. There a text of nothing
    but punctuation becomes empty, so that ``+`` equals ``-``; here it is kept as it is.
    """
    lower = text.lower()
    return lower.translate(_NO_PUNCTUATION).split() or lower.split()


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    """Built once, and imported only now: the package brings nltk, which takes seconds."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
