"""Bidirectional encoders: BERT and its relatives."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from conpet.backbones.base import Backbone, Family

_BERT = Family(
    ("query", "value"),
    attention=r"attention\.output\.dense",
    mlp=r"\d+\.output\.dense",
    prefix=r"attention\.self",
    keys="key",
    positions=r"embeddings\.position_embeddings",
)


class EncoderBackbone(Backbone):
    """BERT, RoBERTa, DistilBERT, DeBERTa, MPNet, ModernBERT, ..."""

    kind = "encoder"
    families: ClassVar[dict[str, Family]] = {
        "bert": _BERT,
        "roberta": _BERT,
        "xlm-roberta": _BERT,
        "camembert": _BERT,
        "electra": _BERT,
        "deberta": Family(("in_proj",), _BERT.attention, _BERT.mlp),
        "deberta-v2": Family(("query_proj", "value_proj"), _BERT.attention, _BERT.mlp),
        "distilbert": Family(("q_lin", "v_lin"), r"attention\.out_lin", r"ffn\.lin2"),
        "mpnet": Family(("q", "v"), r"attention\.attn\.o", _BERT.mlp),
        "modernbert": Family(("Wqkv",), r"attn\.Wo", r"mlp\.Wo"),
    }
    auto_class = AutoModel

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        if isinstance(getattr(model, "pooler", None), nn.Module):
            model.register_module(
                "pooler", None
            )  # not used, and randomly initialised where the weights lack it
        super().__init__(name, model, tokenizer)

    def _states(self, **inputs: Tensor) -> Tensor:
        states: Tensor = self.model(**inputs).last_hidden_state
        return states
