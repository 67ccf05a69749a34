"""The ids of entity markers and mask for any tokenizer, without a new row in any embedding.

Every vocabulary has tokens that no text is made of: unused, reserved or byte tokens. A vocabulary
without enough of them gets markers of ordinary tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from conpet.errors import ConfigError

Ids = tuple[int, ...]

_SPARE: tuple[tuple[str, ...], ...] = (
    tuple(f"[unused{i}]" for i in range(5)),  # BERT
    tuple(
        f"<extra_id_{i}>" for i in (1, 2, 3, 4, 0)
    ),  # T5, which was pretrained to fill in number 0
    tuple(f"<unused{i}>" for i in range(5)),  # Gemma
    tuple(f"<|reserved_special_token_{i}|>" for i in range(5)),  # LLaMA 3
    (  # Qwen 2.5 and 3: tokens of its vision variants
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
        "<|quad_start|>",
    ),
    tuple(f"<|extra_{i}|>" for i in range(5)),  # Qwen 1
    tuple(f"<0x0{i}>" for i in range(5)),  # LLaMA 1 and 2, Mistral: bytes that text does not hold
)
_TEXT = ("<e1>", "</e1>", "<e2>", "</e2>")


@dataclass(frozen=True)
class Markers:
    """Ids of M0, M1, M2, M3 (more than one each where they are plain text), and of the mask."""

    ids: tuple[Ids, Ids, Ids, Ids]
    mask: int

    def reserved(self) -> set[int]:
        """The ids that the prompt alone may put into an input."""
        single = {group[0] for group in self.ids if len(group) == 1}
        return single | {self.mask}


def find_markers(tokenizer: PreTrainedTokenizerBase) -> Markers:
    """Markers and mask of a tokenizer; its own mask token where it has one."""
    vocabulary = tokenizer.get_vocab()
    own_mask = tokenizer.mask_token_id
    for tokens in _SPARE:
        needed = tokens if own_mask is None else tokens[:4]
        if all(token in vocabulary for token in needed):
            a, b, c, d, *rest = ((vocabulary[token],) for token in needed)
            return Markers((a, b, c, d), own_mask if own_mask is not None else rest[0][0])
    a, b, c, d = (tuple(tokenizer.encode(text, add_special_tokens=False)) for text in _TEXT)
    for mask in (own_mask, tokenizer.eos_token_id, tokenizer.unk_token_id):
        if mask is not None:
            return Markers((a, b, c, d), mask)
    raise ConfigError(
        "the tokenizer has no mask, spare, end or unknown token that could stand for the mask; "
        "choose a backbone whose tokenizer has one"
    )
