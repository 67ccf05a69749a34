"""What a run would take, without its backbone: steps, parameters and memory.

The method's own phases are asked, task after task, on a state whose backbone has shapes and no
values (``conpet.backbones.shapes``); nothing is trained. Whatever cannot be known so is None, and
``DryRun.unknown`` says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from conpet.api.opened import encoder_of, pool_of, replay_of, spec_of
from conpet.backbones.base import Backbone
from conpet.backbones.shapes import shape_of, values_as_zeros
from conpet.config import RunConfig
from conpet.encoding.encode import Encoder, TokenStore
from conpet.errors import ConpetError
from conpet.methods.base import Method, ParamGroup, Phase, State
from conpet.registry import STREAMS
from conpet.replay.logits import LogitCache
from conpet.replay.memory import MemoryReplay
from conpet.streams import Card, Stream
from conpet.types import Example, Task

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
QUANTISED = {"bitsandbytes-8bit": 1.0, "bitsandbytes-4bit": 0.5, "torchao-int8": 1.0}
"""Bytes of a weight of a projection; the scales beside them are left out."""

NOT_KNOWN = (ConpetError, RuntimeError, ValueError, LookupError, TypeError)
"""What a method may raise that needs more than shapes; torch's errors are RuntimeErrors."""


@dataclass(frozen=True)
class PhasePlan:
    """One phase of one task.

    Attributes:
        steps: optimiser steps, at most; None where they are not known.
        tuned: parameters that the optimiser moves, by part: ``adapter``, ``head``, and those of the
            method's own modules.
    """

    name: str
    steps: int | None
    tuned: Mapping[str, int] | None


@dataclass(frozen=True)
class TaskPlan:
    """A task and its phases; ``train`` is its number of training examples."""

    name: str
    train: int | None
    phases: Sequence[PhasePlan]

    @property
    def steps(self) -> int | None:
        return _sum(phase.steps for phase in self.phases)


@dataclass(frozen=True)
class DryRun:
    """What a configuration would take with one backbone.

    Attributes:
        parameters: of the backbone.
        stored: parameters that are kept beside it after the last task: ``adapters`` with their
            heads, the method's ``modules`` and its ``buffers``.
        memory: bytes. ``backbone``: its frozen weights. ``adapters``, ``modules`` and ``buffers``:
            as they lie in memory after the last task (fp32; room for adapters grows by doubling).
            ``optimiser``: of the phase that tunes most, gradients and the two moments of AdamW,
            and a copy of the best state where one is kept. Activations are not among them, nor
            what answering keeps of a prompt.
        unknown: why a number is None.
    """

    backbone: str
    parameters: int
    tasks: Sequence[TaskPlan]
    stored: Mapping[str, int | None]
    memory: Mapping[str, int | None]
    unknown: Sequence[str]

    @property
    def train(self) -> int | None:
        return _sum(task.train for task in self.tasks)

    @property
    def steps(self) -> int | None:
        return _sum(task.steps for task in self.tasks)

    def steps_of(self, phase: str) -> int | None:
        """Those of a phase, in all tasks."""
        return _sum(p.steps for task in self.tasks for p in task.phases if p.name == phase)


def dry_run(config: RunConfig, stream: Stream | None = None) -> DryRun:
    """Plan a run.

    Args:
        stream: None where its data are not there: tasks are then those of its card, and what
            depends on the number of examples is not known.

    Raises:
        ConfigError, DataError: the run would refuse the configuration with this backbone or stream.
            (Not told: texts of the stream that make no prompt, for they are not encoded; and with
            the shape of a published model, whose tokenizer is not there, whether texts fit.)
        ConfigError: the backbone's shape is not known.
    """
    b = config.backbone
    tasks = stream.tasks if stream is not None else _named_tasks(config)
    template = stream.template if stream is not None else _card(config).template or ""
    free = bool(template)
    config.check_stream(text=free)
    backbone = shape_of(b.name, dtype=b.dtype, layers=b.layers, generative=free)
    state = _state(config, backbone, len(tasks), free)
    parameters = sum(p.numel() for p in backbone.model.parameters())
    with values_as_zeros():
        method: Method = config.build_method()
        _check(config, method, state, tasks, template)
        state.modules = dict(method.modules(state))
        walk = _Walk(state, method, counts=stream is not None)
        plans = [walk.learn(task) for task in tasks]
    if stream is None:
        walk.unknown.append("what depends on the number of examples, as the data are not there")
    memory = {"backbone": round(_weights(backbone, b.quantisation, BYTES[b.dtype]))}
    return DryRun(
        b.name,
        parameters,
        plans,
        walk.stored(),
        {**memory, **walk.memory()},
        tuple(dict.fromkeys(walk.unknown)),
    )


def _check(
    config: RunConfig, method: Method, state: State, tasks: Sequence[Task], template: str
) -> None:
    """What a run asks before it learns, with the prompts that it would make."""
    state.replay.check(sum(max(1, len(task.labels)) for task in tasks))
    prompt, n_tasks = config.backbone.prompt, len(tasks)
    encoder = encoder_of(config, state.backbone, template, prompt, n_tasks=n_tasks)
    method.check_tasks(replace(state, store=TokenStore(encoder)), tasks)


def _card(config: RunConfig) -> Card:
    card: Card = STREAMS.load(config.stream.name)
    return card


def _named_tasks(config: RunConfig) -> list[Task]:
    """The tasks that a stream's card names, without examples; the order is the run's."""
    c, orders = config.stream, _card(config).orders or {}
    names = c.tasks or (orders[c.order] if c.order else next(iter(orders.values())))
    return [Task(name, (), (), (), ()) for name in names if c.only is None or name in c.only]


def names_its_tasks(config: RunConfig) -> bool:
    """Whether the card of a stream of free answers says its tasks, so that no data are needed."""
    if config.stream.name not in STREAMS:
        return False
    card = _card(config)
    return card.template is not None and bool(card.orders)


def _state(config: RunConfig, backbone: Backbone, n_tasks: int, free: bool) -> State:
    replay = replay_of(config)
    if isinstance(replay, MemoryReplay):  # however they are chosen, there are as many of them
        replay = replace(replay, selection="random")
    encoder = Encoder(
        backbone.tokenizer,
        backbone_kind=backbone.kind,
        prompt="plain",
        template="{input}" if free else "",
    )
    return State(
        backbone=backbone,
        pool=pool_of(config, backbone),
        store=TokenStore(encoder),
        replay=replay,
        logits=LogitCache(),
        spec=spec_of(config),
        read_out="mean",
        seed=config.seed,
        planned=n_tasks,
    )


@dataclass
class _Walk:
    """Goes through the phases of a method.

    Attributes:
        counts: whether the tasks have their examples.
        lost: a phase could not begin: what comes behind it is not known.
        optimiser: bytes of the phase that tunes most so far.
    """

    state: State
    method: Method
    counts: bool
    unknown: list[str] = field(default_factory=list)
    lost: bool = False
    buffers_known: bool = True
    optimiser: int = 0

    def learn(self, task: Task) -> TaskPlan:
        """One more task."""
        state = self.state
        stand_in = _stand_in(task) if self.counts else _nobody(task)
        encoded = state.store.add_task(stand_in, len(state.history), state.n_classes)
        state.history.append(encoded)
        state.text = task
        plans = [self._phase(phase) for phase in self.method.phases(state)]
        return TaskPlan(task.name, len(task.train) if self.counts else None, plans)

    def _phase(self, phase: Phase) -> PhasePlan:
        if self.lost:
            return PhasePlan(phase.name, None, None)
        try:
            phase.begin(self.state)
            groups = phase.trainable(self.state)
        except NOT_KNOWN as error:
            self.lost = True
            self._say(phase, "begins", error)
            return PhasePlan(phase.name, None, None)
        steps = self._steps(phase)
        trains = phase.spec.steps is not None or phase.spec.epochs > 0
        tuned = _tuned(self.state, groups) if trains else {}
        if trains:
            self.optimiser = max(self.optimiser, _optimiser_bytes(phase, groups))
        self._end(phase)
        return PhasePlan(phase.name, steps, tuned)

    def _steps(self, phase: Phase) -> int | None:
        """Optimiser steps, as the trainer counts them."""
        spec = phase.spec
        if spec.steps is not None:
            return spec.steps
        if not spec.epochs:
            return 0
        if not self.counts:
            return None
        try:
            batches = spec.epochs * len(phase.batches(self.state, 0))
        except NOT_KNOWN as error:
            self._say(phase, "draws its batches", error)
            return None
        if spec.max_steps is not None:
            batches = min(batches, spec.max_steps * spec.accumulate)
        return math.ceil(batches / spec.accumulate)

    def _end(self, phase: Phase) -> None:
        try:
            if not phase.sketch(self.state):
                phase.end(self.state)
        except NOT_KNOWN as error:
            self.buffers_known = False
            self._say(phase, "ends", error)
            for name in self.state.pool.names:
                self.state.pool.freeze(name)

    def _say(self, phase: Phase, moment: str, error: Exception) -> None:
        first = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
        self.unknown.append(
            f"phase '{phase.name}' needs a model with weights where it {moment} ({first})"
        )

    def stored(self) -> dict[str, int | None]:
        """Parameters, as a run's ``stored_parameters`` counts them."""
        pool = self.state.pool
        adapters = sum(sum(pool.count(name)) for name in pool.names)
        buffers = sum(tensor.numel() for tensor in self.state.buffers.values())
        return {
            "adapters": None if self.lost else adapters,
            "modules": None if self.lost else sum(p.numel() for p in self._module_tensors()),
            "buffers": buffers if self._buffers_counted else None,
        }

    def memory(self) -> dict[str, int | None]:
        """Bytes, the backbone aside."""
        pool = [*self.state.pool.parameters(), *self.state.pool.buffers()]
        return {
            "adapters": None if self.lost else _bytes(pool),
            "modules": None if self.lost else _bytes(self._module_tensors()),
            "buffers": _bytes(self.state.buffers.values()) if self._buffers_counted else None,
            "optimiser": None if self.lost else self.optimiser,
        }

    @property
    def _buffers_counted(self) -> bool:
        return self.counts and self.buffers_known and not self.lost

    def _module_tensors(self) -> list[Tensor]:
        return [p for module in self.state.modules.values() for p in module.parameters()]


def _stand_in(task: Task) -> Task:
    """The task with texts of one word, for which no tokenizer is needed."""

    def short(examples: Iterable[Example]) -> tuple[Example, ...]:
        return tuple(
            replace(
                e, text="word", entities=(), instruction="", answers=("word",) * bool(e.answers)
            )
            for e in examples
        )

    return replace(task, train=short(task.train), valid=short(task.valid), test=short(task.test))


def _nobody(task: Task) -> Task:
    """The task with some examples, where it is not known how many it has."""
    examples = (Example(f"{task.name}-{i}", "word", answers=("word",)) for i in range(2))
    return replace(task, train=tuple(examples))


def _tuned(state: State, groups: Sequence[ParamGroup]) -> dict[str, int]:
    """Parameters by part."""
    parts: dict[int, str] = {}
    for name in state.pool.names:
        for key, p in state.pool.parameters_of(name).items():
            parts[id(p)] = "head" if key.startswith("head.") else "adapter"
    found: dict[str, int] = {}
    for group in groups:
        for name, p in group.parameters.items():
            part = parts.get(id(p)) or _module_part(name)
            found[part] = found.get(part, 0) + p.numel()
    return found


def _module_part(name: str) -> str:
    """``attention.projection.0.weight`` -> ``attention.projection``."""
    words = name.split(".")
    while len(words) > 1 and (words[-1].isdigit() or words[-1] in ("weight", "bias")):
        words.pop()
    return ".".join(words)


def _optimiser_bytes(phase: Phase, groups: Sequence[ParamGroup]) -> int:
    """Gradients, two moments, and the best state so far where it is kept."""
    copies = 3 + (phase.spec.select == "best" and phase.spec.epochs > 0)
    return copies * _bytes(p for group in groups for p in group.parameters.values())


def _weights(backbone: Backbone, quantisation: str, size: float) -> float:
    """Bytes of the frozen weights. Of quantised ones the head and the embeddings stay whole."""
    every = sum(p.numel() for p in backbone.model.parameters())
    if quantisation == "none":
        return size * every
    head: Any = backbone.model.get_output_embeddings()
    projections = [m for m in backbone.every_linear().values() if m is not head]
    quantised = sum(m.weight.numel() for m in projections)
    return size * (every - quantised) + QUANTISED[quantisation] * quantised


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = list(numbers)
    return None if None in known else sum(n for n in known if n is not None)


__all__ = ["DryRun", "PhasePlan", "TaskPlan", "dry_run", "names_its_tasks"]
