"""Our prefixes against peft's prefix tuning: outputs, gradients, decoding, and folders; against a
T5 encoder written out, for which peft has none; and against the tokens that one was made of."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from torch import Tensor
from transformers import GenerationConfig

from conpet.adapters.io import load_adapter, save_adapter
from conpet.adapters.pool import Pool
from conpet.adapters.seeding import generator_for
from conpet.errors import CheckpointError
from conpet.testing import tiny_bert, tiny_llama, tiny_qwen, tiny_t5
from conpet.types import Routing

# peft asks transformers for a name that transformers has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

M, N = 4, 5
IDS = torch.randint(10, 60, (3, 7), generator=torch.Generator().manual_seed(1))
ONES = torch.ones_like(IDS)
MASK = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]])
ANSWER = torch.randint(10, 60, (3, N), generator=torch.Generator().manual_seed(2))
EVERYONE = Routing(("a",), torch.ones(3, 1))

READERS = {"bert": tiny_bert, "llama": tiny_llama, "qwen": tiny_qwen}
WRITERS = {"llama": tiny_llama, "qwen": tiny_qwen, "t5": tiny_t5}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Any:
    make: Callable[..., Any] = READERS[request.param]
    return make()


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest) -> Any:
    make: Callable[..., Any] = WRITERS[request.param]
    return make(generative=True)


def pool_on(backbone: Any, scale: float = 0.5) -> Pool:
    """A live prefix of random numbers."""
    pool = Pool(backbone, kind="prefix", length=M)
    pool.add("a", seed=3)
    prefix = pool.tensors("a")["prefix"]
    numbers = torch.randn(prefix.shape, generator=torch.Generator().manual_seed(5))
    pool.load_tensors("a", {"prefix": scale * numbers})
    return pool


def pair_table(prefix: Tensor, n_layers: int = 2) -> Tensor:
    """(m, 4 L d): keys and values of a layer, then as many zeros, layer by layer."""
    parts = []
    for own in prefix.chunk(n_layers, dim=1):
        parts += [own, torch.zeros_like(own)]
    return torch.cat(parts, dim=1)


def task_type(backbone: Any) -> str:
    if not backbone.model.can_generate():
        return "FEATURE_EXTRACTION"
    return "SEQ_2_SEQ_LM" if backbone.kind == "encoder-decoder" else "CAUSAL_LM"


def theirs_of(backbone: Any, prefix: Tensor) -> tuple[Any, Tensor]:
    """peft's model with this prefix, and its parameter."""
    pair = task_type(backbone) == "SEQ_2_SEQ_LM"
    more = {"num_layers": 4} if pair else {}
    config = PrefixTuningConfig(task_type=task_type(backbone), num_virtual_tokens=M, **more)
    model = get_peft_model(copy.deepcopy(backbone.model), config).eval()
    weight = model.prompt_encoder["default"].embedding.weight
    weight.data.copy_(pair_table(prefix) if pair else prefix)
    return model, weight


def hidden(backbone: Any, pool: Pool, mask: Tensor) -> Tensor:
    with pool.routed(EVERYONE):
        states: Tensor = backbone(IDS, mask)
    return states


def compared(ours: Tensor, expected: Tensor, pool: Pool, weight: Tensor, pair: bool) -> None:
    """Values, and gradients of the prefixes."""
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)
    goal = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3))
    (ours * goal).sum().backward()
    (expected * goal).sum().backward()
    own = pool.parameters_of("a")["prefix"].grad
    assert own is not None and weight.grad is not None and own.abs().max() > 0.01
    other = weight.grad
    if pair:
        other = torch.cat(other.chunk(4, dim=1)[::2], dim=1)
    torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_hidden_states_and_gradients(reader: Any) -> None:
    pool = pool_on(reader)
    theirs, weight = theirs_of(reader, pool.tensors("a")["prefix"])
    ours = hidden(reader, pool, MASK)
    expected = theirs(input_ids=IDS, attention_mask=MASK).last_hidden_state
    assert not torch.allclose(ours[0], reader(IDS, MASK)[0], atol=1e-2)
    real = MASK[..., None]
    compared(ours * real, expected * real, pool, weight, False)


def test_logits_of_answers_and_gradients(writer: Any) -> None:
    pool = pool_on(writer)
    theirs, weight = theirs_of(writer, pool.tensors("a")["prefix"])
    pair = writer.kind == "encoder-decoder"
    if pair:
        start = torch.full((3, 1), writer.start_id())
        given = torch.cat([start, ANSWER[:, :-1]], dim=1)
        expected = theirs(input_ids=IDS, attention_mask=MASK, decoder_input_ids=given).logits
    else:
        whole = torch.cat([IDS, ANSWER], dim=1)
        logits = theirs(input_ids=whole, attention_mask=torch.ones_like(whole)).logits
        expected = logits[:, -N - 1 : -1]
    with pool.routed(EVERYONE):
        ours = writer.answer_logits(IDS, MASK if pair else ONES, ANSWER)
    compared(ours, expected.flatten(0, 1), pool, weight, pair)


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # told by peft
def test_what_is_written(writer: Any) -> None:
    pool = pool_on(writer, scale=2.0)
    theirs, _ = theirs_of(writer, pool.tensors("a")["prefix"])
    with torch.no_grad():
        plain = writer.write(IDS, ONES, end_id=10**6, max_new_tokens=N)
        with pool.routed(EVERYONE):
            ours = writer.write(IDS, ONES, end_id=10**6, max_new_tokens=N)
    assert not torch.equal(ours, plain)
    config = GenerationConfig(
        max_new_tokens=N,
        do_sample=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=10**6,
        decoder_start_token_id=writer.start_id(),
    )
    found = theirs.generate(input_ids=IDS, attention_mask=ONES, generation_config=config)
    assert torch.equal(ours, found[:, -N:])


def t5_encoder(model: Any, prefix: Tensor, ids: Tensor) -> Tensor:
    """The states (S, d) of one unpadded text behind a prefix (m, 2 L d), layer by layer."""
    x, n = model.shared.weight[ids], len(ids)
    tables = prefix.chunk(2 * len(model.encoder.block), dim=1)
    place = torch.arange(M + n)
    gap = place[None, :] - place[M:, None]  # of a key from a query
    bucket = (
        model.encoder.block[0]
        .layer[0]
        .SelfAttention._relative_position_bucket(
            gap, bidirectional=True, num_buckets=32, max_distance=128
        )
    )

    def norm(z: Tensor, weight: Tensor) -> Tensor:
        return weight * z / (z.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight[bucket]
    for i, block in enumerate(model.encoder.block):
        attention, mlp = block.layer
        a, z = attention.SelfAttention, norm(x, attention.layer_norm.weight)
        heads = a.n_heads
        k = torch.cat([tables[2 * i], z @ a.k.weight.T]).view(M + n, heads, -1)
        v = torch.cat([tables[2 * i + 1], z @ a.v.weight.T]).view(M + n, heads, -1)
        q = (z @ a.q.weight.T).view(n, heads, -1)
        seen = (torch.einsum("qhd,khd->qkh", q, k) + bias).softmax(dim=1)
        x = x + torch.einsum("qkh,khd->qhd", seen, v).flatten(1) @ a.o.weight.T
        z = norm(x, mlp.layer_norm.weight)
        dense = mlp.DenseReluDense
        if hasattr(dense, "wi_0"):
            inner = z @ dense.wi_0.weight.T
            inner = (
                0.5
                * inner
                * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
            )
            inner = inner * (z @ dense.wi_1.weight.T)
        else:
            inner = (z @ dense.wi.weight.T).relu()
        x = x + inner @ dense.wo.weight.T
    return norm(x, model.encoder.final_layer_norm.weight)


def test_the_encoder_of_t5_is_as_written_out() -> None:
    backbone: Any = tiny_t5()
    pool = pool_on(backbone)
    weight = pool.tensors("a")["prefix"].requires_grad_()
    ours, real = hidden(backbone, pool, MASK), MASK[..., None]
    expected = torch.zeros_like(ours)
    for b, n in enumerate(MASK.sum(dim=1).tolist()):
        expected[b, :n] = t5_encoder(backbone.model, weight, IDS[b, :n])
    assert not torch.allclose(ours[0], backbone(IDS, MASK)[0], atol=1e-2)
    compared(ours * real, expected * real, pool, weight, False)


def drawn(backbone: Any) -> Tensor:
    """The tokens (m,) that a new prefix is made of."""
    generator = generator_for(3, "adapter", "a")
    at = torch.randint(len(backbone.ordinary_tokens), (M,), generator=generator)
    return torch.tensor(backbone.ordinary_tokens)[at]


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen])
def test_a_new_prefix_is_its_tokens_before_the_text(make: Any) -> None:
    """In a decoder nothing of them depends on what comes behind."""
    backbone = make()
    pool = Pool(backbone, kind="prefix", length=M)
    pool.add("a", seed=3)
    before = drawn(backbone).expand(3, M)
    with torch.no_grad():
        ours = hidden(backbone, pool, MASK)
        whole = backbone(torch.cat([before, IDS], 1), torch.cat([torch.ones_like(before), MASK], 1))
    real = MASK[..., None]
    torch.testing.assert_close(ours * real, whole[:, M:] * real, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["t5", "nano"])
def test_a_new_prefix_of_a_pair_is_what_its_decoder_has_written(name: str) -> None:
    from conpet.backbones.nano import nano

    backbone: Any = tiny_t5(generative=True) if name == "t5" else nano(generative=True)
    pool = Pool(backbone, kind="prefix", length=M)
    pool.add("a", seed=3)
    tokens = drawn(backbone)
    with torch.no_grad(), pool.routed(EVERYONE):
        backbone.model.config.use_cache = False
        # the encoder reads the tokens themselves, as it did when the prefix was made
        ids = tokens.expand(3, M)
        ours = backbone.answer_logits(ids, torch.ones_like(ids), ANSWER)
    start = torch.tensor([backbone.start_id()])
    # read: start and all tokens but the last; then the answer's own start, and the answer
    given = torch.cat([start, tokens[:-1], start]).expand(3, -1)
    given = torch.cat([given, ANSWER[:, :-1]], dim=1)
    with torch.no_grad():
        plain = backbone.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            decoder_input_ids=given,
            use_cache=False,
        ).logits
    torch.testing.assert_close(ours, plain[:, M:].flatten(0, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (tiny_bert, {}),
        (tiny_llama, {}),
        (tiny_llama, {"generative": True}),
        (tiny_t5, {}),
        (tiny_t5, {"generative": True}),
    ],
)
def test_peft_loads_our_folder(make: Any, options: dict[str, bool], tmp_path: Path) -> None:
    backbone = make(**options)
    pool = pool_on(backbone)
    pool.freeze("a")
    save_adapter(pool, "a", tmp_path / "a")
    theirs = PeftModel.from_pretrained(copy.deepcopy(backbone.model), str(tmp_path / "a")).eval()
    assert theirs.peft_config["default"].task_type == task_type(backbone)
    given: dict[str, Tensor] = {"input_ids": IDS, "attention_mask": MASK}
    if make is tiny_t5 and not options:  # peft cannot run it
        weight = theirs.prompt_encoder["default"].embedding.weight
        assert torch.equal(weight, pool.tensors("a")["prefix"])
        return
    if make is tiny_t5:
        given["decoder_input_ids"] = ANSWER
    with torch.no_grad():
        expected = theirs(**given)[0]
        with pool.routed(EVERYONE):
            ours = backbone.model(**given)[0]
    if make is not tiny_t5:
        ours, expected = ours * MASK[..., None], expected * MASK[..., None]
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("make", [tiny_bert, tiny_llama, tiny_t5])
def test_we_load_the_folder_of_peft(make: Any, tmp_path: Path) -> None:
    """Of a pair with the layers it has, which then share what peft makes of them."""
    pair = make is tiny_t5
    backbone = make(generative=pair)
    config = PrefixTuningConfig(task_type=task_type(backbone), num_virtual_tokens=M)
    theirs = get_peft_model(copy.deepcopy(backbone.model), config).eval()
    theirs.save_pretrained(str(tmp_path / "a"))
    pool = Pool(backbone, kind="prefix", length=M)
    load_adapter(pool, "a", tmp_path / "a")
    assert not pool.is_live("a")
    given = {"input_ids": IDS, "attention_mask": ONES}
    given |= {"decoder_input_ids": ANSWER} if pair else {}
    with torch.no_grad():
        expected = theirs(**given)[0]
        with pool.routed(EVERYONE):
            ours = backbone.model(**given)[0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)


def test_prefixes_of_another_form_are_refused(tmp_path: Path) -> None:
    backbone: Any = tiny_t5(generative=True)
    theirs, _ = theirs_of(backbone, torch.zeros(M, 128))
    theirs.save_pretrained(str(tmp_path / "a"))
    for options, message in (
        ({"kind": "prefix", "length": M + 1}, "make the pool with length=4"),
        ({"kind": "lora"}, "make the pool with kind='prefix'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_adapter(Pool(backbone, **options), "a", tmp_path / "a")
    reader: Any = tiny_t5()
    with pytest.raises(CheckpointError, match="Load a backbone that writes answers"):
        load_adapter(Pool(reader, kind="prefix", length=M), "a", tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_transformer_submodules": 1}))
    with pytest.raises(CheckpointError, match="Load a backbone that reads alone"):
        load_adapter(Pool(backbone, kind="prefix", length=M), "a", tmp_path / "a")
