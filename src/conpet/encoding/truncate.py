"""Which ids of a sentence stay when it is too long: pure functions on positions.

n ids in the sentence, ``room`` ids that may stay; spans are half-open ranges [start, stop) of ids,
an entity's span includes its two markers.
"""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[int, int]


def keep(n: int, spans: Sequence[Span], room: int) -> list[Span] | None:
    """The ranges of ids that stay, in order, disjoint, of ``min(n, room)`` ids together.

    Without spans, the beginning of the sentence stays. With spans, the ids around them do: one
    range around all where that fits, else one around each of two entities (ConPET's rule for the
    far entities of a relation).

    Returns:
        The ranges; None where the spans do not fit into ``room``.
    """
    if room < 1:
        return None
    if n <= room:
        return [(0, n)]
    if not spans:
        return [(0, room)]
    start, stop = min(s for s, _ in spans), max(e for _, e in spans)
    if stop - start <= room:
        return [window(n, (start, stop), room)]
    return _two_windows(n, sorted(spans), room)


def window(n: int, span: Span, room: int) -> Span:
    """``room`` ids with the span in their middle, or as near to it as the sentence's ends allow.

    Needs span length <= room <= n. The odd id of the remainder goes to the left.
    """
    start, stop = span
    rest = room - (stop - start)
    if 2 * start < rest:
        return 0, room
    if 2 * (n - stop) < rest:
        return n - room, n
    first = start - (rest + 1) // 2
    return first, first + room


def _two_windows(n: int, spans: Sequence[Span], room: int) -> list[Span] | None:
    """Half the room around each of two entities that lie apart; more for one that needs more.

    The two windows cannot meet: together they hold ``room`` ids, and the entities with all that
    lies between them are more than that.
    """
    if len(spans) != 2 or spans[1][0] < spans[0][1]:
        return None
    first, second = (stop - start for start, stop in spans)
    if first + second > room:
        return None
    left = min(max(room // 2, first), room - second)
    return [window(n, spans[0], left), window(n, spans[1], room - left)]
