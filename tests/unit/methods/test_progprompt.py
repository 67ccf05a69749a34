"""Progressive Prompts: frozen stacks, two modes that are never mistaken, room for text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conpet import fit
from conpet.config import load_config
from conpet.errors import ConfigError, RoutingError
from conpet.evaluation.report import report
from conpet.methods.base import PhaseSpec, State
from conpet.methods.progprompt import ProgPrompt
from conpet.routing.stack import stacked, stacked_up_to
from conpet.testing import synthetic_stream, teach, tiny_state

STREAM = synthetic_stream(n_tasks=3)
QUICK: dict[str, Any] = {"backbone": "tiny-bert", "train__max_steps": 1, "method": "progprompt"}


def learned(n: int, **options: Any) -> State:
    state = tiny_state(spec=PhaseSpec(epochs=2, batch_size=4, lr=1e-2), kind="prompt", length=3)
    teach(state, ProgPrompt(**options), *STREAM.tasks[:n])
    return state


def test_the_newest_prompt_stands_first() -> None:
    routing = stacked(("a", "b", "c"), 2, torch.device("cpu"))
    assert routing.names == ("c", "b", "a") and routing.combine == "concat"
    assert routing.weights.tolist() == [[1.0] * 3] * 2


def test_with_the_task_the_prompts_up_to_it_stand_there() -> None:
    routing = stacked_up_to(("a", "b", "c"), torch.tensor([0, 2, 1]))
    assert routing.names == ("c", "b", "a")
    assert routing.weights.tolist() == [
        [0, 0, 1],
        [1, 0.5, pytest.approx(1 / 3)],
        [0, 1, 0.5],
    ]
    for unknown in (-1, 3):
        with pytest.raises(RoutingError, match="the task of an example is not known"):
            stacked_up_to(("a", "b", "c"), torch.tensor([0, unknown]))


def test_the_stack_grows_by_a_prompt_a_task() -> None:
    state, method = learned(3), ProgPrompt()
    batch = state.batch(state.task.test)
    assert state.pool.positions(method.route(state, batch)) == 9
    known = ProgPrompt(task_id=True)
    for i, task in enumerate(state.history):
        batch = state.batch(task.test)
        assert state.pool.positions(known.route(state, batch)) == 3 * (i + 1)


@torch.no_grad()
def test_with_the_task_id_an_old_answer_never_changes() -> None:
    method = ProgPrompt(task_id=True)
    state, found = learned(1, task_id=True), []
    for task in STREAM.tasks[1:]:
        batch = state.batch(state.history[0].test)
        found.append(method.scores(state, batch, method.route(state, batch))[:, :2])
        teach(state, method, task)
    batch = state.batch(state.history[0].test)
    found.append(method.scores(state, batch, method.route(state, batch))[:, :2])
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], rtol=0, atol=1e-6)


def test_every_result_names_the_mode(tmp_path: Path) -> None:
    folders = []
    for given, name in ((False, "progprompt(no-task-id)"), (True, "progprompt(task-id)")):
        config = load_config(None, {"method.task_id": given}, method="progprompt", stream="x.jsonl")
        assert config.label == name
        assert config.folder().name == f"x-{name.replace('(', '-').rstrip(')')}-1"
        assert config.adapter.kind == "prompt", "it need not be said"
        model = fit(STREAM, out=tmp_path / name, method__task_id=given, **QUICK)
        assert model.store.record["method"] == name
        folders.append(model.folder.path)
        if given:
            with pytest.raises(ConfigError, match="answers only when it is told the task"):
                model.predict(["a text"])
        else:
            assert model.predict(["a text"])[0].label in STREAM.labels
    report(folders, tmp_path / "report")
    told = "Not to be compared with the others: progprompt(task-id) is told the task"
    for page in ("report.md", "index.html"):
        text = (tmp_path / "report" / page).read_text(encoding="utf-8")
        assert told in text and "progprompt(no-task-id)" in text


def test_tasks_ahead_have_no_prompts_to_be_told_of(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="answers only for tasks that it has learned"):
        fit(STREAM, out=tmp_path / "a", method__task_id=True, forward_rows=True, **QUICK)


def test_the_text_is_cut_and_never_the_prompts(tmp_path: Path) -> None:
    room = {"adapter__length": 150, "backbone__max_length": 128}
    model = fit(STREAM, out=tmp_path / "a", **QUICK, **room)
    state = model._open(with_data=False).state
    assert state.store.encoder.max_length == 512 - 3 * 150
    state.token_budget = 10**6
    long = state.store.add([STREAM.tasks[0].test[0], *long_examples()])
    batch = state.batch(long)
    assert batch.input_ids.shape[1] == 62 and int(batch.attention_mask.sum(dim=1).max()) == 62
    method = ProgPrompt()
    with torch.no_grad(), state.pool.routed(method.route(state, batch)) as soft_prompt:
        assert soft_prompt is not None and soft_prompt.embeddings.shape[1] == 450
    assert method.scores(state, batch, method.route(state, batch)).shape == (2, 6)


def long_examples() -> list[Any]:
    example = STREAM.tasks[0].test[0]
    return [replace(example, id="long", text=" ".join([example.text] * 40))]


def test_a_stack_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"170 in each of 3 soft prompts, which leaves 2 .* 165 or"
    ):
        fit(STREAM, out=tmp_path / "a", adapter__length=170, **QUICK)


def test_more_tasks_than_the_context_holds_are_refused(tmp_path: Path) -> None:
    whole = synthetic_stream(n_tasks=5)
    first = replace(whole, tasks=whole.tasks[:2])
    model = fit(first, out=tmp_path / "a", adapter__length=100, **QUICK)
    model.learn(replace(whole, tasks=whole.tasks[2:3]))
    with pytest.raises(
        ConfigError, match="prompts of 5 tasks take 500 tokens, and texts .* 128: t"
    ):
        model.learn(replace(whole, tasks=whole.tasks[3:]))
    assert len(model.tasks) == 3


def test_other_adapters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="puts soft prompts behind one another.*allowed: prompt"):
        fit(STREAM, out=tmp_path / "a", adapter__kind="lora", **QUICK)
