"""Prompts with instructions, and the ids of answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from conpet.backbones.base import Backbone
from conpet.encoding.encode import Encoder, TokenStore
from conpet.encoding.prompts import choose_prompt, instructed
from conpet.errors import ConfigError, DataError
from conpet.types import NO_TOKEN, Example

LONG = "{instruction}\n{input}\nOutput:"
SUPER = "Definition: {instruction}\n\nNow complete the following example -\nInput: {input}\nOutput:"
ORDER = "Say which is the larger of the two\n"


def example(text: str = "is it 7 or 8", instruction: str = ORDER, *answers: str) -> Example:
    return Example("e", text, instruction=instruction, answers=answers)


def encoder(backbone: Backbone, template: str = LONG, **settings: Any) -> Encoder:
    return Encoder(backbone.tokenizer, backbone_kind=backbone.kind, template=template, **settings)


def test_the_input_lies_between_head_and_cue() -> None:
    layout = instructed(SUPER)(example())
    assert layout.head == (
        "Definition: Say which is the larger of the two\n\n"
        "Now complete the following example -\nInput:",
    )
    assert layout.sentence == (" is it 7 or 8",)
    assert layout.tail == ("\nOutput:",)


def test_without_an_instruction_the_prompt_begins_with_the_input() -> None:
    layout = instructed(LONG)(example(instruction=""))
    assert (layout.head, layout.sentence) == ((), ("is it 7 or 8",))


def test_an_instruction_with_braces_is_taken_as_it_is() -> None:
    layout = instructed(LONG)(example("{instruction} {input}", "Use {input} and {x}."))
    assert layout.head == ("Use {input} and {x}.\n",)
    assert layout.sentence == ("{instruction} {input}",)


def test_auto_is_the_template_and_plain_the_input_alone() -> None:
    assert choose_prompt("auto", "decoder", LONG)(example()).tail == ("\nOutput:",)
    bare = choose_prompt("plain", "decoder", LONG)(example())
    assert (bare.head, bare.sentence, bare.tail) == ((), ("is it 7 or 8",), ())


def test_only_the_input_is_cut(backbone: Backbone) -> None:
    whole = encoder(backbone, max_length=512)
    short, _ = whole.encode(example("7"))
    long, _ = whole.encode(example("7 " * 90))
    tight = encoder(backbone, max_length=len(short) + 10)
    cut, _ = tight.encode(example("7 " * 90))
    assert tight.truncated == 1 and whole.truncated == 0
    assert len(cut) == len(short) + 10 < len(long)
    head = next(i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b)
    tail = len(short) - head
    assert cut[:head] == short[:head] == long[:head]
    assert cut[-tail:] == short[-tail:] == long[-tail:]


def test_an_instruction_that_leaves_no_room_says_so(backbone: Backbone) -> None:
    with pytest.raises(DataError, match=r"instruction and the answer cue take \d+ tokens"):
        encoder(backbone, max_length=8).encode(example())


def test_the_prompt_of_a_decoder_is_left_open(backbone: Backbone) -> None:
    ids, _ = encoder(backbone).encode(example())
    closed, _ = Encoder(backbone.tokenizer, backbone_kind=backbone.kind).encode(example())
    ends = {backbone.tokenizer.eos_token_id, backbone.tokenizer.sep_token_id} - {None}
    assert (ids[-1] in ends) == (closed[-1] in ends and backbone.kind != "decoder")


def test_answers_end_with_the_end_token_and_come_back_as_text(backbone: Backbone) -> None:
    encode = encoder(backbone, max_answer_length=24)
    (ids,) = encode.encode_answers(["the first of its kind"])
    assert ids[-1] == encode.end_id and encode.end_id is not None
    assert encode.decode(ids) == "the first of its kind"


def test_long_answers_are_cut_before_their_end(backbone: Backbone) -> None:
    encode = encoder(backbone, max_answer_length=5)
    (ids,) = encode.encode_answers(["the first of its kind and of no other"])
    assert len(ids) == 5 and ids[-1] == encode.end_id


def test_a_tokenizer_without_an_end_token_is_refused(backbones: dict[str, Backbone]) -> None:
    import copy

    tokenizer = copy.deepcopy(backbones["tiny-llama"].tokenizer)
    tokenizer.eos_token = None
    encode = Encoder(tokenizer, backbone_kind="decoder", template=LONG)
    with pytest.raises(ConfigError, match="no end token"):
        encode.encode_answers(["yes"])


def test_the_store_hands_out_answers_beside_their_prompts(backbone: Backbone) -> None:
    encode = encoder(backbone)
    store = TokenStore(encode)
    plain = store.add([Example("p", "no answer here", instruction=ORDER)])
    rows = store.add([example("1 2", ORDER, "2", "two"), Example("f", "5 4", answers=("five",))])
    batch = store.batch(np.concatenate([rows, plain]))
    expected = encode.encode_answers(["2", "five"])
    for ids, own in zip(batch.answer_ids.tolist(), [*expected, []], strict=True):
        assert ids[: len(own)] == own and set(ids[len(own) :]) <= {NO_TOKEN}
    hidden = batch.without_answers()
    assert hidden.answer_ids.shape == (3, 0) and torch.equal(hidden.input_ids, batch.input_ids)
    assert batch.select(torch.tensor([2])).answer_ids.shape == (1, 0)


def test_stored_answers_are_found_again(backbone: Backbone, tmp_path: Any) -> None:
    examples = [example("1 2", ORDER, "2")]
    first = TokenStore(encoder(backbone), tmp_path)
    ids = first.batch(first.add(examples)).answer_ids
    files = sorted(tmp_path.iterdir())
    again = TokenStore(encoder(backbone), tmp_path)
    assert torch.equal(again.batch(again.add(examples)).answer_ids, ids)
    assert sorted(tmp_path.iterdir()) == files and len(files) == 2


def test_the_instruction_is_part_of_what_is_encoded(backbone: Backbone) -> None:
    store = TokenStore(encoder(backbone))
    a, b = store.add([example()]), store.add([example(instruction="Say it.")])
    assert a[0] != b[0] and store.lengths[a[0]] != store.lengths[b[0]]
