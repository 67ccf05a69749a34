"""Small runs that the tests of this folder ask; none of them learns more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conpet import ContinualModel, fit
from conpet.streams import Stream
from conpet.testing import synthetic_stream
from conpet.testing.instruction import instruction_stream

TINY: dict[str, Any] = {
    "train__epochs": 2,
    "train__batch_size": 4,
    "generation__max_new_tokens": 6,
    "threads": 1,
    "device": "cpu",
    "precision": "fp32",
}
WRITER = TINY | {"backbone": "tiny-t5"}


@pytest.fixture(scope="session")
def stream() -> Stream:
    """Three tasks with free answers: those that the runs learn."""
    return instruction_stream(3)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def sapt(place: Path, stream: Stream) -> ContinualModel:
    return fit(stream, out=place / "sapt", method="sapt", method__pseudo="real", **WRITER)


@pytest.fixture(scope="session")
def dynamic(place: Path, stream: Stream) -> ContinualModel:
    limit = {"replay__batch_limit": 5}
    return fit(stream, out=place / "dynamic", method="conpet-dynamic", **limit, **WRITER)


@pytest.fixture(scope="session")
def sequential(place: Path, stream: Stream) -> ContinualModel:
    return fit(stream, out=place / "sequential", method="sequential", **WRITER)


@pytest.fixture(scope="session")
def per_task(place: Path, stream: Stream) -> ContinualModel:
    return fit(stream, out=place / "per-task", method="per-task", **WRITER)


@pytest.fixture(scope="session")
def classes(place: Path) -> ContinualModel:
    """A run whose answers are class labels."""
    own = TINY | {"backbone": "tiny-bert", "replay__batch_limit": 5, "train__lr": 1e-2}
    data = synthetic_stream("text", 3)
    return fit(data, out=place / "classes", method="conpet-dynamic", **own)
