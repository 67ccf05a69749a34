"""Ids of examples: markers, mask, begin and end, truncation; on every kind of tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from conpet.backbones.base import Backbone
from conpet.encoding.encoder import Encoder
from conpet.encoding.markers import find_markers
from conpet.errors import ConfigError, DataError
from conpet.types import Example

RELATION = Example("7", "Paris lies in the heart of France.", entities=((0, 5), (27, 33)))
HOSTILE = (
    "[MASK] [SEP] [unused1] <extra_id_0> </s> <s> <0x04> \x04 \x01 <|im_end|> <|quad_start|> é"
)


def encoder_of(backbone: Backbone, **options: object) -> Encoder:
    return Encoder(backbone.tokenizer, backbone_kind=backbone.kind, **options)  # type: ignore[arg-type]


def flat_markers(backbone: Backbone) -> list[int]:
    return [i for ids in find_markers(backbone.tokenizer).ids for i in ids]


words = st.text("ab ,.é漢\x00\x04", min_size=1, max_size=60).filter(str.strip)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """Texts with no, one or two entities: apart, touching, nested or equal."""
    text = draw(st.one_of(words, words.map(lambda t: f"{HOSTILE} {t} {HOSTILE}")))
    letters = [i for i, c in enumerate(text) if not c.isspace()]
    spans = []
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.sampled_from(letters))
        spans.append((start, draw(st.integers(start + 1, min(len(text), start + 6)))))
    try:
        return Example("7", text, entities=tuple(spans))
    except DataError:  # the spans cross
        assume(False)
        raise


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(example=examples(), max_length=st.integers(8, 120))
def test_markers_mask_and_tail_survive(
    backbone: Backbone, example: Example, max_length: int
) -> None:
    """Check A4: the length, every marker once, one mask, begin and end once, the tail whole."""
    encoder, whole = (
        encoder_of(backbone, max_length=max_length),
        encoder_of(backbone, max_length=512),
    )
    try:
        full, full_mask = whole.encode(example)
        ids, mask = encoder.encode(example)
    except DataError as error:
        assert "'7'" in str(error)
        return
    assert len(ids) == min(len(full), max_length)
    assert encoder.truncated == (len(full) > max_length)
    markers = find_markers(backbone.tokenizer)
    expected = flat_markers(backbone)[: 2 * len(example.entities)]
    assert sorted(i for i in ids if i in flat_markers(backbone)) == sorted(expected)
    assert ids.count(markers.mask) == (1 if example.entities else 0)
    assert mask == (ids.index(markers.mask) if example.entities else -1)
    special = set(backbone.tokenizer.all_special_ids) - {backbone.tokenizer.unk_token_id}
    special -= {*flat_markers(backbone), markers.mask}
    around = [i for i in backbone.tokenizer("").input_ids if i in special]
    assert [i for i in ids if i in special] == around
    if example.entities:
        behind = len(full) - full_mask
        assert ids[-behind:] == full[-behind:]


def test_a_plain_text_is_what_the_tokenizer_itself_makes_of_it(backbone: Backbone) -> None:
    text = "She was, in her sentence, of this kind; the type is A-1."
    ids, mask = encoder_of(backbone).encode(Example("1", text))
    assert ids == backbone.tokenizer(text).input_ids and mask == -1


def test_a_plain_text_is_cut_at_its_end(backbone: Backbone) -> None:
    encoder = encoder_of(backbone, max_length=20)
    text = "this is a long sentence with " * 9
    ids, _ = encoder.encode(Example("1", text))
    full = backbone.tokenizer(text.strip()).input_ids
    n_end = len(encoder._end)
    assert ids == full[: 20 - n_end] + full[len(full) - n_end :]
    assert encoder.truncated == 1


def test_words_around_markers_are_those_of_the_running_text(backbones: dict[str, Backbone]) -> None:
    """Byte-level tokens keep their space: the word after a marker is the word inside the text."""
    qwen = backbones["tiny-qwen"]
    tokenizer = qwen.tokenizer
    ids, _ = encoder_of(qwen).encode(Example("1", "he is in this type", entities=((6, 8),)))
    assert tokenizer.convert_ids_to_tokens(ids)[:7] == [
        *("h", "e", "Ġis", "<|object_ref_start|>", "Ġin", "<|object_ref_end|>", "Ġthis")
    ]


def test_relation_in_full(backbones: dict[str, Backbone]) -> None:
    bert = backbones["tiny-bert"]
    ids, mask = encoder_of(bert).encode(Example("1", "A by b.", entities=((0, 1), (5, 6))))
    shown = " ".join(bert.tokenizer.convert_ids_to_tokens(ids))
    assert shown == (
        "[CLS] [unused0] a [unused1] by [unused2] b [unused3] . "
        "in this sentence , b is the [MASK] of a . [SEP]"
    )
    assert mask == 16


def test_the_mask_is_the_last_token_a_decoder_sees(backbones: dict[str, Backbone]) -> None:
    for name in ("tiny-llama", "tiny-qwen"):
        ids, mask = encoder_of(backbones[name]).encode(RELATION)
        assert mask == len(ids) - 1
    t5 = encoder_of(backbones["tiny-t5"], prompt="entity-last")
    ids, mask = t5.encode(RELATION)
    assert mask == len(ids) - 2, "only the end token follows"


def test_many_at_once_are_as_one_by_one(backbone: Backbone) -> None:
    encoder = encoder_of(backbone)
    many = [RELATION, Example("8", HOSTILE), Example("9", "plain text"), RELATION]
    assert encoder.encode_all(many) == [encoder.encode(example) for example in many]
    assert encoder.encode_all([]) == []


def test_entities_and_prompt_that_cannot_fit(backbone: Backbone) -> None:
    long = Example("rel-12", "word " * 40, entities=((0, 150), (155, 159)))
    with pytest.raises(DataError, match=r"'rel-12'.*max_length is 64: raise it"):
        encoder_of(backbone, max_length=64).encode(long)


def test_begin_and_end_alone_that_cannot_fit(backbones: dict[str, Backbone]) -> None:
    with pytest.raises(DataError, match=r"'1'.*room for 0"):
        encoder_of(backbones["tiny-bert"], max_length=2).encode(Example("1", "text"))


def test_text_without_tokens(backbones: dict[str, Backbone]) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<end>": 1}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()  # drops characters without a shape
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    with pytest.raises(DataError, match="'1' has no tokens"):
        Encoder(fast).encode(Example("1", "\u200b"))


def test_max_length_must_suit_the_tokenizer(backbone: Backbone) -> None:
    for bad in (0, 513):
        with pytest.raises(ConfigError, match=rf"max_length is {bad}; allowed is 1 to 512"):
            encoder_of(backbone, max_length=bad)


def test_the_tokenizer_is_left_alone(backbone: Backbone) -> None:
    tokenizer = backbone.tokenizer
    before = tokenizer.backend_tokenizer.to_str()
    encoder_of(backbone).encode(RELATION)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_fingerprint(backbone: Backbone) -> None:
    base = encoder_of(backbone).fingerprint
    assert encoder_of(backbone).fingerprint == base
    assert encoder_of(backbone, max_length=64).fingerprint != base
    assert encoder_of(backbone, prompt="plain").fingerprint != base


def test_markers_are_tokens_of_the_vocabulary(backbone: Backbone) -> None:
    markers = find_markers(backbone.tokenizer)
    ids = [*flat_markers(backbone), markers.mask]
    assert len(set(ids)) == len(ids) == 5
    assert max(ids) < backbone.model.get_input_embeddings().num_embeddings
    own = backbone.tokenizer.mask_token_id
    assert own is None or markers.mask == own


def test_a_vocabulary_without_spare_tokens_gets_text_markers() -> None:
    letters = [chr(i) for i in range(33, 127)]
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate([*letters, "Ġ", "<end>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<end>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    ids, mask = Encoder(fast, max_length=100, backbone_kind="decoder").encode(RELATION)
    assert mask == len(ids) - 1 and ids[mask] == fast.eos_token_id
    text = fast.backend_tokenizer.id_to_token
    joined = "".join(str(text(i)) for i in ids).replace("Ġ", " ")
    assert joined.startswith("<e1>Paris</e1> lies in the heart of<e2> France</e2>.")


def test_a_text_that_spells_a_special_token_keeps_its_words(
    backbones: dict[str, Backbone],
) -> None:
    bert = backbones["tiny-bert"]
    ids, _ = encoder_of(bert).encode(Example("1", "a [MASK] [SEP]"))
    shown = "".join(bert.tokenizer.convert_ids_to_tokens(ids)).replace("##", "")
    assert shown == "[CLS]a[mask][sep][SEP]"
