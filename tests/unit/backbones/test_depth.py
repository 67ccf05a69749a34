"""The first layers of a backbone alone: the same states, another fingerprint, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conpet import fit
from conpet.backbones.loading import load_backbone
from conpet.config import load_config
from conpet.errors import ConfigError
from conpet.testing import synthetic_stream

TINY = ["tiny-bert", "tiny-llama", "tiny-qwen", "tiny-t5"]


@pytest.mark.parametrize("name", TINY)
def test_states_are_those_of_the_first_layer(name: str) -> None:
    whole, cut = load_backbone(name), load_backbone(name, layers=1)
    ids = torch.randint(10, 60, (2, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        states = whole.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        found, first = cut(ids, mask), states.hidden_states[1]
    stack = whole.model.encoder if name == "tiny-t5" else whole.model
    norm = getattr(stack, "norm", None) or getattr(stack, "final_layer_norm", None)
    assert torch.allclose(found, norm(first) if norm else first, atol=1e-6)
    assert len(cut.linears(None)) == len(whole.linears(None)) // 2
    assert cut.fingerprint != whole.fingerprint


def test_all_layers_are_the_backbone_itself() -> None:
    whole, all_kept = load_backbone("tiny-bert"), load_backbone("tiny-bert", layers=2)
    assert all_kept.fingerprint == whole.fingerprint


@pytest.mark.parametrize("layers", [0, 3])
def test_more_than_there_are(layers: int) -> None:
    with pytest.raises(ConfigError, match=rf"layers is {layers}, and .*'tiny-bert' has 2.*1 to 2"):
        load_backbone("tiny-bert", layers=layers)


def test_a_run_is_made_with_it(tmp_path: Path) -> None:
    words = {"backbone__layers": 1, "train__epochs": 1, "threads": 1}
    words |= {"replay__batch_limit": 3}
    model = fit(synthetic_stream(), out=tmp_path / "run", backbone="tiny-bert", **words)
    assert load_config(tmp_path / "run" / "config.yaml").backbone.layers == 1
    tuned = model.store.tasks[0]["cost"]["tuned_parameters"]
    assert tuned == 2 * 8 * (32 + 32) + 2 * 33  # query and value of one layer; a head of two
    assert model.evaluate()["row"]
