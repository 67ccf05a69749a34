"""Causal decoders: LLaMA, Qwen and their relatives."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from transformers import AutoModel

from conpet.backbones.base import Backbone, Family

_LLAMA = Family(
    ("q_proj", "v_proj"),
    attention=r"self_attn\.o_proj",
    mlp=r"mlp\.down_proj",
    prefix="self_attn",
    keys="k_proj",
    positions="rotary_emb",
)


class DecoderBackbone(Backbone):
    """LLaMA, Qwen, Mistral, Gemma, ...: without the language-model head."""

    kind = "decoder"
    families: ClassVar[dict[str, Family]] = {
        name: _LLAMA
        for name in (
            "llama",
            "qwen2",
            "qwen3",
            "mistral",
            "gemma",
            "gemma2",
            "gemma3_text",
            "olmo2",
            "smollm3",
        )
    }
    auto_class = AutoModel

    def _states(self, **inputs: Tensor) -> Tensor:
        states: Tensor = self.model(**inputs, use_cache=False).last_hidden_state
        return states
