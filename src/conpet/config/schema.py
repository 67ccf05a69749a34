"""The configuration of a run: every key, its type, default, unit and range."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    model_serializer,
    model_validator,
)

from conpet.config.presets import expand_preset, label_of
from conpet.errors import ConfigError
from conpet.registry import METHODS

Count = Annotated[int, Field(ge=1)]
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
FilePath = Annotated[Path, Field(strict=False)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
Tracker = Literal["tensorboard", "wandb", "mlflow"]


def at_task(values: Mapping[int, float], task: int, default: float) -> float:
    """The value for the ``task``-th task, counted from 1, where each holds from a task on."""
    return next((values[k] for k in sorted(values, reverse=True) if k <= task), default)


class Section(BaseModel):
    """A group of keys. Strict: ``true`` is not a number, and ``"3"`` is not 3."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )


class MethodConfig(Section):
    """A registered method and all of its options, the ones left out at their defaults."""

    name: str = Field("conpet-dynamic", description="registered method (conpet ls methods)")
    options: dict[str, Any] = Field({}, description="the method's own (conpet show method NAME)")

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, given: Any) -> Any:
        """``{name, top_k, ...}`` -> ``{name, options}``, checked by the method's own dataclass."""
        if not isinstance(given, Mapping):
            return given
        options = {key: value for key, value in given.items() if key != "name"}
        name = given.get("name", cls.model_fields["name"].default)
        if not isinstance(name, str):
            return {"name": name}
        method = METHODS.load(name)(**options)
        complete = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
        return {"name": name, "options": complete}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


class StreamConfig(Section):
    name: str = Field(description="registered stream (conpet ls streams), or a data file or folder")
    data: FilePath | None = Field(
        None, description="folder with the data files; null: CONPET_DATA, then the user cache"
    )
    preset: Literal["none", "small"] = Field(
        "none",
        description="small: 40 train, 10 valid and 20 test examples a class; of free answers 320, "
        "40 and 100 a task",
    )
    seed: int = Field(100, ge=0, description="draws the tasks, the splits and the cuts")
    train_per_class: Count | None = Field(None, description="at most so many examples; null: all")
    valid_per_class: Count | None = Field(None, description="at most so many examples; null: all")
    test_per_class: Count | None = Field(None, description="at most so many examples; null: all")
    n_tasks: Count | None = Field(
        None, description="tasks to draw where the data names none; null: the stream's own"
    )
    tasks: Names | None = Field(
        None, description="the order, by task names; null: the stream's own"
    )
    only: Names | None = Field(None, description="the tasks to learn, by name; null: all")
    order: str | None = Field(
        None, description="one of the orders that the stream's card names, instead of tasks"
    )
    valid: Literal["auto", "carve", "test"] = Field(
        "auto",
        description="validation examples; auto: the stream's own, else carved from train; carve: "
        "carved in any case; test: the test part (results have then seen it)",
    )
    groups: FilePath | None = Field(None, description="file that groups the labels into tasks")
    fields: dict[str, str | None] | None = Field(
        None, description="names of the columns of your data, e.g. {text: sentence}"
    )

    @model_validator(mode="after")
    def _one_order(self) -> StreamConfig:
        if self.tasks is not None and self.order is not None:
            raise ConfigError(
                f"stream.tasks and stream.order ('{self.order}') are both given; the order comes "
                "from one of them: leave one out"
            )
        return self


class BackboneConfig(Section):
    name: str = Field(
        "minilm", description="registered backbone (conpet ls backbones), hub id or folder"
    )
    dtype: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="type of the frozen weights")
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto", description="attention implementation of transformers"
    )
    quantisation: Literal["none", "bitsandbytes-8bit", "bitsandbytes-4bit", "torchao-int8"] = Field(
        "none", description="of the frozen weights"
    )
    layers: Count | None = Field(None, description="keep the first so many layers; null: all")
    max_length: int = Field(128, ge=8, description="tokens of a text; longer ones are truncated")
    prompt: Literal["auto", "plain", "entity", "entity-last"] = Field(
        "auto", description="auto: plain without entities, entity-last on decoders, else entity"
    )
    read_out: Literal["auto", "mask", "mean", "cls", "last"] = Field(
        "auto", description="auto: mask with entities, mean for plain texts, last on decoders"
    )
    compile: bool = Field(
        False,
        description="torch.compile for the layers, but for adapted projections: the first batches "
        "take minutes, later ones less; pays on long runs on a GPU. Results may differ by rounding",
    )
    keep_trunk: bool | Literal["auto"] = Field(
        "auto",
        description="compute the layers below the adapters (see adapter.layers) once for each "
        "example, and keep what they give in the run folder; auto: where that can be done",
    )
    trunk_dtype: Literal["auto", "bf16", "fp16"] = Field(
        "auto",
        description="type in which it is kept; auto: as it was computed; half precision takes half "
        "the room and rounds",
    )
    trunk_gib: float = Field(
        4.0, ge=0, description="GiB that it may take; examples beyond are computed anew; 0: none"
    )


class AdapterConfig(Section):
    kind: Literal["lora", "bottleneck", "prompt", "prefix", "full"] = Field(
        "lora", description="what is trained"
    )
    rank: Count = Field(8, description="lora: rank")
    alpha: float | None = Field(
        None, gt=0, description="lora: numerator of the scale alpha/rank; null: rank"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="lora: share of the inputs that is dropped")
    targets: Names | None = Field(
        None, description="lora: names of the adapted projections; null: the backbone family's"
    )
    layers: Count | None = Field(
        None,
        description="lora, bottleneck: only in the upper so many layers, of an encoder-decoder in "
        "those of the encoder and in all of the decoder; null: all",
    )
    size: Count = Field(64, description="bottleneck: units")
    placement: Literal["houlsby", "pfeiffer"] = Field(
        "houlsby", description="bottleneck: after attention and MLP, or after the MLP alone"
    )
    activation: Literal["auto", "silu", "relu", "gelu"] = Field(
        "auto", description="bottleneck: auto: silu for houlsby, relu for pfeiffer"
    )
    length: Count = Field(
        10,
        description="prompt: tokens of a soft prompt, beside the text; prefix: keys and values in "
        "each layer",
    )
    position: Literal["before", "after"] = Field(
        "before",
        description="prompt: before the text or after it; after it, a causal backbone must write "
        "answers",
    )
    bottleneck: Count | None = Field(
        None,
        description="prompt: units of a residual network that it passes while it is trained; "
        "null: none",
    )

    @model_validator(mode="after")
    def _lies_in_layers(self) -> AdapterConfig:
        if self.layers is not None and self.kind not in ("lora", "bottleneck"):
            raise ConfigError(
                f"adapter.layers is {self.layers}, and adapters of kind '{self.kind}' lie in no "
                "layers that could be chosen; leave it out, or use adapter.kind=lora or bottleneck"
            )
        return self


class ReplayConfig(Section):
    kind: Literal["auto", "dynamic", "full", "memory", "none"] = Field(
        "auto", description="which old examples come back; auto: the method's own default"
    )
    batch_limit: int = Field(
        25,
        ge=2,
        description="dynamic: batches an epoch: floor of 0.8 for training, of 0.2 for validation",
    )
    new_to_old: float = Field(1.0, gt=0, description="new examples per old one in a batch")
    per_class: Count | None = Field(
        None, description="memory: examples that are kept of each class; null: 10, or the next two"
    )
    total: Count | None = Field(
        None, description="memory: examples that are kept of all classes together, instead"
    )
    share: float | None = Field(
        None, gt=0, le=1, description="memory: share that is kept of each class, instead"
    )
    selection: Literal["auto", "random", "kmeans", "herding"] = Field(
        "auto", description="memory: how they are chosen; auto: the method's own default"
    )
    features: Literal["hidden", "logits"] = Field(
        "hidden", description="memory: what k-means and herding look at"
    )
    epoch: Literal["data", "limit"] = Field(
        "data",
        description="memory: an epoch is one pass over the new data, or batch_limit as for dynamic",
    )
    frequency: Count | None = Field(
        None,
        description="memory: shuffle so many copies of it among the new data of an epoch, instead "
        "of batches of new_to_old; epoch=limit: as many as come near the limit",
    )
    valid_share: float = Field(
        0.2, ge=0, lt=1, description="memory: share of what is kept that validates, never trains"
    )


class TrainConfig(Section):
    epochs: Count = Field(6, description="passes over a task's batches, in each phase")
    max_steps: Count | None = Field(
        None, description="most optimiser steps of a phase, where its epochs would take more"
    )
    batch_size: Count = Field(32, description="examples of a training batch")
    eval_batch_size: Count = Field(
        32, description="examples of a batch of a replayed validation chunk"
    )
    lr: float = Field(2e-3, gt=0, description="learning rate of AdamW")
    schedule: Literal["constant", "linear"] = Field(
        "constant", description="of the learning rate: constant, or linear, to 0 at a phase's end"
    )
    lr_from: dict[Annotated[int, Field(ge=1, strict=False)], Annotated[float, Field(gt=0)]] = Field(
        {}, description="another learning rate from a task on: {3: 1e-4} is for tasks 3, 4, ..."
    )
    weight_decay: float = Field(0.01, ge=0, description="of AdamW, on matrices")
    eps: float = Field(1e-8, gt=0, description="of AdamW")
    clip: float | None = Field(1.0, gt=0, description="largest gradient norm; null: no clipping")
    select: Literal["best", "last"] = Field(
        "best", description="the state that is kept: best on validation data, or the last"
    )
    accumulate: Count = Field(1, description="batches of an optimiser step")
    token_budget: int = Field(
        8192, ge=16, description="tokens of one forward chunk of an expanded or evaluated batch"
    )

    def lr_at(self, task: int) -> float:
        """Learning rate for the ``task``-th task, counted from 1."""
        return at_task(self.lr_from, task, self.lr)


class GenerationConfig(Section):
    """Prompts with instructions, and answers in free text."""

    max_prompt_length: int = Field(
        256, ge=16, description="tokens of a prompt; of longer ones the input is truncated"
    )
    max_new_tokens: int = Field(
        50, ge=2, description="tokens of an answer, its end included; in training too"
    )
    sample: bool = Field(False, description="draw tokens instead of taking the likeliest")
    temperature: float = Field(1.0, gt=0, description="sample: below 1 prefers likely tokens")
    top_k: int = Field(0, ge=0, description="sample: from the likeliest so many; 0: from all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="sample: from the likeliest that have this share together"
    )
    repetition_penalty: float = Field(
        1.0, gt=0, description="above 1 makes tokens that were used before less likely"
    )


class RunConfig(Section):
    """Everything that a run needs to know. Made by ``load_config`` or by keyword arguments."""

    method: MethodConfig = Field(default_factory=MethodConfig, description="how it learns")
    stream: StreamConfig = Field(description="what is learned")
    backbone: BackboneConfig = Field(BackboneConfig(), description="the frozen model")
    adapter: AdapterConfig = Field(AdapterConfig(), description="what is added to it")
    replay: ReplayConfig = Field(ReplayConfig(), description="what comes back of old tasks")
    train: TrainConfig = Field(TrainConfig(), description="how it is optimised")
    generation: GenerationConfig = Field(
        GenerationConfig(), description="how free answers are learned and written"
    )
    seed: int = Field(1, ge=0, description="initial weights, batches and replay")
    device: Device = Field("auto", description="auto, cpu, mps, cuda or cuda:N")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of the computation; auto: bf16 where it is fast, else fp32"
    )
    threads: Count | None = Field(None, description="processor threads; null: torch's choice")
    trackers: Annotated[tuple[Tracker, ...], Field(strict=False)] = Field(
        (), description="where figures go besides events.jsonl: tensorboard, wandb, mlflow"
    )
    checkpoint_every: Count = Field(100, description="optimiser steps between two checkpoints")
    forward_rows: bool = Field(False, description="also test on tasks that are not yet learned")
    out: FilePath | None = Field(None, description="the run folder; null: runs/STREAM-METHOD-SEED")
    profile: str | None = Field(None, description="a named set of values, e.g. conpet-original")

    @model_validator(mode="wrap")
    @classmethod
    def _accept_names(cls, given: Any, handler: ModelWrapValidatorHandler[RunConfig]) -> RunConfig:
        """``stream: fewrel`` stands for ``stream: {name: fewrel}``, a preset for a method, and a
        method for its own kind of adapter; then the parts must fit."""
        if isinstance(given, Mapping):
            given = with_own_adapter(expand_preset(expand_names(given)))
        config = handler(given)
        config._check_fit()
        return config

    def _check_fit(self) -> None:
        method = METHODS.load(self.method.name)
        for key, given, allowed in (
            ("replay.kind", self.replay.kind, ("auto", *method.replay_kinds)),
            ("adapter.kind", self.adapter.kind, method.adapter_kinds),
        ):
            if given not in allowed:
                reason = method.refuses.get(key, "")
                raise ConfigError(
                    f"{key} is '{given}', which method '{self.method.name}' cannot use"
                    f"{reason and ': ' + reason}; allowed: {', '.join(allowed)}"
                )
        self._check_replay(method)
        built = self.build_method()
        if self.forward_rows and built.needs_task_id:
            raise ConfigError(
                f"forward_rows asks for tasks that are not learned yet, and method "
                f"'{self.method.name}' answers only for tasks that it has learned; leave it out"
            )
        built.check(self.replay_kind)
        if self.stream.valid == "test" and built.learns_from_valid:
            raise ConfigError(
                f"stream.valid is 'test', and method '{self.method.name}' learns from validation "
                "examples, which would then be those it is tested on; give "
                "method.reference_from=train, or stream.valid=carve"
            )

    def _check_replay(self, method: Any) -> None:
        r = self.replay
        budgets = {"per_class": r.per_class, "total": r.total, "share": r.share}
        given = [f"replay.{key}" for key, value in budgets.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(
                f"{' and '.join(given)} are given; the memory has one budget: leave out all but one"
            )
        if r.features == "logits" and not method.has_head and self.replay_kind == "memory":
            raise ConfigError(
                f"replay.features is 'logits', and method '{self.method.name}' has no head that "
                "gives logits; leave it out (hidden)"
            )

    @property
    def replay_kind(self) -> str:
        """``replay.kind``, with the method's own default for ``auto``."""
        default: str = METHODS.load(self.method.name).default_replay
        return default if self.replay.kind == "auto" else self.replay.kind

    @property
    def per_class(self) -> int | None:
        """``replay.per_class``; 10 where the memory has no other budget."""
        r = self.replay
        return r.per_class or (None if r.total or r.share else 10)

    @property
    def label(self) -> str:
        """What tables call the method: ``conpet-static(emr)`` for emr with dynamic replay, and
        ``progprompt(task-id)`` where a method has two modes."""
        settings = {("replay", "kind"): self.replay_kind, ("adapter", "kind"): self.adapter.kind}
        name, mode = label_of(self.method.name, settings), self.build_method().mode
        return f"{name}({mode})" if mode else name

    @property
    def selection(self) -> Literal["random", "kmeans", "herding"]:
        """``replay.selection``, with the method's own default for ``auto``."""
        given = self.replay.selection
        default: Literal["random", "kmeans", "herding"]
        default = METHODS.load(self.method.name).default_selection
        return default if given == "auto" else given

    def build_method(self) -> Any:
        """The method with its options: an instance of the registered dataclass."""
        return METHODS.load(self.method.name)(**self.method.options)

    def check_stream(self, *, text: bool) -> None:
        """ConfigError where the run cannot learn a stream, whose answers are ``text`` or classes.

        Asked before anything is learned.
        """
        if not text:
            self.build_method().check_classes()
            return
        self.build_method().check_text()
        if self.backbone.prompt != "auto":
            raise ConfigError(
                f"backbone.prompt is '{self.backbone.prompt}', and prompts of instruction tasks "
                "are made by their stream's template; leave it out (auto)"
            )
        if self.replay_kind == "memory" and self.replay.features == "logits":
            raise ConfigError(
                "replay.features is 'logits', and answers in free text come from no head that "
                "gives them; leave it out (hidden)"
            )

    def folder(self) -> Path:
        """Where the run goes: ``out``, or a name made of what distinguishes most runs."""
        stream = Path(self.stream.name).stem
        method = self.label.replace("(", "-").replace(")", "")
        return self.out or Path("runs") / f"{stream}-{method}-{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """All values in the form of the YAML file."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def identity(self) -> dict[str, Any]:
        """What defines the result: a run folder is continued only with the same."""
        values = self.to_dict()
        for key in ELSEWHERE:
            del values[key]
        del values["stream"]["data"]
        del values["backbone"]["trunk_gib"]
        if self.backbone.trunk_dtype == "auto":  # else what is kept is rounded
            del values["backbone"]["keep_trunk"]
        replay = values["replay"]
        if self.replay_kind != "memory":
            values["replay"] = {k: v for k, v in replay.items() if k not in OF_MEMORY}
        else:
            replay["selection"] = self.selection
            replay["per_class"] = self.per_class
        return values


ELSEWHERE = ("out", "device", "threads", "trackers", "checkpoint_every", "profile")
"""Keys that say where or how a run is computed; a profile counts by its values."""

OF_MEMORY = (
    "per_class",
    "total",
    "share",
    "selection",
    "features",
    "epoch",
    "frequency",
    "valid_share",
)
"""Keys of ``replay`` that say nothing about a run without a memory."""

SHORT = {
    "method": "name",
    "stream": "name",
    "backbone": "name",
    "adapter": "kind",
    "replay": "kind",
}
"""Sections that may be written as one word, and the key it stands for."""


def expand_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"stream": "fewrel"}`` -> ``{"stream": {"name": "fewrel"}}``."""
    return {
        key: {SHORT[key]: value} if key in SHORT and isinstance(value, str) else value
        for key, value in values.items()
    }


def with_own_adapter(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with what the method wants of its adapter, where they do not say it."""
    method, adapter = values.get("method"), values.get("adapter", {})
    name = method.get("name") if isinstance(method, Mapping) else None
    if not isinstance(adapter, Mapping) or not isinstance(name, str) or name not in METHODS:
        return dict(values)
    own = METHODS.load(name).adapter_defaults
    if adapter.get("kind", own.get("kind")) != own.get("kind"):
        return dict(values)  # the method says whether it can use it
    return {**values, "adapter": {**own, **adapter}} if own else dict(values)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections -> dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        section = isinstance(value, Mapping) and value and prefix != "method."
        if section and f"{prefix}{key}" not in MAPPINGS:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


MAPPINGS = ("stream.fields", "train.lr_from")
"""Keys whose value is a mapping of its own, not a section; so are options of a method."""


def diff(a: RunConfig, b: RunConfig) -> list[str]:
    """What makes ``b`` another run than ``a``: ``["train.lr: 0.002 is now 0.001"]``."""
    before, after = flatten(a.identity()), flatten(b.identity())
    return [
        f"{key}: {before.get(key, 'nothing')} is now {after.get(key, 'nothing')}"
        for key in before | after
        if (key in before, before.get(key)) != (key in after, after.get(key))
    ]
