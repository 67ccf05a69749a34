"""Runs in half precision: every kind of adapter learns, and a run that is opened again answers as
before."""

from __future__ import annotations

from pathlib import Path

import pytest

from conpet import fit, load
from conpet.testing import synthetic_stream


@pytest.mark.parametrize("kind", ["lora", "bottleneck", "prompt", "prefix", "full"])
def test_every_kind_learns_and_answers(tmp_path: Path, kind: str) -> None:
    stream = synthetic_stream(n_tasks=2)
    model = fit(
        stream,
        out=tmp_path,
        method="sequential" if kind == "full" else "conpet-dynamic",
        backbone="tiny-bert",
        adapter=kind,
        precision="bf16",
        device="cpu",
        train__epochs=2,
        train__batch_size=4,
        replay__batch_limit=5,
    )
    texts = [example.text for task in stream.tasks for example in task.test]
    again = load(tmp_path)
    told = [(a.label, a.score) for a in model.predict(texts)]
    assert told == [(a.label, a.score) for a in again.predict(texts)]
