"""The runs that the contract of a method is judged by, and what is compared of them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from conpet import ContinualModel, fit
from conpet.events import Observer
from conpet.methods.base import Method, PhaseSpec
from conpet.registry import BACKBONES, METHODS
from conpet.replay.dynamic import DynamicReplay
from conpet.streams import Stream
from conpet.streams.base import Kind
from conpet.testing.instruction import instruction_stream
from conpet.testing.state import teach, tiny_state
from conpet.testing.streams import synthetic_stream
from conpet.testing.watch import Watch
from conpet.training.trainer import Interrupted

N_TASKS = 3

_SMALL: dict[str, Any] = {
    "train__epochs": 2,
    "train__batch_size": 4,
    "replay__batch_limit": 5,
    "checkpoint_every": 3,
    "generation__max_new_tokens": 6,
    "threads": 1,
    "device": "cpu",
    "precision": "fp32",
}

_SMALL_OF: dict[str, dict[str, Any]] = {
    "sapt": {
        "method__pseudo_share": 0.25,
        "method__generator_steps": 4,
        "method__generator_batch_size": 6,
        "method__generator_tokens": 12,
        "method__generator_shortest": 1,
    },
    "lfpt5": {
        "method__pseudo_share": 0.25,
        "method__generator_tokens": 40,
        "method__generator_shortest": 1,
    },
    "l2p": {"method__pool": 6, "method__top_n": 2},
}
"""What makes the runs of a method small that takes steps of its own."""


@dataclass(frozen=True)
class Case:
    """A method with what it runs on; ``options`` are configuration keys as ``fit`` takes them."""

    method: str
    adapter: str = "lora"
    backbone: str = "tiny-bert"
    kind: Kind = "text"
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        named = [self.method, self.adapter, self.backbone]
        named += ["instruction"] if self.kind == "instruction" else []
        return "/".join([*named, *(str(v) for _, v in self.options)])

    def build(self) -> Method:
        """The method with its options."""
        method: Method = METHODS.load(self.method)(**self.options_of("method"))
        return method

    def options_of(self, section: str) -> dict[str, Any]:
        """Those of one section of the configuration."""
        start = f"{section}__"
        return {k.removeprefix(start): v for k, v in self._all.items() if k.startswith(start)}

    @property
    def _all(self) -> dict[str, Any]:
        options = dict(self.options)
        trained = options.get("method__router") != "analytic"  # else there is nothing to make small
        return {**(_SMALL_OF.get(self.method, {}) if trained else {}), **options}

    def fit(
        self, stream: Stream, out: Path, *, seed: int = 1, observer: Observer | None = None
    ) -> ContinualModel:
        # Dropout draws from the global generator: what resumes has to restore that one too.
        dropout = {"adapter__dropout": 0.1} if self.adapter == "lora" else {}
        settings = {**_SMALL, **dropout, "adapter__kind": self.adapter, **self._all}
        return fit(
            stream,
            out=out,
            method=self.method,
            backbone=self.backbone,
            observer=observer,
            seed=seed,
            **settings,
        )


class Runs:
    """The runs of one case in folders below ``folder``, each made when it is first asked for."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.folder = folder
        free = case.kind == "instruction"
        self.stream = instruction_stream(N_TASKS) if free else synthetic_stream(case.kind, N_TASKS)
        self.steps = Steps()

    @cached_property
    def straight(self) -> ContinualModel:
        """The stream in one go: what the others are compared with."""
        return self.case.fit(self.stream, self.folder / "straight", observer=self.steps)

    @cached_property
    def twin(self) -> ContinualModel:
        """The same once more, in another folder."""
        return self.case.fit(self.stream, self.folder / "twin")

    @cached_property
    def other_seed(self) -> ContinualModel:
        return self.case.fit(self.stream, self.folder / "other-seed", seed=2)

    @cached_property
    def grown(self) -> ContinualModel:
        """The first task alone; then the others are added by ``learn``."""
        first, *rest = self.stream.tasks
        model = self.case.fit(replace(self.stream, tasks=(first,)), self.folder / "grown")
        return model.learn(replace(self.stream, tasks=tuple(rest)))

    @cached_property
    def watched(self) -> Watch:
        """The method at work on a state without a folder, with dynamic replay where it can."""
        method = self.case.build()
        state = tiny_state(
            backbone=BACKBONES.load(self.case.backbone)(generative=self.stream.free),
            replay=DynamicReplay(5) if "dynamic" in method.replay_kinds else None,
            spec=PhaseSpec(epochs=2, batch_size=4),
            read_out="mean" if self.case.kind in ("text", "instruction") else "mask",
            **{
                **method.adapter_defaults,
                "kind": self.case.adapter,
                **self.case.options_of("adapter"),
            },
        )
        watch = Watch(method, state)
        teach(state, watch, *self.stream.tasks)
        return watch

    @cached_property
    def resumed(self) -> ContinualModel:
        """Stopped by a signal half-way, broken off one step before the end, resumed each time.

        A method that takes no steps is broken off at the end of its second phase.
        """
        assert self.straight.tasks  # counts the steps
        half, out = self.steps.count // 2, self.folder / "resumed"
        stops: list[tuple[Observer, type[Exception]]] = [
            (AtStep(half, lambda: signal.raise_signal(signal.SIGINT)), Interrupted),
            (AtStep(self.steps.count - half - 1, _break), Broken),
        ]
        for observer, error in stops if half else [(AtPhaseEnd(2, _break), Broken)]:
            try:
                self.case.fit(self.stream, out, observer=observer)
            except error:
                continue
            raise AssertionError(f"the run was to end with {error.__name__}, and did not")
        return self.case.fit(self.stream, out)


class Broken(Exception):
    """A fault in the middle of a run."""


def _break() -> None:
    raise Broken


class Steps(Observer):
    """Counts training steps."""

    def __init__(self) -> None:
        self.count = 0

    def step(self, step: int, terms: Mapping[str, float], examples: int) -> None:
        self.count += 1


class AtStep(Steps):
    """Calls ``how`` at a step, counted from 1 over all phases."""

    def __init__(self, at: int, how: Callable[[], None]) -> None:
        super().__init__()
        self.at, self.how = at, how

    def step(self, step: int, terms: Mapping[str, float], examples: int) -> None:
        super().step(step, terms, examples)
        if self.count == self.at:
            self.how()


class AtPhaseEnd(Observer):
    """Calls ``how`` at the end of a phase, counted from 1."""

    def __init__(self, at: int, how: Callable[[], None]) -> None:
        self.left, self.how = at, how

    def phase_ended(self, name: str) -> None:
        self.left -= 1
        if not self.left:
            self.how()


def differing(a: ContinualModel, b: ContinualModel) -> list[str]:
    """The results that are not bitwise the same: weights, matrix, predictions, pseudo-samples,
    counted cost."""
    left, right = _results(a), _results(b)
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


def _results(model: ContinualModel) -> dict[str, Any]:
    root = model.folder.path
    kept = ("adapters", "router", "learner", "pseudo", "predictions")
    files = [root / "matrix.json", *(f for name in kept for f in (root / name).rglob("*.*"))]
    found: dict[str, Any] = {str(f.relative_to(root)): _content(f) for f in files if f.is_file()}
    state = json.loads(model.folder.state.read_text())
    measured = ("seconds", "peak_memory_bytes")
    for task in state["tasks"]:
        found[f"cost of {task['name']}"] = {
            key: value for key, value in task["cost"].items() if key not in measured
        }
    return found | {key: state[key] for key in ("replay", "logits", "trunk")}


def _content(path: Path) -> Any:
    """The bits of a file; of safetensors those of each tensor: its header has no fixed order."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    return {
        key: (str(tensor.dtype), tensor.shape, tensor.flatten().view(torch.uint8).tolist())
        for key, tensor in load_file(path).items()
    }


def predictions(model: ContinualModel, stage: int) -> Sequence[dict[str, Any]]:
    """What the run wrote down about the tests after learning task ``stage``, from 1."""
    text = (model.folder.predictions / f"{stage:02d}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
