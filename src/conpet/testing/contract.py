"""What every method has to keep, as tests to inherit.

    # test_my_method.py
    from conpet.testing.contract import MethodContract

    class TestMyMethod(MethodContract):
        method = "my-method"                     # as it is registered
        options = {"method__strength": 0.5}      # as ``fit`` takes them

Each test asks for runs of a small stream; a run is made once and shared. To see more in a failed
comparison, put ``pytest.register_assert_rewrite("conpet.testing.contract")`` into ``conftest.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from conpet import ContinualModel, load
from conpet.errors import ConfigError
from conpet.evaluation.evaluator import answer
from conpet.streams.base import Kind
from conpet.testing.runs import N_TASKS, Case, Runs, differing, predictions
from conpet.types import Example


class MethodContract:
    """The tests. A subclass names the method; it may name adapter, backbone and options too."""

    method: ClassVar[str]
    adapter: ClassVar[str] = "lora"
    backbone: ClassVar[str] = "tiny-bert"
    kind: ClassVar[Kind] = "text"
    options: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def case(self) -> Case:
        return Case(
            self.method, self.adapter, self.backbone, self.kind, tuple(self.options.items())
        )

    @pytest.fixture
    def runs(self, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Runs:
        return _runs(case, tmp_path_factory.getbasetemp())

    def test_every_stage_is_measured_and_answers_with_classes_seen(self, runs: Runs) -> None:
        model = runs.straight
        assert model.tasks == tuple(task.name for task in runs.stream.tasks)
        assert model.labels == runs.stream.labels
        measured = ~np.isnan(model.matrix.values)
        assert measured[-1].all(), "the last row is never missing"
        assert not np.triu(measured, 1).any(), "a task is scored only after it was learned"
        for stage in (np.flatnonzero(measured[:, 0]) + 1).tolist():
            lines, seen = predictions(model, stage), runs.stream.tasks[:stage]
            assert [line["id"] for line in lines] == [e.id for task in seen for e in task.test]
            known = {label for t in seen for label in t.labels}
            assert runs.stream.free or {line["label"] for line in lines} <= known
            assert all(0 < line["score"] <= 1.000001 for line in lines)

    def test_the_same_seed_gives_the_same_bits(self, runs: Runs) -> None:
        assert differing(runs.straight, runs.twin) == []

    def test_another_seed_gives_other_weights_where_anything_is_trained(self, runs: Runs) -> None:
        trained = runs.straight.store.tasks[-1]["cost"]["tuned_parameters"] > 0
        changed = differing(runs.straight, runs.other_seed)
        assert any(name.endswith(".safetensors") for name in changed) == trained

    def test_interrupted_and_resumed_is_uninterrupted(self, runs: Runs) -> None:
        assert differing(runs.straight, runs.resumed) == []

    def test_a_task_added_later_is_learned_as_if_it_had_been_in_the_stream(
        self, runs: Runs
    ) -> None:
        assert runs.grown.tasks == runs.straight.tasks
        waits = np.isnan(runs.straight.matrix.values[0, 0])  # for the last task it knows of
        early = {f"predictions/{stage:02d}.jsonl" for stage in range(1, N_TASKS)}
        costs = {f"cost of {name}" for name in runs.straight.tasks}
        allowed = early | costs | {"matrix.json"} if waits else set()
        assert set(differing(runs.straight, runs.grown)) <= allowed

    def test_only_declared_parameters_move(self, runs: Runs) -> None:
        """The backbone, frozen adapters and whatever else a phase does not train stay bitwise."""
        assert runs.watched.stray == set()
        trained = runs.straight.store.tasks[-1]["cost"]["steps"] > 0
        assert bool(runs.watched.moved) == trained

    def test_a_loaded_run_answers_alike(self, runs: Runs) -> None:
        loaded = load(runs.straight.folder.path, device="cpu")
        assert loaded.evaluate() == runs.straight.evaluate()
        row = [float(v) for v in runs.straight.matrix.values[-1]]
        assert loaded.evaluate()["row"] == row
        if not runs.straight.method.needs_task_id:
            assert loaded.predict(_questions(runs)) == runs.straight.predict(_questions(runs))

    def test_answers_do_not_depend_on_the_task_id(self, runs: Runs) -> None:
        model: ContinualModel = runs.straight
        if model.method.needs_task_id:
            with pytest.raises(ConfigError, match="told the task"):
                model.predict(_questions(runs))
            return
        written = predictions(model, N_TASKS)
        answers = model.predict(_questions(runs))
        assert [a.label for a in answers] == [line["label"] for line in written]
        assert [a.score for a in answers] == pytest.approx([w["score"] for w in written], abs=1e-4)
        _check_task_is_not_read(runs)


def _check_task_is_not_read(runs: Runs) -> None:
    """Routing and scores are the same for true, wrong and hidden task ids."""
    state, method = runs.watched.state, runs.watched.method
    batch = state.batch(np.concatenate([task.test for task in state.history]))
    wrong = replace(batch, task=batch.task.roll(1), label=batch.label.roll(1))
    seen = (batch, wrong, batch.without_answers())
    if state.writes:
        first, *others = (answer(state, method, [one]) for one in seen)
        assert others == [first, first]
        return
    with torch.no_grad():
        scores = [method.scores(state, one, method.route(state, one)) for one in seen]
    torch.testing.assert_close(scores[1], scores[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(scores[2], scores[0], rtol=0, atol=1e-6)


def _questions(runs: Runs) -> list[Example]:
    """The test examples without their labels and answers."""
    return [replace(e, label=None, answers=()) for task in runs.stream.tasks for e in task.test]


@lru_cache(maxsize=2)  # tests of one case follow each other
def _runs(case: Case, base: Path) -> Runs:
    return Runs(case, Path(mkdtemp(prefix="contract-", dir=base)))
