"""Names, options, errors, fingerprints and quietness of loading."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import CLIPConfig
from transformers.utils import logging

from conpet.backbones.loading import QUANTISATION, kind_of, load_backbone
from conpet.errors import ConfigError, MissingDependencyError

TINY = ["tiny-bert", "tiny-llama", "tiny-qwen", "tiny-t5"]


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny = load_backbone("tiny-bert")
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_unknown_name(no_hub: None) -> None:
    with pytest.raises(ConfigError, match=r"'minilmm' is neither.*mean 'minilm'\?.*a hub id"):
        load_backbone("minilmm")
    with pytest.raises(ConfigError, match="no such/thing' is neither"):
        load_backbone("no such/thing")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("dtype", "bf61", r"unknown dtype 'bf61'. Did you mean 'bf16'\? Allowed: fp32, bf16, fp16"),
        ("attention", "flash", "unknown attention 'flash'"),
        ("quantisation", "8bit", "unknown quantisation '8bit'. Allowed: bitsandbytes-8bit"),
        ("device", "gpu", "device is 'gpu'"),
    ],
)
def test_unknown_option(option: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_backbone("tiny-bert", **{option: value})


def test_missing_device() -> None:
    with pytest.raises(MissingDependencyError, match="'cuda:99' was asked for"):
        load_backbone("tiny-bert", device="cuda:99")


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conpet.backbones.loading.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install torchao"):
        load_backbone("tiny-bert", quantisation="torchao-int8")
    with pytest.raises(MissingDependencyError, match="pip install flash-attn"):
        load_backbone("tiny-bert", attention="flash_attention_2")


def test_tiny_backbones_are_not_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conpet.backbones.loading.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="'tiny-bert' cannot be quantised"):
        load_backbone("tiny-bert", quantisation="torchao-int8")


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"could not be loaded from.*config\.json"):
        load_backbone(tmp_path)


def test_folder_with_damaged_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="could not be loaded from"):
        load_backbone(folder)


def test_folder_with_pickled_weights_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(load_backbone("tiny-bert").model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        load_backbone(folder)


def test_unsupported_kind() -> None:
    with pytest.raises(ConfigError, match="'clip' model, which is none of the supported kinds"):
        kind_of("x", CLIPConfig())


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_dtype(folder: Path, dtype: str) -> None:
    expected = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    for name in ("tiny-bert", folder):
        assert {p.dtype for p in load_backbone(name, dtype=dtype).parameters()} == {expected}


def test_auto_attention_is_eager_on_a_cpu(folder: Path) -> None:
    for name in ("tiny-bert", folder):
        assert load_backbone(name).model.config._attn_implementation == "eager"
        model = load_backbone(name, attention="sdpa").model
        assert model.config._attn_implementation == "sdpa"


def test_fingerprint_is_of_the_content(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    print_ = load_backbone(folder).fingerprint
    elsewhere = tmp_path_factory.mktemp("copy") / "renamed"
    folder.rename(elsewhere)
    assert load_backbone(elsewhere).fingerprint == print_
    assert load_backbone(elsewhere, attention="sdpa").fingerprint == print_
    assert load_backbone(elsewhere, dtype="bf16").fingerprint != print_
    changed = load_backbone(elsewhere)
    with torch.no_grad():
        next(changed.model.parameters())[3, 3] += 1e-3
    assert changed.fingerprint == print_, "it is that of the weights as they were loaded"
    del changed.__dict__["fingerprint"]
    assert changed.fingerprint != print_


def test_fingerprints_of_tiny_backbones_are_equal_in_every_process() -> None:
    code = (
        "from conpet.backbones.loading import load_backbone\n"
        f"print(*(load_backbone(n).fingerprint for n in {TINY}))"
    )
    torch.rand(3)
    here = [load_backbone(name).fingerprint for name in TINY]
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.split() == here and len(set(here)) == len(TINY)


@pytest.mark.parametrize("name", TINY)
def test_tiny_backbones_leave_the_global_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    load_backbone(name)
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_is_quiet_and_leaves_settings_alone(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_backbone(folder)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_cached_hub_model_needs_no_network(no_hub: None) -> None:
    cache = Path(constants.HF_HUB_CACHE) / "models--some--bert"
    snapshot = cache / "snapshots" / ("a" * 40)
    tiny = load_backbone("tiny-bert")
    tiny.model.save_pretrained(snapshot)
    tiny.tokenizer.save_pretrained(snapshot)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    loaded = load_backbone("some/bert")
    assert loaded.name == "some/bert" and loaded.fingerprint == tiny.fingerprint


@pytest.mark.parametrize("quantisation", list(QUANTISATION))
def test_quantised_weights_are_frozen_and_let_gradients_through(
    folder: Path, quantisation: str
) -> None:
    """Also after a pass without gradient, on which bitsandbytes may pack its weights anew."""
    package = QUANTISATION[quantisation]
    if find_spec(package) is None:
        pytest.skip(f"needs: pip install {package}")
    backbone = load_backbone(folder, quantisation=quantisation)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    ids = torch.arange(10, 20)[None]
    exact = load_backbone(folder)(ids, torch.ones_like(ids))
    difference = (backbone(ids, torch.ones_like(ids)) - exact).norm() / exact.norm()
    assert 0 < difference < 0.5  # 4 bits on a random model of width 32
    inputs = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    backbone.model(inputs_embeds=inputs).last_hidden_state.pow(3).sum().backward()
    assert inputs.grad is not None and inputs.grad.norm() > 0
