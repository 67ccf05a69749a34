"""O-LoRA over a stream: what its terms do, what is kept, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conpet import fit, load
from conpet.config import load_config
from conpet.errors import ConfigError
from conpet.methods.base import PhaseSpec, State
from conpet.methods.o_lora import OLoRA, norms, overlap
from conpet.testing import synthetic_stream, teach, tiny_state

STREAM = synthetic_stream(n_tasks=3, labels_per_task=2, train=6)
SPEC = PhaseSpec(epochs=10, batch_size=4, lr=1e-2, select="last")


def learned(method: OLoRA) -> State:
    state = tiny_state(spec=SPEC)
    teach(state, method, *STREAM.tasks)
    return state


def overlap_of_last(state: State) -> float:
    *old, new = state.task_names
    return float(overlap(state.pool.stacked(old), state.pool.tensors(new)))


def test_the_terms_do_what_they_are_for() -> None:
    free = learned(OLoRA(orthogonality=0))
    held = learned(OLoRA(orthogonality=0.5))
    assert overlap_of_last(held) < overlap_of_last(free) / 3
    small = learned(OLoRA(orthogonality=0, norm=0.5))
    last = STREAM.tasks[-1].name
    assert norms(small.pool.tensors(last)) < norms(free.pool.tensors(last)) / 2


def test_weights_may_begin_with_a_task() -> None:
    """Until then both runs are one; what the third task does differs."""
    free = learned(OLoRA(orthogonality=0))
    later = learned(OLoRA(orthogonality=0, orthogonality_from={3: 0.5}))
    first, second, _ = (task.name for task in STREAM.tasks)
    for name in (first, second):
        ours, theirs = free.pool.tensors(name), later.pool.tensors(name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert overlap_of_last(later) < overlap_of_last(free) / 3


def test_each_task_has_a_head_and_old_ones_are_frozen() -> None:
    state = tiny_state(spec=SPEC)
    teach(state, OLoRA(), *STREAM.tasks[:2])
    before = {task.name: state.pool.tensors(task.name) for task in STREAM.tasks[:2]}
    teach(state, OLoRA(), STREAM.tasks[2])
    assert state.pool.names == state.task_names
    assert all(state.pool.head(name).n_classes == 2 for name in state.pool.names)
    for name, tensors in before.items():
        now = state.pool.tensors(name)
        assert all(torch.equal(now[key], tensor) for key, tensor in tensors.items())


def test_old_inputs_go_through_the_new_adapter_too() -> None:
    """All rows of the routing are 1, whatever the task: nothing is told apart."""
    state = learned(OLoRA())
    batch = state.batch(state.history[0].test)
    routing = OLoRA().route(state, batch.without_answers())
    assert torch.equal(routing.weights, torch.ones(len(batch), 3))
    scores = OLoRA().scores(state, batch, routing)
    assert scores.shape == (len(batch), 6)
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(len(batch)))


@pytest.mark.parametrize("kind", ["bottleneck", "prompt", "full"])
def test_other_adapters_are_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot use: it adds LoRAs up.*; allowed: lora"):
        load_config(None, [f"adapter.kind={kind}"], stream="banking77", method="o-lora")


def test_replay_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="looks at no old example; allowed: auto, none"):
        load_config(None, ["replay.kind=dynamic"], stream="banking77", method="o-lora")


def test_down_projections_are_stacked_of_frozen_lora_alone() -> None:
    state = tiny_state(*STREAM.tasks[:1])
    state.pool.add("a", seed=0)
    with pytest.raises(ConfigError, match="'a' is in training"):
        state.pool.stacked(["a"])
    state.pool.freeze("a")
    (key, a), *_ = state.pool.stacked(["a"]).items()
    assert torch.equal(a, state.pool.tensors("a")[key])
    soft = tiny_state(*STREAM.tasks[:1], kind="prompt")
    with pytest.raises(ConfigError, match="kind 'prompt' have no down-projections"):
        soft.pool.stacked([])


def test_a_run_goes_on_with_its_weights_by_task(tmp_path: Path) -> None:
    how: dict[str, Any] = {"method": "o-lora", "backbone": "tiny-bert", "train__epochs": 1}
    how |= {"method__orthogonality_from": {3: 2.0}, "train__batch_size": 4}
    fit(replace(STREAM, tasks=STREAM.tasks[:2]), out=tmp_path / "run", **how)
    model = load(tmp_path / "run").learn(replace(STREAM, tasks=STREAM.tasks[2:]))
    assert model.method == OLoRA(orthogonality_from={3: 2.0})
    straight = fit(STREAM, out=tmp_path / "straight", **how)
    assert model.matrix.to_rows() == straight.matrix.to_rows()
