"""Every kind of backbone: hidden states, padding, frozen weights, the places of adapters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    BertForMaskedLM,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3ForCausalLM,
    T5ForConditionalGeneration,
)

from conpet.backbones.base import Backbone
from conpet.backbones.decoder import DecoderBackbone
from conpet.backbones.encdec import EncoderDecoderBackbone
from conpet.backbones.encoder import EncoderBackbone
from conpet.backbones.loading import load_backbone
from conpet.errors import ConfigError

TINY = ["tiny-bert", "tiny-llama", "tiny-qwen", "tiny-t5"]


@pytest.fixture(params=TINY)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load_backbone(request.param)


def ids_and_mask(lengths: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(10, 90, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


def test_padding_does_not_change_a_row(backbone: Backbone) -> None:
    ids, mask = ids_and_mask([3, 17, 9])
    together = backbone(ids, mask)
    for i, n in enumerate([3, 17, 9]):
        alone = backbone(ids[i : i + 1, :n], mask[i : i + 1, :n])
        torch.testing.assert_close(together[i, :n], alone[0], atol=1e-5, rtol=0)


def test_shape_and_device(backbone: Backbone) -> None:
    hidden = backbone(*ids_and_mask([4, 6]))
    assert hidden.shape == (2, 6, backbone.hidden_size) and hidden.dtype == torch.float32
    assert backbone.device == torch.device("cpu") and backbone.max_length == 512


def test_weights_kept_in_half_precision_give_the_same_under_autocast(backbone: Backbone) -> None:
    ids, mask = ids_and_mask([3, 17, 9])
    with torch.autocast("cpu", torch.bfloat16):
        cast = backbone(ids, mask)
    backbone.compute_in(torch.bfloat16)
    halves = [p.dtype for m in backbone.every_linear().values() for p in m.parameters()]
    assert halves and set(halves) == {torch.bfloat16}
    assert backbone.embed(ids[0]).dtype == torch.float32
    with backbone.computing():
        kept = backbone(ids, mask)
    assert torch.equal(cast, kept) and not any(p.requires_grad for p in backbone.parameters())


def test_rows_differ_by_what_they_say(backbone: Backbone) -> None:
    ids, mask = ids_and_mask([8, 8])
    hidden = backbone(ids, mask)
    assert (hidden[0] - hidden[1]).abs().mean() > 0.1


def test_only_a_decoder_is_causal(backbone: Backbone) -> None:
    ids, mask = ids_and_mask([8])
    changed = ids.clone()
    changed[0, -1] = 91
    moved = (backbone(ids, mask) - backbone(changed, mask))[0, :-1].abs().max()
    assert (moved < 1e-6) == (backbone.kind == "decoder")


def test_frozen_and_in_eval_mode_for_good(backbone: Backbone) -> None:
    torch.nn.Sequential(backbone).train()
    assert not any(module.training for module in backbone.model.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_default_targets(backbone: Backbone) -> None:
    expected = {
        "tiny-bert": {"query", "value"},
        "tiny-llama": {"q_proj", "v_proj"},
        "tiny-qwen": {"q_proj", "v_proj"},
        "tiny-t5": {"q", "v"},
    }[backbone.name]
    found = backbone.linears(None)
    assert {path.split(".")[-1] for path in found} == expected
    assert len(found) == 2 * 2
    for path, module in found.items():
        assert backbone.model.get_submodule(path) is module


def test_linears_by_dotted_name_and_unknown_name() -> None:
    bert = load_backbone("tiny-bert")
    assert len(bert.linears(["dense"])) == 3 * 2
    assert len(bert.linears(["attention.output.dense"])) == 2
    with pytest.raises(ConfigError, match=r"'querry'.*mean 'query'.*Allowed: dense, key, query"):
        bert.linears(["value", "querry"])


def test_sublayers(backbone: Backbone) -> None:
    both, mlp = backbone.sublayers("houlsby"), backbone.sublayers("pfeiffer")
    assert len(both) == 2 * 2 and len(mlp) == 2 and mlp.items() <= both.items()
    assert {m.out_features for m in both.values()} == {backbone.hidden_size}


@pytest.mark.parametrize(
    ("kind", "model_type"),
    [
        (kind, model_type)
        for kind in (EncoderBackbone, DecoderBackbone, EncoderDecoderBackbone)
        for model_type in kind.families
    ],
)
def test_every_family_has_its_places(kind: type[Backbone], model_type: str) -> None:
    sizes = {"num_hidden_layers": 2, "n_layers": 2, "num_layers": 2, "vocab_size": 64}
    with torch.device("meta"):
        config = AutoConfig.for_model(model_type, **sizes, pad_token_id=0)
        auto = AutoModelForTextEncoding if kind is EncoderDecoderBackbone else AutoModel
        model = auto.from_config(config)
    backbone = kind(model_type, model, load_backbone("tiny-bert").tokenizer)
    targets = len(kind.families[model_type].targets)
    assert len(backbone.linears(None)) == 2 * targets
    assert len(backbone.sublayers("houlsby")) == 4 and len(backbone.sublayers("pfeiffer")) == 2


def test_unknown_family_asks_for_targets() -> None:
    bert = load_backbone("tiny-bert")
    bert.model.config.model_type = "novel"
    with pytest.raises(ConfigError, match=r"'novel'.*name its targets.*query"):
        bert.linears(None)
    assert len(bert.linears(["query"])) == 2


FULL_MODELS = {
    "tiny-bert": BertForMaskedLM,
    "tiny-llama": LlamaForCausalLM,
    "tiny-qwen": Qwen3ForCausalLM,
    "tiny-t5": T5ForConditionalGeneration,
}


@pytest.mark.parametrize("attention", ["auto", "sdpa"])
@pytest.mark.parametrize("name", TINY)
def test_a_folder_gives_the_hidden_states_of_transformers(
    name: str, attention: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The reference is the full model, with its language-model head and (T5) its decoder."""
    folder = tmp_path_factory.mktemp(name)
    tiny = load_backbone(name)
    with torch.random.fork_rng():
        full: PreTrainedModel = FULL_MODELS[name](tiny.model.config).eval()
    full.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    loaded = load_backbone(folder, attention=attention)
    assert loaded.kind == tiny.kind and loaded.tokenizer.get_vocab() == tiny.tokenizer.get_vocab()
    ids, mask = ids_and_mask([5, 12])
    with torch.no_grad():
        if name == "tiny-t5":
            expected = full.get_encoder()(ids, mask).last_hidden_state
        else:
            expected = full(ids, mask, output_hidden_states=True).hidden_states[-1]
    found = loaded(ids, mask)
    torch.testing.assert_close(found * mask[..., None], expected * mask[..., None])
