"""Answers through our pool against peft's LoRA on the same model: loss, gradients and decoding."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import GenerationConfig

from conpet.adapters.peft_format import PREFIX, SUFFIXES
from conpet.adapters.pool import Pool
from conpet.backbones.generative import GenerativeBackbone
from conpet.objectives.generate import answer_loss, token_log_probs
from conpet.testing import tiny_llama, tiny_qwen, tiny_t5
from conpet.types import Routing

# peft asks transformers for a name that transformers has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

RANK, ALPHA, N = 3, 6, 5
BOTH = Routing(("a", "b"), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))


@pytest.fixture(params=[tiny_llama, tiny_qwen, tiny_t5], ids=["llama", "qwen", "t5"])
def backbone(request: pytest.FixtureRequest) -> GenerativeBackbone:
    make: Callable[..., GenerativeBackbone] = request.param
    return make(generative=True)


@pytest.fixture
def pool(backbone: GenerativeBackbone) -> Pool:
    made = Pool(backbone, rank=RANK, alpha=ALPHA)
    for i, name in enumerate(("a", "b")):
        made.add(name, seed=i)
        g = torch.Generator().manual_seed(i)
        weights = made.tensors(name)
        made.load_tensors(name, {k: torch.randn(t.shape, generator=g) for k, t in weights.items()})
    return made


def theirs(backbone: GenerativeBackbone, pool: Pool, name: str) -> tuple[torch.nn.Module, dict]:
    """peft's model with the weights of one of our adapters, and its parameter for each of ours."""
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(backbone.linears()), lora_dropout=0.0
    )
    model = get_peft_model(copy.deepcopy(backbone.model), config).eval()
    parameters, pairs = dict(model.named_parameters()), {}
    for key, value in pool.tensors(name).items():
        long = PREFIX + key[:-2] + SUFFIXES[key[-2:]].replace(".weight", ".default.weight")
        parameters[long].data.copy_(value)
        pairs[key] = parameters[long]
    return model.get_base_model(), pairs


def around(backbone: GenerativeBackbone, model: torch.nn.Module) -> GenerativeBackbone:
    other = copy.copy(backbone)
    other._modules = {**backbone._modules, "model": model}
    return other


IDS = torch.randint(3, 60, (3, 7), generator=torch.Generator().manual_seed(1))
ONES = torch.ones_like(IDS)
ANSWER = torch.randint(3, 60, (3, N), generator=torch.Generator().manual_seed(2))


def test_every_projection_of_attention_is_adapted(backbone: GenerativeBackbone) -> None:
    """T5: self-attention of both halves and cross-attention; two layers each, q and v."""
    assert len(backbone.linears()) == (12 if backbone.kind == "encoder-decoder" else 4)


def test_loss_and_gradients(backbone: GenerativeBackbone, pool: Pool) -> None:
    model, pairs = theirs(backbone, pool, "a")
    only_a = Routing(("a",), torch.ones(3, 1))
    with pool.routed(only_a):
        ours = backbone.answer_logits(IDS, ONES, ANSWER)
    expected = around(backbone, model).answer_logits(IDS, ONES, ANSWER)
    assert not torch.allclose(ours, backbone.answer_logits(IDS, ONES, ANSWER), atol=1e-2)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    loss = answer_loss(token_log_probs(ours, ANSWER), ANSWER)
    plain = torch.nn.functional.cross_entropy(expected, ANSWER.flatten())
    torch.testing.assert_close(loss, plain, rtol=0, atol=1e-5)
    loss.backward()
    plain.backward()
    for key, parameter in pool.parameters_of("a").items():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
        torch.testing.assert_close(parameter.grad, pairs[key].grad, rtol=1e-3, atol=1e-5)


def test_a_batch_of_several_adapters_writes_what_peft_writes_with_each(
    backbone: GenerativeBackbone, pool: Pool
) -> None:
    with torch.no_grad(), pool.routed(BOTH):
        ours = backbone.write(IDS, ONES, end_id=10**6, max_new_tokens=N)
    models = [theirs(backbone, pool, "a")[0], theirs(backbone, pool, "b")[0], backbone.model]
    for i, model in enumerate(models):
        assert torch.equal(ours[i], _written(backbone, model, IDS[i : i + 1])), i


def _written(backbone: GenerativeBackbone, model: torch.nn.Module, ids: Tensor) -> Tensor:
    """The new tokens of transformers' own greedy decoding."""
    config = GenerationConfig(
        max_new_tokens=N,
        min_new_tokens=N,
        do_sample=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        decoder_start_token_id=backbone.start_id(),
    )
    found = model.generate(  # type: ignore[operator]
        input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
    )
    return found[0, -N:]
