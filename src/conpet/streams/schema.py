"""What a card may say: a strict description of where a stream's data lie and how to read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from conpet.errors import ConfigError, did_you_mean
from conpet.streams.checks import Split
from conpet.streams.template import template_problem

ModelT = TypeVar("ModelT", bound=BaseModel)

Format = Literal[
    "table", "fewnerd", "typing", "tacred", "ace", "natural-instructions", "instruction-folders"
]
TASK_FORMATS: tuple[Format, ...] = ("natural-instructions", "instruction-folders")
"""Those that hold instruction tasks."""

Valid = Literal["auto", "carve", "test"]


class Strict(BaseModel):
    """Frozen; unknown keys and values of another type are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Fields(Strict):
    """The names of the columns that hold each thing.

    All but ``text`` and ``label`` are used when the data have them; one that is named by the user
    must be there, and None switches one off. Data have a label or answers, not both.
    """

    text: str = Field(
        default="text", description="the text; its tokens joined by blanks for token spans"
    )
    label: str = Field(default="label", description="the class name")
    id: str | None = Field(
        default="id", description="a unique name; made from the content if absent"
    )
    split: str | None = Field(default="split", description="train, valid or test")
    task: str | None = Field(default="task", description="the task the row belongs to")
    head: str | None = Field(
        default="head", description="span [start, end) of a relation's first entity"
    )
    tail: str | None = Field(
        default="tail", description="span [start, end) of a relation's second entity"
    )
    mentions: str | None = Field(
        default="mentions",
        description="list of [start, end, label]; each becomes one typing example",
    )
    instruction: str | None = Field(
        default="instruction", description="what is to be done with the text, for free answers"
    )
    answers: str | None = Field(
        default="answers",
        description="right answers in free text, one or a list; the first one trains",
    )
    spans: Literal["characters", "tokens"] = Field(
        default="characters",
        description="the unit of all spans; tokens are what lies between blanks",
    )


class Card(Strict):
    """One stream. Its tasks: ``groups``, ``n_tasks`` by lot, the task column, or one of all; of
    free answers the folders, the task column, or one of all."""

    name: str = Field(description="the stream's name")
    file: str | dict[Split, str] = Field(
        description="data file or folder, or one file per split; relative to the card or data root"
    )
    format: Format = Field(
        default="table",
        description="table: rows with fields; else a folder of files as its owner distributes them",
    )
    fields: Fields = Field(default_factory=lambda: Fields())
    groups: str | dict[str, list[str]] | None = Field(
        default=None, description="task -> labels, or a JSON file that holds this"
    )
    groups_partial: bool = Field(
        default=False, description="groups may name labels that the data lack; those are left out"
    )
    n_tasks: int | None = Field(
        default=None, ge=1, description="draw this many tasks of equal size"
    )
    tasks: dict[str, str] | None = Field(
        default=None,
        description="instruction tasks to read: name -> its folder or file below file; else all",
    )
    orders: dict[str, list[str]] | None = Field(
        default=None, description="orders of the tasks by name; the first is the stream's own"
    )
    template: str | None = Field(
        default=None,
        description="how {instruction} and {input} make a prompt, with the answer cue at its end",
    )
    seed: int = Field(default=0, description="seed of drawn tasks and of train_per_class")
    valid_share: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="share of train carved as valid when the data have no valid",
    )
    test_share: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="share of train carved as test when the data have no test",
    )
    valid: Valid = Field(
        default="auto",
        description="auto: the data's own part, else carved; carve: carved from train in any case; "
        "test: the test part, for comparison with results that were chosen on it",
    )
    group_by: dict[str, str] | None = Field(
        default=None,
        description="instruction task -> pattern; examples in whose input it finds the same (its "
        "first group) go to the same part",
    )
    train_per_class: int | None = Field(
        default=None, ge=1, description="at most this many, to balance; of free answers, of a task"
    )
    pool: Literal["by-label", "overall"] | None = Field(
        default=None,
        description="put all parts together and carve test and valid anew: so much of each label, "
        "or of all",
    )
    max_tail_words: int | None = Field(
        default=None,
        ge=1,
        description="leave out training examples whose prompt tail (entity prompt) has more words",
    )
    metric: str | None = Field(
        default=None,
        description="a name of the METRICS registry; else accuracy, of free answers rouge-l",
    )
    licence: str = Field(default="", description="licence of the data")
    attribution: str = Field(default="", description="whom to name as the source")
    obtain: str = Field(
        default="", description="what data that are not shipped are, and where they come from"
    )

    @model_validator(mode="after")
    def _no_contradiction(self) -> Card:
        if self.groups is not None and self.n_tasks is not None:
            raise ValueError("groups and n_tasks are both given; tasks come from one of them")
        if self.format != "table" and self.fields != Fields():
            raise ValueError(
                f"fields name the columns of a table; data in the format '{self.format}' have "
                "none: leave fields out"
            )
        if self.format != "table" and not isinstance(self.file, str):
            raise ValueError(f"data in the format '{self.format}' are one folder: file: FOLDER")
        return self

    @model_validator(mode="after")
    def _free_parts_in_order(self) -> Card:
        if self.template is not None and (problem := template_problem(self.template)):
            raise ValueError(problem)
        if self.tasks is not None and self.format not in TASK_FORMATS:
            raise ValueError(
                "tasks names folders of instruction tasks, which data in the format "
                f"'{self.format}' are not; allowed with: {', '.join(TASK_FORMATS)}"
            )
        for task, pattern in (self.group_by or {}).items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"group_by of '{task}' is {pattern!r}, no regular expression: {error}; mend it"
                ) from None
        named = self.tasks or next(iter((self.orders or {}).values()), [])
        for name, order in (self.orders or {}).items():
            if len(order) != len(set(order)) or set(order) != set(named):
                raise ValueError(
                    f"order '{name}' names {', '.join(order) or 'nothing'}; each order names the "
                    f"same tasks, each once: {', '.join(named) or 'at least one'}"
                )
        return self


def parse(model: type[ModelT], values: Mapping[str, Any], source: str) -> ModelT:
    """``model`` from plain values; ConfigError with ``source``, the key and the closest known."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _keys(model, first["loc"][:-1])
            hint = did_you_mean(str(first["loc"][-1]), known)
            text = f"unknown key '{key}' in {source}.{hint} Allowed: {', '.join(known)}"
        elif first["type"] == "missing":
            text = f"{source} has no '{key}'; add it"
        elif first["type"] == "value_error":
            text = f"{source}: {first['ctx']['error']}"
        else:
            text = f"{source}: '{key}' is {first['input']!r}; {first['msg']}"
        raise ConfigError(text) from error


def _keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The allowed keys of ``model``, or of its part ``fields``."""
    return list(Fields.model_fields if path[:1] == ("fields",) else model.model_fields)
