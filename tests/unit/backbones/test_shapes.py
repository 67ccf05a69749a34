"""Backbones without weights: their sizes, and the tuned parameters that the paper counts."""

from __future__ import annotations

import pytest
import torch

from conpet.adapters.pool import Pool
from conpet.backbones.loading import load_backbone
from conpet.backbones.shapes import SHAPES, shape_of, values_as_zeros
from conpet.errors import ConfigError

PARAMETERS = {
    "t5-large": 737_668_096,
    "t5-xl-v1.1": 2_849_757_184,
    "t5-xxl-v1.1": 11_135_332_352,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
}
"""Of the published checkpoints."""


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_size_of_the_model(name: str) -> None:
    model = shape_of(name, generative=True, dtype="bf16").model
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "rank", "tuned"),
    [
        ("t5-large", 4, 1_179_648),
        ("t5-large", 8, 2_359_296),
        ("t5-xl-v1.1", 4, 2_359_296),
        ("t5-xxl-v1.1", 4, 4_718_592),
        ("llama-2-7b", 4, 2_097_152),
        ("llama-2-13b", 4, 3_276_800),
    ],
)
def test_lora_on_query_and_value_has_the_published_size(name: str, rank: int, tuned: int) -> None:
    pool = Pool(shape_of(name, generative=True), rank=rank)
    pool.add("task", seed=0)
    assert pool.count("task") == (tuned, 0)


def test_lora_of_a_t5_is_in_every_attention() -> None:
    paths = list(shape_of("t5-large", generative=True).linears(None))
    assert len(paths) == 24 * 3 * 2  # layers; encoder, decoder and cross attention; query and value
    for end in ("encoder.block.0.layer.0.SelfAttention.q", "block.23.layer.1.EncDecAttention.v"):
        assert any(path.endswith(end) for path in paths)
    alone = shape_of("t5-large")  # to classify
    assert len(alone.linears(None)) == 24 * 2


def test_a_hub_id_of_a_shape_needs_no_hub() -> None:
    by_id = shape_of("meta-llama/Llama-2-7b-hf", generative=True)
    assert sum(p.numel() for p in by_id.model.parameters()) == PARAMETERS["llama-2-7b"]


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-t5", "nano"])
def test_what_a_registered_backbone_shares_stays_shared(name: str) -> None:
    whole, shape = load_backbone(name, generative=True), shape_of(name, generative=True)
    assert [p.shape for p in shape.model.parameters()] == [
        p.shape for p in whole.model.parameters()
    ]
    assert all(tensor.is_meta for tensor in [*shape.model.parameters(), *shape.model.buffers()])


def test_fewer_layers() -> None:
    assert len(shape_of("llama-2-7b", layers=3, generative=True).linears(None)) == 6


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 't5-large'\? Allowed: t5-large, t5-xl"):
        shape_of("t5-larg", generative=True)
    with pytest.raises(ConfigError, match="an encoder, which cannot write"):
        shape_of("tiny-bert", generative=True)


def test_values_that_are_not_there_are_zeros_where_asked_for() -> None:
    nothing = torch.empty(2, 3, device="meta")
    with pytest.raises(NotImplementedError):
        nothing.cpu()
    with values_as_zeros():
        assert nothing.cpu().tolist() == nothing.tolist() == [[0.0] * 3] * 2
        assert not bool(nothing.any()) and nothing.sum().item() == 0
        assert torch.ones(2).tolist() == [1.0, 1.0]  # what has values keeps them
        assert nothing.to("cpu").is_meta  # moved, it takes no memory
