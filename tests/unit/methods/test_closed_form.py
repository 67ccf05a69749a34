"""Methods that route in closed form: what is trained, how they answer, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conpet import fit, load
from conpet.api.dry_run import dry_run
from conpet.config import load_config
from conpet.errors import ConfigError
from conpet.evaluation.evaluator import answer
from conpet.methods.base import Method, PhaseSpec, State
from conpet.methods.closed_form import scores_of_tasks
from conpet.methods.conpet_dynamic import ConpetDynamic
from conpet.methods.sapt import SAPT
from conpet.replay.dynamic import DynamicReplay
from conpet.streams import Stream
from conpet.testing import synthetic_stream, teach, tiny_bert, tiny_llama, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream
from conpet.types import Batch

CLASSES = synthetic_stream(n_tasks=3, train=8, test=4)
TEXT = instruction_stream(3, train=10, valid=3, test=4)
SPEC = PhaseSpec(epochs=2, batch_size=4, lr=1e-2)
BACKBONES: dict[str, tuple[Callable[[], Any], Stream]] = {
    "bert": (tiny_bert, CLASSES),
    "llama": (lambda: tiny_llama(generative=True), TEXT),
    "t5": (lambda: tiny_t5(generative=True), TEXT),
}
DYNAMIC, MIXED = ConpetDynamic(router="analytic"), SAPT(router="analytic")


def taught(method: Method, backbone: str = "bert") -> State:
    make, stream = BACKBONES[backbone]
    state = tiny_state(backbone=make(), replay=DynamicReplay(10), spec=SPEC)
    teach(state, method, *stream.tasks)
    return state


def asked(state: State) -> Batch:
    return state.batch(np.concatenate([task.test for task in state.history]))


def plain_means(state: State, rows: np.ndarray) -> np.ndarray:
    """One by one, so that no padding is there."""
    found = []
    for row in rows:
        one = state.batch(np.array([row]))
        n = int(one.attention_mask.sum())
        with torch.no_grad():
            found.append(state.backbone(one.input_ids, one.attention_mask)[0, :n].mean(dim=0))
    return torch.stack(found).double().numpy()


def distances(state: State, shrinkage: float) -> np.ndarray:
    """(B, T) of the tests, from the training features alone; free answers: a class a task."""
    means, s, n = [], np.zeros((32, 32)), 0
    for task in state.history:
        h = plain_means(state, task.train)
        label = task.train_labels if task.labels else np.zeros(len(h))
        means.append([h[label == c].mean(axis=0) for c in np.unique(label)])
        for c in np.unique(label):
            z = h[label == c] - h[label == c].mean(axis=0)
            s, n = s + z.T @ z, n + len(z)
    s /= n
    sigma = (1 - shrinkage) * s + shrinkage * np.trace(s) / 32 * np.eye(32)
    inverse, tests = np.linalg.inv(sigma), np.concatenate([t.test for t in state.history])
    out = [
        [min((h - mean) @ inverse @ (h - mean) for mean in of) for of in means]
        for h in plain_means(state, tests)
    ]
    return np.array(out)


def relative(distance: np.ndarray) -> np.ndarray:
    return -0.5 * (distance - distance.min(axis=1, keepdims=True))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", [DYNAMIC, MIXED], ids=["conpet-dynamic", "sapt"])
def test_the_scores_are_those_of_the_training_prompts_of_the_plain_backbone(
    method: Method, backbone: str
) -> None:
    state = taught(method, backbone)
    found = scores_of_tasks(state, asked(state).without_answers())
    np.testing.assert_allclose(found, relative(distances(state, 0.1)), rtol=1e-3, atol=1e-3)


def test_no_selector_is_trained_and_its_place_is_taken() -> None:
    state = tiny_state(*CLASSES.tasks[:2], replay=DynamicReplay(10), spec=SPEC)
    assert [p.name for p in DYNAMIC.phases(state)] == ["router", "adapter"]
    state = taught(DYNAMIC)
    assert set(state.pool.names) == set(state.task_names)
    batch = asked(state)
    scores = scores_of_tasks(state, batch)
    routing = DYNAMIC.route(state, batch.without_answers())
    assert routing.combine == "expand" and bool(((routing.weights > 0).sum(dim=1) == 1).all())
    assert torch.equal(routing.weights.argmax(dim=1), scores.argmax(dim=1))
    two = ConpetDynamic(router="analytic", top_k=2).route(state, batch.without_answers())
    chosen = scores.topk(2, dim=1).indices
    assert bool((two.weights.gather(1, chosen) > 0).all())
    assert bool(((two.weights > 0).sum(dim=1) == 2).all())
    torch.testing.assert_close(
        two.weights.gather(1, chosen), scores.softmax(dim=1).gather(1, chosen)
    )


def test_in_training_the_true_task_is_always_among_the_chosen() -> None:
    method = ConpetDynamic(router="analytic", top_k=2)
    state = taught(method)
    batch = asked(state)
    wrong = (batch.task + 1) % 3  # as if each belonged elsewhere
    routing = method.routed(state, batch, wrong)
    assert bool((routing.weights.gather(1, wrong[:, None]) > 0).all())


def test_each_adapter_of_sapt_learns_alone_and_there_is_no_attention() -> None:
    state = tiny_state(*CLASSES.tasks[:2], spec=SPEC)
    assert MIXED.modules(state) == {} and not MIXED.learns_from_valid
    adapter, router = MIXED.phases(state)
    assert (adapter.name, router.name) == ("adapter", "router")
    both, alone = taught(MIXED), tiny_state(spec=SPEC)
    teach(alone, MIXED, CLASSES.tasks[0])
    for key, value in alone.pool.tensors("task-1").items():
        assert torch.equal(both.pool.tensors("task-1")[key], value)
    assert both.pseudo == {} and both.modules == {}
    assert both.pool.head("task-3").n_classes == 2


def test_the_probability_of_a_class_is_that_of_its_task_times_its_own() -> None:
    state = taught(MIXED)
    batch = asked(state).without_answers()
    with torch.no_grad():
        routing = MIXED.route(state, batch)
        found = MIXED.scores(state, batch, routing).exp()
        weights = relative(distances(state, 0.1))
        a = np.exp(weights) / np.exp(weights).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(routing.weights, a, rtol=0, atol=1e-4)
        h = state.forward(batch, routing).features
        for t, name in enumerate(state.task_names):
            own = state.pool.head(name)(h).softmax(dim=1) * routing.weights[:, t : t + 1]
            torch.testing.assert_close(found[:, 2 * t : 2 * t + 2], own, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(batch)))


def test_of_many_adapters_few_answer_where_top_k_says_so() -> None:
    state = taught(MIXED)
    routing = SAPT(router="analytic", top_k=1).route(state, asked(state).without_answers())
    assert routing.top == 1 and sorted(set(routing.weights.unique().tolist())) == [0.0, 1.0]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", [DYNAMIC, MIXED], ids=["conpet-dynamic", "sapt"])
def test_if_the_task_is_known_its_own_adapter_answers(method: Method, backbone: str) -> None:
    state = taught(method, backbone)
    batch = asked(state)
    known = method.oracle(state, batch)
    assert torch.equal(known.weights.argmax(dim=1), batch.task)
    assert bool((known.weights.sum(dim=1) == 1).all()) and known.names == state.task_names
    for one in answer(state, method, [batch], with_oracle=True):
        assert one.oracle is not None
        assert state.writes or one.oracle in state.history[_task(state, one.row)].labels


def _task(state: State, row: int) -> int:
    return next(i for i, task in enumerate(state.history) if row in task.test)


def test_the_order_of_the_tasks_does_not_change_who_answers() -> None:
    def routed(tasks: tuple[Any, ...]) -> dict[str, Tensor]:
        state = tiny_state(spec=PhaseSpec(epochs=1, batch_size=8))
        teach(state, MIXED, *tasks)
        found = {}
        for task, encoded in zip(tasks, state.history, strict=True):
            routing = MIXED.route(state, state.batch(encoded.test))
            columns = [routing.names.index(t.name) for t in CLASSES.tasks]
            found[task.name] = routing.weights[:, columns]
        return found

    one, other = routed(CLASSES.tasks), routed(CLASSES.tasks[::-1])
    for name, weights in one.items():
        torch.testing.assert_close(other[name], weights, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.selector_lr=0.1"], "method.selector_lr is 0.1, which concerns method.router=sel"),
        (["method.balance=true"], "method.balance is True"),
        (["method.start=selector"], "method.start is selector"),
        (["method.top_k=all"], "give a number as method.top_k"),
        (["method=sapt", "method.reflection=2"], "method.reflection is 2.0, which concerns"),
        (["method=sapt", "method.pseudo=real"], "concerns method.router=attention alone"),
        (["method=sapt", "method.router=attention", "method.shrinkage=0.3"], "router=analytic"),
        (["method.router=selector", "method.shrinkage=0.3"], "concerns method.router=analytic"),
    ],
)
def test_options_of_the_other_router_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, ["method.router=analytic", *words], stream="banking77")


@pytest.mark.parametrize("method", ["conpet-dynamic", "sapt"])
def test_a_run_says_who_answers_and_a_dry_run_counts_its_sums(method: str, tmp_path: Path) -> None:
    settings = {"method": method, "method__router": "analytic", "backbone": "tiny-bert"}
    more = {"train__epochs": 1, "device": "cpu", "precision": "fp32", "threads": 1}
    model = fit(CLASSES, out=tmp_path / "run", **settings, **more)
    (weights,) = load(tmp_path / "run", device="cpu").route([CLASSES.tasks[2].test[0].text])
    assert set(weights) == set(model.tasks) and sum(weights.values()) == pytest.approx(1, abs=0.1)
    plan = dry_run(model.config, CLASSES)
    stored = model.store.tasks[-1]["cost"]["stored_parameters"]
    assert plan.unknown == () and sum(n or 0 for n in plan.stored.values()) == stored
