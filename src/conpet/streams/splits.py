"""Label groups, held-out parts and cuts. Every choice is a hash of seed and content.

A hash instead of a generator's state makes each choice depend on nothing but the thing itself and
the seed: the same on every platform and library version, the same whatever order the file has, and
unchanged for the old classes when new ones come, so that a longer stream extends a shorter one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from hashlib import sha256

from conpet.errors import ConfigError
from conpet.types import Example

Key = Callable[[Example], str]
"""What an example shares with those that have to lie in the same part."""


def its_text(example: Example) -> str:
    return example.text


def rank(seed: int, key: str) -> bytes:
    """The place of ``key`` in the seed's random order; sort by it to shuffle."""
    return sha256(f"{seed}\0{key}".encode()).digest()


def group_labels(labels: Iterable[str], n_tasks: int, seed: int) -> dict[str, tuple[str, ...]]:
    """Draw ``n_tasks`` tasks of equal size (the first ones hold one more where it does not divide).

    Returns:
        task name ("task-01", ...) -> its labels, sorted.

    Raises:
        ConfigError: more tasks than labels, or fewer than one.
    """
    order = sorted(set(labels), key=lambda label: rank(seed, label))
    if not 1 <= n_tasks <= len(order):
        raise ConfigError(
            f"n_tasks is {n_tasks}; allowed: 1 to {len(order)}, the number of labels in the data"
        )
    size, extra = divmod(len(order), n_tasks)
    groups: dict[str, tuple[str, ...]] = {}
    start = 0
    for i in range(n_tasks):
        end = start + size + (i < extra)
        groups[f"task-{i + 1:02d}"] = tuple(sorted(order[start:end]))
        start = end
    return groups


def choose(examples: Sequence[Example], n: int | None, seed: int) -> tuple[Example, ...]:
    """At most ``n`` examples of each class, in their old order; None keeps all.

    Examples without a label, those with free answers, count as one class.

    Choices of one seed are nested: the ten of ``n=10`` are among the forty of ``n=40``.
    """
    if n is None:
        return tuple(examples)
    by_class: dict[str | None, list[Example]] = defaultdict(list)
    for example in examples:
        by_class[example.label].append(example)
    kept: set[str] = set()
    for members in by_class.values():
        members.sort(key=lambda example: rank(seed, example.id))
        kept.update(example.id for example in members[:n])
    return tuple(example for example in examples if example.id in kept)


def carve(
    examples: Sequence[Example], share: float, seed: int, key: Key = its_text
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Divide ``examples`` into (rest, carved), class by class, never through a sentence.

    ``share`` (0..1) of each class is carved, at least one of a class of two or more, and at least
    one of each class stays. All examples of one ``key`` move together: by their text, so that a
    sentence with several entity pairs lies in one part only, or by another, as a passage under
    several questions. A class whose examples are all of one key is not carved.
    """
    texts = _by_key(examples, share, key)
    size = Counter(example.label for example in examples)
    goal = {label: min(n - 1, max(1, round(share * n))) for label, n in size.items()}
    taken: Counter[str | None] = Counter()
    carved: set[str] = set()

    def take(text: str, limit: dict[str | None, int]) -> None:
        count = Counter(example.label for example in texts[text])
        if all(taken[label] + n <= limit[label] for label, n in count.items()):
            taken.update(count)
            carved.add(text)

    order = sorted(texts, key=lambda text: rank(seed, text))
    for text in order:
        take(text, goal)
    # A class whose every text carries more examples than its goal has got nothing yet.
    leave_one = {label: n - 1 for label, n in size.items()}
    for text in order:
        if text not in carved and any(
            goal[example.label] and not taken[example.label] for example in texts[text]
        ):
            take(text, leave_one)
    return _parted(examples, carved, key)


def carve_overall(
    examples: Sequence[Example], share: float, seed: int, key: Key = its_text
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Divide ``examples`` into (rest, carved): ``share`` of all of them, whatever their class.

    As in ``carve`` all examples of one key move together, and at least one of each class stays.
    """
    texts = _by_key(examples, share, key)
    left = Counter(example.label for example in examples)
    room = round(share * len(examples))
    carved: set[str] = set()
    for text in sorted(texts, key=lambda text: rank(seed, text)):
        count = Counter(example.label for example in texts[text])
        if count.total() <= room and all(n < left[label] for label, n in count.items()):
            room -= count.total()
            left.subtract(count)
            carved.add(text)
    return _parted(examples, carved, key)


def _by_key(examples: Sequence[Example], share: float, key: Key) -> dict[str, list[Example]]:
    if not 0 < share < 1:
        raise ConfigError(f"the share to carve out is {share}; allowed: between 0 and 1")
    texts: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        texts[key(example)].append(example)
    return texts


def _parted(
    examples: Sequence[Example], carved: Collection[str], key: Key
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(rest, carved), each in the old order."""
    return (
        tuple(example for example in examples if key(example) not in carved),
        tuple(example for example in examples if key(example) in carved),
    )
