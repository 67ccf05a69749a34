"""What can be computed without a run: parameters, bytes, and how much of a history comes back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

FP32 = 4
"""Bytes of a weight."""
TRAINED = 4
"""Numbers that AdamW holds for each tuned weight: itself, its gradient and two moments."""


def lora_parameters(widths: Sequence[tuple[int, int]], rank: int) -> int:
    """``sum over projections of r (d_in + d_out)``."""
    return sum(rank * (d_in + d_out) for d_in, d_out in widths)


def head_parameters(width: int, n_classes: int) -> int:
    """``C (d + 1)``: the rows of a head and their biases."""
    return n_classes * (width + 1)


def stored_parameters(
    adapter: int, width: int, labels: Sequence[int], *, one_each: bool, selector_rows: int = 0
) -> int:
    """What a run keeps beside the backbone after T tasks.

        one adapter:          P + sum_t C_t (d + 1)
        one each, selector:   T P + sum_t C_t (d + 1) + [T > 1] (P + S (d + 1))

    Args:
        adapter: P, the parameters of an adapter without its head.
        width: d.
        labels: C_t, the labels of each task.
        selector_rows: S, what the selector's head tells apart; 0 where there is no selector.
    """
    heads = head_parameters(width, sum(labels))
    if not one_each:
        return adapter + heads
    selector = len(labels) > 1 and selector_rows > 0
    return (
        len(labels) * adapter + heads + selector * (adapter + head_parameters(width, selector_rows))
    )


def drawn_share(sizes: Sequence[int], draws: Sequence[float]) -> float:
    """Percent of the old examples that dynamic replay is expected to have drawn at least once.

    While task i is learned (from 0; i tasks are old) each of ``draws[i]`` draws picks one of the i
    tasks, then one of its n_j examples, both uniformly:

        P(an example of task j is never drawn) = prod_{i>j} (1 - 1 / (i n_j))^draws[i]

    Args:
        sizes: n_j, training examples of each of the T tasks.
        draws: old examples drawn while each task was learned; that of the first is 0.
    """
    seen = 0.0
    for j, n in enumerate(sizes[:-1]):
        never = math.prod((1 - 1 / (i * n)) ** draws[i] for i in range(j + 1, len(sizes)))
        seen += n * (1 - never)
    return 100 * seen / sum(sizes[:-1])


def rehearsed_share(
    sizes: Sequence[int], kept: Sequence[int], draws: Sequence[float], epochs: int
) -> float:
    """Percent of the old examples that a memory is expected to have replayed at least once.

    An epoch goes through a shuffled memory of M exemplars and stops after D draws, so an exemplar
    is missed in it with probability ``1 - min(1, D / M)``; epochs are shuffled alike.

    Args:
        sizes, draws: as for ``drawn_share``.
        kept: exemplars of each task that train.
        epochs: that the draws of a task are spread over.
    """
    seen = 0.0
    for j, m in enumerate(kept[:-1]):
        never = 1.0
        for i in range(j + 1, len(sizes)):
            memory = sum(kept[:i])
            never *= (1 - min(1.0, draws[i] / epochs / memory)) ** epochs if memory else 1.0
        seen += m * (1 - never)
    return 100 * seen / sum(sizes[:-1])


def text_bytes(examples: Iterable[tuple[str, str]]) -> int:
    """UTF-8 bytes of texts and labels: the least that must be kept to replay examples."""
    return sum(len(text.encode()) + len(label.encode()) for text, label in examples)
