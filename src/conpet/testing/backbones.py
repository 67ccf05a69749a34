"""Tiny random backbones with real tokenizers.

Weights and vocabularies are made in code: nothing is downloaded, no global random state is read or
moved, and every process gets the same ones.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    T5Config,
)

from conpet.backbones.base import Backbone
from conpet.backbones.loading import DTYPES, kind_of, resolve_attention
from conpet.errors import ConfigError

_MAX_LENGTH = 512
_SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_DECODER_SIZES: dict[str, Any] = {
    **_SIZES,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
}
_CHARACTERS = [c for c in string.printable if not c.isspace()]
_WORDS = (
    *("a", "an", "and", "are", "as", "at", "be", "between", "by", "for", "from", "has", "he"),
    *("her", "here", "his", "in", "is", "it", "its", "kind", "of", "on", "or", "relation"),
    *("sentence", "she", "that", "the", "their", "this", "to", "type", "was", "were", "with"),
)


def tiny_bert(**options: Any) -> Backbone:
    """A random BERT with a WordPiece tokenizer."""
    words = ["[PAD]", *(f"[unused{i}]" for i in range(5)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [
        *_CHARACTERS,
        *(f"##{c}" for c in _CHARACTERS),
        *(word for word in _WORDS if len(word) > 1),
    ]
    vocabulary = _numbered(words)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = _around("[CLS] $A [SEP]", vocabulary)
    tokenizer.decoder = decoders.WordPiece()
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    config = BertConfig(
        vocab_size=len(vocabulary),
        intermediate_size=64,
        max_position_embeddings=_MAX_LENGTH,
        **_SIZES,
    )
    return _build("tiny-bert", config, tokenizer, special, **options)


def tiny_llama(**options: Any) -> Backbone:
    """A random LLaMA with a byte-fallback BPE tokenizer, as LLaMA 2 has it."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *_CHARACTERS]
    merges = _merges([f"▁{word}" for word in _WORDS])
    vocabulary = _numbered([*words, *("".join(pair) for pair in merges)])
    bpe = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.post_processor = _around("<s> $A", vocabulary)
    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*spaces, decoders.Strip(" ", 1, 0)])
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    config = LlamaConfig(
        vocab_size=len(vocabulary), max_position_embeddings=_MAX_LENGTH, **_DECODER_SIZES
    )
    return _build("tiny-llama", config, tokenizer, special, **options)


def tiny_qwen(**options: Any) -> Backbone:
    """A random Qwen 3 with a byte-level BPE tokenizer that adds no token around a text."""
    special = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
        "<|quad_start|>",
    ]
    merges = _merges([f"Ġ{word}" for word in _WORDS])
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    vocabulary = _numbered([*words, *special])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    config = Qwen3Config(
        vocab_size=len(vocabulary), max_position_embeddings=_MAX_LENGTH, **_DECODER_SIZES
    )
    return _build(
        "tiny-qwen",
        config,
        tokenizer,
        {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
        **options,
    )


def tiny_t5(**options: Any) -> Backbone:
    """A random T5 with a Unigram tokenizer and sentinel tokens."""
    sentinels = [f"<extra_id_{i}>" for i in range(10)]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in _WORDS), *_CHARACTERS]
    scored = [(piece, -float(i)) for i, piece in enumerate([*pieces, *sentinels])]  # words win
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = _around("$A </s>", {"</s>": 1})
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(sentinels)
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = T5Config(
        vocab_size=len(scored), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    )
    return _build("tiny-t5", config, tokenizer, special, **options)


def _build(
    name: str,
    config: PreTrainedConfig,
    tokenizer: Tokenizer,
    special: Mapping[str, str],
    *,
    dtype: str = "fp32",
    attention: str = "auto",
    quantisation: str | None = None,
    device: str = "cpu",
    generative: bool = False,
) -> Backbone:
    if quantisation is not None:
        raise ConfigError(f"backbone '{name}' cannot be quantised; use quantisation=none with it")
    kind = kind_of(name, config, generative=generative)
    with torch.random.fork_rng(
        devices=[]
    ):  # the constructor draws weights, which are replaced below
        model = kind.auto_class.from_config(
            config, attn_implementation=resolve_attention(attention, device)
        )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # norms and biases keep their 1 and 0
                parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=_MAX_LENGTH, **special
    )
    return kind(name, model.to(device=torch.device(device), dtype=DTYPES[dtype]), fast)


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(tokens)}


def _around(template: str, vocabulary: Mapping[str, int]) -> Any:
    special = [(token, vocabulary[token]) for token in template.split() if token != "$A"]
    return processors.TemplateProcessing(single=template, special_tokens=special)


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """The pairs that build each word letter by letter, from the left."""
    pairs = ((word[:i], word[i]) for word in words for i in range(1, len(word)))
    return list(dict.fromkeys(pairs))
