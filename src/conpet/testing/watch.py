"""A method under watch: what moves in a phase beside what the phase declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from conpet.methods.base import LossTerms, Method, ParamGroup, Phase, State, Step
from conpet.types import Batch, Routing

Snapshot = dict[str, Tensor]


class Watch(Method):
    """Does what ``method`` does, and compares all weights before and after each of its phases.

    Attributes:
        method: the watched one.
        state: what it learns.
        moved: weights that a phase declared as trainable and changed.
        stray: weights that changed though the phase did not declare them.
    """

    def __init__(self, method: Method, state: State) -> None:
        self.method, self.state = method, state
        self.moved: set[str] = set()
        self.stray: set[str] = set()

    def phases(self, state: State) -> Sequence[Phase]:
        return [_Watched(phase, self) for phase in self.method.phases(state)]

    def modules(self, state: State) -> Mapping[str, nn.Module]:
        return self.method.modules(state)

    def route(self, state: State, batch: Batch) -> Routing:
        return self.method.route(state, batch)

    def oracle(self, state: State, batch: Batch) -> Routing:
        return self.method.oracle(state, batch)

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        return self.method.scores(state, batch, routing)

    def ready(self, state: State) -> bool:
        return self.method.ready(state)


class _Watched(Phase):
    def __init__(self, phase: Phase, watch: Watch) -> None:
        self.phase, self.watch = phase, watch
        self.name, self.spec = phase.name, phase.spec
        self.before: Snapshot = {}
        self.begun: Snapshot = {}
        self.declared: set[str] = set()

    def begin(self, state: State) -> None:
        self.before = _weights(state)
        self.phase.begin(state)
        self.begun = _weights(state)

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        groups = self.phase.trainable(state)
        wanted = {id(p) for group in groups for p in group.parameters.values()}
        self.declared = {key for key, p in _parameters(state).items() if id(p) in wanted}
        return groups

    def begin_epoch(self, state: State, epoch: int) -> None:
        self.phase.begin_epoch(state, epoch)

    def batches(self, state: State, epoch: int) -> Sequence[Step]:
        return self.phase.batches(state, epoch)

    def loss(self, state: State, step: Step) -> LossTerms:
        return self.phase.loss(state, step)

    def validate(self, state: State) -> float | None:
        return self.phase.validate(state)

    def after_backward(self, state: State) -> None:
        self.phase.after_backward(state)

    def after_step(self, state: State, step: Step) -> None:
        self.phase.after_step(state, step)

    def end(self, state: State) -> None:
        self.phase.end(state)
        after = _weights(state)
        stray = _changed(self.before, after) - self.declared
        moved = _changed(self.begun, after) & self.declared
        self.watch.stray |= {f"{self.name}: {key}" for key in stray}
        self.watch.moved |= {f"{self.name}: {key}" for key in moved}


def _changed(before: Snapshot, after: Snapshot) -> set[str]:
    """What is in both and not bitwise the same."""
    both = before.keys() & after.keys()
    return {key for key in both if not torch.equal(before[key], after[key])}


def _weights(state: State) -> Snapshot:
    """Copies of all weights there are: the backbone's, every adapter's and every module's."""
    found = {
        f"module/{m}/{key}": p
        for m, x in state.modules.items()
        for key, p in x.state_dict().items()
    }
    for name in state.pool.names:
        found |= {f"adapter/{name}/{key}": p for key, p in state.pool.tensors(name).items()}
    if state.pool.settings()["kind"] != "full":  # there the backbone's weights are the adapter
        found |= {f"backbone/{key}": p for key, p in state.backbone.model.state_dict().items()}
    return {key: tensor.detach().clone() for key, tensor in found.items()}


def _parameters(state: State) -> dict[str, Tensor]:
    """The parameters that can be declared, by the names of ``_weights``."""
    found: dict[str, Tensor] = {
        f"module/{m}/{key}": p for m, x in state.modules.items() for key, p in x.named_parameters()
    }
    for name in state.pool.names:
        found |= {f"adapter/{name}/{key}": p for key, p in state.pool.parameters_of(name).items()}
    return found
