"""Stream: a sequence of tasks with disjoint labels, checked once, with a fingerprint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from statistics import median
from typing import Any, Literal

from conpet.errors import ConfigError, DataError, did_you_mean
from conpet.streams.checks import SPLITS, Split, check_tasks
from conpet.streams.splits import choose
from conpet.streams.template import template_problem
from conpet.types import Example, Task

Kind = Literal["text", "typing", "relation", "instruction"]
N_ENTITIES: dict[Kind, int] = {"text": 0, "typing": 1, "relation": 2, "instruction": 0}


def task_fingerprint(task: Task) -> str:
    """sha256 over all that is learned from or tested on: name, labels and examples, in order."""
    digest = sha256(json.dumps([task.name, task.labels]).encode())
    for split in SPLITS:
        examples: tuple[Example, ...] = getattr(task, split)
        content = [
            (e.id, e.text, e.label, e.entities, *((e.instruction, e.answers) if e.answers else ()))
            for e in examples
        ]
        digest.update(f"\n{split}\n{json.dumps(content)}".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Stream:
    """Tasks in the order in which they are learned.

    Attributes:
        name: for people; not part of the fingerprint.
        kind: what an example is: a plain text, a text with one entity, or with two (head, tail),
            each with a label; or an instruction and its input, with answers in free text.
        tasks: their names are folder names, their labels are disjoint, ids are unique over all.
        metric: a name of the METRICS registry.
        attribution: source and licence, to be shown with results.
        dropped: exact duplicates (text, entities, label) that were left out when it was read.
        left_out: (reason, number) of whatever else was left out then.
        template: of kind ``instruction``: how {instruction} and {input} make a prompt, the answer
            cue last (``conpet.streams.template``); else empty.

    Raises:
        DataError: on construction, for any stream that cannot be learned or tested as it is.
    """

    name: str
    kind: Kind
    tasks: tuple[Task, ...]
    metric: str = "accuracy"
    attribution: str = ""
    dropped: int = 0
    left_out: tuple[tuple[str, int], ...] = ()
    template: str = ""

    def __post_init__(self) -> None:
        if self.kind not in N_ENTITIES:
            raise DataError(f"stream kind is '{self.kind}'; allowed: {', '.join(N_ENTITIES)}")
        if self.free and (problem := template_problem(self.template)):
            raise DataError(problem)
        if self.template and not self.free:
            raise DataError(
                f"a stream of kind '{self.kind}' has a template, {self.template!r}; only kind "
                "'instruction' has one: leave it out"
            )
        check_tasks(self.tasks, N_ENTITIES[self.kind], free=self.free)

    @property
    def free(self) -> bool:
        """Whether answers are free text; then no task has labels."""
        return self.kind == "instruction"

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, task after task."""
        return tuple(label for task in self.tasks for label in task.labels)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Task name -> fingerprint, in order: what a run folder remembers of its stream."""
        return {task.name: task_fingerprint(task) for task in self.tasks}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over kind, metric, template (where there is one) and all tasks in order."""
        content: list[Any] = [self.kind, self.metric, self.fingerprints]
        if self.template:
            content.append(self.template)
        return sha256(json.dumps(content).encode()).hexdigest()

    def extends(self, other: Stream | Mapping[str, str]) -> bool:
        """Whether this stream begins with the tasks of ``other`` (or of its ``fingerprints``)."""
        known = other.fingerprints if isinstance(other, Stream) else other
        return list(self.fingerprints.items())[: len(known)] == list(known.items())

    def subset(self, tasks: Sequence[str]) -> Stream:
        """Only the named tasks, in this stream's order."""
        self._check_known(tasks)
        return replace(self, tasks=tuple(task for task in self.tasks if task.name in tasks))

    def reorder(self, order: Sequence[str]) -> Stream:
        """The same tasks in another order; ``order`` names each of them once."""
        self._check_known(order)
        by_name = {task.name: task for task in self.tasks}
        if len(order) != len(by_name) or set(order) != set(by_name):
            raise ConfigError(
                f"the order names {len(order)} tasks, {len(set(order))} of them different; "
                f"name each of these once: {', '.join(by_name)}"
            )
        return replace(self, tasks=tuple(by_name[name] for name in order))

    def cut(
        self,
        train: int | None = None,
        valid: int | None = None,
        test: int | None = None,
        seed: int = 0,
    ) -> Stream:
        """At most so many examples a class in each split, drawn with ``seed``; None keeps all.

        Free answers have no classes: there the numbers are for a task.
        """
        for split, n, least in (("train", train, 1), ("valid", valid, 0), ("test", test, 1)):
            if n is not None and n < least:
                raise ConfigError(f"{split} examples per class is {n}; allowed: {least} or more")
        return replace(
            self,
            tasks=tuple(
                replace(
                    task,
                    train=choose(task.train, train, seed),
                    valid=choose(task.valid, valid, seed),
                    test=choose(task.test, test, seed),
                )
                for task in self.tasks
            ),
        )

    def describe(self) -> dict[str, Any]:
        """Tasks, counts, text lengths in words and inputs that stand in two parts, as plain JSON
        values."""
        words = [len(example.text.split()) for _, _, example in _examples(self)]
        inputs: dict[str, set[Any]] = {split: set() for split in SPLITS}
        for task, split, e in _examples(self):
            # The same text is another input in another task, where it comes with an instruction.
            own = (task.name, e.instruction, e.text) if self.free else (e.text, e.entities)
            inputs[split].add(own)
        tasks = [
            {"name": task.name, "labels": list(task.labels)}
            | {split: len(getattr(task, split)) for split in SPLITS}
            for task in self.tasks
        ]
        return {
            "name": self.name,
            "kind": self.kind,
            "metric": self.metric,
            "fingerprint": self.fingerprint,
            "n_tasks": len(self.tasks),
            "n_labels": len(self.labels),
            **{split: sum(len(getattr(task, split)) for task in self.tasks) for split in SPLITS},
            "words": _range(words),
            **(self._free_facts() if self.free else {}),
            "duplicates_train_test": len(inputs["train"] & inputs["test"]),
            "duplicates_valid_test": len(inputs["valid"] & inputs["test"]),
            "duplicates_dropped": self.dropped,
            "left_out": dict(self.left_out),
            "attribution": self.attribution,
            "tasks": tasks,
        }

    def _free_facts(self) -> dict[str, Any]:
        """What only free answers have: a template, lengths in words, several right answers."""
        examples = [example for _, _, example in _examples(self)]
        return {
            "template": self.template,
            "answer_words": _range([len(e.answers[0].split()) for e in examples]),
            "several_answers": sum(len(e.answers) > 1 for e in examples),
        }

    def _check_known(self, names: Sequence[str]) -> None:
        known = [task.name for task in self.tasks]
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"stream '{self.name}' has no task '{name}'.{did_you_mean(name, known)} "
                    f"Its tasks: {', '.join(known)}"
                )


def _examples(stream: Stream) -> Iterator[tuple[Task, Split, Example]]:
    for task in stream.tasks:
        for split in SPLITS:
            for example in getattr(task, split):
                yield task, split, example


def _range(numbers: Sequence[int]) -> dict[str, float]:
    return {"min": min(numbers), "median": float(median(numbers)), "max": max(numbers)}
