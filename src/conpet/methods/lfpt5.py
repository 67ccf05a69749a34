"""LFPT5 (arXiv 2110.07298): one soft prompt that answers, and that writes the examples it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from conpet.methods.base import Phase, State
from conpet.methods.lessons import Lifelong, Scribe, WriteExamples
from conpet.methods.pairs import Recipe, check_length
from conpet.methods.samples import GivenSamples
from conpet.methods.tune import SHARED, OneAdapter
from conpet.replay.dynamic import NoReplay
from conpet.replay.pseudo import about
from conpet.types import Task


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LFPT5(OneAdapter):
    """One soft prompt P for all tasks, behind the text, which goes on from task to task. It learns
    two jobs: to answer an input, x -> y; and, asked for a task, to write an example, "x __ans__ y".

        1. examples = those of task t and the pseudo-samples of all older tasks
           loss = (1 - kd) * [CE(y | x; P) + generation * CE(x __ans__ y | task; P)]
                + kd * sum over pseudo-samples and tokens of KL(p(y | x; P_before) || p(y | x; P))
        2. Pseudo-samples of task t are drawn from P and kept.

    with kd = ``distillation`` (0 where there is no pseudo-sample) and P_before the prompt as it was
    before task t, a frozen copy that is made for the phase and dropped behind it. A pseudo-sample
    must split into exactly two parts; where the answers of a task repeat, its answer must be one of
    them; and it is sifted as SAPT's are.

    Where we differ from the authors' code: AdamW, not Adafactor; P begins as random tokens; a task
    is asked for in words, not by a token of its own; pseudo-samples are drawn once, when P knows
    the task best, by share and not by class, and from no test file (theirs loop over it); the
    divergence is that of answer tokens alone, not of padding; validation is on the new task.
    """

    adapter_kinds: ClassVar[tuple[str, ...]] = ("prompt",)
    adapter_defaults: ClassVar[Mapping[str, Any]] = {"kind": "prompt", "position": "after"}
    answers: ClassVar[tuple[str, ...]] = ("text",)
    refuses: ClassVar[Mapping[str, str]] = {
        "replay.kind": "what it keeps of old tasks is what it writes itself",
        "adapter.kind": "it is one soft prompt behind the text",
        "class": "it writes the examples that it keeps, input and answer, as text",
    }

    generation: float = Field(
        default=0.25, ge=0, description="weight of learning to write examples"
    )
    distillation: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="kd, weight of the divergence from the prompt before the task; the rest of the "
        "loss has 1 - kd",
    )
    pseudo: Literal["generated", "real"] = Field(
        default="generated",
        description="what stands for old examples: generated ones, or real ones (an upper bound)",
    )
    pseudo_share: float = Field(
        default=0.02, gt=0, le=1, description="pseudo-samples of a task by its training examples"
    )
    generator_tokens: int = Field(
        default=96, ge=8, description="tokens of a generated example; at most half for its answer"
    )
    generator_temperature: float = Field(default=1.0, gt=0, description="of sampling")
    generator_top_k: int = Field(
        default=64, ge=0, description="likeliest tokens that are drawn from"
    )
    generator_penalty: float = Field(
        default=1.2, gt=0, description="of repeated tokens; 1: none (the code: 2.5)"
    )
    generator_shortest: int = Field(default=3, ge=1, description="fewest words of a kept input")

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            False,
            self.pseudo_share,
            self.generator_tokens,
            self.generator_temperature,
            self.generator_top_k,
            self.generator_penalty,
            self.generator_shortest,
        )

    def check_tasks(self, state: State, tasks: Sequence[Task]) -> None:
        check_length(state, self.recipe)
        Scribe(state, self.recipe).check_room(tasks, self.generator_shortest)

    def phases(self, state: State) -> Sequence[Phase]:
        how = ("adapter", state.spec, SHARED, "shared", 0, NoReplay())
        learn = Lifelong(
            *how,
            recipe=self.recipe,
            generation=self.generation,
            distillation=self.distillation,
        )
        return [learn, self._samples()]

    def _samples(self) -> Phase:
        if self.pseudo == "real":
            return GivenSamples("pseudo", share=self.pseudo_share, answered=True)
        return WriteExamples("pseudo", adapter=SHARED, recipe=self.recipe)

    def notes(self, state: State) -> Sequence[str]:
        assert state.text is not None
        wanted = self.recipe.wanted(len(state.text.train))
        return [about(state.pseudo[state.task.name], wanted, "nothing stands for it later")]
