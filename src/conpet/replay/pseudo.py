"""Pseudo-samples: generated stand-ins for the inputs of a task that may not be kept (SAPT).

The released code keeps whatever its generator writes; half of what it published is empty. Here a
text that is empty, too short, a copy of a training input or a repetition is rejected and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from conpet.types import Example, Span

Words = tuple[str, ...]

REASONS = ("unmarked", "empty", "short", "copied", "repeated")
"""Why a text is rejected; ``unmarked``: the marker of the input is missing, or comes too late."""

COPIED = 5  # words in a row: a text whose runs of so many all stand in one training input is a copy
FOREIGN = 3  # words in a row, of which the overlap with real inputs is counted


@dataclass(frozen=True)
class PseudoSamples:
    """What stands for the inputs of one task.

    Attributes:
        source: ``generated``, ``real`` or ``file``.
        inputs: (instruction, input) of each.
        entities: the spans of each, where the task has any.
        answers: to each, where they stand for whole examples.
        quality: see ``Sieve.quality``; empty where nothing was generated.
    """

    source: str
    inputs: tuple[tuple[str, str], ...]
    quality: Mapping[str, float] = field(default_factory=dict)
    entities: tuple[tuple[Span, ...], ...] = ()
    answers: tuple[str, ...] = ()

    def examples(self, task: str) -> tuple[Example, ...]:
        """The same as inputs, with their answers where there are any."""
        spans = self.entities or ((),) * len(self.inputs)
        given: Sequence[tuple[str, ...]]
        given = [(answer,) for answer in self.answers] or [()] * len(self.inputs)
        rows = zip(self.inputs, spans, given, strict=True)
        return tuple(
            Example(
                f"pseudo-{task}-{i}", text, entities=own, instruction=instruction, answers=answers
            )
            for i, ((instruction, text), own, answers) in enumerate(rows)
        )

    def to_json(self) -> dict[str, Any]:
        rows: list[dict[str, Any]] = [{"instruction": a, "input": b} for a, b in self.inputs]
        for row, spans in zip(rows, self.entities, strict=False):
            row["entities"] = spans
        for row, answer in zip(rows, self.answers, strict=False):
            row["answer"] = answer
        return {"source": self.source, "quality": dict(self.quality), "inputs": rows}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> PseudoSamples:
        inputs = tuple((row["instruction"], row["input"]) for row in values["inputs"])
        spans = [row["entities"] for row in values["inputs"] if "entities" in row]
        entities = tuple(tuple((start, stop) for start, stop in own) for own in spans)
        answers = tuple(row["answer"] for row in values["inputs"] if "answer" in row)
        return PseudoSamples(values["source"], inputs, values["quality"], entities, answers)


def wanted(share: float, n_train: int) -> int:
    """How many stand for a task of ``n_train`` training examples: a share of them, at least one."""
    return max(1, int(share * n_train + 1e-9))


def about(
    samples: PseudoSamples, n_wanted: int, without: str = "nothing holds its routing in place"
) -> str:
    """What was kept of those that were wanted, in a line; and what it is like ``without`` any."""
    n, quality = len(samples.inputs), samples.quality
    short = f" ({n_wanted} were wanted)" if n < n_wanted else ""
    short += "" if n else f", so that {without}"
    if samples.source != "generated":
        return f"{n} {samples.source} samples stand for its inputs{short}"
    rejected = {
        key.removeprefix("rejected_"): int(value)
        for key, value in quality.items()
        if key.startswith("rejected_")
    }
    reasons = ", ".join(f"{value} {key}" for key, value in rejected.items())
    return (
        f"{n} pseudo-samples kept{short}, {sum(rejected.values())} rejected ({reasons}); "
        f"distinct-2 {quality['distinct_2']:.2f} (real {quality['real_distinct_2']:.2f}), overlap "
        f"with real inputs {quality['overlap']:.2f}"
    )


class Sieve:
    """Keeps the texts that can stand for real inputs, and counts why others cannot.

    Args:
        real: the inputs that were learned from.
        shortest: fewest words of a text.
    """

    def __init__(self, real: Iterable[str], shortest: int = 3) -> None:
        self.shortest = shortest
        self.kept: list[str] = []
        self.rejected = Counter({reason: 0 for reason in REASONS})
        self._seen: set[Words] = set()
        self._real = [words_of(text) for text in real]
        self._texts = set(self._real)
        self._runs: dict[Words, set[int]] = {}  # a run of words -> the real inputs that have it
        for i, words in enumerate(self._real):
            for run in runs(words, COPIED):
                self._runs.setdefault(run, set()).add(i)

    def offer(self, text: str | None) -> bool:
        """Whether the text is kept; None stands for one without its marker."""
        reason = self._reason(text)
        if reason is None and text is not None:
            self._seen.add(words_of(text))
            self.kept.append(text.strip())
            return True
        self.rejected[str(reason)] += 1
        return False

    def _reason(self, text: str | None) -> str | None:
        if text is None:
            return "unmarked"
        words = words_of(text)
        if not words:
            return "empty"
        if len(words) < self.shortest:
            return "short"
        if self._copied(words):
            return "copied"
        return "repeated" if words in self._seen else None

    def _copied(self, words: Words) -> bool:
        if words in self._texts:
            return True
        found = [self._runs.get(run, set()) for run in runs(words, COPIED)]
        return bool(found) and bool(set.intersection(*found))

    def quality(self) -> dict[str, float]:
        """Of the texts kept.

        ``kept`` and ``rejected_REASON``: how many. ``distinct_1``, ``distinct_2``: different words
        and pairs of words by all of them (Li et al. 2016), and ``real_distinct_2`` of as many real
        inputs. ``overlap``: the share of runs of three words that stand in some real input.
        """
        texts = [words_of(text) for text in self.kept]
        known = {run for words in self._real for run in runs(words, FOREIGN)}
        own = [run for words in texts for run in runs(words, FOREIGN)]
        counts = {f"rejected_{reason}": float(n) for reason, n in self.rejected.items()}
        return {
            "kept": float(len(texts)),
            **counts,
            "distinct_1": _distinct([word for words in texts for word in words]),
            "distinct_2": _distinct([pair for words in texts for pair in pairwise(words)]),
            "real_distinct_2": _distinct(
                [pair for words in self._real[: len(texts)] for pair in pairwise(words)]
            ),
            "overlap": sum(run in known for run in own) / len(own) if own else 0.0,
        }


def words_of(text: str) -> Words:
    """Lower-case words, as blanks part them."""
    return tuple(text.lower().split())


def runs(words: Words, n: int) -> list[Words]:
    """All n words in a row."""
    return [words[i : i + n] for i in range(len(words) - n + 1)]


def _distinct(items: Sequence[object]) -> float:
    return len(set(items)) / len(items) if items else 0.0
