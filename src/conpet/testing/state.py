"""A state without a run folder, and its training: for unit tests of methods and phases."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator

from conpet.adapters.pool import Pool
from conpet.backbones.base import Backbone
from conpet.backbones.generative import GenerativeBackbone
from conpet.encoding.encode import Encoder, TokenStore
from conpet.events import Observer
from conpet.methods.base import Method, PhaseSpec, State
from conpet.objectives.classify import ReadOut
from conpet.replay.base import Replay
from conpet.replay.dynamic import NoReplay
from conpet.replay.logits import LogitCache
from conpet.testing.backbones import tiny_bert
from conpet.training.trainer import Cost, Progress, Trainer
from conpet.types import Task

TEMPLATE = "{instruction}\n{input}\nAnswer:"
"""Of prompts to a backbone that writes answers."""


def tiny_state(
    *tasks: Task,
    backbone: Backbone | None = None,
    replay: Replay | None = None,
    spec: PhaseSpec | None = None,
    read_out: ReadOut = "mean",
    seed: int = 1,
    **adapter: Any,
) -> State:
    """A state on a tiny backbone (BERT where none is given) whose history is ``tasks``, unlearned.

    ``adapter`` are the settings of ``Pool``, e.g. ``kind="bottleneck"`` or ``rank=4``.
    """
    backbone = backbone or tiny_bert()
    writes = isinstance(backbone, GenerativeBackbone)
    encoder = Encoder(
        backbone.tokenizer,
        max_length=160 if writes else 64,
        backbone_kind=backbone.kind,
        template=TEMPLATE if writes else "",
    )
    state = State(
        backbone=backbone,
        pool=Pool(backbone, **adapter),
        store=TokenStore(encoder),
        replay=replay or NoReplay(),
        logits=LogitCache(),
        spec=spec or PhaseSpec(epochs=1, batch_size=4),
        read_out=read_out,
        seed=seed,
    )
    for task in tasks:
        _add(state, task)
    return state


def teach(state: State, method: Method, *tasks: Task, observer: Observer | None = None) -> Cost:
    """Let ``method`` learn ``tasks``, one after another; what the last one took."""
    cost = Cost()
    if not state.pool.names:
        state.modules = dict(method.modules(state))
    for task in tasks:
        _add(state, task)
        trainer = Trainer(
            state,
            method,
            accelerator=Accelerator(cpu=True),
            observer=observer or Observer(),
            save=lambda progress: None,
        )
        cost = trainer.learn(Progress())
    return cost


def _add(state: State, task: Task) -> None:
    encoded = state.store.add_task(task, len(state.history), len(state.labels))
    state.history.append(encoded)
    state.text = task
    state.planned = max(state.planned, len(state.history))
