"""Methods whose answers are free text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conpet import fit
from conpet.backbones.base import Backbone
from conpet.errors import ConfigError, DataError
from conpet.methods.base import Method, PhaseSpec, State
from conpet.methods.conpet_dynamic import SELECTOR, ConpetDynamic, OwnAnswers
from conpet.methods.joint import Joint
from conpet.methods.per_task import PerTask
from conpet.methods.replay import ExperienceReplay
from conpet.methods.sequential import Sequential
from conpet.methods.tune import SHARED, Tune
from conpet.objectives.generate import answer_loss, mean_log_prob
from conpet.registry import METHODS
from conpet.replay.base import Replay
from conpet.replay.dynamic import DynamicReplay
from conpet.replay.memory import Budget, MemoryReplay
from conpet.routing.base import single
from conpet.testing import synthetic_stream, teach, tiny_llama, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream
from conpet.types import NO_TOKEN, Routing

STREAM = instruction_stream(3, train=16)
WRITERS = [name for name in METHODS if "text" in METHODS.load(name).answers]


def state_for(
    backbone: Backbone | None = None, replay: Replay | None = None, epochs: int = 2
) -> State:
    return tiny_state(
        backbone=backbone or tiny_t5(generative=True),
        replay=replay or DynamicReplay(5),
        spec=PhaseSpec(epochs=epochs, batch_size=8, lr=5e-3),
    )


def log_prob(state: State, rows: np.ndarray, adapter: str) -> float:
    """Of a token of the answers to rows, the mean."""
    batch = state.batch(rows)
    with torch.no_grad():
        found = state.answer_log_probs(batch, single(adapter, len(batch), state.device))
    return float(mean_log_prob(found, batch.answer_ids).mean())


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_an_adapter_of_the_head_trains_on_the_tokens_of_answers(make: Any) -> None:
    backbone = make(generative=True)
    state = tiny_state(STREAM.tasks[0], backbone=backbone, rank=2, alpha=2, targets=["lm_head"])
    state.pool.add("a", seed=1)
    batch = state.batch(state.task.train[:3])
    answer_ids = batch.answer_ids.clone()
    answer_ids[1, 1:] = NO_TOKEN  # one is shorter
    batch = replace(batch, answer_ids=answer_ids)
    own = dict(state.pool.parameters_of("a"))
    optimiser = torch.optim.SGD(own.values(), lr=1.0)
    for _ in range(2):  # B is zero at first
        optimiser.zero_grad()
        routing = single("a", 3, state.device)
        loss = answer_loss(state.answer_log_probs(batch, routing), batch.answer_ids)
        loss.backward()
        before = {name: p.detach().clone() for name, p in own.items()}
        optimiser.step()
    head: Any = backbone.head
    plain = head.weight
    head.weight = torch.nn.Parameter(plain + before["lm_head.B"] @ before["lm_head.A"])
    nothing = Routing((), torch.zeros(3, 0))
    other = answer_loss(state.answer_log_probs(batch, nothing), batch.answer_ids)
    other.backward()
    torch.testing.assert_close(loss, other, rtol=0, atol=1e-5)
    expected = head.weight.grad @ before["lm_head.A"].T
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(own["lm_head.B"].grad, expected, rtol=1e-4, atol=1e-6)


def test_these_methods_write() -> None:
    wanted = {"sequential", "replay", "emr", "joint", "per-task", "conpet-dynamic", "sapt"}
    wanted |= {"o-lora"}
    wanted |= {"progprompt", "l2p", "epi", "lfpt5"}
    assert set(WRITERS) == wanted


@pytest.mark.parametrize("make", [tiny_t5, tiny_llama], ids=["t5", "llama"])
def test_tuning_makes_the_right_answers_likelier(make: Callable[..., Backbone]) -> None:
    state = state_for(make(generative=True), epochs=15)
    state.pool.add("fresh", seed=0, n_classes=0, role="task")
    teach(state, PerTask(), STREAM.tasks[0])
    task = state.history[0]
    before, after = (log_prob(state, task.test, name) for name in ("fresh", task.name))
    assert after > before + 0.5


def test_no_head_is_made_but_that_of_the_selector() -> None:
    state = state_for()
    teach(state, ConpetDynamic(), *STREAM.tasks)
    heads = {name for name in state.pool.names if state.pool.has_head(name)}
    assert heads == {SELECTOR}
    assert state.pool.head(SELECTOR).n_classes == 3


def test_the_best_state_is_the_one_of_the_likeliest_validation_answers() -> None:
    state = state_for()
    state.history.append(state.store.add_task(STREAM.tasks[0], 0, 0))
    (phase,) = Sequential().phases(state)
    phase.begin(state)
    task = state.history[0]
    batch = state.batch(task.valid)
    with torch.no_grad():
        found = state.answer_log_probs(batch, single(SHARED, len(batch), state.device))
    expected = 100 * float(mean_log_prob(found, batch.answer_ids).exp().mean())
    assert phase.validate(state) == pytest.approx(expected, rel=1e-5)


def test_an_adapter_of_conpet_learns_from_its_own_task_alone() -> None:
    state = state_for()
    teach(state, ConpetDynamic(), *STREAM.tasks[:2])
    phase = ConpetDynamic().phases(state)[-1]
    assert isinstance(phase, OwnAnswers)
    rows = np.concatenate([step["task"].rows.numpy() for step in phase.batches(state, 0)])
    assert sorted(rows) == sorted(state.task.train)
    selector = ConpetDynamic().phases(state)[0]
    tasks = torch.cat([step["task"].task for step in selector.batches(state, 0)])
    assert set(tasks.tolist()) == {0, 1}


def test_an_adapter_may_start_from_the_selector() -> None:
    state = state_for()
    teach(state, ConpetDynamic(), *STREAM.tasks[:2])
    state.history.append(state.store.add_task(STREAM.tasks[2], 2, 0))
    for start, same in (("selector", True), ("fresh", False)):
        phase = OwnAnswers.of(state, start)
        phase.begin(state)
        ours, theirs = state.pool.tensors(state.task.name), state.pool.tensors(SELECTOR)
        shared = [key for key in ours if key.endswith(".A")]
        assert all(torch.equal(ours[key], theirs[key]) for key in shared) is same
        state.pool.remove(state.task.name)


def test_a_share_of_each_task_is_kept_and_comes_back() -> None:
    replay = MemoryReplay(Budget(share=0.25), valid_share=0.0)
    state = state_for(replay=replay)
    teach(state, ExperienceReplay(), *STREAM.tasks)
    assert {name: len(kept) for name, kept in replay.kept.items()} == dict.fromkeys(
        state.task_names, 4
    )
    phase = ExperienceReplay().phases(state)[0]
    seen = torch.cat([step["task"].task for step in phase.batches(state, 0)])
    assert int((seen == 2).sum()) == 16 == int((seen < 2).sum())


def test_a_total_budget_counts_a_task_as_one_class() -> None:
    replay = MemoryReplay(Budget(total=6))
    teach(state_for(replay=replay), ExperienceReplay(), *STREAM.tasks)
    assert [len(kept) for kept in replay.kept.values()] == [2, 2, 2]


def test_joint_waits_for_the_last_task() -> None:
    state = state_for()
    state.planned = 3
    teach(state, Joint(), *STREAM.tasks)
    phase = Joint().phases(state)[0]
    assert isinstance(phase, Tune)
    rows = np.concatenate([step["task"].rows.numpy() for step in phase.batches(state, 0)])
    assert len(rows) == len(set(rows.tolist())) == 48


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(WRITERS)))
def test_a_method_that_cannot_write_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="learns classes, and the answers of this stream are"):
        fit(STREAM, out=tmp_path / "run", method=name, backbone="tiny-t5")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("conpet-dynamic", {"method__selector_target": "label"}, "have no labels; leave it out"),
        ("emr", {"replay__features": "logits"}, "come from no head that gives them"),
        ("replay", {"replay__total": 2}, r"fewer exemplars than the stream has classes \(3\)"),
        ("sequential", {"backbone__prompt": "plain"}, "are made by their stream's template"),
    ],
)
def test_options_about_labels_are_refused(
    tmp_path: Path, method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(STREAM, out=tmp_path / "run", method=method, backbone="tiny-t5", **options)


def test_a_decoder_keeps_room_for_its_answer(tmp_path: Path) -> None:
    room = {"generation__max_prompt_length": 512, "generation__max_new_tokens": 40}
    model = fit(STREAM, out=tmp_path / "a", method="sequential", backbone="tiny-llama", **room)
    assert model._open(with_data=False).state.store.encoder.max_length == 512 - 40
    room["generation__max_new_tokens"] = 500
    with pytest.raises(ConfigError, match="leaves 12 of the 512 tokens .* lower it to 496 or less"):
        fit(STREAM, out=tmp_path / "b", method="sequential", backbone="tiny-llama", **room)


def test_a_soft_prompt_keeps_its_room(tmp_path: Path) -> None:
    room = {"generation__max_prompt_length": 512, "generation__max_new_tokens": 40}
    room |= {"adapter__kind": "prompt", "adapter__length": 20}
    how: dict[str, Any] = {"method": "sequential", "train__max_steps": 1}
    for backbone, longest in (("tiny-llama", 512 - 20 - 40), ("tiny-t5", 512 - 20)):
        model = fit(STREAM, out=tmp_path / backbone, backbone=backbone, **how, **room)
        assert model._open(with_data=False).state.store.encoder.max_length == longest
    room["adapter__length"] = 600
    with pytest.raises(ConfigError, match="length is 600, which leaves 0 of the 512 .*to 496"):
        fit(STREAM, out=tmp_path / "b", backbone="tiny-t5", **how, **room)


def test_data_of_another_kind_are_refused(tmp_path: Path) -> None:
    model = fit(STREAM, out=tmp_path / "a", method="sequential", backbone="tiny-t5")
    with pytest.raises(DataError, match="examples of kind 'text', and the run learned 'instr"):
        model.learn(synthetic_stream())


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write answers, and this stream asks for"):
        fit(STREAM, out=tmp_path / "run", method="sequential", backbone="tiny-bert")


def test_the_declaration_is_what_refuses() -> None:
    for name in METHODS:
        method: Method = METHODS.load(name)()
        assert (name in WRITERS) == ("text" in method.answers)
