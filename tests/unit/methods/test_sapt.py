"""SAPT: its attention at work, what it may not touch, its memory of old tasks, and its checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from conpet.backbones.base import Backbone
from conpet.encoding.encode import TokenStore
from conpet.evaluation.evaluator import answer
from conpet.events import Observer
from conpet.methods.base import Phase, PhaseSpec, State
from conpet.methods.per_task import PerTask
from conpet.methods.reflection import (
    QUERIES,
    REFERENCE,
    OldTasks,
    Reflecting,
    attention,
    pooled,
)
from conpet.methods.sapt import SAPT, Attend
from conpet.objectives.classify import cross_entropy
from conpet.objectives.generate import answer_loss, mean_log_prob
from conpet.routing.base import single
from conpet.streams import Stream
from conpet.testing import (
    synthetic_stream,
    teach,
    tiny_bert,
    tiny_llama,
    tiny_state,
    tiny_t5,
)
from conpet.testing.instruction import instruction_stream
from conpet.testing.watch import Watch
from conpet.training.optimiser import optimiser_for
from conpet.training.trainer import Progress, Trainer
from conpet.types import NO_TOKEN, Batch, Example, Task

TEXT = instruction_stream(4, train=10, valid=3, test=4)
CLASSES = synthetic_stream(n_tasks=4, train=5)
SPEC = PhaseSpec(epochs=2, batch_size=4, lr=1e-2)
BACKBONES: dict[str, tuple[Callable[[], Backbone], Stream]] = {
    "bert": (tiny_bert, CLASSES),
    "llama": (lambda: tiny_llama(generative=True), TEXT),
    "t5": (lambda: tiny_t5(generative=True), TEXT),
}


def real(**options: Any) -> SAPT:
    """Real inputs stand for old ones: nothing is generated."""
    return SAPT(pseudo="real", **{"pseudo_share": 0.3, **options})


def fresh(backbone: str = "t5", **settings: Any) -> State:
    return tiny_state(backbone=BACKBONES[backbone][0](), **{"spec": SPEC, **settings})


def taught(method: SAPT, n: int, backbone: str = "t5", **settings: Any) -> State:
    """A state that has learned n tasks."""
    state = fresh(backbone, **settings)
    teach(state, method, *BACKBONES[backbone][1].tasks[:n])
    return state


@cache
def learned(backbone: str) -> State:
    """The same with three tasks, made once: to look at, not to change."""
    return taught(real(), 3, backbone)


def begun(method: SAPT, n: int, backbone: str = "t5", **settings: Any) -> tuple[State, Attend]:
    """The first phase of task n, as it begins."""
    state = taught(method, n - 1, backbone, **settings)
    if not state.modules:
        state.modules = dict(method.modules(state))
    task = BACKBONES[backbone][1].tasks[n - 1]
    encoded = state.store.add_task(task, len(state.history), state.n_classes)
    state.history.append(encoded)
    state.text = task
    phase = method.phases(state)[0]
    assert isinstance(phase, Attend)
    phase.begin(state)
    for group in phase.trainable(state):
        for p in group.parameters.values():
            p.requires_grad_(True)
    return state, phase


def prompts_of(state: State) -> Batch:
    return state.batch(np.concatenate([task.test for task in state.history])).without_answers()


def one_by_one(batch: Batch) -> list[Batch]:
    return [batch.select(torch.tensor([i])) for i in range(len(batch))]


def step_of(phase: Phase, state: State, i: int = 0, epoch: int = 0) -> dict[str, Any]:
    return dict(phase.batches(state, epoch)[i])


def gradients(state: State, loss: Tensor) -> dict[str, Tensor]:
    """By name, of whatever the loss reaches: adapters, modules and the backbone."""
    named: dict[str, Tensor] = dict(attention(state).named_parameters())
    named |= {f"backbone.{key}": p for key, p in state.backbone.model.named_parameters()}
    for name in state.pool.names:
        named |= {f"{name}.{key}": p for key, p in state.pool.parameters_of(name).items()}
    for p in named.values():
        p.grad = None
    loss.backward()
    return {key: p.grad for key, p in named.items() if p.grad is not None and bool(p.grad.any())}


# Routing (A13) ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_routing_of_one_by_one_is_that_of_the_batch(backbone: str) -> None:
    state, method = learned(backbone), real()
    batch = prompts_of(state)
    together = method.route(state, batch)
    alone = [method.route(state, one) for one in one_by_one(batch)]
    assert together.names == state.task_names
    apart = torch.cat([pooled(state, one, method.query) for one in one_by_one(batch)])
    assert torch.equal(apart, pooled(state, batch, method.query)), "bit for bit"
    weights = torch.cat([routing.weights for routing in alone])
    torch.testing.assert_close(weights, together.weights, rtol=0, atol=1e-6)
    assert weights.std(dim=0).min() > 1e-5, "different inputs are routed differently"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_more_padding_changes_no_bit_of_the_query(backbone: str) -> None:
    state, method = learned(backbone), real()
    batch = prompts_of(state)
    longer = replace(
        batch,
        input_ids=functional.pad(batch.input_ids, (0, 24), value=state.store.encoder.pad_id),
        attention_mask=functional.pad(batch.attention_mask, (0, 24)),
    )
    assert torch.equal(pooled(state, longer, method.query), pooled(state, batch, method.query))
    padded = real(query="padded")
    assert not torch.equal(pooled(state, longer, padded.query), pooled(state, batch, method.query))


@pytest.mark.parametrize("backbone", ["llama", "t5"])
def test_the_answer_is_no_part_of_the_query(backbone: str) -> None:
    state, method = learned(backbone), real()
    task = TEXT.tasks[0].test
    others = [replace(e, id=f"{e.id}-other", answers=("quite another answer",)) for e in task]
    store = TokenStore(state.store.encoder)
    batches = [store.batch(store.add(examples)) for examples in (task, others)]
    assert not torch.equal(batches[0].answer_ids[:, :2], batches[1].answer_ids[:, :2])
    batches.append(batches[0].without_answers())
    first, *rest = (pooled(state, batch, method.query) for batch in batches)
    assert all(torch.equal(first, other) for other in rest)


@pytest.mark.parametrize("backbone", ["llama", "t5"])
def test_the_weights_are_the_same_at_every_step_of_decoding(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attention is asked once, and what is written has the probability that it has where the
    whole answer is read at once, under the weights of the prompt."""
    state, method = learned(backbone), real()
    batch = prompts_of(state)
    asked: list[int] = []
    plain = SAPT.attend_to

    def watched(method: SAPT, state: State, batch: Batch) -> Tensor:
        asked.append(len(batch))
        return plain(method, state, batch)

    monkeypatch.setattr(SAPT, "attend_to", watched)
    routing, most = method.route(state, batch), state.decoding.max_new_tokens
    written = state.generate(batch, routing)
    assert asked == [len(batch)]
    rows = [ids if len(ids) == most else [*ids, state.end_id] for ids in written.ids]
    assert max(map(len, rows)) > 3
    answers = torch.full((len(rows), most), NO_TOKEN)
    for i, row in enumerate(rows):
        answers[i, : len(row)] = torch.tensor(row)
    with torch.no_grad():
        found = state.answer_log_probs(replace(batch, answer_ids=answers), routing)
    expected = mean_log_prob(found, answers)
    torch.testing.assert_close(written.log_prob, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(backbone: str) -> None:
    state, method = learned(backbone), real()
    batch = prompts_of(state).select(torch.tensor([0, 5, 9]))
    together = answer(state, method, [batch])
    alone = answer(state, method, one_by_one(batch))
    assert [a.label for a in together] == [a.label for a in alone]
    assert [a.routed for a in together] == [a.routed for a in alone]
    assert [a.score for a in together] == pytest.approx([a.score for a in alone], abs=1e-4)


# The first task (A11) -----------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_first_task_is_a_single_adapter(backbone: str) -> None:
    """Weights, loss and gradients; the attention has none, as it has no choice."""
    state, phase = begun(real(), 1, backbone)
    g = torch.Generator().manual_seed(0)
    name = state.task.name
    shapes = {key: tensor.shape for key, tensor in state.pool.tensors(name).items()}
    state.pool.load_tensors(name, {k: 0.3 * torch.randn(s, generator=g) for k, s in shapes.items()})
    batch = step_of(phase, state)["task"]
    assert torch.equal(real().route(state, batch).weights, torch.ones(len(batch), 1))
    ours = phase.loss(state, {"task": batch})
    assert ours.keys() == {"adapter"}
    alone = single(name, len(batch), state.device)
    if state.writes:
        theirs = answer_loss(state.answer_log_probs(batch, alone), batch.answer_ids)
    else:
        logits = state.pool.head(name)(state.forward(batch, alone).features)
        theirs = cross_entropy(logits, batch.label, len(batch))
    assert float(ours["adapter"].detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
    mine, expected = gradients(state, ours["adapter"]), gradients(state, theirs)
    assert mine.keys() == expected.keys() == {f"{name}.{key}" for key in shapes}
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_after_the_first_task_there_is_what_a_single_adapter_learns(backbone: str) -> None:
    ours, theirs = taught(real(), 1, backbone), taught(PerTask(), 1, backbone)  # type: ignore[arg-type]
    name = ours.task.name
    torch.testing.assert_close(
        ours.pool.tensors(name), theirs.pool.tensors(name), rtol=1e-3, atol=1e-4
    )


def test_equal_keys_mix_evenly() -> None:
    state = learned("bert")
    kept = {name: p.detach().clone() for name, p in attention(state).keys.items()}
    try:
        with torch.no_grad():
            for p in attention(state).keys.values():
                p.copy_(torch.ones_like(p))
        weights = real().route(state, prompts_of(state)).weights
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / 3))
    finally:
        with torch.no_grad():
            for name, p in attention(state).keys.items():
                p.copy_(kept[name])


# What moves (A8) ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("backbone", "kind"), [("bert", "lora"), ("t5", "prompt")])
def test_a_later_task_leaves_old_adapters_and_keys_bit_for_bit(backbone: str, kind: str) -> None:
    state = taught(real(), 2, backbone, kind=kind)
    names = state.task_names
    before = {name: state.pool.tensors(name) for name in names}
    module = {key: p.clone() for key, p in attention(state).state_dict().items()}
    teach(state, real(), BACKBONES[backbone][1].tasks[2])
    for name in names:
        after = state.pool.tensors(name)
        assert all(torch.equal(after[key], tensor) for key, tensor in before[name].items())
        assert not state.pool.is_live(name)
    for key, p in attention(state).state_dict().items():
        assert (key in module and torch.equal(p, module[key])) is (
            key.startswith("keys.") and key in module
        ), key
    assert len(attention(state).keys) == 3


@pytest.mark.parametrize(
    "options", [{}, {"attend": "selection"}, {"top_k": 2, "train_top_k": True}]
)
def test_the_new_adapter_its_key_and_the_projection_move_and_nothing_else(
    options: dict[str, Any],
) -> None:
    for backbone in ("bert", "t5"):
        method = real(**options)
        state = fresh(backbone)
        watch = Watch(method, state)
        teach(state, watch, *BACKBONES[backbone][1].tasks[:3])
        assert watch.stray == set()
        moved = {key.removeprefix("adapter: ") for key in watch.moved}
        keys = {key for key in moved if key.startswith("module/attention/keys.")}
        assert {key.rsplit(":", 1)[1] for key in keys} == set(state.task_names[1:]), "one key: none"
        projection = {key for key in moved if key.startswith("module/attention/projection.")}
        assert len(projection) == 4
        assert len([k for k in moved if k.endswith("head.weight")]) == (
            3 if backbone == "bert" else 0
        )


def test_a_key_is_drawn_by_seed_and_name() -> None:
    (one, _), (other, _) = begun(real(), 1), begun(real(), 1)
    three, _ = begun(real(), 1, seed=2)
    keys = [attention(s).parameters_of(s.task.name)["key"] for s in (one, other, three)]
    assert torch.equal(keys[0], keys[1])
    assert not torch.equal(keys[0], keys[2])


def test_the_attention_may_have_a_learning_rate_of_its_own() -> None:
    for method, expected in ((real(), 1e-2), (real(attention_lr=0.5), 0.5)):
        state, phase = begun(method, 2)
        adapter, shared = phase.trainable(state)
        assert (adapter.lr, shared.lr) == (1e-2, expected)
        assert set(shared.parameters) >= {"attention.key", "attention.projection.0.weight"}
        assert len(shared.parameters) == 5


# Reflection (A14) ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_reflection_reaches_the_new_key_and_the_projection_alone(backbone: str) -> None:
    state, phase = begun(real(), 3, backbone)
    terms = phase.loss(state, step_of(phase, state))
    assert terms.keys() == {"adapter", "reflection"}
    found = gradients(state, terms["reflection"])
    newest = f"keys.key:{state.task.name}"
    assert {key for key in found if not key.startswith("projection.")} == {newest}
    assert len(found) == 5


def test_the_task_loss_reaches_the_attention_too() -> None:
    state, phase = begun(real(), 3)
    found = gradients(state, phase.loss(state, step_of(phase, state))["adapter"])
    assert any(key.startswith("projection.") for key in found)
    assert f"keys.key:{state.task.name}" in found


def remembered(state: State, sizes: dict[str, int]) -> None:
    """Other pseudo-samples of old tasks: so many, drawn at random."""
    rng = np.random.default_rng(0)
    width = attention(state).width
    for i, (name, n) in enumerate(sizes.items()):
        state.buffers[QUERIES + name] = torch.from_numpy(rng.normal(size=(n, width))).float()
        state.buffers[REFERENCE + name] = torch.from_numpy(rng.dirichlet(np.ones(i + 1))).float()


def test_every_old_task_has_the_same_weight_and_a_batch_at_most() -> None:
    for over, share in (("sum", 1.0), ("mean", 1 / 3)):
        state, phase = begun(real(reflection_over=over), 4)
        remembered(state, dict(zip(state.task_names, (2, 9, 1), strict=False)))
        drawn = step_of(phase, state)["reflection"]
        assert len(drawn) == 2 + SPEC.batch_size + 1
        sizes = [2] * 2 + [4] * 4 + [1]
        assert drawn.weight.tolist() == pytest.approx([share / n for n in sizes])
        assert drawn.target[:2, 1:].abs().sum() == 0, "of later tasks: zero"
        assert (drawn.target[-1, :3] > 0).all() and drawn.target[-1, 3] == 0
        assert drawn.target.sum(dim=1).tolist() == pytest.approx([1.0] * 7)


def test_its_strength_is_an_option_and_zero_leaves_it_out() -> None:
    found = []
    for strength in (0.0, 1.0, 2.5):
        state, phase = begun(real(reflection=strength), 2)
        remembered(state, {state.task_names[0]: 3})
        terms = phase.loss(state, step_of(phase, state))
        found.append({key: float(term.detach()) for key, term in terms.items()})
    assert found[0].keys() == {"adapter"}
    assert found[2]["reflection"] == pytest.approx(2.5 * found[1]["reflection"], rel=1e-5)


def test_it_may_come_in_some_batches_and_from_some_epoch_on() -> None:
    state, phase = begun(real(reflection_every=2, reflection_from=1), 2)
    assert all("reflection" not in step for step in phase.batches(state, 0))
    steps = phase.batches(state, 1)
    assert len(steps) == 3
    assert ["reflection" in steps[i] for i in range(3)] == [True, False, True]


def test_each_batch_asks_other_samples_and_the_same_when_it_is_asked_again() -> None:
    state, phase = begun(real(), 2)
    remembered(state, {state.task_names[0]: 50})
    steps = phase.batches(state, 0)
    first, again, second = (steps[i]["reflection"].pooled for i in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, second)
    later = phase.batches(state, 1)[0]["reflection"].pooled
    assert not torch.equal(first, later)
    assert len(torch.unique(first, dim=0)) == len(first), "none twice in a batch"


def test_a_task_without_pseudo_samples_is_left_out() -> None:
    state, phase = begun(real(), 3)
    first, second = state.task_names[:2]
    remembered(state, {first: 0, second: 5})
    old = OldTasks.of(state)
    assert old is not None and list(old.sizes) == [5]
    drawn = step_of(phase, state)["reflection"]
    assert drawn.weight.sum().item() == pytest.approx(1.0)
    remembered(state, {first: 0, second: 0})
    assert OldTasks.of(state) is None
    assert not isinstance(phase.batches(state, 0), Reflecting)


def test_accumulation_divides_the_task_loss_and_the_reflection_alike() -> None:
    """METHODS D35: in the authors' code the weight of the reflection grows with it."""
    state, phase = begun(real(), 2)
    step = step_of(phase, state)
    expected = gradients(state, sum(phase.loss(state, step).values(), start=torch.zeros(())))
    slow = replace(phase, spec=replace(SPEC, accumulate=4))
    terms, again = phase.loss(state, step), slow.loss(state, step)
    assert terms.keys() == {"adapter", "reflection"}
    assert all(torch.equal(terms[key], again[key]) for key in terms)
    named = {key: p for group in slow.trainable(state) for key, p in group.parameters.items()}
    for p in named.values():
        p.grad = None
    trainer = Trainer(
        state,
        phase.method,
        accelerator=Accelerator(cpu=True),
        observer=Observer(),
        save=lambda progress: None,
    )
    optimiser = optimiser_for(slow.trainable(state), 0.0, 1e-8, {})
    trainer.step(slow, step, named, optimiser, Progress())
    attended = {key: p.grad for key, p in attention(state).named_parameters() if key in expected}
    assert len(attended) == 5
    for key, gradient in attended.items():
        assert gradient is not None
        torch.testing.assert_close(4 * gradient, expected[key])


# References ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"reference_from": "train"}])
def test_a_reference_is_the_mean_over_the_prompts_of_a_task(options: dict[str, Any]) -> None:
    method = real(**options)
    state = taught(method, 3, "bert")
    rows = state.task.train if options else state.task.valid
    with torch.no_grad():
        weights = [
            attention(state)(pooled(state, one, method.query), state.task_names)
            for one in one_by_one(state.batch(rows))
        ]
    mean = torch.cat(weights).mean(dim=0)
    assert torch.cat(weights).std(dim=0).max() > 1e-4
    found = state.buffers[REFERENCE + state.task.name]
    torch.testing.assert_close(found, mean, rtol=0, atol=1e-6)
    assert mean.sum().item() == pytest.approx(1.0)
    first = state.buffers[REFERENCE + state.task_names[0]]
    assert first.tolist() == [1.0], "of one task: all"


def test_without_validation_prompts_a_reference_is_of_training_prompts() -> None:
    tasks = [replace(task, valid=()) for task in TEXT.tasks[:2]]
    states = [fresh(), fresh()]
    for state, source in zip(states, ("valid", "train"), strict=True):
        teach(state, real(reference_from=source), *tasks)
    first, second = (s.buffers[REFERENCE + s.task.name] for s in states)
    assert torch.equal(first, second)


def test_a_reference_may_be_of_each_sample() -> None:
    method = real(reference="sample")
    state = taught(method, 2)
    name = state.task.name
    queries = state.buffers[QUERIES + name]
    with torch.no_grad():
        expected = attention(state)(queries, state.task_names)
    assert torch.equal(state.buffers[REFERENCE + name], expected)
    assert expected.shape == (3, 2)
    teach(state, method, TEXT.tasks[2])
    state.history.append(state.store.add_task(TEXT.tasks[3], 3, 0))
    old = OldTasks.of(state)
    assert old is not None
    torch.testing.assert_close(old.target[3:6], functional.pad(expected, (0, 2)))


@pytest.mark.parametrize("options", [{}, {"reference": "sample"}, {"reference_from": "train"}])
def test_nothing_is_learned_from_test_examples(options: dict[str, Any]) -> None:
    """METHODS D31: the authors' references are averages over the test prompts."""

    def poisoned(task: Task) -> Task:
        test = (
            Example(
                f"{task.name}-p", "something quite else 123", instruction="No!", answers=("z",)
            ),
        )
        return replace(task, test=test)

    states = [fresh(), fresh()]
    teach(states[0], real(**options), *TEXT.tasks[:3])
    teach(states[1], real(**options), *map(poisoned, TEXT.tasks[:3]))
    clean, other = ({**s.buffers, **attention(s).state_dict()} for s in states)
    assert clean.keys() == other.keys()
    assert all(torch.equal(clean[key], other[key]) for key in clean)
    for name in states[0].task_names:
        ours, theirs = (s.pool.tensors(name) for s in states)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert states[0].pseudo == states[1].pseudo


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_stored_queries_are_those_of_the_stored_texts(backbone: str) -> None:
    state = learned(backbone)
    for name in state.task_names:
        store = TokenStore(state.store.encoder)
        rows = store.add(state.pseudo[name].examples(name))
        found = pooled(state, store.batch(rows), real().query)
        assert torch.equal(found, state.buffers[QUERIES + name])


def test_the_query_of_a_real_sample_is_that_of_its_training_prompt() -> None:
    """Entities are marked in it, as they are in the prompts that are routed."""
    for kind in ("text", "typing", "relation"):
        stream = synthetic_stream(kind, 2)
        state = tiny_state(spec=SPEC, read_out="mean")
        method = real()
        teach(state, method, *stream.tasks)
        for task in state.history:
            trained = pooled(state, state.batch(task.train), method.query)
            for query in state.buffers[QUERIES + task.name]:
                assert (trained == query).all(dim=1).any()


# Ways to attend -----------------------------------------------------------------------------------


def test_attention_that_only_selects_leaves_each_adapter_alone_while_it_learns() -> None:
    method = real(attend="selection")
    state, phase = begun(method, 3)
    batch = step_of(phase, state)["task"]
    terms = phase.loss(state, step_of(phase, state))
    assert terms.keys() == {"adapter", "selection", "reflection"}
    alone = single(state.task.name, len(batch), state.device)
    expected = answer_loss(state.answer_log_probs(batch, alone), batch.answer_ids)
    assert torch.equal(terms["adapter"], expected)
    own = state.task.name
    assert {k.split(".")[0] for k in gradients(state, terms["adapter"])} == {own}
    log_a = method.attend_to(state, batch).detach().double().log_softmax(dim=1)
    assert float(terms["selection"].detach()) == pytest.approx(
        -float(log_a[:, -1].mean()), rel=1e-5
    )
    routing = method.route(state, batch)
    assert routing.names == state.task_names and bool((routing.weights > 0).all())


@pytest.mark.parametrize("attend", ["both", "selection"])
def test_new_inputs_may_be_tied_to_their_key(attend: Any) -> None:
    found = []
    for weight in (0.0, 1.0, 0.5):
        state, phase = begun(real(attend=attend, selection=weight), 2)
        terms = phase.loss(state, step_of(phase, state))
        found.append({key: float(term.detach()) for key, term in terms.items()})
    none, one, half = found
    assert ("selection" in none) == (attend == "selection")
    assert half["selection"] == pytest.approx(0.5 * one["selection"], rel=1e-5)
    assert one["adapter"] == none["adapter"]


def test_attention_that_only_selects_finds_the_task() -> None:
    """Where each has words of its own."""
    state = tiny_state(spec=replace(SPEC, epochs=12, select="last"))
    method = real(attend="selection", pseudo_share=1.0)
    teach(state, method, *map(own_words, range(3)))
    batch = state.batch(np.concatenate([task.test for task in state.history]))
    weights = method.route(state, batch.without_answers()).weights
    assert (weights.argmax(dim=1) == batch.task).float().mean() > 0.9


def own_words(t: int) -> Task:
    """Three of four words, of which the first says the label."""
    words = ("and are between by", "from kind relation sentence", "their type were with")[t].split()
    rng = np.random.default_rng(t)
    labels = (f"{t}-0", f"{t}-1")

    def examples(split: str, n: int) -> tuple[Example, ...]:
        drawn = [(i % 2, rng.choice(words[2:], 3)) for i in range(n)]
        return tuple(
            Example(f"{t}-{split}-{i}", " ".join([words[y], *map(str, more)]), labels[y])
            for i, (y, more) in enumerate(drawn)
        )

    return Task(f"own-{t}", labels, examples("a", 10), examples("b", 4), examples("c", 6))


@pytest.mark.parametrize("train_top_k", [False, True])
def test_with_top_k_the_newest_is_always_trained_and_the_largest_answer(train_top_k: bool) -> None:
    method = real(top_k=2, train_top_k=train_top_k)
    state, phase = begun(method, 4)
    batch = step_of(phase, state)["task"]
    with torch.no_grad():  # the newest is the least wanted
        q = attention(state).projection(pooled(state, batch, method.query)).mean(dim=0)
        attention(state).parameters_of(state.task.name)["key"].copy_(-0.3 * q)
    plain = method.attend_to(state, batch).softmax(dim=1)
    assert (plain.argmin(dim=1) == 3).all()
    trained = phase._routing(state, batch)
    answers = method.route(state, batch)
    for row, old in zip(answers.weights, plain, strict=True):
        kept = old.topk(2)
        assert row.nonzero()[:, 0].tolist() == sorted(kept.indices.tolist())
        torch.testing.assert_close(row.topk(2).values, kept.values / kept.values.sum())
    assert answers.top == 2
    if not train_top_k:
        assert trained.top is None
        torch.testing.assert_close(trained.weights, plain)
        return
    assert trained.top == 2
    assert ((trained.weights != 0).sum(dim=1) == 2).all()
    assert (trained.weights[:, -1] > 0).all()
    best = plain[:, :-1].max(dim=1).values
    torch.testing.assert_close(trained.weights[:, -1], plain[:, -1] / (plain[:, -1] + best))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_knowing_the_task_changes_no_weight_of_the_mix(backbone: str) -> None:
    """It names the classes to choose from; of free answers it says nothing."""
    for method, n in ((real(), 3), (real(top_k=1), 1)):
        state = learned(backbone)
        batch = state.batch(np.concatenate([task.test for task in state.history]))
        given = answer(state, method, [batch], with_oracle=True)
        assert all(len(a.routed) == n for a in given)
        if state.writes:
            assert [a.oracle for a in given] == [a.label for a in given]
            continue
        with torch.no_grad():
            scores = method.scores(state, batch, method.route(state, batch.without_answers()))
        own = [state.history[t] for t in batch.task.tolist()]
        first = [task.first_column for task in own]
        best = [
            int(row[at : at + len(task.labels)].argmax())
            for row, at, task in zip(scores, first, own, strict=True)
        ]
        expected = [task.labels[at] for task, at in zip(own, best, strict=True)]
        assert [a.oracle for a in given] == expected
        assert expected != [a.label for a in given]


@pytest.mark.parametrize("cut", [False, True])
def test_the_cut_is_handed_on(cut: bool) -> None:
    method = real(cut=cut)
    state, phase = begun(method, 3)
    batch = step_of(phase, state)["task"]
    assert phase._routing(state, batch).cut is cut
    assert method.route(state, batch).cut is cut
    assert real(cut=cut, top_k=1).route(state, batch).cut is cut


def test_the_cut_changes_the_gradients_of_lower_layers_alone() -> None:
    found = []
    for cut in (False, True):
        state, phase = begun(real(), 3)
        cutting = replace(phase, method=real(cut=cut))
        terms = cutting.loss(state, step_of(phase, state))
        found.append((terms["adapter"].detach(), gradients(state, terms["adapter"])))
    (exact, with_all), (same, less) = found
    assert torch.equal(exact, same)
    assert with_all.keys() == less.keys()
    assert any(not torch.allclose(with_all[key], less[key], atol=1e-7) for key in less)
