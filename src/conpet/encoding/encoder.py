"""Examples to token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from conpet.encoding.markers import find_markers
from conpet.encoding.prompts import Layout, Mark, Piece, choose_prompt
from conpet.encoding.truncate import Span, keep
from conpet.errors import ConfigError, DataError
from conpet.types import Example

Encoded = tuple[list[int], int]
"""Token ids with begin and end tokens, and the position of the mask (-1 without one)."""

_CHUNK = 4096  # examples a tokenizer call: enough to keep it busy, few enough to hold in memory
_BY_NUMBER = list(Mark)


class Encoder:
    """Text to ids for one tokenizer.

    Begin and end tokens are those that the tokenizer itself puts around a text. They, markers and
    mask come from here alone: where a text spells one of them, it is read as ordinary text, or left
    out where the vocabulary knows no other way to read it.

    Args:
        tokenizer: a fast one of transformers; it is copied, never changed.
        max_length: most ids of an input, begin and end included.
        prompt: ``plain``, ``entity``, ``entity-last`` or ``auto``.
        backbone_kind: ``encoder``, ``decoder`` or ``encoder-decoder``; ``auto`` depends on it.
        template: how instruction and input make a prompt, where answers are to be written. The
            prompt of a decoder is then left open: its answer goes on where it ends.
        max_answer_length: most ids of an answer, its end included.

    Attributes:
        fingerprint: sha256 over the tokenizer and all settings: equal ones give equal ids.
        truncated: examples so far whose text was cut.
        pad_id: the id that fills shorter rows of a batch.
        end_id: the id that ends an answer; None where the tokenizer knows none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int = 128,
        prompt: str = "auto",
        backbone_kind: str = "encoder",
        template: str = "",
        max_answer_length: int = 64,
    ) -> None:
        if not tokenizer.is_fast:
            raise ConfigError(
                f"{type(tokenizer).__name__} is no fast tokenizer, and only those are supported; "
                "choose a backbone that comes with a tokenizer.json"
            )
        if not 1 <= max_length <= tokenizer.model_max_length:
            raise ConfigError(
                f"max_length is {max_length}; allowed is 1 to {tokenizer.model_max_length}, the "
                "most that this backbone's tokenizer is made for"
            )
        self.truncated = 0
        self.max_length, self.max_answer_length = max_length, max_answer_length
        ids = (tokenizer.pad_token_id, tokenizer.eos_token_id)
        self.pad_id: int = next((i for i in ids if i is not None), 0)
        self.end_id = end_of_answer(tokenizer)
        self._layout = choose_prompt(prompt, backbone_kind, template)
        self._instructed = bool(template)
        self._markers = find_markers(tokenizer)
        unknown = {tokenizer.unk_token_id}
        self._reserved = {*self._markers.reserved(), *tokenizer.all_special_ids} - unknown
        self._tokenizer, self._decoder = _bare_copy(tokenizer), tokenizer
        self._begin, self._end = _begin_and_end(self._tokenizer)
        if template and backbone_kind == "decoder":
            self._end = []
        self._spaced = _needs_spaces(self._tokenizer)
        settings = [max_length, prompt, backbone_kind, self._markers.ids, self._markers.mask]
        settings += [template, max_answer_length] if template else []
        described = json.dumps(settings) + self._tokenizer.to_str()
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    @property
    def frame(self) -> tuple[Sequence[int], Sequence[int]]:
        """The ids before and behind every input."""
        return self._begin, self._end

    def encode(self, example: Example) -> Encoded:
        """The ids of one example; DataError where its entities and prompt cannot fit."""
        return self.encode_all([example])[0]

    def encode_all(self, examples: Sequence[Example]) -> list[Encoded]:
        """``encode`` for many: equal pieces of text are tokenised once, and many at a time."""
        encoded: list[Encoded] = []
        for start in range(0, len(examples), _CHUNK):
            chunk = examples[start : start + _CHUNK]
            layouts = [self._layout(example) for example in chunk]
            known = self._tokenise(layouts)
            encoded += [self._join(e, lay, known) for e, lay in zip(chunk, layouts, strict=True)]
        return encoded

    def encode_answers(self, answers: Sequence[str]) -> list[list[int]]:
        """The ids of answers, each with the end token behind it; long ones are cut before it.

        ConfigError where the tokenizer has no end token.
        """
        if self.end_id is None:
            raise ConfigError(
                "the tokenizer has no end token (eos or sep), so a written answer could never end; "
                "choose a backbone whose tokenizer has one"
            )
        pieces: list[Piece] = [f" {answer.strip()}" for answer in answers]
        known = self._tokenise([Layout((piece,)) for piece in pieces])
        room = self.max_answer_length - 1
        return [[*known[piece][:room], self.end_id] for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's ids, special tokens left out."""
        return str(self._decoder.decode(list(ids), skip_special_tokens=True)).strip()

    def _tokenise(self, layouts: Iterable[Layout]) -> dict[Piece, Sequence[int]]:
        """The ids of every piece that occurs, begin and end tokens left out."""
        pieces = chain.from_iterable((*lay.head, *lay.sentence, *lay.tail) for lay in layouts)
        texts = [piece for piece in dict.fromkeys(pieces) if isinstance(piece, str)]
        given = texts if self._spaced else [text.removeprefix(" ") for text in texts]
        found = self._tokenizer.encode_batch_fast(given, add_special_tokens=False)
        known: dict[Piece, Sequence[int]] = {
            text: self._without_reserved(e.ids) for text, e in zip(texts, found, strict=True)
        }
        known.update(zip(_BY_NUMBER, (*self._markers.ids, (self._markers.mask,)), strict=True))
        return known

    def _without_reserved(self, ids: list[int]) -> list[int]:
        if self._reserved.isdisjoint(ids):
            return ids
        return [i for i in ids if i not in self._reserved]

    def _join(
        self, example: Example, layout: Layout, known: Mapping[Piece, Sequence[int]]
    ) -> Encoded:
        sentence: list[int] = []
        starts: dict[Mark, int] = {}
        for piece in layout.sentence:
            if isinstance(piece, Mark):
                starts[piece] = len(sentence)
            sentence += known[piece]
        head = list(chain.from_iterable(known[piece] for piece in layout.head))
        tail = list(chain.from_iterable(known[piece] for piece in layout.tail))
        spans = _entity_spans(starts, known)
        around = len(self._begin) + len(head) + len(tail) + len(self._end)
        ranges = keep(len(sentence), spans, self.max_length - around)
        if ranges is None:
            raise self._no_room(example, sum(e - s for s, e in spans), around)
        room = self.max_length - around
        if len(sentence) > room:
            self.truncated += 1
            sentence = list(chain.from_iterable(sentence[s:e] for s, e in ranges))
        ids = [*self._begin, *head, *sentence, *tail, *self._end]
        if not ids:
            raise DataError(
                f"example '{example.id}' has no tokens: the tokenizer knows nothing of its text; "
                "drop it or give it words"
            )
        return ids, self._mask_position(layout, known, len(ids) - len(self._end) - len(tail))

    def _mask_position(
        self, layout: Layout, known: Mapping[Piece, Sequence[int]], tail_start: int
    ) -> int:
        if Mark.MASK not in layout.tail:
            return -1
        before = layout.tail[: layout.tail.index(Mark.MASK)]
        return tail_start + sum(len(known[piece]) for piece in before)

    def _no_room(self, example: Example, needed: int, around: int) -> DataError:
        room = self.max_length - around
        if self._instructed:
            return DataError(
                f"example '{example.id}': its instruction and the answer cue take {around} tokens, "
                f"and a prompt has {self.max_length}, which leaves no room for its input: raise "
                "generation.max_prompt_length as far as the model allows, or shorten the "
                "instruction"
            )
        return DataError(
            f"example '{example.id}': its entities with their markers take {needed} tokens, and "
            f"beside the prompt there is room for {max(room, 0)}; max_length is {self.max_length}: "
            "raise it, or shorten the entity spans, or drop the example"
        )


def _entity_spans(starts: Mapping[Mark, int], known: Mapping[Piece, Sequence[int]]) -> list[Span]:
    """Ranges of ids from the opening to the closing marker, both included."""
    pairs = ((Mark.FIRST_OPEN, Mark.FIRST_CLOSE), (Mark.SECOND_OPEN, Mark.SECOND_CLOSE))
    return [
        (starts[opening], starts[closing] + len(known[closing]))
        for opening, closing in pairs
        if opening in starts
    ]


def _bare_copy(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy that neither pads nor cuts, and reads special tokens in a text as ordinary text."""
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    copy.encode_special_tokens = True
    return copy


def _begin_and_end(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text."""
    inner = tokenizer.encode("a", add_special_tokens=False).ids
    outer = tokenizer.encode("a").ids
    for start in range(len(outer) - len(inner) + 1):
        if outer[start : start + len(inner)] == inner:
            return outer[:start], outer[start + len(inner) :]
    raise ConfigError("the tokenizer changes a text when it adds its begin and end tokens")


def end_of_answer(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that ends an answer: eos, or sep in a vocabulary of BERT's kind."""
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    return next((i for i in ends if i is not None), None)


def _needs_spaces(tokenizer: Tokenizer) -> bool:
    """Whether a word inside a text must come with the space before it.

    Byte-level vocabularies need it; SentencePiece adds it by itself and WordPiece has no spaces.
    """
    both, first, second = (
        tokenizer.encode(text, add_special_tokens=False).ids for text in ("a b", "a", "b")
    )
    return both != first + second
