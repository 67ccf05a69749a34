"""Prefixes: each row its own, rows without one, padding, attention implementations, and life."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING

from conpet import fit
from conpet.adapters.io import load_adapter, save_adapter
from conpet.adapters.pool import Pool
from conpet.backbones.decoder import DecoderBackbone
from conpet.backbones.encdec import EncoderDecoderBackbone
from conpet.backbones.encoder import EncoderBackbone
from conpet.config import RunConfig
from conpet.errors import CheckpointError, ConfigError, RoutingError
from conpet.testing import synthetic_stream, tiny_bert, tiny_llama, tiny_qwen, tiny_t5
from conpet.testing.instruction import instruction_stream
from conpet.types import Routing

M = 3
NAMES = ("a", "b", "c")
READERS = [tiny_bert, tiny_llama, tiny_qwen, tiny_t5]
WRITERS = [tiny_llama, tiny_t5]
IDS = torch.randint(10, 60, (5, 6), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 6, [1] * 5 + [0], [1] * 2 + [0] * 4])
MIXED = torch.eye(3)[[2, 0, 0, 1, 2]]
MIXED[2] = 0  # the plain backbone
ANSWER = torch.randint(10, 60, (5, 4), generator=torch.Generator().manual_seed(2))


def pool_on(backbone: Any) -> Pool:
    """Three prefixes of random numbers, of which the first is frozen."""
    pool = Pool(backbone, kind="prefix", length=M)
    for i, name in enumerate(NAMES):
        pool.add(name, seed=i)
        shape = pool.tensors(name)["prefix"].shape
        numbers = torch.randn(shape, generator=torch.Generator().manual_seed(9 + i))
        pool.load_tensors(name, {"prefix": numbers})
    pool.freeze("a")
    return pool


@torch.no_grad()
def states(backbone: Any, pool: Pool, weights: Tensor, rows: Any = slice(None)) -> Tensor:
    ids, mask = IDS[rows], MASK[rows]
    n = int(mask.sum(dim=1).max())  # no more padding than is needed
    with pool.routed(Routing(NAMES, weights[rows])) as soft_prompt:
        assert soft_prompt is None
        found: Tensor = backbone(ids[:, :n], mask[:, :n])
    return found * mask[:, :n, None]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("make", READERS)
def test_each_row_is_what_it_is_alone(make: Any, attention: str) -> None:
    """Other rows, their padding and their prefixes do not count; a row without one is plain."""
    backbone = make(attention=attention)
    pool = pool_on(backbone)
    whole = states(backbone, pool, MIXED)
    plain = states(backbone, pool, torch.zeros(5, 3))
    for b in range(5):
        n = int(MASK[b].sum())
        alone = states(backbone, pool, MIXED, slice(b, b + 1))
        torch.testing.assert_close(whole[b, :n], alone[0], rtol=0, atol=2e-5)
        unchanged = torch.allclose(whole[b, :n], plain[b, :n], atol=2e-5)
        assert unchanged == (b == 2)


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 70}
T5_SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 70}
MORE = {"intermediate_size": 48, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
OF_DECODERS = {"num_key_value_heads": 2, "head_dim": 8}
FAMILIES = [
    (kind, name, sizes)
    for kind, sizes in (
        (EncoderBackbone, {**SIZES, **MORE, "embedding_size": 32}),
        (DecoderBackbone, {**SIZES, **MORE, **OF_DECODERS}),
        (EncoderDecoderBackbone, T5_SIZES),
    )
    for name, family in kind.families.items()
    if family.prefix is not None
]


@pytest.mark.parametrize(("kind", "name", "sizes"), FAMILIES, ids=[f[1] for f in FAMILIES])
def test_every_family_that_is_named_can_have_prefixes(
    kind: Any, name: str, sizes: dict[str, Any]
) -> None:
    config = CONFIG_MAPPING[name](**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.auto_class.from_config(config, attn_implementation="eager")
    backbone = kind(name, model, tiny_bert().tokenizer)
    backbone.ordinary_tokens = range(5, 60)
    pool = pool_on(backbone)
    whole, plain = states(backbone, pool, MIXED), states(backbone, pool, torch.zeros(5, 3))
    for b in range(5):
        n = int(MASK[b].sum())
        alone = states(backbone, pool, MIXED, slice(b, b + 1))
        torch.testing.assert_close(whole[b, :n], alone[0], rtol=0, atol=2e-5)
        assert torch.allclose(whole[b, :n], plain[b, :n], atol=1e-5) == (b == 2)


@pytest.mark.parametrize("make", READERS)
def test_no_attention_implementation_makes_a_difference(make: Any) -> None:
    eager, sdpa = make(attention="eager"), make(attention="sdpa")
    for weights in (MIXED, torch.eye(3)[[0] * 5]):
        for mask in (MASK, torch.ones_like(MASK)):  # without padding there may be no mask at all
            found = []
            for backbone in (eager, sdpa):
                with torch.no_grad(), pool_on(backbone).routed(Routing(NAMES, weights)):
                    found.append(backbone(IDS, mask) * mask[:, :, None])
            torch.testing.assert_close(*found, rtol=0, atol=2e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("make", WRITERS)
def test_answers_are_those_of_each_prompt_alone(make: Any, attention: str) -> None:
    backbone = make(generative=True, attention=attention)
    pool, how = pool_on(backbone), {"end_id": 10**6, "max_new_tokens": 4}
    with torch.no_grad(), pool.routed(Routing(NAMES, MIXED)):
        logits = backbone.answer_logits(IDS, MASK, ANSWER).view(*ANSWER.shape, -1)
        written = backbone.write(IDS, MASK, **how)
    for b in range(5):
        n, one = int(MASK[b].sum()), slice(b, b + 1)
        given = IDS[one, :n], MASK[one, :n]
        with torch.no_grad(), pool.routed(Routing(NAMES, MIXED[one])):
            alone = backbone.answer_logits(*given, ANSWER[one])
            text = backbone.write(*given, **how)
        torch.testing.assert_close(logits[b], alone, rtol=0, atol=5e-5)
        assert torch.equal(written[one], text)
        with torch.no_grad():
            plain = backbone.answer_logits(*given, ANSWER[one])
        assert torch.allclose(alone, plain, atol=5e-5) == (b == 2)


@pytest.mark.parametrize("make", WRITERS)
def test_what_is_written_is_the_likeliest_token_at_every_step(make: Any) -> None:
    """The cache of decoding and the whole answer at once agree."""
    backbone = make(generative=True)
    with torch.no_grad(), pool_on(backbone).routed(Routing(NAMES, MIXED)):
        written = backbone.write(IDS, MASK, end_id=10**6, max_new_tokens=4)
        logits = backbone.answer_logits(IDS, MASK, written)
    assert torch.equal(logits.argmax(dim=1).view(written.shape), written)


def test_gradients_reach_the_live_prefixes_of_the_batch_alone() -> None:
    backbone: Any = tiny_bert()
    pool = pool_on(backbone)
    with pool.routed(Routing(NAMES, MIXED * torch.tensor([1.0, 1.0, 0.0]))):
        backbone(IDS, MASK).square().sum().backward()
    assert pool.parameters_of("a") == {}
    live = {name: pool.parameters_of(name)["prefix"].grad for name in "bc"}
    assert live["b"] is not None and live["b"].abs().min() > 0 and live["c"] is None
    assert all(p.grad is None for p in backbone.model.parameters())


def test_after_the_call_the_backbone_is_as_before() -> None:
    backbone: Any = tiny_t5()
    before = backbone(IDS, MASK)
    states(backbone, pool_on(backbone), MIXED)
    assert torch.equal(backbone(IDS, MASK), before)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.tensor([[1.0, 1.0, 0.0]]), "several prefixes for one example"),
        (torch.tensor([[0.5, 0.0, 0.0]]), "neither 0 nor 1"),
        (torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True), "prefixes cannot be mixed"),
    ],
)
def test_prefixes_are_not_mixed(weights: Tensor, message: str) -> None:
    pool = pool_on(tiny_bert())
    with pytest.raises(RoutingError, match=message), pool.routed(Routing(NAMES, weights)):
        pass


def test_a_routing_of_another_batch_is_refused() -> None:
    backbone: Any = tiny_bert()
    with pool_on(backbone).routed(Routing(NAMES, MIXED)), pytest.raises(RoutingError, match="5 r"):
        backbone(IDS[:3], MASK[:3])


def test_a_new_prefix_depends_on_seed_and_name_alone() -> None:
    backbone: Any = tiny_bert()
    pools = [Pool(backbone, kind="prefix", length=20) for _ in range(2)]
    pools[0].add("other", seed=1)
    for pool in pools:
        pool.add("a", seed=4)
    one, two = (pool.tensors("a")["prefix"] for pool in pools)
    assert torch.equal(one, two) and one.shape == (20, 2 * 2 * 32)
    assert not torch.equal(one, pools[0].tensors("other")["prefix"])
    assert pools[0].prompt_length == 0  # no tokens of the input


def test_frozen_thawed_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    backbone: Any = tiny_llama()
    pool = pool_on(backbone)
    kept = pool.tensors("b")
    stale = pool.parameters_of("b")["prefix"]
    pool.freeze("b")
    with torch.no_grad():
        stale.zero_()  # as an optimiser that was not thrown away would
    pool.thaw("b")
    assert torch.equal(pool.tensors("b")["prefix"], kept["prefix"])
    assert pool.parameters_of("b")["prefix"].requires_grad
    pool.freeze("b")
    save_adapter(pool, "b", tmp_path / "b")
    other = Pool(backbone, kind="prefix", length=M)
    load_adapter(other, "b", tmp_path / "b")
    assert other.fingerprint("b") == pool.fingerprint("b")
    other.remove("b")
    assert other.names == () and list(other.parameters()) == []
    with pytest.raises(CheckpointError, match="make the pool with length=3"):
        load_adapter(Pool(backbone, kind="prefix", length=2), "b", tmp_path / "b")


def test_a_family_whose_attention_takes_none_is_refused() -> None:
    from transformers import DistilBertConfig, DistilBertModel

    model = DistilBertModel(DistilBertConfig(vocab_size=50, dim=8, n_layers=1, n_heads=2))
    backbone = EncoderBackbone("small", model, tiny_bert().tokenizer)
    with pytest.raises(ConfigError, match="'distilbert', whose attention takes no prefix"):
        Pool(backbone, kind="prefix")
    with pytest.raises(ConfigError, match="prefix length is 0"):
        Pool(tiny_bert(), kind="prefix", length=0)


def test_a_prefix_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"adapter__kind": "prefix", "device": "cpu"}
    longest = tiny_bert().max_length
    with pytest.raises(ConfigError, match=f"leaves 0 of the {longest} .* beside a prefix"):
        fit(
            synthetic_stream(),
            out=tmp_path / "a",
            method="sequential",
            backbone="tiny-bert",
            adapter__length=longest + 1,
            **settings,
        )
    with pytest.raises(ConfigError, match="tokens of backbone 'tiny-t5' together"):
        fit(
            instruction_stream(2),
            out=tmp_path / "b",
            method="sequential",
            backbone="tiny-t5",
            adapter__length=longest - 20,
            generation__max_new_tokens=40,
            **settings,
        )
    assert not (tmp_path / "a" / "state.json").exists()


def test_methods_that_mix_are_refused() -> None:
    with pytest.raises(ConfigError, match="adapter.kind is 'prefix', which method 'sapt'"):
        RunConfig(method="sapt", stream="banking77", adapter="prefix")  # type: ignore[arg-type]
