"""The benchmark of a GPU runs on tiny sizes without one, and says so where there is none to ask."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[3]
GPU = ROOT / "benchmarks" / "gpu.py"
TINY = ["--device", "cpu", "--shape", "tiny", "--json", "--threads", "1", "--rounds", "2"]
SMALL = ["--batch", "2", "--length", "24", "--answer", "5", "--adapters", "3"]


@pytest.fixture(autouse=True)
def _as_scripts_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GPU.parent))


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(GPU), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_way_is_measured_on_tiny_sizes() -> None:
    done = run(*TINY, *SMALL)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["settings"]["card"] is None
    goals = {f["name"]: f["goal"] for f in document["figures"]}
    sizes = {m["sizes"] for m in document["measured"]}
    assert sizes == {"tiny-decoder", "tiny-encoder-decoder"}
    ways = {m["way"] for m in document["measured"]}
    assert ways >= {"sdpa attention", "eager attention"}
    for m in document["measured"]:
        where = f"{m['sizes']}, {m['way']}"
        assert goals[f"{where}: training step over the frozen floor"] == 1.1
        assert goals[f"{where}: writing, 3 different adapters, over one adapter"] == 1.1
        assert goals[f"{where}: writing, 3 different adapters, over no adapter"] is None
        assert f"{where}: training, share of the card's peak" not in goals
        training, writing = m["training"], m["writing"]
        assert training["tokens"] == 2 * (24 + 5)
        assert training["tokens_per_second"] > 0 and training["share_of_peak"] is None
        assert (writing["prompts"], writing["prompt_tokens"], writing["new_tokens"]) == (3, 24, 5)
        assert set(writing["seconds"]) == set(writing["tokens_per_second"])
    assert not (GPU.parent / "results" / "gpu.json").exists()  # no GPU was here


def test_a_given_peak_gives_a_share_of_it() -> None:
    done = run(*TINY, *SMALL, "--peak-tflops", "0.001")
    assert done.returncode == 0, done.stderr
    for m in json.loads(done.stdout)["measured"]:
        t = m["training"]
        per_second = t["floor_tflop"] / t["seconds"]["step"]["median"]
        assert t["share_of_peak"] == pytest.approx(per_second / 0.001, rel=0.05)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
@pytest.mark.parametrize("options", [[], ["--device", "cpu"], ["--shape", "tiny"]])
def test_without_a_gpu_it_says_what_to_do(options: list[str]) -> None:
    done = run(*options)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert "--device cpu --shape tiny" in line and "conpet doctor" in line


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H200", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA A10G", None),
        ("Tesla T4", None),
    ],
)
def test_the_peak_of_a_card_is_known_by_its_name(card: str, peak: float | None) -> None:
    assert import_module("gpu").peak_of(card) == peak


def test_arithmetic_is_counted_forward_and_backward() -> None:
    """Two frozen layers: 2 P N forward, and as much down to the input."""
    layers = nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 3)).requires_grad_(False)
    x = torch.randn(5, 7, requires_grad=True)
    with import_module("gpu").Arithmetic() as arithmetic:
        torch.autograd.grad(layers(x).sum(), [x])
    assert arithmetic.total == 4 * (7 * 11 + 11 * 3) * 5
