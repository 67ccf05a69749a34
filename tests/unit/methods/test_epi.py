"""EPI: what a prefix learns, who answers, tasks too small to train on, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conpet import fit
from conpet.config import load_config
from conpet.errors import ConfigError
from conpet.evaluation.evaluator import answer
from conpet.methods.base import PhaseSpec, State
from conpet.methods.epi import EPI, NewPrefix
from conpet.methods.per_task import PerTask
from conpet.testing import synthetic_stream, teach, tiny_bert, tiny_llama, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream
from conpet.types import Task

STREAM = synthetic_stream(n_tasks=3, train=8, test=4)
TEXT = instruction_stream(3, train=10, valid=3, test=4)
SPEC = PhaseSpec(epochs=2, batch_size=4, lr=1e-2)


def fresh(*tasks: Task, **settings: Any) -> State:
    more = {"spec": SPEC, "kind": "prefix", "length": 4}
    return tiny_state(*tasks, **{**more, **settings})


def taught(method: EPI, *tasks: Task, **settings: Any) -> State:
    state = fresh(**settings)
    teach(state, method, *tasks)
    return state


def begun(method: EPI, n: int) -> tuple[State, NewPrefix]:
    """The first phase of task n, as it begins."""
    state = taught(method, *STREAM.tasks[: n - 1])
    task = STREAM.tasks[n - 1]
    state.history.append(state.store.add_task(task, n - 1, state.n_classes))
    state.text = task
    phase = method.phases(state)[0]
    assert isinstance(phase, NewPrefix)
    phase.begin(state)
    return state, phase


def prefix(state: State, name: str) -> Tensor:
    return state.pool.tensors(name)["prefix"]


def test_a_task_has_a_prefix_with_a_head_of_its_classes_and_its_means() -> None:
    state = taught(EPI(), *STREAM.tasks)
    assert state.pool.names == state.task_names
    assert [state.pool.head(name).n_classes for name in state.pool.names] == [2, 2, 2]
    assert not any(state.pool.is_live(name) for name in state.pool.names)
    assert state.buffers["router/mean"].shape == (6, 32)
    assert state.buffers["router/classes"].tolist() == [2, 2, 2]


def test_the_loss_is_the_cross_entropy_among_the_classes_of_the_task() -> None:
    state, phase = begun(EPI(), 2)
    batch = state.batch(state.task.train[:5])
    (loss,) = phase.loss(state, {"task": batch}).values()
    with torch.no_grad():
        h = phase._features(state, batch).numpy().astype(np.float64)
    head = state.pool.head("task-2")
    z = h @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    own = batch.label.numpy() - 2
    assert float(loss.detach()) == pytest.approx(-log_p[np.arange(5), own].mean(), abs=1e-5)
    loss.backward()
    assert state.pool.parameters_of("task-2")["prefix"].grad is not None
    assert state.pool.parameters_of("task-1") == {}


def test_it_learns_what_a_task_alone_learns() -> None:
    """No task changes another: the weights are those of one adapter a task, the task id given."""
    epi, alone = taught(EPI(), *STREAM.tasks), fresh()
    teach(alone, PerTask(), *STREAM.tasks)
    for name in epi.pool.names:
        for key, value in epi.pool.tensors(name).items():
            assert torch.equal(alone.pool.tensors(name)[key], value)


@pytest.mark.parametrize("start", ["fresh", "last", "mean"])
def test_a_prefix_starts_from_where_it_is_told(start: Any) -> None:
    state, _ = begun(EPI(start=start), 3)
    one, two, new = (prefix(state, f"task-{i}") for i in (1, 2, 3))
    for name, values in {"last": two, "mean": (one + two) / 2}.items():
        assert torch.allclose(new, values, atol=1e-6) == (name == start)
    assert state.pool.is_live("task-3")


def euclidean(state: State) -> np.ndarray:
    """(B, T) min over classes of the squared distance of the tests from the training means."""
    means = []
    for task in state.history:
        h = state.features(task.train, how="mean").astype(np.float64)
        means.append([h[task.train_labels == c].mean(axis=0) for c in np.unique(task.train_labels)])
    tests = state.features(np.concatenate([t.test for t in state.history]), how="mean")
    return np.array([[min(((h - m) ** 2).sum() for m in of) for of in means] for h in tests])


def test_with_a_sphere_for_a_covariance_the_nearest_mean_answers() -> None:
    method = EPI(shrinkage=1.0)
    state = taught(method, *STREAM.tasks)
    batch = state.batch(np.concatenate([task.test for task in state.history]))
    routing = method.route(state, batch.without_answers())
    assert routing.weights.argmax(dim=1).tolist() == euclidean(state).argmin(axis=1).tolist()
    assert bool(((routing.weights > 0).sum(dim=1) == 1).all())
    scores = method.scores(state, batch, routing)
    for row, column in zip(scores.exp(), routing.weights.argmax(dim=1).tolist(), strict=True):
        own = row[2 * column : 2 * column + 2]
        assert float(own.sum()) == pytest.approx(1, abs=1e-5)


def one_example(task: Task) -> Task:
    """A label with one training example, beside the others."""
    first = next(e for e in task.train if e.label == task.labels[0])
    others = tuple(e for e in task.train if e.label != task.labels[0])
    return replace(task, train=(first, *others))


@pytest.mark.parametrize(
    "method", [EPI(), EPI(shrinkage=0.0, weigh="classes"), EPI(weigh="classes")], ids=str
)
def test_a_class_of_one_example_leaves_no_nan(method: EPI) -> None:
    tasks = [one_example(task) for task in STREAM.tasks]
    state = taught(method, *tasks)
    assert all(bool(tensor.isfinite().all()) for tensor in state.buffers.values())
    batch = state.batch(np.concatenate([task.test for task in state.history]))
    scores = method.scores(state, batch, method.route(state, batch))
    assert bool(scores.isfinite().all())


def test_single_examples_alone_are_told_apart_by_distance() -> None:
    """Nothing is known of a covariance, and nothing is shrunk: the nearest one."""
    singles = []
    for task in STREAM.tasks:
        firsts = [next(e for e in task.train if e.label == label) for label in task.labels]
        singles.append(replace(task, train=tuple(firsts)))
    method = EPI(shrinkage=0.0, weigh="classes")
    state = taught(method, *singles)
    batch = state.batch(np.concatenate([task.train for task in state.history]))
    routed = method.route(state, batch).weights.argmax(dim=1)
    assert torch.equal(routed, batch.task), "each lies on its own mean"


def test_a_task_of_a_single_example_is_routed_to() -> None:
    label = STREAM.tasks[2].labels[0]
    only = tuple(e for e in STREAM.tasks[2].train if e.label == label)[:1]
    single = replace(
        STREAM.tasks[2],
        labels=(label,),
        train=only,
        valid=(),
        test=tuple(replace(e, id=f"again-{e.id}") for e in only),
    )
    state = taught(EPI(), *STREAM.tasks[:2], single)
    (found,) = answer(state, EPI(), [state.batch(state.task.test)])
    assert found.label == label and found.routed == ("task-3",)
    assert EPI().warnings(state) == [
        "it has one label; a prefix of its own cannot learn from that, the router can"
    ]


@pytest.mark.parametrize("make", [tiny_t5, tiny_llama])
def test_where_answers_are_free_text_a_task_is_one_class(make: Any) -> None:
    state = taught(EPI(), *TEXT.tasks, backbone=make(generative=True))
    assert state.buffers["router/classes"].tolist() == [1, 1, 1]
    batch = state.batch(np.concatenate([task.test for task in state.history]))
    q = state.features(batch.rows.numpy(), how="mean").astype(np.float64)
    means = [state.features(t.train, how="mean").mean(axis=0) for t in state.history]
    s = state.buffers["router/scatter"].numpy() / float(state.buffers["router/count"])
    inverse = np.linalg.inv(0.9 * s + 0.1 * np.trace(s) / 32 * np.eye(32))
    nearest = [int(np.argmin([(h - m) @ inverse @ (h - m) for m in means])) for h in q]
    answers = answer(state, EPI(), [batch], with_oracle=True)
    assert [state.task_names.index(a.routed[0]) for a in answers] == nearest
    assert all(a.oracle is not None for a in answers)


def test_it_brings_its_own_kind_of_adapter_and_refuses_others() -> None:
    config = load_config(None, method="epi", stream="banking77")
    assert (config.adapter.kind, config.adapter.length) == ("prefix", 16)
    for kind in ("lora", "prompt"):
        with pytest.raises(ConfigError, match=f"'{kind}', which method 'epi' cannot use: what it"):
            load_config(None, [f"adapter.kind={kind}"], method="epi", stream="banking77")
    with pytest.raises(ConfigError, match="looks at no old example"):
        load_config(None, ["replay.kind=dynamic"], method="epi", stream="banking77")


def test_a_prefix_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    longest = tiny_bert().max_length
    with pytest.raises(ConfigError, match="for a text beside a prefix"):
        fit(
            STREAM,
            out=tmp_path / "run",
            method="epi",
            backbone="tiny-bert",
            adapter__length=longest - 10,
            device="cpu",
        )
