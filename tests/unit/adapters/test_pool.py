"""The life of adapters: seeded start, freezing, removal, fingerprints, counts, errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import ElectraConfig

from conpet.adapters.base import KindName
from conpet.adapters.pool import Pool
from conpet.backbones.loading import kind_of
from conpet.backbones.shapes import shape_of
from conpet.errors import CheckpointError, ConfigError
from conpet.testing import tiny_bert, tiny_llama, tiny_t5
from conpet.types import Routing

Fill = Callable[..., Pool]
Pair = tuple[Tensor, Tensor]


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def everyone(name: str, batch: int) -> Routing:
    return Routing((name,), torch.ones(batch, 1))


def train_step(pool: Pool, backbone: Any, batch: Pair, name: str) -> None:
    parameters = pool.parameters_of(name)
    optimiser = torch.optim.SGD(parameters.values(), lr=0.1)
    with pool.routed(everyone(name, len(batch[0]))):
        features = backbone(*batch)[:, 0]
    pool.head(name)(features).logsumexp(1).sum().backward()
    optimiser.step()
    optimiser.zero_grad()


@pytest.mark.parametrize("kind", ["lora", "bottleneck", "prompt", "prefix"])
def test_first_weights_depend_on_seed_and_name_alone(backbone: Any, kind: KindName) -> None:
    one, two = Pool(backbone, kind=kind), Pool(backbone, kind=kind)
    torch.manual_seed(1)
    one.add("a", seed=5, n_classes=2)
    torch.manual_seed(2)
    two.add("b", seed=5, n_classes=2)
    two.add("a", seed=5, n_classes=2)
    assert same(one.tensors("a"), two.tensors("a"))
    assert not same(two.tensors("a"), two.tensors("b"))
    two.remove("a")
    two.add("a", seed=6, n_classes=2)
    assert not same(one.tensors("a"), two.tensors("a"))


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_adapters_in_the_upper_layers_alone(kind: KindName) -> None:
    for make in (tiny_bert, tiny_llama, tiny_t5):
        pools = {n: Pool(make(), kind=kind, layers=n) for n in (None, 1, 2)}
        paths = {n: set(pool.adapters.expected_shapes()) for n, pool in pools.items()}
        assert paths[2] == paths[None]
        assert paths[1] == {path for path in paths[2] if re.match(r"\D+1\.", path)}
        assert len(paths[1]) == len(paths[2]) // 2


def test_of_an_encoder_decoder_the_decoder_is_adapted_whole() -> None:
    pool = Pool(tiny_t5(generative=True), layers=1)
    layers = {path.partition(".layer.")[0] for path in pool.adapters.expected_shapes()}
    assert layers == {"encoder.block.1", "decoder.block.0", "decoder.block.1"}


def test_what_comes_before_the_layers_is_below_them_too() -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = ElectraConfig(vocab_size=99, embedding_size=16, intermediate_size=64, **sizes)
    kind = kind_of("electra", config)
    backbone = kind("electra", kind.auto_class.from_config(config), tiny_bert().tokenizer)
    names = ["embeddings_project", "query"]
    assert len(backbone.linears(names)) == 3
    assert list(backbone.linears(names, 1)) == ["encoder.layer.1.attention.self.query"]
    assert "embeddings_project" not in backbone.linears(names, 2)


@pytest.mark.parametrize("layers", [0, 3])
def test_more_layers_than_there_are(backbone: Any, layers: int) -> None:
    with pytest.raises(ConfigError, match=rf"layers is {layers}, and .*'tiny-bert' has 2.*1 to 2"):
        Pool(backbone, layers=layers)


@pytest.mark.parametrize("kind", ["prompt", "full"])
def test_kinds_that_lie_in_no_layers(backbone: Any, kind: KindName) -> None:
    with pytest.raises(ConfigError, match=f"layers is 1, .*kind '{kind}' lie in no layers"):
        Pool(backbone, kind=kind, layers=1)


def test_lora_starts_kaiming_uniform_and_zero(backbone: Any) -> None:
    pool = Pool(backbone, rank=64)
    pool.add("a", seed=0)
    tensors = pool.tensors("a")
    a = torch.cat([t.flatten() for k, t in tensors.items() if k.endswith(".A")])
    bound = 1 / 32**0.5  # sqrt(6 / ((1 + 5) * fan_in))
    assert float(a.abs().max()) <= bound and abs(float(a.std()) - bound / 3**0.5) < 0.01
    assert all(not t.any() for k, t in tensors.items() if k.endswith(".B"))


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_frozen_adapters_stay_bitwise_the_same_while_the_pool_grows_and_trains(
    backbone: Any, batch: Pair, filled: Fill, kind: KindName
) -> None:
    pool = filled(Pool(backbone, kind=kind, size=4), "first", n_classes=3)
    pool.freeze("first")
    before, digest = pool.tensors("first"), pool.fingerprint("first")
    plain = {k: v.clone() for k, v in backbone.model.state_dict().items()}
    for number in range(5):
        name = f"later.{number}"
        pool.add(name, seed=number, n_classes=2)
        start = pool.tensors(name)
        train_step(pool, backbone, batch, name)
        assert not same(start, pool.tensors(name))
        trained = pool.tensors(name)
        pool.freeze(name)
        assert same(trained, pool.tensors(name))
    assert same(before, pool.tensors("first")) and digest == pool.fingerprint("first")
    assert same(plain, backbone.model.state_dict())


def test_only_the_live_adapter_has_parameters(backbone: Any, filled: Fill) -> None:
    pool = filled(Pool(backbone), "a", "b", n_classes=2)
    pool.freeze("a")
    assert pool.parameters_of("a") == {} and not pool.is_live("a") and pool.is_live("b")
    assert list(pool.parameters_of("b")) == list(pool.tensors("b"))
    assert list(pool.parameters_of("b"))[-2:] == ["head.weight", "head.bias"]
    trainable = {id(p) for p in pool.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in pool.parameters_of("b").values()}


def test_thaw_continues_from_the_frozen_weights(backbone: Any, filled: Fill) -> None:
    pool = filled(Pool(backbone), "a", "b", n_classes=2)
    before = pool.tensors("a")
    pool.freeze("a")
    pool.freeze("a")  # once more changes nothing
    digest = pool.fingerprint("a")
    pool.thaw("a")
    assert same(before, pool.tensors("a")) and len(pool.parameters_of("a")) == 10
    with torch.no_grad():
        pool.parameters_of("a")["head.bias"].add_(1)
    assert not same(before, pool.tensors("a"))
    pool.freeze("a")
    assert pool.fingerprint("a") != digest


def test_remove_forgets_the_weights_and_the_slot_is_used_again(backbone: Any, filled: Fill) -> None:
    pool = filled(Pool(backbone), "a", "b", n_classes=2)
    pool.freeze("a")
    pool.freeze("b")
    kept = pool.tensors("b")
    pool.remove("a")
    assert pool.names == ("b",) and "a" not in pool
    buffers = dict(pool.named_buffers())
    assert not any(t[0].any() for t in buffers.values())
    filled(pool, "c")
    pool.freeze("c")
    assert {len(t) for t in pool.buffers()} == {2}
    assert same(kept, pool.tensors("b")) and pool.names == ("b", "c")


def test_tensors_are_copies(backbone: Any, filled: Fill) -> None:
    pool = filled(Pool(backbone), "a")
    copy, digest = pool.tensors("a"), pool.fingerprint("a")
    for tensor in copy.values():
        tensor.zero_()
    assert pool.fingerprint("a") == digest


def test_fingerprint_follows_weights_head_and_scale(backbone: Any, filled: Fill) -> None:
    pool = filled(Pool(backbone), "a", n_classes=2)
    pool.freeze("a")
    seen = {pool.fingerprint("a")}
    pool.head("a").grow(1, seed=0)
    seen.add(pool.fingerprint("a"))
    tensors = pool.tensors("a")
    tensors["head.bias"][0] += 1
    pool.load_tensors("a", tensors)
    seen.add(pool.fingerprint("a"))
    other = Pool(backbone, alpha=2.0)
    other.add("a", seed=0, n_classes=3)
    other.load_tensors("a", tensors)
    seen.add(other.fingerprint("a"))
    assert len(seen) == 4


def test_changed_lists_what_no_file_holds_yet(backbone: Any, filled: Fill) -> None:
    pool = filled(Pool(backbone), "a", "b")
    assert pool.changed == ("a", "b")
    pool.freeze("a")
    pool.mark_saved("a")
    assert pool.changed == ("b",)
    pool.thaw("a")
    assert pool.changed == ("a", "b")


def test_load_tensors_refuses_what_does_not_fit_and_changes_nothing(
    backbone: Any, filled: Fill
) -> None:
    pool = filled(Pool(backbone), "a", n_classes=2)
    before = pool.tensors("a")
    key = next(iter(before))
    cases: list[tuple[dict[str, Tensor], str]] = [
        ({k: v for k, v in before.items() if k != key}, "1 tensors are missing"),
        ({**before, "x": torch.ones(1)}, "1 are not known .first: 'x'"),
        ({k: torch.zeros(3, *v.shape) for k, v in before.items()}, "has shape"),
    ]
    for tensors, message in cases:
        with pytest.raises(CheckpointError, match=message):
            pool.load_tensors("a", tensors)
        assert same(before, pool.tensors("a"))


def test_names_of_methods_and_dots_are_allowed(backbone: Any) -> None:
    pool = Pool(backbone)
    for name in ("type", "v1.2", "@selector", "forward", "01-Ünïcode"):
        pool.add(name, seed=0, n_classes=1, role="selector" if name[0] == "@" else "task")
        pool.freeze(name)
    assert pool.role("@selector") == "selector" and pool.has_head("type") and len(pool) == 5


def test_llama_7b_counts_on_the_meta_device() -> None:
    backbone = shape_of("llama-2-7b", generative=True)
    pool = Pool(backbone, rank=4, targets=["q_proj", "k_proj"])
    pool.add("selector", seed=0, n_classes=80)
    adapter, head = pool.count("selector")
    total = sum(p.numel() for p in backbone.model.parameters())
    assert adapter == 2 * 32 * (4 * 4096 + 4096 * 4) == 2_097_152
    assert round(total / adapter) == 3213 and round(total / 1e9, 3) == 6.738
    assert head == 80 * 4096 + 80 and round(total / (adapter + head)) == 2779


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lorra"}, "Did you mean 'lora'"),
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"targets": []}, "no projection"),
        ({"kind": "bottleneck", "size": 0}, "size is 0"),
        ({"kind": "bottleneck", "placement": "holsby"}, "Did you mean 'houlsby'"),
        ({"kind": "bottleneck", "activation": "rellu"}, "Did you mean 'relu'"),
    ],
)
def test_options_without_meaning_are_refused(
    backbone: Any, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Pool(backbone, **options)  # type: ignore[arg-type]


def test_unknown_and_repeated_names_are_refused(backbone: Any) -> None:
    pool = Pool(backbone)
    pool.add("people", seed=0)
    with pytest.raises(ConfigError, match="has an adapter 'people' already"):
        pool.add("people", seed=1)
    for act in (pool.freeze, pool.thaw, pool.remove, pool.tensors, pool.head, pool.fingerprint):
        with pytest.raises(ConfigError, match="Did you mean 'people'"):
            act("peopel")
    with pytest.raises(ConfigError, match="has no head"):
        pool.head("people")
