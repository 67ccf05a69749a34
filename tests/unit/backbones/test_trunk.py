"""A backbone run in two parts: the same states and gradients as in one, or a refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import DebertaV2Config

from conpet.adapters.pool import Pool
from conpet.backbones.base import Backbone
from conpet.backbones.loading import kind_of, load_backbone
from conpet.backbones.trunk import Trunk
from conpet.errors import ConfigError
from conpet.testing import tiny_bert, tiny_llama, tiny_qwen, tiny_t5
from conpet.types import Routing

TINY = [tiny_bert, tiny_llama, tiny_qwen, tiny_t5]
Make = Callable[..., Backbone]


def texts() -> tuple[Tensor, Tensor]:
    """Ids and mask (3, 7); two rows are padded."""
    ids = torch.randint(10, 60, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = mask[2, 2:] = 0
    return ids, mask


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("make", TINY)
def test_two_parts_give_what_one_does(make: Make, attention: str) -> None:
    backbone = make(attention=attention)
    trunk, (ids, mask) = Trunk(backbone, 1), texts()
    assert (trunk.depth, trunk.share) == (1, 0.5)
    with torch.no_grad():
        whole = backbone(ids, mask)
        with trunk.given(trunk.lower(ids, mask)):
            parts = backbone(ids, mask)
    assert torch.equal(whole[mask.bool()], parts[mask.bool()])
    assert torch.equal(backbone(ids, mask), whole), "the layers are as they were"


@pytest.mark.parametrize("make", TINY)
def test_below_are_the_states_that_transformers_tells(make: Make) -> None:
    backbone, (ids, mask) = make(), texts()
    told = backbone.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    assert torch.equal(Trunk(backbone, 1).lower(ids, mask), told.hidden_states[1])


@pytest.mark.parametrize("make", TINY)
def test_states_of_real_tokens_do_not_depend_on_padding(make: Make) -> None:
    trunk, (ids, mask) = Trunk(make(), 1), texts()
    together = trunk.lower(ids, mask)
    for row, n in enumerate(mask.sum(dim=1).tolist()):
        alone = trunk.lower(ids[row : row + 1, :n], mask[row : row + 1, :n])
        torch.testing.assert_close(together[row : row + 1, :n], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
@pytest.mark.parametrize("make", TINY)
def test_gradients_of_adapters_above(make: Make, kind: str) -> None:
    backbone, (ids, mask) = make(), texts()
    pool = Pool(backbone, kind=kind, layers=1)  # type: ignore[arg-type]
    pool.add("a", seed=0)
    generator = torch.Generator().manual_seed(1)
    drawn = {k: torch.randn(t.shape, generator=generator) for k, t in pool.tensors("a").items()}
    pool.load_tensors("a", drawn)
    routing, trunk = Routing(("a",), torch.ones(3, 1)), Trunk(backbone, 1)
    found = []
    for states in (None, trunk.lower(ids, mask)):
        with pool.routed(routing):
            if states is None:
                out = backbone(ids, mask)
            else:
                with trunk.given(states):
                    out = backbone(ids, mask)
        parameters = pool.parameters_of("a")
        found.append(torch.autograd.grad(out[mask.bool()].square().sum(), [*parameters.values()]))
    assert len(found[0]) == len(pool.parameters_of("a")) > 0
    for one, other in zip(*found, strict=True):
        assert one.any()
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_the_encoder_of_a_pair_that_writes() -> None:
    backbone = tiny_t5(generative=True)
    trunk, (ids, mask) = Trunk(backbone, 1), texts()
    answer = torch.randint(10, 60, (3, 4), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = backbone.answer_logits(ids, mask, answer)  # type: ignore[operator]
        with trunk.given(trunk.lower(ids, mask)):
            parts = backbone.answer_logits(ids, mask, answer)  # type: ignore[operator]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


def test_layers_are_as_they_were_after_an_error() -> None:
    backbone, (ids, mask) = tiny_bert(), texts()
    trunk, before = Trunk(backbone, 1), backbone(ids, mask)
    with pytest.raises(KeyboardInterrupt), trunk.given(trunk.lower(ids, mask)):
        raise KeyboardInterrupt
    with pytest.raises(IndexError):
        trunk.lower(ids + 10_000, mask)
    assert torch.equal(backbone(ids, mask), before)
    assert not any("forward" in vars(layer) for layer in backbone.layers)


def test_another_backbone_depth_or_precision_has_another_key() -> None:
    deep = _deberta(conv=0)
    keys = {Trunk(deep, upper).key(half) for upper in (1, 2) for half in (None, torch.bfloat16)}
    keys |= {Trunk(tiny_bert(), 1).key(None), Trunk(load_backbone("tiny-qwen"), 1).key(None)}
    assert len(keys) == 6


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"all of its layers; lower adapter\.layers"):
        Trunk(tiny_bert(), 2)
    with pytest.raises(ConfigError, match=r"tiny-llama' .* decoder that writes.*Leave it out"):
        Trunk(tiny_llama(generative=True), 1)
    assert Trunk(_deberta(conv=0), 2).depth == 1
    with pytest.raises(ConfigError, match="'deberta-v2' model gives other states"):
        Trunk(_deberta(conv=3), 2)  # its convolution over the first layer would run twice


def _deberta(conv: int) -> Backbone:
    config = DebertaV2Config(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        relative_attention=True,
        **({"conv_kernel_size": conv, "conv_act": "gelu"} if conv else {}),
    )
    kind = kind_of("deberta", config)
    torch.manual_seed(0)
    model = kind.auto_class.from_config(config, attn_implementation="eager")
    backbone: Backbone = kind("deberta", model, tiny_bert().tokenizer)
    return backbone
