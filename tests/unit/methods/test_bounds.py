"""The bounds: sequential, joint, per-task and lda."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conpet import fit, load
from conpet.errors import ConfigError
from conpet.events import Observer
from conpet.methods.base import PhaseSpec, State
from conpet.methods.joint import JOINT, Joint
from conpet.methods.lda import LDA
from conpet.methods.per_task import PerTask
from conpet.methods.sequential import Sequential
from conpet.methods.tune import SHARED
from conpet.testing import synthetic_stream, teach, tiny_state

STREAM = synthetic_stream(n_tasks=3)
SPEC = PhaseSpec(epochs=2, batch_size=4, lr=1e-2)


def learned(method: Any, n: int = 3, **options: Any) -> State:
    state = tiny_state(spec=SPEC, **options)
    teach(state, method, *STREAM.tasks[:n])
    return state


@torch.no_grad()
def right(state: State, method: Any, *, task_known: bool = False) -> list[float]:
    """Share of right answers by task."""
    shares = []
    for task in state.history:
        batch = state.batch(task.test)
        seen = batch if task_known else batch.without_answers()
        scores = method.scores(state, seen, method.route(state, seen))
        shares.append(float((scores.argmax(dim=1) == batch.label).float().mean()))
    return shares


def test_the_head_of_sequential_grows_by_task() -> None:
    state = tiny_state(spec=SPEC)
    for n, task in enumerate(STREAM.tasks, start=1):
        teach(state, Sequential(), task)
        assert state.pool.head(SHARED).n_classes == 2 * n
        assert state.pool.names == (SHARED,)


def test_old_rows_of_sequential_begin_a_task_as_they_ended_the_last() -> None:
    state = learned(Sequential(), 2)
    before = state.pool.tensors(SHARED)
    state.history.append(state.store.add_task(STREAM.tasks[2], 2, 4))
    (phase,) = Sequential().phases(state)
    phase.begin(state)
    after = state.pool.tensors(SHARED)
    assert after["head.weight"].shape[0] == 6
    assert all(torch.equal(after[key][: len(t)], t) for key, t in before.items())


def test_sequential_forgets_and_joint_does_not() -> None:
    spec = PhaseSpec(epochs=8, batch_size=4, lr=1e-2)
    shares = {}
    for method in (Sequential(), Joint()):
        state = tiny_state(spec=spec)
        state.planned = 3
        teach(state, method, *STREAM.tasks)
        shares[type(method)] = right(state, method)
    assert shares[Sequential][-1] == 1.0
    assert np.mean(shares[Sequential][:-1]) <= 0.2
    assert np.mean(shares[Joint]) >= 0.9


def test_joint_waits_for_the_last_task() -> None:
    state = tiny_state(*STREAM.tasks[:2])
    state.planned = 3
    assert Joint().phases(state) == []
    assert not Joint().ready(state)


def test_rows_of_joint_before_the_last_are_not_numbers(tmp_path: Path) -> None:
    model = small_fit("joint", tmp_path)
    values = model.matrix.values
    assert np.isnan(values[:-1]).all()
    assert not np.isnan(values[-1]).any()
    assert [p.name for p in sorted(model.folder.predictions.iterdir())] == ["03.jsonl"]


def test_joint_sees_the_union_once_an_epoch() -> None:
    state = tiny_state(*STREAM.tasks, spec=SPEC)
    (phase,) = Joint().phases(state)
    rows = [step["task"].rows for step in phase.batches(state, 0)]
    everything = np.concatenate([task.train for task in state.history])
    assert sorted(torch.cat(rows).tolist()) == sorted(everything.tolist())


def test_joint_takes_the_steps_it_is_given() -> None:
    state = tiny_state(spec=SPEC)
    state.planned = 3
    assert teach(state, Joint(steps=5), *STREAM.tasks).steps == 5


@pytest.mark.parametrize("kind", ["lora", "bottleneck", "full"])
def test_a_later_union_starts_from_nothing(kind: str) -> None:
    waited = tiny_state(spec=SPEC, kind=kind)
    waited.planned = 3
    teach(waited, Joint(), *STREAM.tasks)
    again = learned(Joint(), kind=kind)  # after each task
    assert again.pool.names == (JOINT,)
    for key, tensor in waited.pool.tensors(JOINT).items():
        assert torch.equal(again.pool.tensors(JOINT)[key], tensor)


def test_joint_that_was_broken_off_says_that_it_cannot_answer_yet(tmp_path: Path) -> None:
    class Stop(Observer):
        def task_ended(self, row: Any, averages: Any, cost: Any) -> None:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        small_fit("joint", tmp_path, observer=Stop())
    model = load(tmp_path / "run", device="cpu")
    with pytest.raises(ConfigError, match="only after the last task"):
        model.predict(["ba ba"])
    with pytest.raises(ConfigError, match="only after the last task"):
        model.evaluate()


def test_per_task_answers_within_the_task_it_is_told() -> None:
    state = tiny_state(spec=PhaseSpec(epochs=8, batch_size=4, lr=1e-2))
    teach(state, PerTask(), *STREAM.tasks)
    assert right(state, PerTask(), task_known=True) == [1.0] * 3
    batch = state.batch(state.history[0].test)
    with torch.no_grad():
        told = PerTask().scores(state, batch, PerTask().route(state, batch))
    assert told[:, 2:].exp().max() < 1e-30
    torch.testing.assert_close(told[:, :2].exp().sum(dim=1), torch.ones(len(batch)))


def test_the_adapters_of_per_task_know_nothing_of_each_other() -> None:
    """A task's adapter is the same whatever came before, but for its seed."""
    all_tasks, first = learned(PerTask(), 3), learned(PerTask(), 1)
    name = STREAM.tasks[0].name
    for key, tensor in first.pool.tensors(name).items():
        assert torch.equal(all_tasks.pool.tensors(name)[key], tensor)


def test_lda_trains_nothing_and_adds_no_adapter() -> None:
    state = tiny_state(spec=SPEC)
    cost = teach(state, LDA(), *STREAM.tasks)
    assert (cost.steps, cost.tuned_parameters, state.pool.names) == (0, 0, ())
    assert np.mean(right(state, LDA())) >= 0.8


def test_lda_on_one_example_a_class_takes_the_nearest_mean() -> None:
    stream = synthetic_stream(n_tasks=3, labels_per_task=1, train=1)
    state = tiny_state()
    for task in stream.tasks:
        teach(state, LDA(), task)
    means = np.concatenate([state.features(task.train) for task in state.history])
    tests = np.concatenate([task.test for task in state.history])
    batch = state.batch(tests)
    scores = LDA().scores(state, batch, LDA().route(state, batch))
    distance = ((state.features(tests)[:, None] - means[None]) ** 2).sum(axis=2)
    assert scores.argmax(dim=1).tolist() == distance.argmin(axis=1).tolist()


@pytest.mark.parametrize("shrinkage", [0.0, 1.5])
def test_lda_needs_a_share_of_the_sphere(shrinkage: float) -> None:
    with pytest.raises(ValueError, match="shrinkage"):
        LDA(shrinkage=shrinkage)


def small_fit(method: str, folder: Path, observer: Observer | None = None) -> Any:
    return fit(
        STREAM,
        out=folder / "run",
        method=method,
        backbone="tiny-bert",
        observer=observer,
        train__epochs=1,
        threads=1,
        device="cpu",
        precision="fp32",
    )
