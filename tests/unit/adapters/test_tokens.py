"""Token rows of an adapter's own, against a model whose vocabulary was made longer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from conpet.adapters.pool import Pool
from conpet.backbones.generative import GenerativeBackbone
from conpet.errors import ConfigError, RoutingError
from conpet.routing.base import single
from conpet.testing import tiny_llama, tiny_t5
from conpet.types import Routing

Make = Callable[..., Any]


def routed(name: str, n: int) -> Routing:
    return single(name, n, torch.device("cpu"))


@pytest.fixture(params=[tiny_t5, tiny_llama], ids=["t5", "llama"])
def backbone(request: pytest.FixtureRequest) -> GenerativeBackbone:
    return request.param(generative=True)


@pytest.fixture
def pool(backbone: GenerativeBackbone) -> Pool:
    pool = Pool(backbone, rank=2)
    pool.add("writer", seed=3, n_tokens=2)
    return pool


def test_it_is_a_longer_vocabulary(backbone: GenerativeBackbone, pool: Pool) -> None:
    first, second = pool.token_ids("writer")
    size = backbone.model.get_input_embeddings().weight.shape[0]
    assert (first, second) == (size, size + 1)
    ids = torch.tensor([[3, first, 4, 5], [second, 6, 7, 8]])
    answer = torch.tensor([[9, second, 1], [first, 10, 1]])
    with pool.routed(routed("writer", 2)):
        ours = backbone.answer_logits(ids, torch.ones_like(ids), answer)

    longer = copy.deepcopy(backbone.model)
    rows = pool.tensors("writer")
    longer.resize_token_embeddings(size + 2, mean_resizing=False)
    for module in longer.modules():
        if isinstance(module, torch.nn.Embedding) and len(module.weight) == size + 2:
            module.weight.data[size:] = rows["tokens.read"]
    head = longer.get_output_embeddings()
    if head.weight is longer.get_input_embeddings().weight:  # tied: ours are two tables
        head.weight = torch.nn.Parameter(head.weight.clone())
    head.weight.data[size:] = rows["tokens.write"]
    reference = type(backbone)("longer", longer, backbone.tokenizer)
    theirs = reference.answer_logits(ids, torch.ones_like(ids), answer)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert ours.shape[-1] == size + 2


def test_the_rows_train_and_freeze(backbone: GenerativeBackbone, pool: Pool) -> None:
    before = {key: tensor.clone() for key, tensor in pool.tensors("writer").items()}
    rows = {key: p for key, p in pool.parameters_of("writer").items() if key.startswith("tokens.")}
    assert rows.keys() == {"tokens.read", "tokens.write"}
    first, _ = pool.token_ids("writer")
    ids = torch.tensor([[first, 3, 4, 5]])
    with pool.routed(routed("writer", 1)):
        backbone.answer_logits(ids, torch.ones_like(ids), torch.tensor([[first]])).sum().backward()
    assert rows["tokens.read"].grad is not None
    assert rows["tokens.read"].grad[0].abs().sum() > 0
    assert rows["tokens.read"].grad[1].abs().sum() == 0  # it did not occur
    pool.freeze("writer")
    assert not any(p.requires_grad for p in rows.values())
    assert pool.parameters_of("writer") == {}
    torch.testing.assert_close(pool.tensors("writer"), before, rtol=0, atol=0)
    changed = {key: tensor + 1 for key, tensor in before.items()}
    digest = pool.fingerprint("writer")
    pool.load_tensors("writer", changed)
    assert pool.fingerprint("writer") != digest


def test_nothing_is_left_behind(backbone: GenerativeBackbone, pool: Pool) -> None:
    ids = torch.tensor([[3, 4, 5]])
    mask, answer = torch.ones_like(ids), torch.tensor([[6, 1]])
    plain = backbone.answer_logits(ids, mask, answer)
    with pool.routed(routed("writer", 1)):
        longer = backbone.answer_logits(ids, mask, answer)
    torch.testing.assert_close(longer[..., :-2], plain)
    pool.remove("writer")
    torch.testing.assert_close(backbone.answer_logits(ids, mask, answer), plain, rtol=0, atol=0)
    with pytest.raises(ConfigError, match="writer"):
        pool.token_ids("writer")


def test_it_writes_them(backbone: GenerativeBackbone, pool: Pool) -> None:
    """A row that is far likelier than all others is what is written, and read again."""
    first, _ = pool.token_ids("writer")
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad(), pool.routed(routed("writer", 1)):
        hidden: list[torch.Tensor] = []
        head: Any = backbone.model.get_output_embeddings()
        handle = head.register_forward_hook(lambda m, args, out: hidden.append(args[0]))
        backbone.answer_logits(ids, torch.ones_like(ids), torch.tensor([[first]]))
        handle.remove()
        pool.parameters_of("writer")["tokens.write"][0] = 1e3 * hidden[0].flatten(0, -2).mean(0)
        written = backbone.write(ids, torch.ones_like(ids), end_id=1, max_new_tokens=2)
    assert first in written[0].tolist()


def test_two_speakers_are_refused(pool: Pool) -> None:
    pool.add("other", seed=4, n_tokens=1)
    pool.add("silent", seed=5)
    both = Routing(("writer", "other"), torch.ones(1, 2))
    with pytest.raises(RoutingError, match="tokens of their own"), pool.routed(both):
        pass
    with pool.routed(Routing(("writer", "silent"), torch.ones(1, 2))):
        pass


def test_they_stand_behind_what_an_adapter_makes_of_the_head(backbone: GenerativeBackbone) -> None:
    pool = Pool(backbone, rank=2, alpha=4, targets=["lm_head"])
    pool.add("writer", seed=3, n_tokens=2)
    g = torch.Generator().manual_seed(5)
    own = {k: torch.randn(t.shape, generator=g) for k, t in pool.tensors("writer").items()}
    pool.load_tensors("writer", own)
    ids, answer = torch.tensor([[3, 4, 5], [6, 7, 8]]), torch.tensor([[9, 1], [10, 1]])
    given = ids, torch.ones_like(ids), answer
    with torch.no_grad():
        with pool.routed(routed("writer", 2)):
            found = backbone.answer_logits(*given, adapted_head=True)
        head: Any = backbone.head
        product = own["lm_head.B"] @ own["lm_head.A"]
        head.weight = torch.nn.Parameter(head.weight + 2 * product, requires_grad=False)
        merged = backbone.answer_logits(*given)
    torch.testing.assert_close(found[:, :-2], merged, rtol=1e-4, atol=1e-4)
    assert found.shape == (4, merged.shape[1] + 2)
