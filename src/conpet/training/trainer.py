"""The one training loop: it runs the phases that a method asks for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from conpet.errors import ConpetError
from conpet.events import Observer
from conpet.methods.base import Method, Phase, State, Step
from conpet.training.optimiser import optimiser_for, set_lr
from conpet.types import Batch, Latents


class Interrupted(ConpetError):
    """SIGINT or SIGTERM came; everything is saved."""


class TrainingError(ConpetError):
    """Training cannot go on, e.g. the loss is not a number."""


@dataclass
class Cost:
    """What learning one task took. ``seconds`` is by phase; the rest are sums over its phases.
    ``examples`` are those of the batches, not what a loss term needs beside them."""

    seconds: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    examples: int = 0
    forward_passes: float = 0
    tuned_parameters: int = 0


@dataclass
class Progress:
    """Where training stands inside a task: all that resuming needs, but for tensors."""

    phase: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # batches of this phase that are done
    best_score: float | None = None
    cost: Cost = field(default_factory=Cost)
    optimiser: dict[str, Tensor] = field(default_factory=dict)  # "parameter/slot" -> tensor
    best: dict[str, Tensor] = field(default_factory=dict)  # parameter -> tensor

    @property
    def begun(self) -> bool:
        return self.step > 0

    def to_json(self) -> dict[str, object]:
        values = asdict(self)
        del values["optimiser"], values["best"]
        return values

    @staticmethod
    def from_json(values: dict, optimiser: dict[str, Tensor], best: dict[str, Tensor]) -> Progress:
        fields = {**values, "cost": Cost(**values["cost"])}
        return Progress(**fields, optimiser=optimiser, best=best)


Save = Callable[[Progress], None]


class Trainer:
    """Run the phases of a method on the newest task of a state.

    Args:
        save: writes a checkpoint of the state and the given progress.
        checkpoint_every: steps between checkpoints.
        stopped: asked after every step; True saves and raises ``Interrupted``.
    """

    def __init__(
        self,
        state: State,
        method: Method,
        *,
        accelerator: Accelerator,
        observer: Observer,
        save: Save,
        checkpoint_every: int = 100,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.state = state
        self.method = method
        self.accelerator = accelerator
        self.observer = observer
        self.save = save
        self.checkpoint_every = checkpoint_every
        self.stopped = stopped

    def learn(self, progress: Progress) -> Cost:
        """Learn the newest task, from where ``progress`` stands."""
        self._heed_signals()
        phases = self.method.phases(self.state)
        while progress.phase < len(phases):
            self._run(phases[progress.phase], progress)
            progress = Progress(phase=progress.phase + 1, cost=progress.cost)
            self.save(progress)
            self._heed_signals()
        return progress.cost

    # One phase -----------------------------------------------------------------------------------

    def _run(self, phase: Phase, progress: Progress) -> None:
        state, spec, cost = self.state, phase.spec, progress.cost
        clock = _Clock(cost, phase.name)
        if not progress.begun:
            torch.manual_seed(state.seed_of(phase.name, "dropout"))
            phase.begin(state)
        groups = phase.trainable(state)
        parameters = {name: p for group in groups for name, p in group.parameters.items()}
        _train_alone(parameters, state.modules)
        optimiser = optimiser_for(groups, spec.weight_decay, spec.eps, progress.optimiser)
        epochs = spec.epochs if spec.steps is None else math.inf
        limit = spec.max_steps if spec.steps is None else spec.steps
        most = None if limit is None else limit * spec.accumulate  # batches
        if epochs and not progress.begun:
            cost.tuned_parameters += sum(p.numel() for p in parameters.values())
        passes, announced = state.passes, None
        # A batch count that is not 0 is an epoch that has yet to be closed, by its validation.
        while progress.epoch < epochs and (most is None or progress.step < most or progress.batch):
            if not progress.batch:
                phase.begin_epoch(state, progress.epoch)
            batches = phase.batches(state, progress.epoch)
            total = len(batches) * spec.epochs if spec.steps is None else math.inf
            total = int(min(total, most or math.inf))
            if announced != total:
                self.observer.phase_started(phase.name, total, progress.step, spec.epochs)
                announced = total
            last = len(batches)
            if most is not None:
                last = min(last, progress.batch + most - progress.step)
            for i in range(progress.batch, last):
                batch = batches[i]
                if spec.schedule == "linear":
                    set_lr(optimiser, 1 - progress.step / total)
                closing = progress.epoch + 1 == epochs and i + 1 == last
                terms = self.step(phase, batch, parameters, optimiser, progress, closing)
                progress.batch, progress.step = i + 1, progress.step + 1
                examples = sum(len(b) for b in batch.values() if isinstance(b, Batch | Latents))
                cost.examples += examples
                cost.forward_passes += state.passes - passes
                passes = state.passes
                self.observer.step(progress.step, terms, examples)
                clock.tick()
                if progress.step % spec.accumulate:  # gradients in the making cannot be saved
                    continue
                if self.stopped():
                    self._checkpoint(progress, parameters, optimiser)
                    self._heed_signals()
                if progress.step // spec.accumulate % self.checkpoint_every == 0:
                    self._checkpoint(progress, parameters, optimiser)
            progress.epoch, progress.batch = progress.epoch + 1, 0
            if spec.select == "best":
                self._keep_best(phase, parameters, progress)
        _restore(parameters, progress.best)
        self._check_finite(phase, parameters)
        phase.end(state)
        cost.forward_passes += state.passes - passes
        clock.tick()
        self.observer.phase_ended(phase.name)

    def step(
        self,
        phase: Phase,
        batch: Step,
        parameters: Mapping[str, nn.Parameter],
        optimiser: torch.optim.Optimizer,
        progress: Progress,
        closing: bool = False,
    ) -> dict[str, float]:
        """One batch; an optimiser step every ``accumulate`` batches, and where ``closing``."""
        spec = phase.spec
        terms = phase.loss(self.state, batch)
        total = sum(terms.values(), start=torch.zeros((), device=self.state.device))
        if total.requires_grad:  # a batch may hold nothing that trains
            self.accelerator.backward(total / spec.accumulate)
        # Only now: reading a value waits for a GPU, which has the backward pass to do meanwhile.
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not all(map(math.isfinite, values.values())):
            raise self._not_finite(phase, f"loss {values} is", f"step {progress.step + 1} of ")
        if total.requires_grad:
            phase.after_backward(self.state)
        due = closing or (progress.step + 1) % spec.accumulate == 0
        if due and _has_gradient(parameters):
            if spec.clip is not None:
                self.accelerator.clip_grad_norm_(list(parameters.values()), spec.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            progress.cost.steps += 1
        phase.after_step(self.state, batch)
        return values

    def _heed_signals(self) -> None:
        if self.stopped():
            raise Interrupted(
                "stopped by a signal; all progress is saved. Run the same command again to resume"
            )

    def _check_finite(self, phase: Phase, parameters: Mapping[str, nn.Parameter]) -> None:
        """The last step has no loss after it that would show what it did to the weights."""
        bad = [name for name, p in parameters.items() if not bool(torch.isfinite(p).all())]
        if bad:
            raise self._not_finite(phase, f"weights {', '.join(bad[:3])} are", "")

    def _not_finite(self, phase: Phase, what: str, where: str) -> TrainingError:
        return TrainingError(
            f"{what} not finite in {where}phase '{phase.name}' of task '{self.state.task.name}' "
            f"(lr {phase.spec.lr}). Finished tasks are safe in the run folder. Begin a new one "
            "with a lower train.lr, a finite train.clip or precision=fp32"
        )

    def _keep_best(
        self, phase: Phase, parameters: Mapping[str, nn.Parameter], progress: Progress
    ) -> None:
        score = phase.validate(self.state)
        if score is None:
            return
        self.observer.validated(score)
        if progress.best_score is None or score > progress.best_score:
            progress.best_score = score
            progress.best = {name: p.detach().clone() for name, p in parameters.items()}

    def _checkpoint(
        self,
        progress: Progress,
        parameters: Mapping[str, nn.Parameter],
        optimiser: torch.optim.Optimizer,
    ) -> None:
        progress.optimiser = {
            f"{name}/{slot}": value
            for name, p in parameters.items()
            for slot, value in optimiser.state[p].items()
        }
        self.save(progress)


def _train_alone(parameters: Mapping[str, nn.Parameter], modules: Mapping[str, nn.Module]) -> None:
    """Of a method's own modules, a phase trains what it declares. (Adapters are live or frozen.)"""
    for module in modules.values():
        module.requires_grad_(False)
    for p in parameters.values():
        p.requires_grad_(True)


def _has_gradient(parameters: Mapping[str, nn.Parameter]) -> bool:
    return any(p.grad is not None for p in parameters.values())


@torch.no_grad()
def _restore(parameters: Mapping[str, nn.Parameter], best: Mapping[str, Tensor]) -> None:
    for name, value in best.items():
        parameters[name].copy_(value)


class _Clock:
    """Adds the seconds since the last tick to one phase of a cost."""

    def __init__(self, cost: Cost, phase: str) -> None:
        self.cost, self.phase, self.last = cost, phase, time.perf_counter()

    def tick(self) -> None:
        now = time.perf_counter()
        self.cost.seconds[self.phase] = self.cost.seconds.get(self.phase, 0.0) + now - self.last
        self.last = now
