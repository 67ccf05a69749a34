"""Encoder-decoders: T5. To classify, only the encoder is loaded and run."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from transformers import AutoModelForTextEncoding

from conpet.backbones.base import Backbone, Family

_T5 = Family(
    ("q", "v"),
    attention=r"SelfAttention\.o",
    mlp=r"DenseReluDense\.wo",
    prefix="SelfAttention",
    keys="k",
)


class EncoderDecoderBackbone(Backbone):
    """T5, Flan-T5, mT5, uMT5."""

    kind = "encoder-decoder"
    families: ClassVar[dict[str, Family]] = {"t5": _T5, "mt5": _T5, "umt5": _T5}
    auto_class = AutoModelForTextEncoding

    def _states(self, **inputs: Tensor) -> Tensor:
        states: Tensor = self.model(**inputs).last_hidden_state
        return states
