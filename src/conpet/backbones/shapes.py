"""Backbones as shapes: the modules of a model on torch's meta device, where no tensor has values.

What there is to count is there, in no memory and without a download: parameters, projections,
widths. What is computed with such a backbone has a shape and no values either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, LlamaConfig, PreTrainedTokenizerFast, T5Config
from transformers.utils import logging

from conpet.backbones.base import Backbone
from conpet.backbones.depth import keep_first
from conpet.backbones.loading import DTYPES, kind_of, load_backbone
from conpet.errors import ConfigError, did_you_mean
from conpet.registry import BACKBONES


@dataclass(frozen=True)
class Shape:
    """The sizes of a published model.

    Attributes:
        hub_id: where its weights are.
        family, sizes: the class of its configuration in transformers, and what that is given.
        tied: whether the language-model head is the word embeddings. (transformers takes every T5
            for tied until it sees a checkpoint that is not.)
    """

    hub_id: str
    family: type[Any]
    sizes: Mapping[str, Any]
    tied: bool = False


def _t5(width: int, hidden: int, heads: int, *, first: bool = False) -> dict[str, Any]:
    own = {} if first else {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    return {"vocab_size": 32128, "d_kv": 64, "num_layers": 24, "d_model": width} | {
        "d_ff": hidden,
        "num_heads": heads,
        **own,
    }


def _llama(width: int, hidden: int, layers: int) -> dict[str, Any]:
    return {"vocab_size": 32000, "max_position_embeddings": 4096, "hidden_size": width} | {
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": layers,  # heads of 128 units
    }


SHAPES: Mapping[str, Shape] = {
    "t5-large": Shape("google-t5/t5-large", T5Config, _t5(1024, 4096, 16, first=True), tied=True),
    "t5-xl-v1.1": Shape("google/t5-v1_1-xl", T5Config, _t5(2048, 5120, 32)),
    "t5-xxl-v1.1": Shape("google/t5-v1_1-xxl", T5Config, _t5(4096, 10240, 64)),
    "llama-2-7b": Shape("meta-llama/Llama-2-7b-hf", LlamaConfig, _llama(4096, 11008, 32)),
    "llama-2-13b": Shape("meta-llama/Llama-2-13b-hf", LlamaConfig, _llama(5120, 13824, 40)),
}
"""LLaMA-7B, the first, has the projections of llama-2-7b."""

_BY_ID = {shape.hub_id: name for name, shape in SHAPES.items()}


def shape_of(
    name: str, *, dtype: str = "fp32", layers: int | None = None, generative: bool = False
) -> Backbone:
    """A backbone without weights: one of ``SHAPES`` by its name or hub id, a registered backbone, a
    folder, or a model of the hub, of which only the configuration is read.

    Args:
        dtype, layers, generative: as for ``load_backbone``.

    Raises:
        ConfigError: none of these is called so.
    """
    known = _BY_ID.get(name, name)
    if known in SHAPES:
        shape = SHAPES[known]
        backbone = _empty(name, shape.family(**shape.sizes), dtype, generative)
        if generative and not shape.tied:
            _untie(backbone.model)
    elif name in BACKBONES:
        backbone = load_backbone(name, dtype=dtype, generative=generative)
        _to_meta(backbone.model)
    else:
        backbone = _empty(name, _config(name), dtype, generative)
    backbone.fingerprint = f"the shape of {name}"  # there are no weights to take it from
    return backbone if layers is None else keep_first(backbone, layers)


def _config(name: str) -> Any:
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        known = [*SHAPES, *BACKBONES]
        raise ConfigError(
            f"the shape of backbone '{name}' is not known: it is not registered, and no "
            f"config.json of that name is in a folder, cached or within reach."
            f"{did_you_mean(name, known)} Allowed: {', '.join(known)}, a folder with a "
            "config.json, or a hub id"
        ) from error
    finally:
        logging.set_verbosity(level)


def _empty(name: str, config: Any, dtype: str, generative: bool) -> Backbone:
    kind = kind_of(name, config, generative=generative)
    with torch.device("meta"):
        model = kind.auto_class.from_config(config, attn_implementation="eager")
    backbone: Backbone = kind(name, model.to(DTYPES[dtype]), _no_tokenizer(Path(name).name))
    return backbone


def _untie(model: Any) -> None:
    """Give the language-model head weights of its own."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(torch.empty_like(head.weight), requires_grad=False)


def _to_meta(model: nn.Module) -> None:
    """Let go of the values. What is shared stays shared, which ``model.to('meta')`` does not do."""
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # beside the old one, to keep its id
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                empty = nn.Parameter(p.detach().to("meta"), requires_grad=False)
                module._parameters[name] = made.setdefault(id(p), (p, empty))[1]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to("meta")


def _no_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Knows one word: a backbone must have one, and here no text is read."""
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    words = {word: i for i, word in enumerate([*special.values(), "<mask>", "word"])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
        name_or_path=name,
        model_max_length=1_000_000,
        mask_token="<mask>",
        **special,
    )


@contextmanager
def values_as_zeros() -> Iterator[None]:
    """While it is open, whoever asks a tensor without values for them is told zeros."""
    with _Zeros():
        yield


class _Zeros(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            if func is torch.Tensor.to and "cpu" in args[1:]:
                return args[0]
            if func in _READS:
                args = (torch.zeros(args[0].shape, dtype=args[0].dtype), *args[1:])
        return func(*args, **kwargs)


_READS = (
    torch.Tensor.cpu,
    torch.Tensor.numpy,
    torch.Tensor.tolist,
    torch.Tensor.item,
    torch.Tensor.__bool__,
    torch.Tensor.__int__,
    torch.Tensor.__float__,
)
