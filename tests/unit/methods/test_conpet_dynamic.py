"""Dynamic ConPET: its phases, what they may not touch, and tasks too small to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conpet import fit
from conpet.config import load_config
from conpet.errors import ConfigError
from conpet.events import Observer
from conpet.methods.base import PhaseSpec
from conpet.methods.conpet_dynamic import SELECTOR, ConpetDynamic
from conpet.replay.dynamic import DynamicReplay, FullReplay, NoReplay
from conpet.replay.memory import Budget, MemoryReplay
from conpet.streams import Stream
from conpet.testing import synthetic_stream, teach, tiny_state
from conpet.types import Task

STREAM = synthetic_stream(n_tasks=3)
SPEC = PhaseSpec(epochs=2, batch_size=4, lr=1e-2)


def names_of(method: ConpetDynamic, tasks: Sequence[Task]) -> list[tuple[str, int]]:
    state = tiny_state(*tasks, replay=DynamicReplay(10), spec=SPEC)
    return [(phase.name, phase.spec.epochs) for phase in method.phases(state)]


def one_label(task: Task) -> Task:
    (label, *_) = task.labels
    parts = {s: tuple(e for e in getattr(task, s) if e.label == label) for s in SPLITS}
    return replace(task, labels=(label,), **parts)


def one_example(task: Task) -> Task:
    return replace(one_label(task), train=one_label(task).train[:1])


SPLITS = ("train", "valid", "test")


def test_the_first_task_has_no_selector() -> None:
    assert names_of(ConpetDynamic(), STREAM.tasks[:1]) == [("adapter", 2)]


def test_later_tasks_train_the_selector_first_by_its_own_settings() -> None:
    assert names_of(ConpetDynamic(), STREAM.tasks[:2]) == [("selector", 2), ("adapter", 2)]
    method = ConpetDynamic(selector_epochs=5, selector_lr=0.5)
    selector, adapter = method.phases(tiny_state(*STREAM.tasks[:2], spec=SPEC))
    assert (selector.spec.epochs, selector.spec.lr) == (5, 0.5)
    assert (adapter.spec.epochs, adapter.spec.lr) == (2, 1e-2)


def test_with_all_adapters_there_is_no_selector_to_train() -> None:
    assert names_of(ConpetDynamic(top_k="all"), STREAM.tasks) == [("adapter", 2)]


@pytest.mark.parametrize("small", [one_label, one_example])
def test_a_task_that_cannot_teach_an_adapter_skips_that_phase_alone(small: Any) -> None:
    tasks = [STREAM.tasks[0], small(STREAM.tasks[1])]
    assert names_of(ConpetDynamic(), tasks) == [("selector", 2), ("adapter", 0)]


def test_every_task_has_an_adapter_with_a_head_of_its_classes_and_the_selector_one_of_tasks() -> (
    None
):
    state = tiny_state(replay=DynamicReplay(10), spec=SPEC)
    teach(state, ConpetDynamic(), *STREAM.tasks)
    assert set(state.pool.names) == {*state.task_names, SELECTOR}
    assert [state.pool.head(name).n_classes for name in state.task_names] == [2, 2, 2]
    assert state.pool.head(SELECTOR).n_classes == 3
    assert not any(state.pool.is_live(name) for name in state.pool.names)


def test_the_selector_goes_on_from_where_it_was() -> None:
    """Its adapter and its old rows are those of the last stage until the first step."""
    state = tiny_state(replay=DynamicReplay(10), spec=SPEC)
    teach(state, ConpetDynamic(), *STREAM.tasks[:2])
    before = state.pool.tensors(SELECTOR)
    teach(state, ConpetDynamic(), STREAM.tasks[2], observer=(watch := AtFirstStep(state)))
    assert watch.tensors is not None
    for key, tensor in before.items():
        assert torch.equal(watch.tensors[key][: len(tensor)], tensor)


@pytest.mark.parametrize("target", ["task", "label"])
def test_an_adapter_may_start_as_a_copy_of_the_selector(target: Any) -> None:
    state = tiny_state(replay=DynamicReplay(10), spec=SPEC)
    method = ConpetDynamic(start="selector", selector_target=target)
    teach(state, method, STREAM.tasks[0])
    watch = AtFirstStep(state, "adapter", "task-2")
    teach(state, method, STREAM.tasks[1], observer=watch)
    assert watch.tensors is not None
    for key, tensor in state.pool.tensors(SELECTOR).items():
        if not key.startswith("head."):
            assert torch.equal(watch.tensors[key], tensor)
        elif target == "label":  # the rows of the new labels
            assert torch.equal(watch.tensors[key], tensor[2:])
    assert len(watch.tensors["head.weight"]) == 2
    moved = state.pool.tensors("task-2")
    assert not all(torch.equal(moved[key], tensor) for key, tensor in watch.tensors.items())


class AtFirstStep(Observer):
    """An adapter as a phase begins."""

    def __init__(self, state: Any, phase: str = "selector", name: str = SELECTOR) -> None:
        self.state, self.phase, self.name = state, phase, name
        self.tensors: dict[str, torch.Tensor] | None = None

    def phase_started(self, name: str, steps: int, done: int = 0, epochs: int = 1) -> None:
        if name == self.phase:
            self.tensors = self.state.pool.tensors(self.name)


@pytest.mark.parametrize(
    "replay", [DynamicReplay(10), FullReplay(), MemoryReplay(Budget(2)), NoReplay()]
)
@pytest.mark.parametrize("top_k", [1, 2, "all"])
def test_it_learns_with_every_replay_and_any_number_of_adapters(replay: Any, top_k: Any) -> None:
    state = tiny_state(replay=replay, spec=SPEC)
    method = ConpetDynamic(top_k=top_k)
    teach(state, method, *STREAM.tasks)
    batch = state.batch(state.task.test)
    routing = method.route(state, batch.without_answers())
    assert (routing.weights != 0).sum(dim=1).tolist() == [3 if top_k == "all" else top_k] * 6
    with torch.no_grad():
        scores = method.scores(state, batch.without_answers(), routing)
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(6))
    assert scores.shape == (6, 6)


def test_memory_is_chosen_by_features_of_the_new_adapter() -> None:
    state = tiny_state(replay=MemoryReplay(Budget(2), "kmeans"), spec=SPEC)
    teach(state, ConpetDynamic(), *STREAM.tasks)
    assert isinstance(state.replay, MemoryReplay)
    assert [len(state.replay.kept[name]) for name in state.task_names] == [4, 4, 4]


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("target", ["task", "label"])
def test_every_kind_of_selector_learns_to_route(target: Any, balance: bool) -> None:
    spec = PhaseSpec(epochs=3, batch_size=8, lr=2e-2)
    state = tiny_state(replay=DynamicReplay(15), spec=spec)
    method = ConpetDynamic(selector_target=target, balance=balance)
    teach(state, method, *STREAM.tasks)
    hits = []
    for task in state.history:
        routing = method.route(state, state.batch(task.test).without_answers())
        hits += (routing.weights.argmax(dim=1) == task.index).tolist()
    assert sum(hits) >= 0.7 * len(hits)


def test_the_oracle_routes_to_the_true_task() -> None:
    state = tiny_state(*STREAM.tasks)
    batch = state.batch(state.history[1].test)
    routing = ConpetDynamic().oracle(state, batch)
    assert routing.names == state.task_names
    assert routing.weights.tolist() == [[0.0, 1.0, 0.0]] * len(batch)


class Notes(Observer):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def note(self, level: str, text: str) -> None:
        if level == "warning":
            self.warnings.append(text)


@pytest.mark.parametrize("small", [one_label, one_example])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_small_task_is_learned_with_a_warning(small: Any, place: int, tmp_path: Path) -> None:
    tasks = list(STREAM.tasks)
    tasks[place] = small(tasks[place])
    notes = Notes()
    model = fit(
        Stream("small", "text", tuple(tasks)),
        out=tmp_path / "run",
        backbone="tiny-bert",
        observer=notes,
        train__epochs=4,
        train__lr=2e-2,
        train__batch_size=8,
        replay__batch_limit=12,
        threads=1,
        device="cpu",
        precision="fp32",
    )
    assert len(notes.warnings) == 1
    assert f"'{tasks[place].name}'" in notes.warnings[0]
    assert "selector" in notes.warnings[0]
    answers = model.predict([e.text for e in tasks[place].train])
    assert {a.label for a in answers} == set(tasks[place].labels), "the selector finds it"


@pytest.mark.parametrize(
    ("word", "allowed"),
    [("method.top_k=0", "1"), ("method.top_k=some", "all"), ("method.selector_lr=0", "0")],
)
def test_options_out_of_range_are_refused(word: str, allowed: str) -> None:
    with pytest.raises(ConfigError, match=allowed):
        load_config(None, [word], method="conpet-dynamic", stream="banking77")


def test_full_tuning_is_refused_for_it_cannot_keep_adapters_apart() -> None:
    with pytest.raises(ConfigError, match="lora, bottleneck"):
        load_config(None, ["adapter.kind=full"], method="conpet-dynamic", stream="banking77")
