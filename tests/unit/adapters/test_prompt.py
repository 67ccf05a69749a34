"""Soft prompts: the mix, its gradients, zero rows, re-parameterisation, and their life."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conpet.adapters.io import load_adapter, save_adapter
from conpet.adapters.pool import Pool
from conpet.errors import CheckpointError, ConfigError, RoutingError
from conpet.testing import tiny_llama, tiny_t5
from conpet.types import Routing, SoftPrompt

NAMES = ("a", "b", "c")
M = 3
Pair = tuple[Tensor, Tensor]


@pytest.fixture
def pool(backbone: Any) -> Pool:
    """Three soft prompts, of which the first is frozen."""
    made = Pool(backbone, kind="prompt", length=M)
    for i, name in enumerate(NAMES):
        made.add(name, seed=i)
    made.freeze("a")
    return made


def mixed(pool: Pool, weights: Tensor, **more: Any) -> SoftPrompt | None:
    with pool.routed(Routing(NAMES, weights, **more)) as soft_prompt:
        return soft_prompt


def random_weights(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, generator=torch.Generator().manual_seed(2))


def test_the_mix_is_the_weighted_sum_and_so_are_its_gradients(pool: Pool) -> None:
    weights = random_weights().requires_grad_()
    found = mixed(pool, weights)
    assert found is not None and found.mask is None and len(found) == 4
    prompts = [pool.tensors(name)["prompt"].requires_grad_() for name in NAMES]
    other = weights.detach().clone().requires_grad_()
    rows = []
    for b in range(4):
        row = torch.zeros(M, 32)
        for i in range(3):
            row = row + other[b, i] * prompts[i]
        rows.append(row)
    expected = torch.stack(rows)
    torch.testing.assert_close(found.embeddings, expected, rtol=0, atol=1e-6)
    goal = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3))
    (found.embeddings * goal).sum().backward()
    (expected * goal).sum().backward()
    torch.testing.assert_close(weights.grad, other.grad, rtol=0, atol=1e-5)
    for i, name in enumerate(NAMES[1:], start=1):
        own = pool.parameters_of(name)["prompt"].grad
        torch.testing.assert_close(own, prompts[i].grad, rtol=0, atol=1e-5)
    assert pool.parameters_of("a") == {}


def test_one_hot_rows_have_their_own_prompt_bit_for_bit(pool: Pool) -> None:
    found = mixed(pool, torch.eye(3)[[2, 0, 1]])
    assert found is not None
    for row, name in zip(found.embeddings, ("c", "a", "b"), strict=True):
        assert torch.equal(row, pool.tensors(name)["prompt"])


def test_a_weight_of_zero_learns_where_any_number_of_adapters_is_mixed(pool: Pool) -> None:
    for top, learns in ((None, True), (2, False)):
        weights = torch.tensor([[1.0, 0.5, 0.0]]).requires_grad_()
        found = mixed(pool, weights, top=top)
        assert found is not None
        found.embeddings.square().sum().backward()
        assert weights.grad is not None and weights.grad[0, :2].all()
        assert bool(weights.grad[0, 2]) == learns


def test_zero_rows_are_the_plain_backbone(pool: Pool, backbone: Any, batch: Pair) -> None:
    weights = random_weights()
    weights[1] = weights[3] = 0.0  # one of them is padded
    with pool.routed(Routing(NAMES, weights)) as soft_prompt:
        states = backbone(*batch, soft_prompt)
    plain, mask = backbone(*batch), batch[1][..., None]
    for row in (1, 3):
        torch.testing.assert_close((states * mask)[row], (plain * mask)[row], rtol=0, atol=1e-6)
    for row in (0, 2):
        assert not torch.allclose(states[row, 0], plain[row, 0], atol=1e-3)


def test_routings_without_a_prompt_give_none(pool: Pool) -> None:
    assert mixed(pool, torch.zeros(4, 3)) is None
    with pool.routed(Routing((), torch.zeros(4, 0))) as soft_prompt:
        assert soft_prompt is None


def test_a_batch_of_another_size_is_refused(pool: Pool, backbone: Any, batch: Pair) -> None:
    with (
        pytest.raises(RoutingError, match="has 3 rows and the batch 4; give the routing one row"),
        pool.routed(Routing(NAMES, random_weights(3))) as soft_prompt,
    ):
        backbone(*batch, soft_prompt)


def test_other_kinds_give_no_soft_prompt(backbone: Any) -> None:
    lora = Pool(backbone)
    lora.add("a", seed=0)
    with lora.routed(Routing(("a",), torch.ones(1, 1))) as soft_prompt:
        assert soft_prompt is None
    assert (lora.prompt_length, Pool(backbone, kind="prompt", length=7).prompt_length) == (0, 7)


def test_a_prompt_starts_as_ordinary_tokens() -> None:
    backbone: Any = tiny_t5()
    words = {backbone.tokenizer.convert_ids_to_tokens(i) for i in backbone.ordinary_tokens}
    assert not words & {"<pad>", "</s>", "<unk>", "<extra_id_0>"} and "▁the" in words
    pool = Pool(backbone, kind="prompt", length=20)
    torch.manual_seed(1)
    pool.add("a", seed=5)
    table = backbone.model.get_input_embeddings().weight
    prompt = pool.parameters_of("a")["prompt"]
    ids = [int((table == row).all(dim=1).nonzero()[0]) for row in prompt]
    assert set(ids) <= set(backbone.ordinary_tokens) and len(set(ids)) > 10
    with torch.no_grad():
        prompt.zero_()
    assert table[ids].abs().sum() > 0, "it is a copy"
    torch.manual_seed(2)
    pool.add("b", seed=5)
    other = Pool(backbone, kind="prompt", length=20)
    other.add("b", seed=5)
    assert torch.equal(other.tensors("b")["prompt"], pool.tensors("b")["prompt"])


def train(pool: Pool, backbone: Any, batch: Pair, name: str) -> None:
    parameters = pool.parameters_of(name).values()
    optimiser = torch.optim.SGD(parameters, lr=0.1)
    routing = Routing(NAMES, torch.ones(4, 3))
    for _ in range(2):  # in the first step W is zero, and V has no gradient
        with pool.routed(routing) as soft_prompt:
            states = backbone(*batch, soft_prompt)
        (states * torch.arange(32)).sum().backward()
        optimiser.step()
        optimiser.zero_grad()


@pytest.mark.parametrize("bottleneck", [None, 5])
def test_frozen_prompts_stay_bitwise_the_same(
    backbone: Any, batch: Pair, bottleneck: int | None
) -> None:
    pool = Pool(backbone, kind="prompt", length=M, bottleneck=bottleneck)
    for name in NAMES:
        pool.add(name, seed=0, n_classes=2)
    pool.freeze("a")
    pool.freeze("b")
    before, digest = pool.tensors("a"), pool.fingerprint("a")
    stale = pool.parameters_of("c")
    start = pool.tensors("c")
    train(pool, backbone, batch, "c")
    moved = [k for k, t in pool.tensors("c").items() if not torch.equal(t, start[k])]
    assert set(moved) == set(start) - {"head.weight", "head.bias"}
    after = pool.tensors("a")
    assert all(torch.equal(after[key], t) for key, t in before.items())
    assert pool.fingerprint("a") == digest
    pool.freeze("c")
    kept = pool.tensors("c")
    with torch.no_grad():
        stale["prompt"].zero_()  # as an optimiser that was not thrown away would
    assert torch.equal(pool.tensors("c")["prompt"], kept["prompt"])
    assert not any(p.requires_grad for p in pool.parameters())


def test_a_network_begins_as_the_identity_and_becomes_part_of_the_prompt(
    backbone: Any, batch: Pair
) -> None:
    pools = [Pool(backbone, kind="prompt", length=M, bottleneck=size) for size in (None, 5)]
    for made in pools:
        for name in NAMES:
            made.add(name, seed=0)
    plain, pool = pools
    assert pool.settings() == plain.settings() == {"kind": "prompt", "length": M}
    assert set(pool.parameters_of("a")) == {"prompt", *(f"network.{k}" for k in "VvWu")}
    weights = random_weights()
    first, same = mixed(plain, weights), mixed(pool, weights)
    assert first is not None and same is not None
    assert torch.equal(first.embeddings, same.embeddings)

    train(pool, backbone, batch, "a")
    live, live_weights = mixed(pool, weights), pool.tensors("a")
    assert live is not None and live_weights["network.W"].any()
    pool.freeze("a")
    frozen = mixed(pool, weights)
    assert frozen is not None and torch.equal(live.embeddings, frozen.embeddings)
    assert set(pool.tensors("a")) == {"prompt"}
    assert not torch.equal(pool.tensors("a")["prompt"], live_weights["prompt"])

    kept = pool.tensors("a")["prompt"]
    pool.thaw("a")
    thawed = pool.tensors("a")
    assert torch.equal(thawed["prompt"], kept) and not thawed["network.W"].any()
    assert not torch.equal(thawed["network.V"], live_weights["network.V"])
    pool.freeze("a")
    assert torch.equal(pool.tensors("a")["prompt"], kept)
    pool.thaw("a")
    assert torch.equal(pool.tensors("a")["network.V"], thawed["network.V"]), "it can be resumed"


def test_folders_hold_frozen_prompts(backbone: Any, tmp_path: Path) -> None:
    pool = Pool(backbone, kind="prompt", length=M, bottleneck=5)
    pool.add("a", seed=0, n_classes=2)
    with pytest.raises(ConfigError, match="re-parameterised, which no file holds; freeze it first"):
        save_adapter(pool, "a", tmp_path / "a", ["x", "y"])
    pool.freeze("a")
    save_adapter(pool, "a", tmp_path / "a", ["x", "y"])
    load_adapter(pool, "b", tmp_path / "a")
    assert pool.fingerprint("b") == pool.fingerprint("a") and not pool.is_live("b")
    with pytest.raises(CheckpointError, match="embeddings, but those of this pool have 4"):
        load_adapter(Pool(backbone, kind="prompt", length=4), "b", tmp_path / "a")


def test_names_do_not_collide(backbone: Any) -> None:
    pool = Pool(backbone, kind="prompt", length=M)
    for name in ("v1.2", "v1/2", "keys"):
        pool.add(name, seed=0)
    assert not torch.equal(pool.tensors("v1.2")["prompt"], pool.tensors("v1/2")["prompt"])
    pool.remove("v1.2")
    assert pool.names == ("v1/2", "keys")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"length": 0}, "prompt length is 0"), ({"bottleneck": 0}, "prompt bottleneck is 0")],
)
def test_options_without_meaning_are_refused(
    backbone: Any, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Pool(backbone, kind="prompt", **options)  # type: ignore[arg-type]


# Behind one another


def behind(pool: Pool, weights: list[list[float]], names: tuple[str, ...] = NAMES) -> Any:
    return mixed_of(pool, Routing(names, torch.tensor(weights), "concat"))


def mixed_of(pool: Pool, routing: Routing) -> SoftPrompt | None:
    with pool.routed(routing) as soft_prompt:
        return soft_prompt


def test_prompts_stand_behind_one_another_in_the_order_of_the_names(pool: Pool) -> None:
    a, b, c = (pool.tensors(name)["prompt"] for name in NAMES)
    found = behind(pool, [[1.0, 1.0, 1.0]] * 2, ("c", "a", "b"))
    assert found is not None and found.mask is None
    assert torch.equal(found.embeddings, torch.cat([c, a, b]).expand(2, 3 * M, 32))
    one = behind(pool, [[0.0, 0.0, 0.3]])  # weights only say which
    assert torch.equal(one.embeddings[0], c)


def test_rows_have_prompts_of_their_own_and_those_with_fewer_are_masked(pool: Pool) -> None:
    a, b, c = (pool.tensors(name)["prompt"] for name in NAMES)
    found = behind(pool, [[0.2, 0.0, 0.5], [0.0, 1.0, 1.0], [0.0, 0.7, 0.0], [0.0, 0.0, 0.0]])
    assert found.embeddings.shape == (4, 2 * M, 32) and found.mask is not None
    wanted = [torch.cat([a, c]), torch.cat([b, c]), b, a[:0]]
    for row, mask, expected in zip(found.embeddings, found.mask, wanted, strict=True):
        assert torch.equal(row[mask.bool()], expected)
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)


def test_gradients_of_prompts_behind_one_another(pool: Pool, backbone: Any, batch: Pair) -> None:
    """Against a prompt that was put together by hand, row by row, without padding."""
    weights = [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    ids, mask = batch
    with pool.routed(Routing(NAMES, torch.tensor(weights), "concat")) as soft_prompt:
        states = backbone(ids, mask, soft_prompt)
    prompts = {name: pool.tensors(name)["prompt"].requires_grad_() for name in NAMES}
    for row, used in enumerate(weights):
        own = [prompts[name] for name, w in zip(NAMES, used, strict=True) if w]
        n = int(mask[row].sum())
        alone = SoftPrompt(torch.cat(own)[None]) if own else None
        expected = backbone(ids[row : row + 1, :n], mask[row : row + 1, :n], alone)[0]
        torch.testing.assert_close(states[row, :n], expected, rtol=0, atol=1e-5)
        expected.square().sum().backward() if own else None
    (states.square() * mask[..., None]).sum().backward()
    for name in ("b", "c"):
        grad = pool.parameters_of(name)["prompt"].grad
        torch.testing.assert_close(grad, prompts[name].grad, rtol=0, atol=1e-4)
    assert pool.parameters_of("a") == {}


@pytest.mark.parametrize(
    ("combine", "weights", "positions"),
    [
        ("concat", [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], 3 * M),
        ("concat", [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], M),
        ("concat", [[0.0, 0.0, 0.0]], 0),
        ("mix", [[1.0, 1.0, 0.0]], M),
        ("mix", [[0.0, 0.0, 0.0]], 0),
    ],
)
def test_positions_are_those_that_are_put_before_a_text(
    pool: Pool, combine: Any, weights: list[list[float]], positions: int
) -> None:
    routing = Routing(NAMES, torch.tensor(weights), combine)
    found = mixed_of(pool, routing)
    assert pool.positions(routing) == positions
    assert (0 if found is None else found.embeddings.shape[1]) == positions
    assert pool.positions(Routing((), torch.zeros(2, 0), combine)) == 0


def test_only_prompts_can_stand_behind_one_another(backbone: Any) -> None:
    lora = Pool(backbone)
    lora.add("a", seed=0)
    routing = Routing(("a",), torch.ones(1, 1), "concat")
    with (
        pytest.raises(RoutingError, match="of kind 'lora': only soft prompts can .*pool of kind"),
        lora.routed(routing),
    ):
        pass
    assert lora.positions(routing) == 0


def test_prompts_that_are_longer_than_the_context_are_refused(backbone: Any, batch: Pair) -> None:
    long = SoftPrompt(torch.zeros(4, 508, 32))
    with pytest.raises(RoutingError, match="508 embeddings and texts of 5 tokens .* the 512 posit"):
        backbone(*batch, long)


# Behind the text


def after(backbone: Any, length: int = M) -> Pool:
    pool = Pool(backbone, kind="prompt", length=length, position="after")
    for i, name in enumerate(NAMES):
        pool.add(name, seed=i)
    return pool


def test_a_pool_says_where_its_prompts_stand(backbone: Any, batch: Pair) -> None:
    pool = after(backbone)
    weights = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    for combine in ("mix", "concat"):
        for rows in (weights, weights[:1]):
            found = mixed_of(pool, Routing(NAMES, rows, combine))  # type: ignore[arg-type]
            assert found is not None and found.position == "after"
    assert pool.settings() == {"kind": "prompt", "length": M, "position": "after"}
    before = Pool(backbone, kind="prompt", length=M)
    before.add("a", seed=0)
    assert pool.fingerprint("a") != before.fingerprint("a"), "it computes something else"


def test_a_causal_backbone_must_write_to_have_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="never sees what stands behind it.*position=before, an"):
        after(tiny_llama())
    assert after(tiny_llama(generative=True)).prompt_length == M
    assert after(tiny_t5()).prompt_length == M
    with pytest.raises(ConfigError, match="position is 'behind'; allowed: before, after"):
        Pool(tiny_t5(), kind="prompt", position="behind")  # type: ignore[arg-type]


def test_a_folder_knows_where_its_prompt_stands(backbone: Any, tmp_path: Path) -> None:
    pool = after(backbone)
    before = Pool(backbone, kind="prompt", length=M)
    before.add("a", seed=0)
    for made, name in ((pool, "after"), (before, "before")):
        made.freeze("a")
        save_adapter(made, "a", tmp_path / name)
    config = json.loads((tmp_path / "after" / "adapter_config.json").read_text())
    assert (config["library"], config["position"]) == ("conpet", "after"), (
        "peft knows no such thing"
    )
    again = Pool(backbone, kind="prompt", length=M, position="after")
    load_adapter(again, "a", tmp_path / "after")
    assert torch.equal(again.tensors("a")["prompt"], pool.tensors("a")["prompt"])
    with pytest.raises(CheckpointError, match="stands before the text, and those of this pool"):
        load_adapter(again, "b", tmp_path / "before")
    with pytest.raises(CheckpointError, match="position = 'after', but this pool has 'before'"):
        load_adapter(before, "b", tmp_path / "after")
    longer = Pool(backbone, kind="prompt", length=M + 1, position="after")
    with pytest.raises(CheckpointError, match="length = 3, but this pool has 4"):
        load_adapter(longer, "b", tmp_path / "after")
