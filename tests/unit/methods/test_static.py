"""The methods with one shared adapter: what each phase computes, and what stays where it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from conpet.methods.base import PhaseSpec, State
from conpet.methods.crl import CRL
from conpet.methods.ea_emr import EAEMR
from conpet.methods.emar import EMAR
from conpet.methods.ewc import EWC
from conpet.methods.latent_replay import LatentReplay
from conpet.methods.lwf import LwF
from conpet.methods.replay import EMR, ExperienceReplay
from conpet.methods.seq_star import SeqStar
from conpet.methods.sequential import Sequential
from conpet.methods.tune import SHARED, reference
from conpet.objectives.contrastive import geometry
from conpet.replay.base import Replay
from conpet.replay.dynamic import DynamicReplay, FullReplay
from conpet.replay.memory import Budget, MemoryReplay
from conpet.testing import synthetic_stream, teach, tiny_state

STREAM = synthetic_stream(n_tasks=3)
SPEC = PhaseSpec(epochs=2, batch_size=4, lr=1e-2)


def memory() -> MemoryReplay:
    return MemoryReplay(Budget(2), "kmeans")


def learned(method: Any, n: int = 3, replay: Replay | None = None) -> State:
    state = tiny_state(spec=SPEC, replay=replay)
    teach(state, method, *STREAM.tasks[:n])
    return state


def newest(state: State, method: Any, n: int) -> list[Any]:
    """The phases of task ``n`` (from 0), which was only added."""
    first = len(state.labels)
    state.history.append(state.store.add_task(STREAM.tasks[n], n, first))
    return list(method.phases(state))


def same(a: State, b: State) -> bool:
    x, y = a.pool.tensors(SHARED), b.pool.tensors(SHARED)
    return x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)


# A weight of zero is plain sequential tuning ------------------------------------------------------


@pytest.mark.parametrize("method", [EWC(strength=0.0), LwF(strength=0.0)])
def test_without_their_term_ewc_and_lwf_are_sequential(method: Any) -> None:
    assert same(learned(method), learned(Sequential()))
    assert not same(learned(type(method)()), learned(Sequential()))


# replay, emr --------------------------------------------------------------------------------------


def test_emr_is_replay_with_another_choice_of_exemplars() -> None:
    """Handed the same memory, both compute the same bits."""
    assert same(learned(EMR(), replay=memory()), learned(ExperienceReplay(), replay=memory()))
    assert (EMR.default_selection, ExperienceReplay.default_selection) == ("kmeans", "random")


# lwf ----------------------------------------------------------------------------------------------


def test_lwf_keeps_the_old_answers_by_the_columns_of_the_cross_entropy() -> None:
    state, method = learned(LwF(), 1), LwF(strength=3.0)
    (phase,) = newest(state, method, 1)
    rows = np.sort(state.task.train)
    before = state.look(SHARED)(rows, "logits")  # (n, C_old)
    phase.begin(state)
    batch = state.batch(rows[::-1].copy())
    terms = phase.loss(state, {"task": batch})
    h = state.features(rows[::-1].copy(), SHARED)
    head = state.pool.head(SHARED)
    now = h @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    old = before[::-1]
    p = np.exp(old - old.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    q = now[:, :2] - np.log(np.exp(now[:, :2]).sum(axis=1, keepdims=True))
    assert terms["lwf"].item() == pytest.approx(3.0 * -(p * q).sum(axis=1).mean(), rel=1e-4)
    assert head.n_classes == 4


# ea-emr -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "dynamic"])
def test_alignment_brings_old_examples_back_and_moves_nothing_else(kind: str) -> None:
    method = EAEMR(align_epochs=30, align_lr=1e-2)
    state = learned(method, 1, memory() if kind == "memory" else DynamicReplay(5))
    tune, keep, align = newest(state, method, 1)
    old_rows = tune.reference(state)
    old_rows = old_rows[~np.isin(old_rows, state.task.train)]
    assert len(old_rows)
    target = state.features(old_rows, SHARED)  # the alignment is still the identity
    _run(state, tune)
    keep.end(state)
    drifted = state.features(old_rows, SHARED)
    before = state.pool.tensors(SHARED)
    _run(state, align)
    after = state.pool.tensors(SHARED)
    assert all(torch.equal(before[key], after[key]) for key in before)
    with torch.no_grad():
        aligned = state.modules["alignment"](torch.from_numpy(drifted)).numpy()
    assert ((aligned - target) ** 2).mean() < ((drifted - target) ** 2).mean()
    assert not [name for name in state.buffers if name.startswith("align/")]


def test_scores_of_ea_emr_go_through_the_alignment() -> None:
    method = EAEMR()
    state = learned(method, 2, memory())
    batch = state.batch(state.task.test)
    routing = method.route(state, batch)
    before = method.scores(state, batch, routing)
    with torch.no_grad():
        state.modules["alignment"].weight.mul_(2.0)
    assert not torch.allclose(method.scores(state, batch, routing), before)


# emar ---------------------------------------------------------------------------------------------


def test_prototypes_of_emar_are_the_means_of_the_exemplars() -> None:
    state = learned(EMAR(), 3, memory())
    assert isinstance(state.replay, MemoryReplay)
    found = state.buffers["emar/prototypes"]
    for task in state.history:
        kept = np.array(state.replay.kept[task.name])
        for column in range(task.first_column, task.first_column + 2):
            rows = task.train[kept][task.train_labels[kept] == column]
            expected = state.features(rows, SHARED).mean(axis=0)
            np.testing.assert_allclose(found[column].numpy(), expected, atol=1e-5)
    batch = state.batch(state.task.test)
    h = torch.from_numpy(state.features(state.task.test, SHARED))
    scores = EMAR().scores(state, batch, EMAR().route(state, batch))
    torch.testing.assert_close(scores, (h @ found.T).log_softmax(dim=1), rtol=0, atol=1e-4)


def test_every_epoch_of_emar_rehearses_all_exemplars() -> None:
    state = learned(EMAR(), 1, memory())
    tune, keep, again = newest(state, EMAR(), 1)
    _run(state, tune)
    keep.end(state)
    again.begin(state)
    batches = list(again.batches(state, 0))
    assert [next(iter(step)) for step in batches] == ["task"] * 6 + ["memory"] * 2
    rehearsed = torch.cat([step["memory"].rows for step in batches if "memory" in step])
    exemplars = reference(state, "prototypes", 4, [0])
    assert sorted(rehearsed.tolist()) == exemplars.tolist()
    assert len(exemplars) == 8


@pytest.mark.parametrize("method", [EMAR(), EAEMR()])
def test_exemplars_that_validate_are_in_no_batch(method: Any) -> None:
    state = learned(method, 1, MemoryReplay(Budget(4), valid_share=0.25))
    tune, keep, last = newest(state, method, 1)
    _run(state, tune)
    keep.end(state)
    last.begin(state)
    batches = [step for epoch in range(2) for step in last.batches(state, epoch)]
    seen = torch.cat([batch.rows for step in batches for batch in step.values()]).tolist()
    validating = state.replay.validation(state.history, 4, np.random.default_rng(0))
    old = [int(row) for row in validating if row not in state.task.valid]
    assert len(old) == 2
    assert not set(old) & set(seen)
    assert set(seen) & set(state.history[0].train.tolist())


def test_a_memory_that_shrinks_aligns_what_it_still_has() -> None:
    method = EAEMR()
    state = learned(method, 1, MemoryReplay(Budget(total=8), valid_share=0.0))
    tune, keep, align = newest(state, method, 1)
    assert len(tune.reference(state)) == 8
    _run(state, tune)
    keep.end(state)
    align.begin(state)
    kept = reference(state, "adapter", 4, [0])
    assert state.buffers["align/rows"].tolist() == kept.tolist()
    assert len(kept) == 8
    assert len(state.buffers["align/h"]) == len(state.buffers["align/target"]) == 8


# crl ----------------------------------------------------------------------------------------------


def test_crl_has_no_head_and_answers_with_the_nearest_class_mean() -> None:
    method = CRL()
    state = learned(method, 3, memory())
    assert not state.pool.has_head(SHARED)
    found = state.buffers["crl/prototypes"].numpy()
    rows = np.concatenate([task.test for task in state.history])
    h = state.features(rows, SHARED)
    distance = ((h[:, None, :] - found[None, :, :]) ** 2).sum(axis=2)
    batch = state.batch(rows)
    scores = method.scores(state, batch, method.route(state, batch))
    assert scores.argmax(dim=1).tolist() == distance.argmin(axis=1).tolist()
    assert [name for name in state.buffers if name.startswith("crl/")] == ["crl/prototypes"]


def test_stored_features_are_those_of_the_last_batch_that_saw_an_example() -> None:
    method = CRL()
    state = learned(method, 1, memory())
    phase = newest(state, method, 1)[0]
    phase.begin(state)
    rows = state.buffers["crl/rows"].numpy()
    with torch.no_grad():
        state.modules["projector"][0].weight.mul_(-1.0)  # what is stored is now out of date
    before = state.buffers["crl/stored"].clone()
    phase.loss(state, {"task": state.batch(rows[[3, 0]])})
    changed = (state.buffers["crl/stored"] != before).any(dim=1).nonzero()[:, 0].tolist()
    assert changed == [0, 3]


def test_the_geometry_term_is_that_of_old_classes_and_the_last_prototypes() -> None:
    method = CRL()
    state = learned(method, 1, memory())
    contrast, keep, again, *_ = newest(state, method, 1)
    _run(state, contrast)
    keep.end(state)
    before = state.buffers["crl/prototypes"].clone()  # (2, d), of task 1
    again.begin(state)
    rows = state.buffers["crl/rows"].numpy()
    stored, column = state.buffers["crl/stored"].clone(), state.columns_of(rows)
    terms = again.loss(state, {"task": state.batch(rows)})
    h = torch.from_numpy(state.features(rows, SHARED))
    with torch.no_grad():
        z = functional.normalize(state.modules["projector"](h), dim=1)
    means = torch.stack([stored[column == c].mean(dim=0) for c in (0, 1)])
    old = torch.from_numpy(column < 2)
    expected = geometry(z[old], torch.from_numpy(column)[old], before, means, method.sharpness)
    assert terms["geometry"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert "geometry" not in again.loss(state, {"task": state.batch(rows[column >= 2])})


# seq-star -----------------------------------------------------------------------------------------


def test_after_the_first_task_of_seq_star_only_new_rows_of_the_head_move() -> None:
    method = SeqStar()
    state = learned(method, 1)
    first = state.pool.tensors(SHARED)
    teach(state, method, *STREAM.tasks[1:])
    last = state.pool.tensors(SHARED)
    for key, value in first.items():
        assert torch.equal(last[key][: len(value)], value), key
    assert len(last["head.weight"]) == 6
    assert not [name for name in state.buffers if name.startswith("seq/")]


def test_the_warm_up_of_seq_star_moves_the_head_alone() -> None:
    method = SeqStar()
    state = tiny_state(spec=SPEC)
    warm_up = newest(state, method, 0)[0]
    assert (warm_up.name, warm_up.spec.epochs) == ("warm-up", 1)
    warm_up.begin(state)
    before, passes = state.pool.tensors(SHARED), state.passes
    warm_up.loss(state, warm_up.batches(state, 0)[0])["warm-up"].backward()
    parameters = state.pool.parameters_of(SHARED)
    assert {key for key, p in parameters.items() if p.grad is not None} <= {
        "head.weight",
        "head.bias",
    }
    assert state.passes == passes, "the backbone was passed when the phase began"
    _run(state, warm_up)
    after = state.pool.tensors(SHARED)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"head.weight"}  # cosine logits have no bias


# latent-replay ------------------------------------------------------------------------------------


def test_latent_draws_have_the_mean_and_covariance_of_the_tables() -> None:
    method = LatentReplay(draws=20_000, features="backbone")
    state = learned(method, 1)
    (phase,) = newest(state, method, 1)
    h, column = phase._draw(state, np.random.default_rng(0))
    assert torch.bincount(column).tolist() == [20_000, 20_000]
    mean = state.buffers["latent/mean"].float()
    sigma = torch.from_numpy(np.cov((h - mean[column]).numpy().T)).float()
    scatter, count = state.buffers["latent/scatter"], state.buffers["latent/count"]
    s = (scatter / count).float()
    expected = 0.9 * s + 0.1 * s.trace() / len(s) * torch.eye(len(s))
    scale = float(expected.diagonal().mean())
    torch.testing.assert_close(sigma / scale, expected / scale, rtol=0, atol=0.05)
    for c in (0, 1):
        spread = 5 * (expected.diagonal() / 20_000).sqrt()
        assert bool(((h[column == c].mean(dim=0) - mean[c]).abs() < spread).all())


def test_latent_replay_keeps_no_example_and_freezes_its_features() -> None:
    method = LatentReplay()
    state = learned(method, 1)
    first = {k: v for k, v in state.pool.tensors(SHARED).items() if not k.startswith("head.")}
    teach(state, method, *STREAM.tasks[1:])
    assert all(torch.equal(state.pool.tensors(SHARED)[key], v) for key, v in first.items())
    assert state.replay.held() == {}
    assert sorted(state.buffers) == ["latent/count", "latent/mean", "latent/scatter"]
    d = state.backbone.hidden_size
    assert state.buffers["latent/mean"].shape == (6, d)
    assert state.buffers["latent/scatter"].shape == (d, d)


# With the full history instead of a memory --------------------------------------------------------


@pytest.mark.parametrize("method", [ExperienceReplay(), EAEMR(), EMAR(), CRL()])
@pytest.mark.parametrize("replay", [DynamicReplay(5), FullReplay()])
def test_without_a_memory_nothing_is_kept(method: Any, replay: Replay) -> None:
    state = learned(method, 3, replay)
    assert state.replay.held() == {}
    if not isinstance(method, ExperienceReplay | EAEMR):
        (name,) = [name for name in state.buffers if name.endswith("/prototypes")]
        assert bool((state.buffers[name].norm(dim=1) > 0).all()), "every class has a prototype"


def _run(state: State, phase: Any) -> None:
    """One phase, by the trainer's loop."""
    from accelerate import Accelerator

    from conpet.events import Observer
    from conpet.training.trainer import Progress, Trainer

    class Only(Sequential):
        def phases(self, state: State) -> list[Any]:
            return [phase]

    Trainer(
        state,
        Only(),
        accelerator=Accelerator(cpu=True),
        observer=Observer(),
        save=lambda progress: None,
    ).learn(Progress())
