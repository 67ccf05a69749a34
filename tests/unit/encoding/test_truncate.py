"""What stays of a sentence that is too long."""

from __future__ import annotations

from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conpet.encoding.truncate import Span, keep, window


@st.composite
def cases(draw: st.DrawFn, entities: int) -> tuple[int, list[Span], int]:
    """(n, spans of two ids or more that are apart or nested, room)."""
    n = draw(st.integers(4 * max(entities, 1), 80))
    room = draw(st.integers(1, 90))
    cuts = sorted(draw(st.sets(st.integers(0, n), min_size=2 * entities, max_size=2 * entities)))
    spans = [(cuts[2 * i], cuts[2 * i + 1]) for i in range(entities)]
    if entities == 2 and draw(st.booleans()):
        spans = [(cuts[0], cuts[3]), (cuts[1], cuts[2])]  # nested
    return n, draw(st.permutations(spans)), room


def kept_ids(ranges: list[Span]) -> list[int]:
    return [i for start, stop in ranges for i in range(start, stop)]


@given(st.one_of(cases(1), cases(2), cases(0)))
def test_what_stays(case: tuple[int, list[Span], int]) -> None:
    """Every id at most once, in order, as many as there is room for, and the spans whole."""
    n, spans, room = case
    ranges = keep(n, spans, room)
    if ranges is None:
        needed = {i for s, e in spans for i in range(s, e)}
        assert len(needed) > room
        return
    ids = kept_ids(ranges)
    assert ids == sorted(set(ids)) and set(ids) <= set(range(n))
    assert len(ids) == min(n, room)
    assert all(set(range(s, e)) <= set(ids) for s, e in spans)


@given(cases(2))
def test_one_window_if_all_fits_else_two(case: tuple[int, list[Span], int]) -> None:
    n, spans, room = case
    ranges = keep(n, spans, room)
    reach = max(e for _, e in spans) - min(s for s, _ in spans)
    if ranges is not None:
        assert len(ranges) == (1 if reach <= room or n <= room else 2)


@given(st.data())
def test_window_is_the_rule_of_the_paper(data: st.DataObject) -> None:
    """h first and e last id of the span, both inclusive, as ConPET's rule is written."""
    n = data.draw(st.integers(1, 60))
    room = data.draw(st.integers(1, n))
    h = data.draw(st.integers(0, n - 1))
    e = data.draw(st.integers(h, min(n, h + room) - 1))
    rem = room - (e - h + 1)
    if h < rem / 2:
        expected = (0, room)
    elif n - 1 - e < rem / 2:
        expected = (n - room, n)
    else:
        expected = (h - ceil(rem / 2), e + floor(rem / 2) + 1)
    assert window(n, (h, e + 1), room) == expected


def test_no_entities_keep_the_beginning() -> None:
    assert keep(10, [], 4) == [(0, 4)]


def test_far_entities_share_the_room() -> None:
    assert keep(100, [(10, 14), (80, 83)], 21) == [(7, 17), (76, 87)]


def test_an_entity_that_needs_more_than_half_gets_it() -> None:
    ranges = keep(100, [(10, 24), (80, 83)], 20)
    assert ranges == [(10, 24), (78, 84)]


@pytest.mark.parametrize(
    ("spans", "room"),
    [
        ([(3, 9)], 5),  # an entity longer than the room
        ([(0, 9), (3, 5)], 8),  # nested: the outer one is
        ([(0, 5), (20, 25)], 9),  # both together are
        ([(0, 2)], 0),
        ([], 0),
    ],
)
def test_what_cannot_fit(spans: list[Span], room: int) -> None:
    assert keep(30, spans, room) is None
