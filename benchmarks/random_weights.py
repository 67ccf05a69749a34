"""Backbones of published sizes with random weights, made on the device: nothing is downloaded.

What they write is noise, what they cost is not. They read with the tokenizer of ``minilm``, whose
vocabulary is smaller than theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import partial

import torch
from transformers import LlamaConfig, T5Config

from conpet.backbones.base import Backbone
from conpet.backbones.loading import DTYPES, kind_of, load_backbone, resolve_attention
from conpet.backbones.shapes import SHAPES, Shape
from conpet.errors import ConfigError
from conpet.registry import BACKBONES

_TINY_LLAMA = {
    "vocab_size": 30528,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_TINY_T5 = {
    "vocab_size": 30528,
    "d_model": 32,
    "d_ff": 64,
    "d_kv": 8,
    "num_layers": 2,
    "num_heads": 4,
}
SIZES: Mapping[str, Shape] = {
    "llama-2-7b": SHAPES["llama-2-7b"],
    "t5-large": SHAPES["t5-large"],
    "tiny-decoder": Shape("", LlamaConfig, _TINY_LLAMA),
    "tiny-encoder-decoder": Shape("", T5Config, _TINY_T5, tied=True),
}
"""LLaMA-7B, the first, has the projections of llama-2-7b."""

LONGEST = 2048
"""Tokens of a text: the tokenizer's own limit is that of the model that it comes from."""


def random_backbone(
    name: str,
    *,
    dtype: str = "fp32",
    attention: str = "auto",
    quantisation: str | None = None,
    device: str = "cpu",
    generative: bool = False,
) -> Backbone:
    """A backbone of the sizes called ``name``; the options are those of ``load_backbone``.

    The weights are drawn where and in the type in which they stay: on a GPU a model of 7 billion is
    there in seconds, and never in the memory of the processor.
    """
    if quantisation is not None:
        raise ConfigError("random weights cannot be quantised; use quantisation=none with them")
    shape = SIZES[name]
    config = shape.family(**shape.sizes)
    kind = kind_of(name, config, generative=generative)
    torch.manual_seed(0)
    with torch.device(device):
        model = kind.auto_class.from_config(
            config, dtype=DTYPES[dtype], attn_implementation=resolve_attention(attention, device)
        )
    tokenizer = deepcopy(load_backbone("minilm").tokenizer)
    tokenizer.model_max_length = LONGEST
    backbone: Backbone = kind(name, model, tokenizer)
    backbone.fingerprint = f"random weights of the sizes of {name}"  # to hash them takes long
    return backbone


llama_2_7b = partial(random_backbone, "llama-2-7b")
t5_large = partial(random_backbone, "t5-large")
tiny_decoder = partial(random_backbone, "tiny-decoder")
tiny_encoder_decoder = partial(random_backbone, "tiny-encoder-decoder")


def register() -> None:
    """Make them known to runs, as ``random-NAME``."""
    for name in SIZES:
        target = f"{__name__}:{name.replace('-', '_')}"
        BACKBONES.register(f"random-{name}", target, f"random weights of the sizes of {name}")
