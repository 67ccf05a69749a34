"""Pseudo-samples: what is kept of generated texts and why not the rest, and what is said of it."""

from __future__ import annotations

import json

import pytest

from conpet.replay.pseudo import REASONS, PseudoSamples, Sieve, runs, words_of

REAL = ("The cat sat on the mat today", "a b c d e f", "one two three four", "Short One")


def rejected(sieve: Sieve) -> dict[str, int]:
    return {reason: n for reason, n in sieve.rejected.items() if n}


# The sieve ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "unmarked"),
        ("", "empty"),
        (" \n\t ", "empty"),
        ("two words", "short"),
        ("short one", "short"),  # a copy too, but it is short first
        ("the CAT  sat on\nthe mat today", "copied"),  # case and blanks do not count
        ("one two three four", "copied"),  # whole, though it has no run of five words
        ("cat sat on the mat", "copied"),  # a piece of a real input
        ("a b c d e", "copied"),
    ],
)
def test_what_is_rejected_and_why(text: str | None, reason: str) -> None:
    sieve = Sieve(REAL)
    assert not sieve.offer(text)
    assert sieve.kept == []
    assert rejected(sieve) == {reason: 1}


@pytest.mark.parametrize(
    "text",
    [
        "one two three",  # fewer than five words of a real input, and not all of it
        "two three four",
        "the cat sat on the mat tomorrow",  # one run of five is new
        "a b c d e a b c d e f",  # its runs stand in the real input, but for those at the seam
        "c d e f g",
    ],
)
def test_what_is_kept_though_it_shares_words(text: str) -> None:
    assert Sieve(REAL).offer(text)


def test_runs_of_different_inputs_make_no_copy() -> None:
    """Each run of five stands in some real input, but no input has all of them."""
    sieve = Sieve(["a b c d e x", "y b c d e f"])
    assert sieve.offer("a b c d e f")
    assert not sieve.offer("a b c d e")


def test_a_run_that_comes_twice_in_a_real_input_is_no_second_input() -> None:
    assert not Sieve(["a a a a a a a", "b"]).offer("a a a a a a")


def test_a_text_is_kept_once() -> None:
    sieve = Sieve(REAL)
    assert sieve.offer("Something quite new")
    assert not sieve.offer("something  QUITE new ")
    assert sieve.kept == ["Something quite new"]
    assert rejected(sieve) == {"repeated": 1}


def test_what_was_rejected_may_come_again_and_counts_again() -> None:
    sieve = Sieve(REAL)
    assert [sieve.offer("a b c d e") for _ in "12"] == [False, False]
    assert rejected(sieve) == {"copied": 2}


def test_texts_are_kept_in_order_as_they_were_written() -> None:
    sieve = Sieve(REAL)
    for text in ("  z\ny x\n", "no", "w v u"):
        sieve.offer(text)
    assert sieve.kept == ["z\ny x", "w v u"]


@pytest.mark.parametrize(("shortest", "kept"), [(1, 3), (2, 2), (3, 1), (4, 0)])
def test_the_fewest_words_can_be_chosen(shortest: int, kept: int) -> None:
    sieve = Sieve([], shortest)
    assert sum(sieve.offer(text) for text in ("x", "x y", "x y z")) == kept


def test_every_reason_is_counted_even_where_there_was_none() -> None:
    assert dict(Sieve([]).rejected) == dict.fromkeys(REASONS, 0)


# The figures --------------------------------------------------------------------------------------


def test_quality_by_hand() -> None:
    sieve = Sieve(["the cat sat on mats", "a dog ran", "never looked at"])
    for text in ("The cat sat here", "the cat sat down", None, "", "the cat sat here"):
        sieve.offer(text)
    quality = sieve.quality()
    assert quality["kept"] == 2
    assert {key: n for key, n in quality.items() if key.startswith("rejected_")} == {
        "rejected_unmarked": 1,
        "rejected_empty": 1,
        "rejected_short": 0,
        "rejected_copied": 0,
        "rejected_repeated": 1,
    }
    assert quality["distinct_1"] == pytest.approx(5 / 8)  # the cat sat here down
    assert quality["distinct_2"] == pytest.approx(4 / 6)  # the-cat cat-sat sat-here sat-down
    assert quality["real_distinct_2"] == 1.0  # of the first two real inputs
    # the-cat-sat is real, twice; cat-sat-here and cat-sat-down are not
    assert quality["overlap"] == pytest.approx(2 / 4)


def test_quality_of_nothing() -> None:
    quality = Sieve([]).quality()
    assert set(quality.values()) == {0.0}


def test_quality_is_of_floats_that_json_keeps() -> None:
    sieve = Sieve(REAL)
    sieve.offer("x y z")
    quality = sieve.quality()
    assert all(type(value) is float for value in quality.values())
    assert json.loads(json.dumps(quality)) == quality


def test_words_and_runs() -> None:
    assert words_of(" A b\tC\n") == ("a", "b", "c")
    assert runs(("a", "b", "c"), 2) == [("a", "b"), ("b", "c")]
    assert runs(("a", "b"), 3) == []


# The samples --------------------------------------------------------------------------------------

SAMPLES = [
    PseudoSamples("real", (("Do it.", "a b"), ("", "c"))),
    PseudoSamples("generated", (), {"kept": 0.0, "distinct_1": 0.25}),
    PseudoSamples("file", (("", "öffne die Tür — «jetzt»"),)),
    PseudoSamples("real", (("", "a b"), ("", "c d")), entities=(((0, 1), (2, 3)), ((2, 3),))),
]


@pytest.mark.parametrize("samples", SAMPLES)
def test_samples_survive_json(samples: PseudoSamples) -> None:
    written = json.dumps(samples.to_json())
    assert PseudoSamples.from_json(json.loads(written)) == samples


def test_samples_as_examples_have_no_answer() -> None:
    first, second = SAMPLES[0].examples("even")
    assert (first.text, first.instruction) == ("a b", "Do it.")
    assert (second.text, second.instruction) == ("c", "")
    assert first.id != second.id
    for example in (first, second):
        assert (example.label, example.answers, example.entities) == (None, (), ())


def test_samples_of_entities_keep_their_spans() -> None:
    assert [e.entities for e in SAMPLES[3].examples("x")] == [((0, 1), (2, 3)), ((2, 3),)]
