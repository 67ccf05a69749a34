"""Our soft prompts against peft's prompt tuning: outputs, gradients, decoding, and folders."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import GenerationConfig

from conpet.adapters.io import load_adapter, save_adapter
from conpet.adapters.pool import Pool
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

READERS = {"bert": tiny_bert, "llama": tiny_llama, "qwen": tiny_qwen, "t5": tiny_t5}
WRITERS = {"llama": tiny_llama, "qwen": tiny_qwen, "t5": tiny_t5}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Any:
    make: Callable[..., Any] = READERS[request.param]
    return make()


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest) -> Any:
    make: Callable[..., Any] = WRITERS[request.param]
    return make(generative=True)


def pool_on(backbone: Any) -> Pool:
    pool = Pool(backbone, kind="prompt", length=M)
    pool.add("a", seed=3)
    return pool


def task_type(backbone: Any) -> str:
    if not backbone.model.can_generate():
        return "FEATURE_EXTRACTION"
    return "SEQ_2_SEQ_LM" if backbone.kind == "encoder-decoder" else "CAUSAL_LM"


def theirs_of(backbone: Any, prompt: Tensor) -> tuple[Any, Tensor]:
    """peft's model with this prompt, and its parameter."""
    config = PromptTuningConfig(
        task_type=task_type(backbone), num_virtual_tokens=M, num_transformer_submodules=1
    )
    model = get_peft_model(copy.deepcopy(backbone.model), config).eval()
    weight = model.prompt_encoder["default"].embedding.weight
    weight.data.copy_(prompt)
    return model, weight


def hidden(backbone: Any, pool: Pool, mask: Tensor) -> Tensor:
    with pool.routed(EVERYONE) as soft_prompt:
        states: Tensor = backbone(IDS, mask, soft_prompt)
    return states


def compared(ours: Tensor, expected: Tensor, pool: Pool, weight: Tensor) -> None:
    """Values, and gradients of the prompts."""
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)
    goal = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3))
    (ours * goal).sum().backward()
    (expected * goal).sum().backward()
    own = pool.parameters_of("a")["prompt"].grad
    assert own is not None and weight.grad is not None and own.abs().max() > 0.01
    torch.testing.assert_close(own, weight.grad, rtol=1e-4, atol=1e-4)


def test_hidden_states_and_gradients(reader: Any) -> None:
    pool = pool_on(reader)
    theirs, weight = theirs_of(reader, pool.tensors("a")["prompt"])
    ours = hidden(reader, pool, MASK)
    expected = theirs(input_ids=IDS, attention_mask=MASK).last_hidden_state[:, M:]
    assert not torch.allclose(ours[0], reader(IDS, MASK)[0], atol=1e-2)
    real = MASK[..., None]
    compared(ours * real, expected * real, pool, weight)


def test_logits_of_answers_and_gradients(writer: Any) -> None:
    pool = pool_on(writer)
    theirs, weight = theirs_of(writer, pool.tensors("a")["prompt"])
    with pool.routed(EVERYONE) as soft_prompt:
        ours = writer.answer_logits(IDS, ONES, ANSWER, soft_prompt)
    if writer.kind == "decoder":
        whole = torch.cat([IDS, ANSWER], dim=1)
        logits = theirs(input_ids=whole, attention_mask=torch.ones_like(whole)).logits
        expected = logits[:, -N - 1 : -1]
    else:
        start = torch.full((3, 1), writer.start_id())
        given = torch.cat([start, ANSWER[:, :-1]], dim=1)
        expected = theirs(input_ids=IDS, attention_mask=MASK, decoder_input_ids=given).logits
        with pool.routed(EVERYONE) as soft_prompt:
            ours = writer.answer_logits(IDS, MASK, ANSWER, soft_prompt)
    compared(ours, expected.flatten(0, 1), pool, weight)


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # told by peft
def test_what_is_written(writer: Any) -> None:
    pool = pool_on(writer)
    theirs, _ = theirs_of(writer, pool.tensors("a")["prompt"])
    with torch.no_grad(), pool.routed(EVERYONE) as soft_prompt:
        ours = writer.write(IDS, ONES, soft_prompt, end_id=10**6, max_new_tokens=N)
        plain = writer.write(IDS, ONES, end_id=10**6, max_new_tokens=N)
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
    config = theirs.peft_config["default"]
    assert (config.task_type, config.token_dim) == (task_type(backbone), 32)
    assert torch.equal(theirs.get_prompt(1)[0], pool.tensors("a")["prompt"])


def test_we_load_the_folder_of_peft(reader: Any, tmp_path: Path) -> None:
    prompt = torch.randn(M, 32, generator=torch.Generator().manual_seed(4))
    theirs, _ = theirs_of(reader, prompt)
    theirs.save_pretrained(str(tmp_path / "a"))
    pool = Pool(reader, kind="prompt", length=M)
    load_adapter(pool, "a", tmp_path / "a")
    assert torch.equal(pool.tensors("a")["prompt"], prompt) and not pool.is_live("a")


def test_prompts_of_another_form_are_refused(tmp_path: Path) -> None:
    backbone: Any = tiny_t5(generative=True)
    theirs, _ = theirs_of(backbone, torch.zeros(M, 32))
    theirs.save_pretrained(str(tmp_path / "a"))
    for options, message in (
        ({"kind": "prompt", "length": M + 1}, "make the pool with length=4"),
        ({"kind": "lora"}, "make the pool with kind='prompt'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_adapter(Pool(backbone, **options), "a", tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_transformer_submodules": 2}))
    with pytest.raises(CheckpointError, match="with num_transformer_submodules=1"):
        load_adapter(Pool(backbone, kind="prompt", length=M), "a", tmp_path / "a")
