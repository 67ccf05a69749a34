"""A driver of commands for all tests of this folder, and a small stream."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # these tests share faultkit.py

from faultkit import DRIVER, Conpet, rows, write_rows

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]  # capset, prctl, tmpfs


@pytest.fixture(scope="session")
def conpet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conpet]:
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    with subprocess.Popen(
        [sys.executable, str(DRIVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | one | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
    ) as driver:
        yield Conpet(driver, tmp_path_factory.mktemp("commands"))
        driver.kill()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream of three tasks."""
    return write_rows(
        tmp_path_factory.mktemp("data") / "words.jsonl", rows(["one", "two", "three"])
    )
