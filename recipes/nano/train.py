"""Training the decoder: the loop, its checkpoint, its curve.

What a step does depends on the plan, the text and the step's number only, and there is no dropout:
the decoder sees its text about once, and the backbone runs without. So training that was
interrupted goes on as if it had not been, to the bit on the same machine and threads.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from curve import Curve
from plan import Plan, loss_of, optimiser_for
from tasks import Batch, Sampler
from torch import Tensor
from transformers import EncoderDecoderModel

from conpet.backbones.nano import decoder_parameters
from conpet.errors import CheckpointError, ConfigError
from conpet.runtime import read_tensors, write_tensors_atomic

CHECKPOINT = "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


class Training:
    """The decoder, its optimiser and how far they are.

    Args:
        model: as ``nano.build`` made it, on its device.
        source: says which text is trained on; a checkpoint of another text is refused.
    """

    def __init__(
        self,
        model: EncoderDecoderModel,
        plan: Plan,
        source: dict[str, Any],
        *,
        train: Sampler,
        valid: dict[str, list[Batch]],
        folder: Path,
    ) -> None:
        self.model, self.plan, self.source = model.requires_grad_(False), plan, source
        self.train, self.valid, self.folder = train, valid, folder
        self.parameters = decoder_parameters(model)
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.optimiser = optimiser_for(self.parameters, plan)
        self.step, self.seconds, self._sum, self._count = 0, 0.0, 0.0, 0
        self.curve = Curve(folder)

    def run(self) -> bool:
        """Train to the end of the plan, or until a signal; whether the end was reached."""
        self.resume()
        if self.step == self.plan.steps:
            return True
        begin, done_before = time.monotonic(), self.step
        before = self.seconds
        with signals() as stop:
            while self.step < self.plan.steps and not stop:
                self.take_step()
                self.seconds = before + time.monotonic() - begin
                if self.step % self.plan.log_every == 0 or self.step == self.plan.steps:
                    self._log((time.monotonic() - begin) / (self.step - done_before))
                if self.step % self.plan.save_every == 0:
                    self.save()
        self.save()
        return self.step == self.plan.steps

    def take_step(self) -> None:
        """One batch, one step of the optimiser."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.lr_at(self.step)
        loss = self._loss(self.train.batch(self.step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.plan.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self._sum, self._count = self._sum + loss.item(), self._count + 1

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean loss per token of each kind of held-out example, by its name."""
        losses = {k: [self._loss(b).item() for b in batches] for k, batches in self.valid.items()}
        return {kind: sum(values) / len(values) for kind, values in losses.items()}

    def save(self) -> None:
        """Write the checkpoint: parameters, moments, and the numbers that go with them."""
        tensors = {f"parameter/{name}": p for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            state = self.optimiser.state.get(parameter, {})
            tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS if moment in state}
        about = {
            "step": self.step,
            "seconds": self.seconds,
            "sum": self._sum,
            "count": self._count,
            "plan": asdict(self.plan),
            "source": self.source,
            "curve": self.curve.rows,
        }
        write_tensors_atomic(self.folder / CHECKPOINT, tensors, about)
        self.curve.write()

    def resume(self) -> None:
        """Go on where the checkpoint is, if there is one.

        Raises:
            CheckpointError: it belongs to another text, or to a plan that differs in more than
                the number of steps.
        """
        if not (self.folder / CHECKPOINT).is_file():
            return
        tensors, about = read_tensors(self.folder / CHECKPOINT)
        self._check(about)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameter/{name}"])
                if about["step"]:
                    state = {m: tensors[f"{m}/{name}"].to(parameter.device) for m in MOMENTS}
                    step = torch.tensor(float(about["step"]), device=parameter.device)
                    self.optimiser.state[parameter] = {"step": step} | state
        self.step, self.seconds = about["step"], about["seconds"]
        self._sum, self._count = about["sum"], about["count"]
        self.curve.rows = about["curve"]
        print(f"train: goes on at step {self.step:,} of {self.plan.steps:,}")

    def _check(self, about: dict[str, Any]) -> None:
        where = f"{self.folder / CHECKPOINT}"
        if about["source"] != self.source:
            raise CheckpointError(
                f"{where} was trained on another text; choose another folder with --out"
            )
        before = Plan(**about["plan"])
        if replace(before, steps=self.plan.steps) != self.plan:
            raise CheckpointError(
                f"{where} has another plan: {before}, given: {self.plan}. Only --steps may "
                "change; choose another folder with --out to begin anew"
            )
        if about["step"] > self.plan.steps:
            raise ConfigError(f"{where} is at step {about['step']:,}; --steps may not be less")

    def _loss(self, batch: Batch) -> Tensor:
        device = self.model.device
        autocast = torch.autocast(device.type, torch.bfloat16)
        with autocast if self.plan.precision == "bf16" else nullcontext():
            return loss_of(self.model, Batch(*(t.to(device) for t in batch)))

    def _log(self, seconds_per_step: float) -> None:
        losses = self.validate()
        row = {"step": self.step, "train_loss": self._sum / self._count}
        row |= {"valid_loss": sum(losses.values()) / len(losses)}
        row |= {f"valid_{kind}": value for kind, value in losses.items()}
        self.curve.rows.append(row | {"seconds": self.seconds})
        self._sum, self._count = 0.0, 0
        left = (self.plan.steps - self.step) * seconds_per_step
        shown = ", ".join(f"{kind} {value:.3f}" for kind, value in losses.items())
        print(
            f"train: step {self.step:,} of {self.plan.steps:,}, loss {row['train_loss']:.3f}, "
            f"held out: {shown}; {seconds_per_step:.2f} s/step, {left / 60:.0f} min to go",
            flush=True,
        )


@contextmanager
def signals() -> Iterator[list[int]]:
    """A list that gets the number of each SIGINT and SIGTERM instead of their usual effect."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        print("train: stops after this step", flush=True)

    before = {n: signal.signal(n, receive) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
