"""Inputs that are asked and not kept, and how a run routes them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conpet import ContinualModel, load
from conpet.api.asking import Inputs, as_examples
from conpet.errors import ConfigError
from conpet.events import Observer
from conpet.streams import Stream
from conpet.types import Batch, Example

TEXTS = ["bado1 fimu2 goni3 kelu4 lopa5", "kelu", "The number is 4711.", "It is mira1 or nuvo2."]


class Seen(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def phase_started(self, name: str, steps: int, done: int = 0, epochs: int = 1) -> None:
        self.told.append((name, steps))

    def step(self, step: int, terms: object, examples: int) -> None:
        self.told.append((step, examples))

    def phase_ended(self, name: str) -> None:
        self.told.append(name)


def lengths(batch: Batch) -> list[int]:
    return batch.attention_mask.sum(dim=1).tolist()


def test_answers_come_in_the_order_of_the_inputs(sapt: ContinualModel) -> None:
    state = sapt._open(with_data=False).state
    alone = [Inputs(state, [text]).ask(lengths)[0] for text in TEXTS]
    assert len(set(alone)) > 1
    assert Inputs(state, TEXTS).ask(lengths) == alone
    assert Inputs(state, TEXTS * 2).ask(lengths) == alone * 2  # the same input, twice


def test_no_cache_knows_the_inputs(sapt: ContinualModel) -> None:
    state = sapt._open(with_data=False).state
    rows = Inputs(state, TEXTS).ask(lambda batch: batch.rows.tolist())
    assert rows == [-1] * len(TEXTS)


def test_an_observer_is_told(sapt: ContinualModel) -> None:
    seen = Seen()
    state = sapt._open(with_data=False).state
    state.token_budget = max(len(text.split()) for text in TEXTS) + 2  # a text, or two short ones
    inputs = Inputs(state, TEXTS)
    inputs.ask(lengths, seen, "lengths")
    *steps, end = seen.told[1:]
    assert 1 < len(steps) == len(inputs.batches) and end == "lengths"
    assert seen.told[0] == ("lengths", len(steps))
    assert steps == [(i + 1, len(batch)) for i, batch in enumerate(inputs.batches)]
    assert sum(len(batch) for batch in inputs.batches) == len(TEXTS)


def test_the_longest_are_asked_first(sapt: ContinualModel) -> None:
    asked: list[int] = []
    state = sapt._open(with_data=False).state
    state.token_budget = 1  # a batch a text
    inputs = Inputs(state, TEXTS)
    inputs.ask_longest(lambda batch: asked.extend(lengths(batch)) or [])  # type: ignore[func-returns-value]
    assert asked == [max(inputs.ask(lengths))]


def test_texts_get_their_place_as_an_id() -> None:
    own = Example("mine", "a text")
    assert as_examples(["b", own]) == [Example("0", "b"), own]


# Routing


def test_mixed_adapters_have_the_weights_of_the_mixture(sapt: ContinualModel) -> None:
    routes = sapt.route(TEXTS)
    for tasks in routes:
        assert set(tasks) == set(sapt.tasks)
        assert sum(tasks.values()) == pytest.approx(1.0, abs=1e-5)
        assert list(tasks.values()) == sorted(tasks.values(), reverse=True)
    for text, tasks in zip(TEXTS, routes, strict=True):
        assert sapt.route([text])[0] == pytest.approx(tasks, abs=1e-6)


def test_fewer_adapters_leave_weights_of_zero(sapt: ContinualModel) -> None:
    model = load(sapt.folder.path)
    model.method = replace(model.method, top_k=2)
    (tasks,) = model.route(TEXTS[:1])
    assert [weight > 0 for weight in tasks.values()] == [True, True, False]
    assert sum(tasks.values()) == pytest.approx(1.0, abs=1e-5)


def test_a_selector_gives_its_probability_of_what_it_chooses(dynamic: ContinualModel) -> None:
    routes, answers = dynamic.route(TEXTS), dynamic.predict(TEXTS)
    for tasks, answer in zip(routes, answers, strict=True):
        assert set(tasks) == set(dynamic.tasks)
        chosen = tuple(name for name, weight in tasks.items() if weight)
        assert chosen == answer.tasks
        assert 0 < tasks[chosen[0]] <= 1


def test_the_instruction_takes_part(sapt: ContinualModel, stream: Stream) -> None:
    example = stream.tasks[1].test[0]
    assert example.instruction
    assert sapt.route([example]) != sapt.route([example.text])


def test_classes_are_routed_as_well(classes: ContinualModel) -> None:
    (tasks,) = classes.route(["some words"])
    assert set(tasks) == set(classes.tasks)


def test_one_shared_adapter_routes_nothing(sequential: ContinualModel) -> None:
    assert sequential.route(TEXTS[:2]) == [{}, {}]


def test_a_method_that_is_told_the_task_is_refused_as_by_predict(per_task: ContinualModel) -> None:
    with pytest.raises(ConfigError) as of_predict:
        per_task.predict(TEXTS)
    with pytest.raises(ConfigError) as of_route:
        per_task.route(TEXTS)
    assert str(of_predict.value) == str(of_route.value)
