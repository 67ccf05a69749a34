"""What a card may say: a strict description of where a stream's data lie and how to read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from conpet.errors import ConfigError, did_you_mean
from conpet.streams.checks import Split

ModelT = TypeVar("ModelT", bound=BaseModel)

Format = Literal["table", "fewnerd", "typing", "tacred", "ace"]


class Strict(BaseModel):
    """Frozen; unknown keys and values of another type are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Fields(Strict):
    """The names of the columns that hold each thing.

    All but ``text`` and ``label`` are used when the data have them; one that is named by the user
    must be there, and None switches one off.
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
    spans: Literal["characters", "tokens"] = Field(
        default="characters",
        description="the unit of all spans; tokens are what lies between blanks",
    )


class Card(Strict):
    """One stream. Its tasks: ``groups``, ``n_tasks`` by lot, the task column, or one of all."""

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
    train_per_class: int | None = Field(
        default=None, ge=1, description="at most this many, to balance"
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
    metric: str = Field(default="accuracy", description="a name of the METRICS registry")
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
