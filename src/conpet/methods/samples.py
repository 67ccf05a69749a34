"""Pseudo-samples that are not generated: real inputs, or those of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from conpet.errors import ConfigError, DataError
from conpet.methods.base import Computation, State
from conpet.replay.pseudo import PseudoSamples, wanted
from conpet.streams.readers import read_rows
from conpet.types import Task

AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().resolve())]
"""A path in a run's configuration: the run goes on from wherever it is called."""


@dataclass(frozen=True, kw_only=True)
class GivenSamples(Computation):
    """Draw what stands for the inputs of the newest task by the seed of the run.

    Attributes:
        share: of the training examples, so many samples, at least one.
        file: holds them; None: they are training inputs.
        answered: with the answers of training inputs.
    """

    share: float
    file: Path | None = None
    answered: bool = False

    def check(self, state: State, tasks: Sequence[Task]) -> None:
        """Raise where the file lacks samples of a task, or has some that make no prompt."""
        if self.file is None:
            return
        for task in tasks:
            found = samples_in(self.file, task.name)
            if any(example.entities for example in task.train):
                raise ConfigError(
                    f"method.pseudo_file is {self.file}, and the inputs of task '{task.name}' have "
                    "entities, which the samples of a file do not mark; use method.pseudo=real"
                )
            state.store.encoder.encode_all(PseudoSamples("file", tuple(found)).examples(task.name))

    def end(self, state: State) -> None:
        assert state.text is not None
        draw = self._real if self.file is None else self._filed
        state.pseudo[state.text.name] = draw(state, state.text)

    def _real(self, state: State, task: Task) -> PseudoSamples:
        chosen = [task.train[i] for i in self._drawn(state, task, "real", len(task.train))]
        marked = any(example.entities for example in chosen)
        return PseudoSamples(
            "real",
            tuple((example.instruction, example.text) for example in chosen),
            entities=tuple(example.entities for example in chosen) if marked else (),
            answers=tuple(example.answers[0] for example in chosen) if self.answered else (),
        )

    def _filed(self, state: State, task: Task) -> PseudoSamples:
        assert self.file is not None
        found = samples_in(self.file, task.name)
        at = self._drawn(state, task, "file", len(found))
        return PseudoSamples("file", tuple(found[i] for i in at))

    def _drawn(self, state: State, task: Task, source: str, n: int) -> list[int]:
        """Places among n samples, in order: as many as are wanted, or all."""
        places = state.rng(self.name, source).permutation(n)
        return sorted(places[: wanted(self.share, len(task.train))].tolist())


def samples_in(path: Path, task: str) -> list[tuple[str, str]]:
    """(instruction, input) of the rows of a file that belong to a task."""
    rows = read_rows(path)
    found = []
    for source, row in rows:
        owner, text, instruction = (_words(row, key) for key in ("task", "input", "instruction"))
        if not owner or not text:
            raise DataError(
                f"{source} has no 'task' or no 'input'; each pseudo-sample needs both "
                "(an instruction is optional): add them, or drop the row"
            )
        if owner == task:
            found.append((instruction, text))
    if not found:
        known = ", ".join(sorted({_words(row, "task") for _, row in rows}))
        raise DataError(
            f"{path} has no pseudo-sample of task '{task}'; it has those of: {known}. Add some, or "
            "use method.pseudo=generated"
        )
    return found


def _words(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value).strip()
