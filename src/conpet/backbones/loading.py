"""Loading through transformers' Auto classes, quietly, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging

from conpet.backbones.base import Backbone
from conpet.backbones.decoder import DecoderBackbone
from conpet.backbones.depth import keep_first
from conpet.backbones.encdec import EncoderDecoderBackbone
from conpet.backbones.encoder import EncoderBackbone
from conpet.backbones.generative import CausalLM, Seq2SeqLM
from conpet.errors import ConfigError, MissingDependencyError, did_you_mean
from conpet.registry import BACKBONES
from conpet.runtime.machine import resolve_device

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2")
QUANTISATION = {
    "bitsandbytes-8bit": "bitsandbytes",
    "bitsandbytes-4bit": "bitsandbytes",
    "torchao-int8": "torchao",
}
"""Way of quantisation -> the package that it needs."""


def load_backbone(
    name_or_path: str | Path,
    *,
    dtype: str = "fp32",
    attention: str = "auto",
    quantisation: str | None = None,
    device: str = "cpu",
    layers: int | None = None,
    generative: bool = False,
) -> Backbone:
    """Load a registered backbone, a folder, or a model of the hub.

    Args:
        name_or_path: a name of the registry, a local folder, or a hub id; tried in this order.
        dtype: of the weights: ``fp32``, ``bf16`` or ``fp16``.
        attention: ``sdpa``, ``eager``, ``flash_attention_2``, or ``auto``: eager on a CPU (three
            times faster backward under bf16, as fast in fp32), else what transformers chooses.
        quantisation: ``bitsandbytes-8bit``, ``bitsandbytes-4bit``, ``torchao-int8``, or None.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.
        layers: keep only the first so many layers; None keeps all.
        generative: with the language-model head, to write answers.

    Raises:
        ConfigError: unknown name or option, or more layers than there are.
        MissingDependencyError: a package or device that is not there.
    """
    name = str(name_or_path)
    options: dict[str, Any] = {
        "dtype": dtype,
        "attention": attention,
        "quantisation": quantisation,
        "device": str(resolve_device(device)),
        "generative": generative,
    }
    _check_options(dtype, attention, quantisation)
    if name in BACKBONES:
        backbone: Backbone = BACKBONES.load(name)(**options)
    else:
        backbone = load_pretrained(name, **options)
    if layers is not None:
        backbone = keep_first(backbone, layers)
    _ = backbone.fingerprint  # now: full tuning may change the weights later
    return backbone


def _check_options(dtype: str, attention: str, quantisation: str | None) -> None:
    """ConfigError for an unknown value, MissingDependencyError for one that lacks its package."""
    _check("dtype", dtype, DTYPES)
    _check("attention", attention, ATTENTION)
    if quantisation is not None:
        _check("quantisation", quantisation, QUANTISATION)
        _check_package(f"quantisation '{quantisation}'", QUANTISATION[quantisation])
    if attention == "flash_attention_2":
        _check_package("attention 'flash_attention_2'", "flash_attn")


def load_pretrained(
    name: str,
    *,
    folder: Path | None = None,
    dtype: str = "fp32",
    attention: str = "auto",
    quantisation: str | None = None,
    device: str = "cpu",
    generative: bool = False,
) -> Backbone:
    """Load a folder or hub id; the options are those of ``load_backbone``.

    Weights are read from safetensors only: other formats can run code when they are opened.

    Args:
        name: the backbone's name, and where it is, unless ``folder`` says so.
    """
    with quiet():
        source = folder or find(name)
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            kind = kind_of(name, config, generative=generative)
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model = kind.auto_class.from_pretrained(
                source,
                config=config,
                dtype=DTYPES[dtype],
                attn_implementation=resolve_attention(attention, device),
                quantization_config=_quantisation_config(quantisation, DTYPES[dtype]),
                device_map={"": device} if quantisation else None,
                use_safetensors=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigError(
                f"backbone '{name}' could not be loaded from '{source}': {error}. Needed are the "
                "files of a transformers model: config.json, tokenizer.json and model.safetensors"
            ) from error
    backbone: Backbone = kind(name, model if quantisation else model.to(device), tokenizer)
    if quantisation is not None:
        _keep_differentiable(backbone)
    return backbone


def kind_of(name: str, config: PreTrainedConfig, *, generative: bool = False) -> type[Any]:
    """The class of backbone that runs models of this configuration.

    Raises:
        ConfigError: there is none; or it has to write answers, and is an encoder.
    """
    model_type = config.model_type
    kinds = (EncoderBackbone, DecoderBackbone, EncoderDecoderBackbone)
    kind: type[Any] | None = next((kind for kind in kinds if model_type in kind.families), None)
    if kind is None and not config.is_encoder_decoder:
        if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            kind = EncoderBackbone
        elif model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            kind = DecoderBackbone
    if kind is None and model_type in Seq2SeqLM.families and generative:
        kind = EncoderDecoderBackbone
    if kind is None:
        raise ConfigError(
            f"backbone '{name}' is a '{model_type}' model, which is none of the supported kinds; "
            "allowed: encoder (such as BERT), decoder (such as LLaMA or Qwen), encoder-decoder (T5)"
        )
    return WRITERS[kind] if generative and kind in WRITERS else _reader(name, kind, generative)


WRITERS: dict[type[Any], type[Any]] = {
    DecoderBackbone: CausalLM,
    EncoderDecoderBackbone: Seq2SeqLM,
}
"""The kind that reads -> the one that also writes."""


def _reader(name: str, kind: type[Any], generative: bool) -> type[Any]:
    if generative:
        raise cannot_write(name)
    return kind


def cannot_write(name: str) -> ConfigError:
    return ConfigError(
        f"backbone '{name}' is an encoder, which cannot write answers, and this stream asks for "
        "answers in free text; use a decoder or an encoder-decoder, such as "
        "--backbone nano"
    )


def resolve_attention(attention: str, device: str) -> str | None:
    """transformers' name of the implementation; None leaves the choice to transformers."""
    if attention != "auto":
        return attention
    return "eager" if torch.device(device).type == "cpu" else None


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without progress bars and reports inside, as it was before outside."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def find(name: str) -> Path:
    """The folder of a backbone: ``name`` itself, or where the hub's files are cached."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return fetch(name)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConfigError(
            f"backbone '{name}' is neither registered, nor a folder, nor a model of the hub that "
            f"is cached or can be reached.{did_you_mean(name, BACKBONES)} "
            f"Allowed: {', '.join(BACKBONES)}, a folder with a config.json, or a hub id "
            "(conpet ls backbones)"
        ) from error


def fetch(hub_id: str) -> Path:
    """The local folder of a hub model, downloaded where it is not cached yet."""
    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
    return Path(
        snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=["*/*", "consolidated*"])
    )


def _keep_differentiable(backbone: Backbone) -> None:
    """Put quantised projections, which hold no dropout, in training mode.

    In eval mode bitsandbytes packs 4-bit weights, on the first pass on a CPU, into a layout that
    has no gradient with respect to its input.
    """
    for projection in backbone.every_linear().values():
        projection.train()


def _quantisation_config(quantisation: str | None, dtype: torch.dtype) -> Any:
    if quantisation is None:
        return None
    if quantisation == "torchao-int8":
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    from transformers import BitsAndBytesConfig

    if quantisation == "bitsandbytes-8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def _check(option: str, given: str, allowed: Any) -> None:
    if given not in allowed:
        raise ConfigError(
            f"unknown {option} '{given}'.{did_you_mean(given, allowed)} "
            f"Allowed: {', '.join(allowed)}"
        )


def _check_package(what: str, package: str) -> None:
    if find_spec(package) is None:
        name = package.replace("_", "-")
        raise MissingDependencyError(f"{what} needs the package {name}: pip install {name}")
