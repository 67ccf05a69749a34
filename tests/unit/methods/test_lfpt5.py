"""LFPT5: what is written and kept, what stands for old tasks, and that no teacher stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conpet import fit
from conpet.config import load_config
from conpet.errors import ConfigError
from conpet.methods import lessons, pairs
from conpet.methods.base import PhaseSpec, State
from conpet.methods.lessons import Lifelong, Scribe, WriteExamples
from conpet.methods.lfpt5 import LFPT5
from conpet.methods.tune import SHARED, TEACHER, add_teacher
from conpet.replay.pseudo import PseudoSamples
from conpet.testing import synthetic_stream, teach, tiny_llama, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream

STREAM = instruction_stream(4, train=12)
METHOD = LFPT5(generator_tokens=40, generator_shortest=1, pseudo_share=0.25)


def state_for(*tasks: Any, make: Any = tiny_t5) -> State:
    spec = PhaseSpec(epochs=1, batch_size=4, lr=1e-2)
    prompt: dict[str, Any] = {"kind": "prompt", "length": 3, "position": "after"}
    return tiny_state(*tasks, backbone=make(generative=True), spec=spec, **prompt)


def written(monkeypatch: pytest.MonkeyPatch, state: State, texts: list[str]) -> PseudoSamples:
    """What is kept if these texts are written, round and round."""
    encoder = pairs.prompt_encoder(state, METHOD.recipe, 64)
    ids = [row[:-1] for row in encoder.encode_answers(texts)]

    def say(*given: Any) -> list[list[int]]:
        asked, first = given[2], given[5]
        return [ids[(first + i) % len(ids)] for i in range(len(asked))]

    monkeypatch.setattr(lessons, "sampled", say)
    WriteExamples("pseudo", adapter=SHARED, recipe=METHOD.recipe).end(state)
    return state.pseudo[state.task.name]


# What is written


def test_an_example_is_read_as_it_was_written() -> None:
    for make in (tiny_t5, tiny_llama):
        state = state_for(STREAM.tasks[0], make=make)
        scribe = Scribe(state, METHOD.recipe)
        for (_, ids), example in zip(
            scribe.pairs("a", STREAM.tasks[0].train), STREAM.tasks[0].train, strict=True
        ):
            assert ids[-1] == state.end_id
            assert scribe.read(ids[:-1]) == (example.text, example.answers[0])


@pytest.mark.parametrize(
    "text", ["no mark", "a __ans__ b __ans__ c", "", "__ans __ans", "a _ans_ b"]
)
def test_what_has_not_two_parts_is_no_example(text: str) -> None:
    state = state_for(STREAM.tasks[0])
    scribe = Scribe(state, METHOD.recipe)
    (ids,) = scribe._ids([text])
    assert scribe.read(ids) is None


def test_a_long_input_is_cut_and_its_answer_stays() -> None:
    state = state_for(STREAM.tasks[0])
    long = replace(STREAM.tasks[0].train[0], text="the " * 200, answers=("this is it",))
    scribe = Scribe(state, METHOD.recipe)
    ((_, ids),) = scribe.pairs("a", [long])
    assert len(ids) == 40
    read = scribe.read(ids[:-1])
    assert read is not None and read[1] == "this is it" and set(read[0].split()) == {"the"}
    ((_, ids),) = scribe.pairs("a", [replace(long, answers=("that " * 90,))])
    assert len(ids) == 40 and len(scribe.read(ids[:-1])[1].split()) == 20  # type: ignore[index]


# What is kept


def test_examples_are_kept_with_answers_that_are_legal(monkeypatch: pytest.MonkeyPatch) -> None:
    task = next(t for t in STREAM.tasks if len({e.answers[0] for e in t.train}) <= 3)
    state = state_for(task)
    right = task.train[0].answers[0]
    texts = [
        f"a new text __ans__ {right}",
        "another text __ans__ nonsense",
        "no mark at all",
        "no answer __ans__",
        f"{task.train[0].text} __ans__ {right}",
        f"the other new text __ans__ {right}",
    ]
    samples = written(monkeypatch, state, texts)
    assert [text for _, text in samples.inputs] == ["a new text", "the other new text"]
    assert samples.answers == (right, right)
    q = samples.quality
    assert q["rejected_illegal"] > 1 and q["rejected_unmarked"] > 0 and q["rejected_copied"] > 0
    assert PseudoSamples.from_json(samples.to_json()) == samples
    (first, _) = samples.examples("t")
    assert first.answers == (right,) and first.text == "a new text"


def test_free_answers_need_only_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    task = next(t for t in STREAM.tasks if len({e.answers[0] for e in t.train}) > 6)
    state = state_for(task)
    assert Scribe(state, METHOD.recipe).legal(task) is None
    samples = written(monkeypatch, state, ["a new text __ans__ whatever this is"])
    assert samples.answers == ("whatever this is",)


# What is learned


def old_samples(state: State) -> None:
    for task in state.history[:-1]:
        inputs = (("", f"made up of {task.name}"),)
        state.pseudo[task.name] = PseudoSamples("generated", inputs, answers=("yes",))


def test_an_epoch_has_all_new_examples_and_all_pseudo_samples_once() -> None:
    state = state_for(*STREAM.tasks[:3])
    old_samples(state)
    phase = METHOD.phases(state)[0]
    assert isinstance(phase, Lifelong)
    rows = torch.cat([step["task"].rows for step in phase.batches(state, 0)])
    assert sorted(rows.tolist()) == list(range(12 + 2))
    again = torch.cat([step["task"].rows for step in METHOD.phases(state)[0].batches(state, 0)])
    assert torch.equal(rows, again)
    assert not torch.equal(rows, torch.cat([s["task"].rows for s in phase.batches(state, 1)]))


def test_no_teacher_stays_and_one_prompt_is_all() -> None:
    state = state_for()
    for task in STREAM.tasks[:3]:
        teach(state, LFPT5(pseudo="real", pseudo_share=0.25), task)
        assert state.pool.names == (SHARED,)
        samples = state.pseudo[task.name]
        assert samples.source == "real" and len(samples.answers) == 3
        known = {(e.text, e.answers[0]) for e in task.train}
        texts = [text for _, text in samples.inputs]
        assert set(zip(texts, samples.answers, strict=True)) <= known


def test_a_teacher_is_the_prompt_as_it_was() -> None:
    for options in ({"kind": "prompt", "bottleneck": 4}, {"kind": "lora"}, {"kind": "bottleneck"}):
        state = tiny_state(spec=PhaseSpec(epochs=1), **options)
        state.pool.add(SHARED, seed=1, n_classes=3)
        state.pool.freeze(SHARED)
        before = state.pool.tensors(SHARED)
        add_teacher(state, SHARED)
        state.pool.thaw(SHARED)
        with torch.no_grad():
            for p in state.pool.parameters_of(SHARED).values():
                p += 1.0
        kept = state.pool.tensors(TEACHER)
        assert kept.keys() == before.keys()
        assert all(torch.equal(kept[key], t) for key, t in before.items())
        assert not state.pool.is_live(TEACHER) and state.pool.role(TEACHER) == "teacher"


def test_a_prompt_learns_both_jobs() -> None:
    task, losses, method = STREAM.tasks[0], [], replace(METHOD, generation=1.0)
    for spec in (
        PhaseSpec(epochs=0),
        PhaseSpec(epochs=25, batch_size=6, lr=0.3, select="last"),
    ):
        state = state_for(make=tiny_llama)
        state.spec = spec
        teach(state, method, task)
        phase = method.phases(state)[0]
        assert isinstance(phase, Lifelong)
        batch = phase._lessons(state).store.batch(np.arange(12))
        with torch.no_grad():
            losses.append({k: float(v) for k, v in phase.loss(state, {"task": batch}).items()})
    assert losses[1]["adapter"] < losses[0]["adapter"] - 0.3
    assert losses[1]["generation"] < losses[0]["generation"] - 0.1


# What is refused


def test_classes_are_refused_with_the_reason(tmp_path: Path) -> None:
    how: dict[str, Any] = {"method": "lfpt5", "backbone": "tiny-bert"}
    with pytest.raises(
        ConfigError, match="are classes: it writes the examples that it keeps.*: con"
    ):
        fit(synthetic_stream(), out=tmp_path / "a", **how)
    assert not (tmp_path / "a").exists()


def test_a_backbone_must_have_room_to_write(tmp_path: Path) -> None:
    how: dict[str, Any] = {"method": "lfpt5", "backbone": "tiny-llama", "adapter__length": 300}
    with pytest.raises(ConfigError, match="generator_tokens is 250, .* no more than 196 of them"):
        fit(STREAM, out=tmp_path / "a", method__generator_tokens=250, **how)


def test_an_input_needs_room_beside_its_answer(tmp_path: Path) -> None:
    how: dict[str, Any] = {"method": "lfpt5", "backbone": "tiny-t5"}
    with pytest.raises(ConfigError, match="generator_tokens is 8; .* leave it 0, .* has 3 words"):
        fit(STREAM, out=tmp_path / "a", method__generator_tokens=8, **how)


def test_other_adapters_are_refused_and_its_own_need_not_be_named() -> None:
    config = load_config(None, method="lfpt5", stream="superni")
    assert (config.adapter.kind, config.adapter.position) == ("prompt", "after")
    assert (
        load_config(None, ["adapter.length=7"], method="lfpt5", stream="superni").adapter.length
        == 7
    )
    before = load_config(None, ["adapter.position=before"], method="lfpt5", stream="superni")
    assert before.adapter.position == "before"
    with pytest.raises(ConfigError, match="it is one soft prompt behind the text; allowed: prompt"):
        load_config(None, ["adapter.kind=lora"], method="lfpt5", stream="superni")
