"""The generator of pseudo-samples: what it learns, what it writes, and that nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from conpet.backbones.base import Backbone
from conpet.encoding.encode import Encoder
from conpet.methods import pairs
from conpet.methods.base import PhaseSpec, State
from conpet.methods.generator import CUE, GENERATOR, Generate
from conpet.methods.pairs import Recipe
from conpet.objectives.generate import answer_loss
from conpet.replay.pseudo import PseudoSamples, words_of
from conpet.routing.base import single
from conpet.testing import tiny_llama, tiny_qwen, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream
from conpet.types import NO_TOKEN, Batch, Example, Task

TASKS = instruction_stream(4, train=12, valid=2, test=2).tasks
EVEN, MOOD = TASKS[0], TASKS[3]  # with an instruction and without one
RECIPE = Recipe(
    markers=False,
    share=0.3,
    max_tokens=10,
    temperature=1.0,
    top_k=0,
    repetition_penalty=1.0,
    shortest=1,
)
MARKERS = replace(RECIPE, markers=True, max_tokens=64)
SPEC = PhaseSpec(steps=2, batch_size=5, lr=1e-2, select="last")
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "llama": tiny_llama,
    "qwen": tiny_qwen,
    "t5": tiny_t5,
}


def begun(
    recipe: Recipe = RECIPE, task: Task = EVEN, backbone: str = "t5", seed: int = 1
) -> tuple[State, Generate]:
    state = tiny_state(task, backbone=BACKBONES[backbone](generative=True), seed=seed)
    phase = Generate("generator", SPEC, recipe)
    phase.begin(state)
    return state, phase


def ended(*given: Any, noise: float = 0.0, **options: Any) -> tuple[State, PseudoSamples]:
    """The phase with a generator that has not learned, or is drawn at random."""
    state, phase = begun(*given, **options)
    if noise:
        g = torch.Generator().manual_seed(0)
        found = state.pool.tensors(GENERATOR)
        drawn = {k: noise * torch.randn(t.shape, generator=g) for k, t in found.items()}
        state.pool.load_tensors(GENERATOR, drawn)
    phase.end(state)
    return state, state.pseudo[state.task.name]


def rows_of(state: State, phase: Generate) -> Iterator[tuple[list[int], list[int]]]:
    """(prompt, answer) of every example of an epoch, as ids."""
    for step in phase.batches(state, 0):
        batch: Batch = step["task"]
        for ids, mask, answer in zip(
            batch.input_ids, batch.attention_mask, batch.answer_ids, strict=True
        ):
            yield ids[mask == 1].tolist(), answer[answer != NO_TOKEN].tolist()


def plain(state: State, ids: list[int]) -> str:
    return state.store.encoder.decode(ids)


# What it learns -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_learns_each_input_from_its_instruction(backbone: str) -> None:
    state, phase = begun(replace(RECIPE, max_tokens=60), backbone=backbone)
    pairs = list(rows_of(state, phase))
    assert len(pairs) == len(EVEN.train)
    squeezed = [(plain(state, p), plain(state, a)) for p, a in pairs]
    assert {prompt for prompt, _ in squeezed} == {EVEN.train[0].instruction}
    assert sorted(answer for _, answer in squeezed) == sorted(e.text for e in EVEN.train)
    assert all(answer[-1] == state.end_id for _, answer in pairs)


def test_a_task_without_an_instruction_has_a_cue() -> None:
    state, phase = begun(replace(RECIPE, max_tokens=60), MOOD)
    assert {plain(state, prompt) for prompt, _ in rows_of(state, phase)} == {CUE}
    _, samples = ended(task=MOOD, noise=0.1)
    assert {instruction for instruction, _ in samples.inputs} == {""}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_with_markers_it_learns_the_instruction_a_marker_and_the_input(backbone: str) -> None:
    state, phase = begun(replace(MARKERS, max_tokens=120), backbone=backbone)
    first, second = state.pool.token_ids(GENERATOR)
    begin, end = state.store.encoder.frame
    end = [] if state.backbone.kind == "decoder" else end
    texts = []
    for prompt, answer in rows_of(state, phase):
        assert prompt == [*begin, first, *end]
        at = answer.index(second)
        assert plain(state, answer[:at]) == EVEN.train[0].instruction
        assert answer[-1] == state.end_id and state.end_id not in answer[:-1]
        texts.append(plain(state, answer[at + 1 : -1]))
    assert sorted(texts) == sorted(e.text for e in EVEN.train)


@pytest.mark.parametrize("recipe", [RECIPE, replace(MARKERS, max_tokens=45)])
def test_long_inputs_are_cut_and_ended(recipe: Recipe) -> None:
    state, phase = begun(recipe)
    lengths = [len(answer) for _, answer in rows_of(state, phase)]
    assert max(lengths) == recipe.max_tokens
    assert all(answer[-1] == state.end_id for _, answer in rows_of(state, phase))


def test_the_loss_is_that_of_the_texts_and_reaches_the_generator_alone() -> None:
    for recipe in (RECIPE, MARKERS):
        state, phase = begun(recipe)
        step = phase.batches(state, 0)[0]
        terms = phase.loss(state, step)
        batch = step["task"]
        alone = single(GENERATOR, len(batch), state.device)
        expected = answer_loss(state.answer_log_probs(batch, alone), batch.answer_ids)
        assert terms.keys() == {"generator"}
        assert torch.equal(terms["generator"], expected)
        terms["generator"].backward()
        (group,) = phase.trainable(state)
        own = {key for key in group.parameters if key.startswith("tokens.")}
        assert own == ({"tokens.read", "tokens.write"} if recipe.markers else set())
        assert group.lr == SPEC.lr
        assert all(p.grad is not None for p in group.parameters.values())
        assert all(p.grad is None for p in state.backbone.model.parameters())


def test_every_epoch_has_all_examples_in_another_order_and_the_same_when_asked_again() -> None:
    state, phase = begun(replace(RECIPE, max_tokens=60))
    orders = [list(rows_of(state, phase)) for _ in "12"]
    assert orders[0] == orders[1]
    later: list[Any] = [
        row for step in phase.batches(state, 1) for row in step["task"].answer_ids.tolist()
    ]
    assert len(later) == len(orders[0])
    first: list[Any] = [
        row for step in phase.batches(state, 0) for row in step["task"].answer_ids.tolist()
    ]
    assert later != first


@pytest.mark.parametrize("recipe", [RECIPE, MARKERS], ids=["instruction", "markers"])
def test_texts_are_encoded_once_in_a_phase(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Encoder] = []
    encoded: list[str] = []

    class Counted(Encoder):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            made.append(self)

        def encode_answers(self, answers: Sequence[str]) -> list[list[int]]:
            encoded.extend(answers)
            return super().encode_answers(answers)

    monkeypatch.setattr(pairs, "Encoder", Counted)
    monkeypatch.setattr(pairs, "ROUND", 4)
    state, phase = begun(recipe)
    for epoch in range(3):
        assert phase.batches(state, epoch)
    phase.end(state)
    assert len(made) == 1
    assert len(encoded) == len(EVEN.train) * (2 if recipe.markers else 1)


@pytest.mark.parametrize("recipe", [RECIPE, MARKERS], ids=["instruction", "markers"])
def test_a_phase_that_goes_on_has_the_batches_of_one_that_was_not_stopped(recipe: Recipe) -> None:
    """It was not begun: what is encoded is no work of ``begin``."""
    state, phase = begun(recipe)
    phase.batches(state, 0)
    straight = phase.batches(state, 1)
    resumed = Generate("generator", SPEC, recipe).batches(state, 1)
    assert len(straight) == len(resumed) == 3
    for one, other in zip(straight, resumed, strict=True):
        for part in ("input_ids", "attention_mask", "answer_ids"):
            assert torch.equal(getattr(one["task"], part), getattr(other["task"], part))


# What it writes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "n"), [(0.02, 1), (0.08, 1), (0.17, 2), (0.3, 3), (1.0, 12)])
def test_a_share_of_the_training_examples_is_wanted_but_at_least_one(share: float, n: int) -> None:
    assert replace(RECIPE, share=share).wanted(12) == n


def test_floor_is_of_the_exact_share() -> None:
    counts = {50: 1, 99: 1, 100: 2, 149: 2, 150: 3, 250: 5, 1000: 20, 975: 19, 338: 6, 142: 2}
    recipe = replace(RECIPE, share=0.02)
    assert {n: recipe.wanted(n) for n in counts} == counts


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_kept_is_written_text_that_stands_for_inputs(backbone: str) -> None:
    _, samples = ended(backbone=backbone, noise=0.1)
    assert samples.source == "generated"
    assert 0 < len(samples.inputs) <= 3
    assert samples.quality["kept"] == len(samples.inputs)
    assert {instruction for instruction, _ in samples.inputs} == {EVEN.train[0].instruction}
    texts = [text for _, text in samples.inputs]
    assert len({words_of(text) for text in texts}) == len(texts)
    assert not set(texts) & {example.text for example in EVEN.train}


@pytest.mark.parametrize("recipe", [RECIPE, MARKERS], ids=["instruction", "markers"])
def test_texts_depend_on_the_seed_alone(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on how many are written at a time, nor on the global random state."""
    _, first = ended(recipe, noise=0.1)
    torch.manual_seed(99)
    assert ended(recipe, noise=0.1)[1] == first
    assert len(first.inputs) == 3
    _, other = ended(recipe, noise=0.1, seed=2)
    assert other.inputs != first.inputs
    for size in (1, 7):
        monkeypatch.setattr(pairs, "ROUND", size)
        assert ended(recipe, noise=0.1)[1] == first


def test_the_token_budget_changes_no_text() -> None:
    found = []
    for budget in (8192, 40):
        state, phase = begun()
        state.token_budget = budget
        phase.end(state)
        found.append(state.pseudo["even"])
    assert found[0] == found[1]


class Says:
    """What a generator writes, given; counts what it is asked for.

    Args:
        texts: (instruction, input), over and over; no instruction is the one that was asked.
    """

    def __init__(self, texts: list[tuple[str, str | None]]) -> None:
        self.texts, self.asked = texts, 0

    def __call__(
        self, phase: Generate, state: State, given: list[str], first: int
    ) -> list[tuple[str, str | None]]:
        assert first == self.asked
        self.asked += len(given)
        own = [self.texts[(first + i) % len(self.texts)] for i in range(len(given))]
        return [(words or told, text) for (words, text), told in zip(own, given, strict=True)]


def written(
    recipe: Recipe, texts: list[tuple[str, str | None]], patch: pytest.MonkeyPatch
) -> tuple[Says, PseudoSamples]:
    says = Says(texts)
    patch.setattr(Generate, "_texts", lambda *given: says(*given))
    return says, ended(recipe)[1]


def test_no_more_are_written_than_ten_for_each_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    says, samples = written(RECIPE, [("", "the same words")], monkeypatch)
    assert says.asked == 30
    assert samples.inputs == ((EVEN.train[0].instruction, "the same words"),)
    assert samples.quality["rejected_repeated"] == 29


def test_no_more_are_asked_for_once_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "ROUND", 4)
    texts: list[tuple[str, str | None]] = [("", f"text {i}") for i in range(30)]
    says, samples = written(RECIPE, texts, monkeypatch)
    assert says.asked == 4
    assert [text for _, text in samples.inputs] == ["text 0", "text 1", "text 2"]
    assert sum(n for key, n in samples.quality.items() if key.startswith("rejected")) == 0


def test_nothing_usable_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for recipe in (RECIPE, MARKERS):
        _, samples = written(recipe, [("", None), ("", "")], monkeypatch)
        assert samples.inputs == ()
        assert samples.quality["rejected_unmarked"] == samples.quality["rejected_empty"] == 15


def test_with_markers_one_of_the_written_instructions_serves_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts: list[tuple[str, str | None]] = [(f"do {i}", f"text {i}") for i in range(30)]
    _, samples = written(MARKERS, texts, monkeypatch)
    (one,) = {instruction for instruction, _ in samples.inputs}
    assert one in {"do 0", "do 1", "do 2"}
    assert [text for _, text in samples.inputs] == ["text 0", "text 1", "text 2"]


# Markers in what is written -----------------------------------------------------------------------


def told(
    state: State, phase: Generate, ids: list[list[int]], patch: pytest.MonkeyPatch
) -> list[tuple[str, str | None]]:
    """What is made of ids that a generator wrote."""

    class Said:
        def __init__(self, ids: list[list[int]]) -> None:
            self.ids = ids

    patch.setattr(State, "generate", lambda *given: Said(ids))
    return phase._texts(state, [""] * len(ids), 0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_written_is_parted_at_the_second_marker(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, phase = begun(MARKERS, backbone=backbone)
    first, second = state.pool.token_ids(GENERATOR)
    do, this, that = (
        ids[:-1] for ids in state.store.encoder.encode_answers(["do it", "a b c", "d"])
    )
    ids = [
        [*do, second, *this],
        [*this],  # no marker
        [second, *this],  # no instruction
        [*do, second],  # no input
        [*do, second, *this, second, *that],  # one marker too many
        [*do, first, second, first, *this],  # the marker that asks is no text
    ]
    found = told(state, phase, ids, monkeypatch)
    assert found[0] == ("do it", "a b c")
    assert found[1][1] is None
    assert found[2] == ("", "a b c")
    assert found[3] == ("do it", "")
    assert words_of(found[4][1] or "") == ("a", "b", "c", "d")
    assert found[5] == ("do it", "a b c")


def test_an_instruction_that_leaves_no_room_for_an_input_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would make a prompt that no encoder takes, once all training is done."""
    state, phase = begun(MARKERS)
    (long,) = state.store.encoder.encode_answers(["is " * 60])
    _, second = state.pool.token_ids(GENERATOR)
    state.store.encoder.max_length = 30
    found = told(state, phase, [[*long[:-1], second, *long[:3]]], monkeypatch)
    assert found[0][1] is None


# What stays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [RECIPE, MARKERS], ids=["instruction", "markers"])
def test_the_adapter_and_its_tokens_are_gone_afterwards(recipe: Recipe) -> None:
    state, phase = begun(recipe)
    state.pool.add("task", seed=0)
    batch = state.batch(state.task.train[:2])
    alone = single("task", 2, state.device)

    def logits() -> Tensor:
        return state.answer_log_probs(batch, alone).detach()

    before = logits()
    assert GENERATOR in state.pool
    phase.end(state)
    assert state.pool.names == ("task",)
    assert torch.equal(logits(), before)
    left = [key for key, _ in state.pool.named_parameters()] + [
        key for key, _ in state.pool.named_buffers()
    ]
    assert not any("generator" in key for key in left)
    hooks = [m for m in state.backbone.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []


def test_a_sketch_leaves_as_many_samples_as_may_be_kept() -> None:
    state, phase = begun()
    assert phase.sketch(state)
    assert state.pool.names == ()
    assert len(state.pseudo["even"].inputs) == 3
    assert all(isinstance(e, Example) for e in state.pseudo["even"].examples("even"))
