"""The wording of prompts and the place of markers."""

from __future__ import annotations

import pytest

from conpet.encoding.prompts import Mark, Piece, choose_prompt, entity, entity_last, plain
from conpet.errors import ConfigError, DataError
from conpet.types import Example

SIGNS = {
    Mark.FIRST_OPEN: "⟨0⟩",
    Mark.FIRST_CLOSE: "⟨1⟩",
    Mark.SECOND_OPEN: "⟨2⟩",
    Mark.SECOND_CLOSE: "⟨3⟩",
    Mark.MASK: "⟨?⟩",
}


def shown(pieces: tuple[Piece, ...]) -> str:
    return "".join(SIGNS[p] if isinstance(p, Mark) else p for p in pieces)


def example(text: str, *spans: tuple[int, int]) -> Example:
    return Example("7", text, entities=spans)


TYPING = example("She was born in Paris, France .", (16, 21))
RELATION = example("Paris lies in France.", (0, 5), (14, 20))


def test_entity_typing() -> None:
    layout = entity(TYPING)
    assert shown(layout.sentence) == "She was born in⟨0⟩ Paris⟨1⟩, France ."
    assert shown(layout.tail) == " In this sentence, Paris is a⟨?⟩."


def test_relation() -> None:
    layout = entity(RELATION)
    assert shown(layout.sentence) == "⟨0⟩Paris⟨1⟩ lies in⟨2⟩ France⟨3⟩."
    assert shown(layout.tail) == " In this sentence, France is the⟨?⟩ of Paris."


def test_head_may_stand_behind_the_tail() -> None:
    layout = entity(example("Paris lies in France.", (14, 20), (0, 5)))
    assert shown(layout.sentence) == "⟨2⟩Paris⟨3⟩ lies in⟨0⟩ France⟨1⟩."
    assert shown(layout.tail) == " In this sentence, Paris is the⟨?⟩ of France."


@pytest.mark.parametrize("example", [TYPING, RELATION])
def test_entity_last_ends_with_the_mask_and_names_every_entity(example: Example) -> None:
    layout = entity_last(example)
    assert layout.tail[-1] is Mark.MASK and layout.tail.count(Mark.MASK) == 1
    assert layout.sentence == entity(example).sentence
    for start, end in example.entities:
        assert f" {example.text[start:end]}" in layout.tail


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        (((0, 6), (0, 2)), "⟨0⟩⟨2⟩ab⟨3⟩ cde⟨1⟩ f"),  # same start: the longer opens first
        (((0, 2), (0, 6)), "⟨2⟩⟨0⟩ab⟨1⟩ cde⟨3⟩ f"),
        (((0, 6), (3, 6)), "⟨0⟩ab⟨2⟩ cde⟨3⟩⟨1⟩ f"),  # same end: the shorter closes first
        (((3, 6), (0, 6)), "⟨2⟩ab⟨0⟩ cde⟨1⟩⟨3⟩ f"),
        (((0, 8), (3, 6)), "⟨0⟩ab⟨2⟩ cde⟨3⟩ f⟨1⟩"),  # one inside the other
        (((3, 6), (3, 6)), "ab⟨0⟩⟨2⟩ cde⟨3⟩⟨1⟩ f"),  # equal
        (((0, 3), (3, 6)), "⟨0⟩ab⟨1⟩⟨2⟩ cde⟨3⟩ f"),  # touching
        (((3, 6), (0, 3)), "⟨2⟩ab⟨3⟩⟨0⟩ cde⟨1⟩ f"),
    ],
)
def test_nested_equal_and_touching_entities(
    spans: tuple[tuple[int, int], ...], expected: str
) -> None:
    assert shown(entity(example("ab cde f", *spans)).sentence) == expected


def test_plain_ignores_entities_and_outer_space() -> None:
    layout = plain(example("  Paris, France\n", (2, 7)))
    assert layout.sentence == ("Paris, France",) and layout.tail == ()


def test_space_around_an_entity_stays_outside_its_words() -> None:
    layout = entity(example("in  Paris  now", (3, 11)))
    assert shown(layout.sentence) == "in⟨0⟩ Paris⟨1⟩ now"
    assert " Paris" in layout.tail


@pytest.mark.parametrize(
    ("kind", "with_entities"),
    [("encoder", entity), ("encoder-decoder", entity), ("decoder", entity_last)],
)
def test_auto(kind: str, with_entities: object) -> None:
    auto = choose_prompt("auto", kind)
    assert auto(RELATION) == with_entities(RELATION)  # type: ignore[operator]
    assert auto(example("no entity")) == plain(example("no entity"))


def test_unknown_prompt() -> None:
    with pytest.raises(ConfigError, match=r"'entity-lsat'. Did you mean 'entity-last'\?"):
        choose_prompt("entity-lsat", "encoder")


def test_wrong_number_of_entities() -> None:
    for bad in (example("no entity"), example("a b c", (0, 1), (2, 3), (4, 5))):
        with pytest.raises(DataError, match=r"'7' has [03] entities.*prompt=plain"):
            entity(bad)


def test_span_without_words() -> None:
    with pytest.raises(DataError, match="'7': an entity span covers only white space"):
        entity(example("a  b", (1, 3)))
