"""What is computed without a run, by hand and against the samplers and runs themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conpet import fit
from conpet.encoding.encode import EncodedTask
from conpet.evaluation.collect import collect
from conpet.replay.base import split_batch
from conpet.replay.dynamic import DynamicReplay
from conpet.replay.memory import Budget, MemoryReplay
from conpet.studies import memory, probe
from conpet.studies.arithmetic import (
    drawn_share,
    head_parameters,
    lora_parameters,
    rehearsed_share,
    stored_parameters,
    text_bytes,
)
from conpet.studies.base import Row
from conpet.studies.similarity import likeness, nearest_elsewhere
from conpet.testing import synthetic_stream

EPOCHS, BATCH, LIMIT = 3, 8, 10


# Parameters


def test_lora_of_llama_by_hand() -> None:
    """32 layers, two projections of 4096 x 4096, rank 4: 32 * 2 * 4 * 8192."""
    assert lora_parameters([(4096, 4096)] * 64, 4) == 2_097_152
    assert head_parameters(4096, 18) == 18 * 4096 + 18 == 73_746


def test_lora_of_llama_by_its_shapes() -> None:
    rows = probe.llama()
    assert len(rows) == 10
    for row in rows:
        assert row["backbone_parameters"] == 6_738_415_616
        assert row["tuned_parameters"] == 524_288 * row["rank"]
    four = next(row for row in rows if row["rank"] == 4)
    assert four["factor"] == pytest.approx(3213, abs=0.5)
    by_hand = {n: 6_738_415_616 / (2_097_152 + n * 4097) for n in (18, 41, 80)}
    assert {n: four[f"factor_with_head_{n}"] for n in by_hand} == pytest.approx(by_hand, abs=0.05)
    assert by_hand == pytest.approx({18: 3104.0, 41: 2974.8, 80: 2778.8}, abs=0.05)


def test_stored_parameters_by_hand() -> None:
    """P = 100, d = 4, tasks of 2 and 3 labels."""
    assert stored_parameters(100, 4, [2, 3], one_each=False) == 100 + 5 * 5
    one_each = stored_parameters(100, 4, [2, 3], one_each=True, selector_rows=2)
    assert one_each == 2 * 100 + 5 * 5 + 100 + 2 * 5
    assert stored_parameters(100, 4, [2], one_each=True, selector_rows=1) == 100 + 2 * 5
    assert stored_parameters(100, 4, [2, 3], one_each=True) == 2 * 100 + 5 * 5


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("replay", {"replay__kind": "dynamic"}),
        ("conpet-dynamic", {}),
        ("conpet-dynamic", {"method__selector_target": "label"}),
        ("conpet-dynamic", {"method__top_k": "all"}),
    ],
)
def test_memory_of_a_run_is_that_of_its_shapes(
    tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    small = {"train__epochs": 1, "replay__batch_limit": 3, "threads": 1, "device": "cpu"}
    fit(synthetic_stream(), out=out, method=method, backbone="tiny-bert", **small, **options)
    record = collect(out)
    row: Row = dict(memory.measure(record))
    assert row["computed_parameters"] == record.tasks[-1].cost.stored_parameters
    assert row["adapter_parameters"] == 2 * 2 * 8 * (32 + 32)
    assert row["computed_bytes"] < row["weights_bytes"] < 2 * row["computed_bytes"] + 10_000
    assert row["adapters_bytes"] == memory.bytes_below(out / "adapters") > 0
    (answered,) = probe.answer(str(out))
    assert answered["answer_memory_bytes"] >= answered["imports_memory_bytes"] > 0
    assert answered["answer_seconds"] > 0


def test_step_of_a_random_model() -> None:
    for kind in ("encoder", "decoder"):
        (row,) = probe.step(kind, "1", "32", "4")
        assert row["tuned_parameters"] == 2 * 4 * (32 + 32) + 10 * (32 + 1)  # with the head
        assert row["backbone_parameters"] > 500_000  # the vocabulary of BERT or LLaMA
        assert row["step_seconds"] > 0 and row["answer_seconds"] > 0


# What comes back of a history


def tasks_of(sizes: list[int]) -> list[EncodedTask]:
    """Tasks of two labels; rows are numbered through."""
    tasks, row = [], 0
    for i, n in enumerate(sizes):
        rows, empty = np.arange(row, row + n), np.zeros(0, np.int64)
        labels = 2 * i + np.arange(n) % 2
        tasks.append(
            EncodedTask(f"t{i}", ("a", "b"), i, 2 * i, rows, empty, empty, labels, empty, empty)
        )
        row += n
    return tasks


def replayed(replay: DynamicReplay | MemoryReplay, sizes: list[int], seed: int) -> float:
    """Percent of the old examples that the sampler itself has drawn at least once."""
    rng, seen = np.random.default_rng(seed), set()
    tasks = tasks_of(sizes)
    for i in range(len(tasks)):
        for _ in range(EPOCHS):
            batches = replay.batches(tasks[: i + 1], np.ones(sum(sizes)), BATCH, rng)
            old = sum(sizes[:i])
            seen |= {row for batch in batches for row in batch.tolist() if row < old}
        replay.keep(tasks[: i + 1], None, rng)  # type: ignore[arg-type]
    return 100 * len(seen) / sum(sizes[:-1])


def draws_of(sizes: list[int]) -> list[float]:
    _, old = split_batch(BATCH, 1.0)
    return [0.0] + [float(EPOCHS * LIMIT * 8 // 10 * old)] * (len(sizes) - 1)


def test_share_of_dynamic_replay_is_that_of_its_sampler() -> None:
    sizes = [40, 60, 200, 10]
    found = [replayed(DynamicReplay(LIMIT), sizes, seed) for seed in range(40)]
    assert drawn_share(sizes, draws_of(sizes)) == pytest.approx(np.mean(found), abs=1.0)


def test_share_of_a_memory_is_that_of_its_sampler() -> None:
    sizes, kept = [40, 60, 200, 10], 60
    memory = MemoryReplay(Budget(per_class=kept // 2), batch_limit=LIMIT, valid_share=0.0)
    found = [replayed(replace(memory, kept={}), sizes, seed) for seed in range(40)]
    held = [min(n, kept) for n in sizes]
    expected = rehearsed_share(sizes, held, draws_of(sizes), EPOCHS)
    assert expected == pytest.approx(np.mean(found), abs=1.5)


def test_shares_by_hand() -> None:
    """One draw among two examples; and all exemplars of two seen."""
    assert drawn_share([2, 5], [0, 1]) == pytest.approx(50)
    assert rehearsed_share([4, 5], [2, 2], [0, 8], epochs=1) == pytest.approx(50)
    assert rehearsed_share([4, 5], [2, 2], [0, 1], epochs=1) == pytest.approx(25)


def test_bytes_of_texts() -> None:
    assert text_bytes([("ä", "x"), ("bc", "")]) == 2 + 1 + 2


# How alike tasks are


def test_nearest_label_elsewhere() -> None:
    """Four labels in two close pairs: together in a task, or one of each pair in each task."""
    means = np.array([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0], [-0.9, -0.1]])
    assert nearest_elsewhere(means, [0, 0, 1, 1]) == 0
    assert nearest_elsewhere(means, [0, 1, 0, 1]) == 100


def test_likeness_is_told_by_lda(tmp_path: Path) -> None:
    fit(synthetic_stream(), out=tmp_path / "lda", method="lda", backbone="tiny-bert", threads=1)
    assert 0 <= likeness(collect(tmp_path / "lda"))["nearest_elsewhere"] <= 100
