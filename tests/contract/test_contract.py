"""The contract can fail: methods that break it in one way each are caught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conpet.methods.base import Method, ParamGroup, Phase, PhaseSpec, State
from conpet.methods.sequential import Sequential
from conpet.methods.tune import SHARED, Tune
from conpet.registry import METHODS
from conpet.replay.dynamic import NoReplay
from conpet.routing.base import single
from conpet.testing import synthetic_stream, teach, tiny_state
from conpet.testing.contract import MethodContract
from conpet.testing.runs import Case, Runs
from conpet.testing.watch import Watch
from conpet.types import Batch, Routing

STREAM = synthetic_stream()


def watched(method: Method) -> Watch:
    watch = Watch(method, tiny_state(spec=PhaseSpec(epochs=1, batch_size=4)))
    teach(watch.state, watch, *STREAM.tasks)
    return watch


class Base(Method):
    """One shared adapter; broken by its subclasses."""

    phase: type[Tune] = Tune

    def phases(self, state: State) -> Sequence[Phase]:
        return [self.phase("adapter", state.spec, SHARED, "shared", len(state.labels), NoReplay())]

    def route(self, state: State, batch: Batch) -> Routing:
        return single(SHARED, len(batch), state.device)


def test_a_method_that_keeps_to_its_declaration_has_no_stray_weights() -> None:
    watch = watched(Base())
    assert watch.stray == set()
    assert any("head.weight" in key for key in watch.moved)


def test_a_phase_that_touches_the_backbone_is_caught() -> None:
    class Touching(Tune):
        @torch.no_grad()
        def end(self, state: State) -> None:
            super().end(state)
            next(state.backbone.model.parameters())[0, 0] += 1e-6

    class Method_(Base):
        phase = Touching

    assert len([key for key in watched(Method_()).stray if "backbone/" in key]) == 1


def test_a_phase_that_declares_less_than_it_moves_is_caught() -> None:
    class Hiding(Tune):
        def trainable(self, state: State) -> Sequence[ParamGroup]:
            (group,) = super().trainable(state)
            shown = {k: p for k, p in group.parameters.items() if "head" in k}
            return [ParamGroup(shown, group.lr)]

        @torch.no_grad()
        def after_step(self, state: State, step: object) -> None:
            for name, p in state.pool.parameters_of(SHARED).items():
                if "head" not in name:
                    p += 1e-3

    class Method_(Base):
        phase = Hiding

    stray = watched(Method_()).stray
    assert stray
    assert not any("head" in key for key in stray)


@dataclass(frozen=True)
class Peeking(Sequential):
    """Prefers the classes of the task that it is not to know."""

    def scores(self, state: State, batch: Batch, routing: Routing) -> Tensor:
        scores = state.class_logits(batch, routing)
        columns = torch.arange(scores.shape[1]) // 2
        return (scores + 5.0 * (columns[None] == batch.task[:, None])).log_softmax(dim=1)


@dataclass(frozen=True)
class Random(Sequential):
    """Draws from a generator that nobody saves or seeds."""

    def phases(self, state: State) -> Sequence[Phase]:
        class Noisy(Tune):
            @torch.no_grad()
            def end(self, state: State) -> None:
                for p in state.pool.parameters_of(SHARED).values():
                    p += torch.randn(p.shape, generator=ENDLESS)
                super().end(state)

        return [Noisy("adapter", state.spec, SHARED, "shared", len(state.labels), NoReplay())]


ENDLESS = torch.Generator().manual_seed(0)


def broken(method: type[Method], folder: Path, patch: pytest.MonkeyPatch) -> Runs:
    """The runs of a method that is registered for one test."""
    patch.setattr(METHODS, "load", {"broken": method}.__getitem__)
    return Runs(Case("broken"), folder)


def test_a_method_that_reads_the_task_id_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError):
        MethodContract().test_answers_do_not_depend_on_the_task_id(
            broken(Peeking, tmp_path, monkeypatch)
        )


def test_a_method_with_randomness_of_its_own_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = broken(Random, tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        MethodContract().test_the_same_seed_gives_the_same_bits(runs)
    with pytest.raises(AssertionError):
        MethodContract().test_interrupted_and_resumed_is_uninterrupted(runs)
