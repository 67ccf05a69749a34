"""The loop, with a phase whose every number can be worked out by hand.

The phase tunes one weight w (2,) from zero. A batch stands for the mean y of its labels, and its
loss is (w . (1, 1) - y)^2 / 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from conpet.events import Observer
from conpet.methods.base import (
    LossTerms,
    Method,
    ParamGroup,
    Phase,
    PhaseSpec,
    RowBatches,
    State,
)
from conpet.routing.attention import Remembered
from conpet.routing.base import plain
from conpet.testing import synthetic_stream, teach, tiny_state
from conpet.training.trainer import Interrupted, Progress, Trainer, TrainingError
from conpet.types import Batch, Latents, Routing

SPEC = PhaseSpec(epochs=1, lr=0.1, weight_decay=0.0, clip=None, select="last")


def spec(**changes: Any) -> PhaseSpec:
    return replace(SPEC, **changes)


TASK = synthetic_stream(n_tasks=1, train=4).tasks[0]  # 8 examples: 4 of y = 0, 4 of y = 1


@dataclass
class Toy(Phase):
    """Writes down every call."""

    spec: PhaseSpec = SPEC
    name: str = "toy"
    groups: Sequence[Sequence[int]] = ((0, 1), (2, 3), (4, 5), (6, 7))  # positions of each batch
    scores: Sequence[float | None] = ()  # of each validation, in order
    explode: int | None = None  # the loss call that gives NaN, from 1
    calls: list[str] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)  # before each optimiser step
    seen: list[float] = field(default_factory=list)  # w . (1, 1) at each validation

    def begin(self, state: State) -> None:
        self.calls.append("begin")
        state.modules["toy"] = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(self.weight(state))

    def weight(self, state: State) -> nn.Parameter:
        return next(state.modules["toy"].parameters())

    def trainable(self, state: State) -> Sequence[ParamGroup]:
        self.calls.append("trainable")
        return [ParamGroup({"w": self.weight(state)}, self.spec.lr)]

    def batches(self, state: State, epoch: int) -> Sequence[Mapping[str, Batch]]:
        self.calls.append(f"batches {epoch}")
        return RowBatches(state, task=[state.task.train[np.array(group)] for group in self.groups])

    def loss(self, state: State, step: Mapping[str, Batch]) -> LossTerms:
        self.calls.append("loss")
        scale = math.nan if self.calls.count("loss") == self.explode else 1.0
        target = step["task"].label.float()
        miss = (self.weight(state).sum() - target) ** 2 / 2
        return {"half": scale * miss.mean() / 2, "other half": miss.mean() / 2}

    def validate(self, state: State) -> float | None:
        self.calls.append("validate")
        self.seen.append(total(self, state))
        return self.scores[self.calls.count("validate") - 1]

    def after_backward(self, state: State) -> None:
        self.calls.append("after_backward")
        gradient = self.weight(state).grad
        assert gradient is not None
        self.gradients.append(gradient.clone())

    def after_step(self, state: State, step: Mapping[str, Batch]) -> None:
        self.calls.append("after_step")

    def end(self, state: State) -> None:
        self.calls.append("end")


def total(toy: Toy, state: State) -> float:
    """w . (1, 1)"""
    return float(toy.weight(state).detach().sum())


@dataclass
class ToyMethod(Method):
    toys: Sequence[Toy]

    def phases(self, state: State) -> Sequence[Phase]:
        return self.toys

    def route(self, state: State, batch: Batch) -> Routing:
        return plain(len(batch), state.device)


def run(*toys: Toy, **options: Any) -> tuple[State, Trainer, Progress]:
    """Train, and give back what there is to look at; ``options`` are those of the trainer."""
    state, trainer = prepared(*toys, **options)
    progress = Progress()
    trainer.learn(progress)
    return state, trainer, progress


def prepared(*toys: Toy, **options: Any) -> tuple[State, Trainer]:
    state = tiny_state(TASK)
    settings: dict[str, Any] = {"observer": Observer(), "save": lambda progress: None, **options}
    return state, Trainer(state, ToyMethod(toys), accelerator=Accelerator(cpu=True), **settings)


def adam(gradients: Sequence[float], lr: Sequence[float] = (), eps: float = 1e-8) -> float:
    """w . (1, 1) after AdamW steps with these gradients (equal in both places), without decay."""
    w = m = v = 0.0
    rates = lr or [0.1] * len(gradients)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w -= rate * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + eps)
    return 2 * w


def test_hooks_are_called_in_order() -> None:
    toy = Toy(spec(epochs=2, select="best"), groups=((0, 1), (2, 3)), scores=(1.0, 2.0))
    run(toy)
    step = ["loss", "after_backward", "after_step"]
    epoch = [*step, *step, "validate"]
    expected = ["begin", "trainable", "batches 0", *epoch, "batches 1", *epoch, "end"]
    assert toy.calls == expected


def test_phases_run_one_after_another() -> None:
    order: list[str] = []

    class Watch(Observer):
        def phase_started(self, name: str, steps: int, done: int = 0, epochs: int = 1) -> None:
            order.append(f"{name} {steps} {done}")

        def phase_ended(self, name: str) -> None:
            order.append(f"{name} ended")

    run(Toy(name="first"), Toy(name="second"), observer=Watch())
    assert order == ["first 4 0", "first ended", "second 4 0", "second ended"]


def test_a_step_is_one_of_adamw_on_the_sum_of_the_terms() -> None:
    toy = Toy(groups=((0, 7), (0, 7)))  # y = 0.5 in both
    state, _, _ = run(toy)
    g1 = -0.5
    g2 = adam([g1]) - 0.5
    assert [float(g[0, 0]) for g in toy.gradients] == pytest.approx([g1, g2])
    assert total(toy, state) == pytest.approx(adam([g1, g2]), abs=1e-6)


def test_accumulated_batches_are_one_larger_batch() -> None:
    small = Toy(spec(accumulate=2), groups=((0, 1), (4, 5), (2, 6), (3, 7)))
    large = Toy(groups=((0, 1, 4, 5), (2, 6, 3, 7)))
    (a, _, _), (b, _, _) = run(small), run(large)
    whole = small.gradients[1::2]  # what the optimiser meets
    assert float(large.gradients[0].abs().sum()) == pytest.approx(1.0)
    torch.testing.assert_close(whole, large.gradients, rtol=0, atol=1e-7)
    torch.testing.assert_close(small.weight(a), large.weight(b), rtol=0, atol=1e-7)


def test_what_is_left_of_a_group_at_the_end_of_a_phase_is_a_step_of_its_own() -> None:
    toy = Toy(spec(accumulate=3), groups=((0, 1), (4, 5), (2, 6), (3, 7)))
    _, _, progress = run(toy)
    assert progress.cost.steps == 2


def test_a_linear_schedule_ends_at_zero() -> None:
    toy = Toy(spec(epochs=2, schedule="linear"), groups=((0, 1), (0, 7)))
    state, _, _ = run(toy)
    gradients = [float(g[0, 0]) for g in toy.gradients]
    expected = adam(gradients, lr=(0.1, 0.075, 0.05, 0.025))
    assert total(toy, state) == pytest.approx(expected, abs=1e-6)
    assert expected != pytest.approx(adam(gradients), abs=1e-2)


def test_the_norm_of_the_gradient_is_clipped() -> None:
    steps: list[Tensor] = []
    for clip in (None, 0.1):
        # eps above the gradient: the size of a step shows the size of its gradient
        state, _, _ = run(Toy(spec(eps=1e3, clip=clip), groups=((4, 5),)))
        steps.append(next(state.modules["toy"].parameters()).detach())
    free = math.sqrt(2) * 1.0  # gradient -(1, 1) at y = 1
    torch.testing.assert_close(steps[1], steps[0] * 0.1 / free, rtol=1e-3, atol=0)


def test_the_best_state_is_kept_and_the_first_of_equals() -> None:
    toy = Toy(
        spec(epochs=4, select="best"),
        scores=(50.0, 70.0, 70.0, 60.0),
    )
    state, _, _ = run(toy)
    assert total(toy, state) == toy.seen[1]
    assert toy.seen[1] != toy.seen[2]


def test_without_a_score_the_last_state_is_kept() -> None:
    toy = Toy(spec(epochs=2, select="best"), scores=(None, None))
    state, _, _ = run(toy)
    assert total(toy, state) == toy.seen[1]


def test_select_last_does_not_validate() -> None:
    toy = Toy(spec(epochs=2))
    run(toy)
    assert "validate" not in toy.calls


@pytest.mark.parametrize(
    ("changes", "batches", "losses"),
    [
        ({"epochs": 3}, 3, 12),
        ({"epochs": 3, "steps": 6}, 2, 6),
        ({"epochs": 1, "steps": 9}, 3, 9),
        ({"epochs": 0}, 0, 0),
        ({"epochs": 1, "steps": 3, "accumulate": 2}, 2, 6),
    ],
)
def test_steps_replace_epochs_and_are_those_of_the_optimiser(
    changes: Mapping[str, int], batches: int, losses: int
) -> None:
    toy = Toy(spec(**changes))
    _, _, progress = run(toy)
    assert sum(call.startswith("batches") for call in toy.calls) == batches
    assert toy.calls.count("loss") == losses
    assert progress.cost.steps == losses // changes.get("accumulate", 1)
    assert progress.cost.examples == 2 * losses
    assert progress.cost.tuned_parameters == (2 if losses else 0)


@dataclass
class Asks(Toy):
    """Beside the examples each step holds something that a loss term needs."""

    def batches(self, state: State, epoch: int) -> Sequence[Mapping[str, Any]]:
        remembered = Remembered(torch.zeros(5, 2), torch.zeros(5, 1), torch.zeros(5))
        latents = Latents(torch.zeros(3, 2), torch.zeros(3).long())
        more = {"reflection": remembered, "head": latents}
        return [dict(step) | more for step in super().batches(state, epoch)]


def test_what_a_loss_term_needs_is_no_example() -> None:
    told: list[int] = []

    class Told(Observer):
        def step(self, step: int, terms: Mapping[str, float], examples: int) -> None:
            told.append(examples)

    _, _, progress = run(Asks(), observer=Told())
    assert told == [2 + 3] * 4
    assert progress.cost.examples == 4 * (2 + 3)


def test_a_loss_that_is_no_number_ends_training_and_names_the_way_out() -> None:
    toy = Toy(explode=3)
    with pytest.raises(TrainingError) as caught:
        run(toy)
    text = str(caught.value)
    assert toy.calls.count("after_backward") == 2, "no step was taken with it"
    assert all(part in text for part in ("half", "nan", "'toy'", "step 3", "lr 0.1", "task-1"))
    assert "lower train.lr" in text


def test_a_batch_without_gradient_takes_no_step() -> None:
    class Silent(Toy):
        def loss(self, state: State, step: Mapping[str, Batch]) -> LossTerms:
            return {} if len(self.gradients) else super().loss(state, step)

    toy = Silent()
    state, _, progress = run(toy)
    assert progress.cost.steps == 1
    assert total(toy, state) == pytest.approx(adam([0.0]), abs=1e-6)


@pytest.mark.parametrize(("most", "steps", "checks"), [(6, 6, 2), (8, 8, 2), (20, 8, 2)])
def test_most_steps_cut_the_epochs_short_and_never_add_one(
    most: int, steps: int, checks: int
) -> None:
    toy = Toy(spec(epochs=2, max_steps=most, select="best"), scores=(10.0, 20.0))
    _, _, progress = run(toy)
    assert progress.cost.steps == steps
    assert toy.calls.count("validate") == checks


def test_a_stop_in_the_last_of_given_steps_still_validates_its_epoch() -> None:
    """Six steps are one epoch of four and half of the next."""
    saved: list[Progress] = []
    toy = Toy(spec(steps=6, select="best"), scores=(10.0, 20.0))
    _, trainer = prepared(toy, save=lambda p: saved.append(deepcopy(p)))
    trainer.stopped = stop_after(toy, 6)
    with pytest.raises(Interrupted):
        trainer.learn(Progress())
    again = Toy(toy.spec, scores=(20.0,))
    resumed, trainer = prepared(again)
    again.begin(resumed)
    trainer.learn(saved[-1])
    assert (again.calls.count("loss"), again.calls.count("validate")) == (0, 1)


def test_a_stop_saves_first_and_resuming_goes_on_behind_the_step() -> None:
    saved: list[tuple[Progress, dict[str, Tensor]]] = []
    toy = Toy(spec(epochs=2))
    state, trainer = prepared(toy)

    def save(progress: Progress) -> None:
        tensors = {k: v.clone() for k, v in progress.optimiser.items()}
        values = Progress.from_json(progress.to_json(), tensors, dict(progress.best))
        saved.append((values, {"w": toy.weight(state).detach().clone()}))

    trainer.save = save
    trainer.stopped = stop_after(toy, 3)
    with pytest.raises(Interrupted, match="Run the same command"):
        trainer.learn(Progress())
    progress, weights = saved[-1]
    assert (progress.step, progress.epoch, progress.batch) == (3, 0, 3)

    again = Toy(toy.spec)
    resumed, trainer = prepared(again)
    again.begin(resumed)  # what a checkpoint brings back
    with torch.no_grad():
        again.weight(resumed).copy_(weights["w"])
    again.calls.clear()
    trainer.learn(progress)
    assert "begin" not in again.calls
    assert again.calls.count("loss") == 5
    straight, _, _ = run(whole := Toy(toy.spec))
    assert torch.equal(again.weight(resumed), whole.weight(straight))


def stop_after(toy: Toy, steps: int) -> Callable[[], bool]:
    return lambda: toy.calls.count("after_step") >= steps


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3])])
def test_checkpoints_come_every_so_many_steps_and_after_the_phase(
    every: int, expected: list[int]
) -> None:
    saved: list[tuple[int, int]] = []
    run(Toy(), save=lambda p: saved.append((p.phase, p.step)), checkpoint_every=every)
    assert saved == [*((0, step) for step in expected), (1, 0)]


def test_no_checkpoint_while_gradients_are_in_the_making() -> None:
    saved: list[int] = []
    run(Toy(spec(accumulate=2)), save=lambda p: saved.append(p.step), checkpoint_every=1)
    assert saved == [2, 4, 0]


def test_decay_is_on_matrices_alone() -> None:
    class WithBias(Toy):
        def begin(self, state: State) -> None:
            state.modules["toy"] = nn.Linear(2, 1)
            for p in state.modules["toy"].parameters():
                nn.init.ones_(p)

        def trainable(self, state: State) -> Sequence[ParamGroup]:
            return [ParamGroup(dict(state.modules["toy"].named_parameters()), 0.1)]

        def loss(self, state: State, step: Mapping[str, Batch]) -> LossTerms:
            return {"none": 0.0 * sum(p.sum() for p in state.modules["toy"].parameters())}

    state, _, _ = run(WithBias(spec(weight_decay=0.5), groups=((0, 1),)))
    weight, bias = state.modules["toy"].parameters()
    assert weight.tolist() == [[pytest.approx(1 - 0.1 * 0.5)] * 2]
    assert bias.tolist() == [1.0]


def test_forward_passes_are_counted_with_those_of_validation() -> None:
    class Looking(Toy):
        def validate(self, state: State) -> float | None:
            state.features(state.task.valid)
            return 1.0

    toy = Looking(spec(epochs=2, select="best"))
    _, _, progress = run(toy)
    assert progress.cost.forward_passes == 2 * len(TASK.valid)


def test_a_task_is_taught_without_a_folder() -> None:
    state = tiny_state()
    cost = teach(state, ToyMethod([Toy()]), TASK)
    assert cost.steps == 4
    assert state.task_names == (TASK.name,)
