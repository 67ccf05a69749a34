"""Our LoRA against peft's: outputs, gradients, and folders in both directions."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from conpet.adapters.io import load_adapter, save_adapter
from conpet.adapters.peft_format import PREFIX, SUFFIXES, lora_config
from conpet.adapters.pool import Pool
from conpet.backbones.base import Backbone
from conpet.errors import CheckpointError
from conpet.testing import tiny_bert, tiny_llama, tiny_qwen, tiny_t5
from conpet.types import Routing

# peft asks transformers for a name that transformers has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

RANK, ALPHA, BATCH = 3, 6, 4
ONES = Routing(("a",), torch.ones(BATCH, 1))


BACKBONES = [tiny_bert, tiny_llama, tiny_qwen, tiny_t5]


@pytest.fixture(params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    made: Backbone = request.param()
    return made


@pytest.fixture
def input_ids() -> Tensor:
    return torch.randint(3, 60, (BATCH, 7), generator=torch.Generator().manual_seed(1))


def run(backbone: Backbone, input_ids: Tensor) -> Tensor:
    hidden = backbone(input_ids, torch.ones_like(input_ids))
    assert isinstance(hidden, Tensor)
    return hidden


def with_model(backbone: Backbone, model: PeftModel) -> Backbone:
    """The same backbone around the model that peft has changed in place."""
    other = copy.copy(backbone)
    other._modules = {**backbone._modules, "model": model.get_base_model()}
    return other


def pool_with_random_weights(backbone: Backbone, layers: int | None = None) -> Pool:
    pool = Pool(backbone, rank=RANK, alpha=ALPHA, layers=layers)
    pool.add("a", seed=0)
    generator = torch.Generator().manual_seed(2)
    pool.load_tensors(
        "a",
        {k: 0.3 * torch.randn(t.shape, generator=generator) for k, t in pool.tensors("a").items()},
    )
    return pool


def routed(pool: Pool, backbone: Backbone, input_ids: Tensor) -> Tensor:
    with pool.routed(ONES):
        return run(backbone, input_ids)


def test_outputs_and_gradients(backbone: Backbone, input_ids: Tensor) -> None:
    pool = pool_with_random_weights(backbone)
    paths = list(backbone.linears(None))
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=paths)
    theirs = get_peft_model(copy.deepcopy(backbone.model), config).eval()
    parameters = dict(theirs.named_parameters())
    pairs = {}
    for key, ours in pool.parameters_of("a").items():
        long = PREFIX + key[:-2] + SUFFIXES[key[-2:]].replace(".weight", ".default.weight")
        parameters[long].data.copy_(ours.data)
        pairs[key] = (ours, parameters[long])
    assert len(pairs) == 2 * len(paths) == 8

    out, expected = routed(pool, backbone, input_ids), run(with_model(backbone, theirs), input_ids)
    assert not torch.allclose(out, run(backbone, input_ids), atol=1e-3)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    goal = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)) / out.numel() ** 0.5
    (out * goal).sum().backward()
    (expected * goal).sum().backward()
    for key, (ours, other) in pairs.items():
        assert ours.grad is not None and other.grad is not None and ours.grad.any(), key
        torch.testing.assert_close(ours.grad, other.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [None, 1])
def test_peft_loads_our_folder(
    backbone: Backbone, input_ids: Tensor, tmp_path: Path, layers: int | None
) -> None:
    pool = pool_with_random_weights(backbone, layers)
    out = routed(pool, backbone, input_ids)
    save_adapter(pool, "a", tmp_path / "a")
    theirs = PeftModel.from_pretrained(copy.deepcopy(backbone.model), str(tmp_path / "a")).eval()
    adapted = {
        name.removeprefix(PREFIX).removesuffix(".lora_A.default")
        for name, _ in theirs.named_modules()
        if name.endswith(".lora_A.default")
    }
    assert adapted == set(backbone.linears(None, layers))
    assert len(adapted) == (4 if layers is None else 2)
    expected = run(with_model(backbone, theirs), input_ids)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def test_we_load_the_folder_of_peft(backbone: Backbone, input_ids: Tensor, tmp_path: Path) -> None:
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=list(backbone.linears(None)),
        init_lora_weights=False,
        lora_dropout=0.1,
    )
    torch.manual_seed(4)
    theirs = get_peft_model(copy.deepcopy(backbone.model), config).eval()
    expected = run(with_model(backbone, theirs), input_ids)
    theirs.save_pretrained(str(tmp_path / "a"))
    pool = Pool(backbone, rank=RANK, alpha=ALPHA)
    load_adapter(pool, "a", tmp_path / "a")
    out = routed(pool, backbone, input_ids)
    assert not torch.allclose(out, run(backbone, input_ids), atol=1e-3)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "variant", [{"use_dora": True}, {"use_rslora": True}, {"bias": "lora_only"}]
)
def test_variants_of_lora_are_refused(tmp_path: Path, variant: dict[str, bool]) -> None:
    backbone = tiny_bert()
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=["query", "value"],
        **variant,  # type: ignore[arg-type]
    )
    get_peft_model(copy.deepcopy(backbone.model), config).save_pretrained(str(tmp_path / "a"))
    pool = Pool(backbone, rank=RANK, alpha=ALPHA)
    with pytest.raises(CheckpointError, match=next(iter(variant))):
        load_adapter(pool, "a", tmp_path / "a")
    assert pool.names == ()


def test_target_modules_are_last_names_where_they_suffice() -> None:
    backbone = tiny_bert()
    for names, expected in (
        (["query", "value"], ["query", "value"]),
        (["attention.output.dense"], [f"encoder.layer.{i}.attention.output.dense" for i in (0, 1)]),
    ):
        paths = list(backbone.linears(names))
        config = lora_config(backbone.model, paths, rank=1, alpha=1.0, backbone="tiny")
        assert config["target_modules"] == expected
