"""The recipe of nano on a tiny text: what is dropped, what is trained on, and what comes out."""

from __future__ import annotations

import json
import lzma
import os
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertModel, EncoderDecoderModel

from conpet.backbones import embedded, nano
from conpet.errors import CheckpointError, ConfigError, DataError
from conpet.runtime import read_tensors
from conpet.testing import tiny_bert

RECIPE = Path(__file__).parents[3] / "recipes" / "nano"
MODULES = (
    "text",
    "overlap",
    "corpus",
    "tasks",
    "curve",
    "plan",
    "train",
    "release",
    "prove",
    "make",
)

LONG = "The quick brown fox (of 1999) doesn't jump over the lazy dog, it sleeps all day."
SHORT = "where is my old red hat"
LINES = "Title: a b c d e f g\nText: some words of an input that is long enough to be compared"
FILLER = "He walked to the river and sat down under a tall tree . " * 12

ARTICLES = {
    "Whole": (True, f"It began: {LONG} {FILLER}"),
    "Retyped": (True, f"so THE QUICK, brown fox of 1999; does n't jump over, they say. {FILLER}"),
    "Accents": (True, f"quíck brown fox of 1999 doesn\u2019t jump over the la\u00adzy. {FILLER}"),
    "Across lines": (True, f"brown fox of 1999 doesn't\njump over the lazy dog. {FILLER}"),
    "Nine words": (False, f"the quick brown fox of 1999 doesn't jump up. {FILLER}"),
    "Short text": (True, f'"Where is my old, red hat?" he asked. {FILLER}'),
    "Short in part": (False, f"where is my old red dog. {FILLER}"),
    "A line": (True, f"it goes a b c d e f g and so on. {FILLER}"),
    "Phrase": (False, f"good morning to you. {FILLER}"),
    "An output": (True, f"we said that six words are an answer. {FILLER}"),
    "Plain": (False, FILLER),
}


@pytest.fixture(scope="module")
def recipe() -> Iterator[SimpleNamespace]:
    """The recipe's modules, as its scripts import each other."""
    sys.path.insert(0, str(RECIPE))
    yield SimpleNamespace(**{name: import_module(name) for name in MODULES})
    sys.path.remove(str(RECIPE))
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with one file of each kind."""
    folder = tmp_path / "data"
    for name in ("text", "re", "et", "intent", "instr/superni15/task1", "instr/longseq15/cb"):
        (folder / name).mkdir(parents=True)
    articles = (
        f'<doc id="{i}" url="http://x" title="{title}">\n{title}\n\n{text}\n\n</doc>\n'
        for i, (title, (_, text)) in enumerate(ARTICLES.items())
    )
    with lzma.open(folder / "text" / "enwiki2015_30pct.txt.xz", "wt", encoding="utf-8") as file:
        file.writelines(articles)
    novel = "\n\n".join(["A TITLE", FILLER * 8, FILLER * 8, f"{SHORT}\n{FILLER}"])
    (folder / "text" / "novels_sample.txt").write_text(novel)
    texts = {"re/r.jsonl": LONG, "et/e.jsonl": SHORT, "intent/i.jsonl": "good morning to you"}
    for file, text in texts.items():
        (folder / file).write_text(json.dumps({"text": text, "split": "test"}) + "\n")
    lines = {"input": LINES, "output": "neutral"}
    (folder / "instr/longseq15/cb/test.jsonl").write_text(json.dumps(lines) + "\n")
    task = {"Definition": ["Answer."], "Instances": [{"output": ["six words are an answer."]}]}
    (folder / "instr/superni15/task1/train.json").write_text(json.dumps(task))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny encoder and its tokenizer, as files; like the real one, it would cut long texts."""
    tiny = tiny_bert()
    tiny.tokenizer.backend_tokenizer.enable_truncation(8)
    tiny.model.save_pretrained(tmp_path / "encoder")
    tiny.tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def prepared(recipe: SimpleNamespace, data: Path, tmp_path: Path) -> Path:
    """What the first stage makes of the data, every document in both parts."""
    out = tmp_path / "run"
    recipe.corpus.prepare(data, out / "prepare", tiny_bert().tokenizer)
    for kind in ("tokens", "offsets"):
        array = np.load(out / "prepare" / f"train_{kind}.npy")
        np.save(out / "prepare" / f"valid_{kind}.npy", array)
    return out


def tiny_nano(tensors: Any = None, **options: Any) -> EncoderDecoderModel:
    tiny = tiny_bert()
    ids = {"begin": tiny.tokenizer.cls_token_id, "end": tiny.tokenizer.sep_token_id}
    assert isinstance(tiny.model, BertModel)
    return nano.build(tensors, encoder=tiny.model, **ids, **options)


def training_of(recipe: SimpleNamespace, prepared: Path, folder: Path, **plan: Any) -> Any:
    vocabulary = recipe.tasks.Vocabulary.of(tiny_bert().tokenizer)
    text = recipe.corpus.load(prepared / "prepare", "train")
    sampler = recipe.tasks.Sampler(text, vocabulary, seed=1, batch_size=4)
    settings = {"steps": 6, "batch_size": 4, "save_every": 100, "log_every": 2} | plan
    return recipe.train.Training(
        tiny_nano(),
        recipe.plan.Plan(**settings),
        {"data": "this"},
        train=sampler,
        valid={"fill": [sampler.batch(9)], "continue": [sampler.batch(10)]},
        folder=folder,
    )


# Text and overlap --------------------------------------------------------------------------------


def test_what_shares_text_is_dropped_and_the_rest_is_kept(
    recipe: SimpleNamespace, data: Path, tmp_path: Path
) -> None:
    figures = recipe.corpus.prepare(data, tmp_path, tiny_bert().tokenizer)
    dropped = json.loads((tmp_path / "screen.json").read_text())["dropped"]
    expected = {f"wikipedia/{i}" for i, (drop, _) in enumerate(ARTICLES.values()) if drop}
    assert set(dropped) == expected | {"novels/2"}, "the novel's last part holds a short text"
    kept = sum(figures[part]["documents"] for part in ("train", "valid"))
    assert kept == len(ARTICLES) - len(expected) + 2
    assert figures["text"]["novels"]["dropped_documents"] == 1


def test_words_are_compared_however_they_are_written(recipe: SimpleNamespace) -> None:
    words = recipe.text.words
    assert words("Don’t say: CAFÉ!") == words("do n't say cafe") == ["do", "nt", "say", "cafe"]
    assert words("co\u00adop ﬁne a_b") == ["coop", "fine", "a", "b"]


def test_articles_lose_their_title_and_keep_their_paragraphs(
    recipe: SimpleNamespace, data: Path
) -> None:
    first = next(recipe.text.documents(data))
    assert first.name == "wikipedia/0"
    assert first.paragraphs == (ARTICLES["Whole"][1].strip(),)


def test_hashes_of_ngrams_know_order_and_length(recipe: SimpleNamespace) -> None:
    of = recipe.overlap.WordHashes().of
    ngrams = recipe.overlap.ngrams
    sequence = of(["a", "b", "c", "a", "b"])
    pairs = ngrams(sequence, 2)
    assert pairs[0] == pairs[3] and len(set(pairs.tolist())) == 3
    assert ngrams(of(["b", "a"]), 2)[0] not in pairs
    assert len(ngrams(sequence, 6)) == 0


def test_preparing_is_skipped_until_the_data_change(
    recipe: SimpleNamespace, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tiny_bert().tokenizer
    first = recipe.corpus.prepare(data, tmp_path, tokenizer)
    assert recipe.corpus.prepare(data, tmp_path, tokenizer) == first
    assert "done before" in capsys.readouterr().out
    (tmp_path / "prepare.json").unlink()
    assert recipe.corpus.prepare(data, tmp_path, tokenizer) == first
    assert "screened before" in capsys.readouterr().out
    (data / "re" / "more.jsonl").write_text(json.dumps({"text": FILLER}) + "\n")
    changed = recipe.corpus.prepare(data, tmp_path, tokenizer)
    assert changed["train"]["documents"] + changed["valid"]["documents"] == 0


@pytest.mark.parametrize("gone", ["text/novels_sample.txt", "intent/i.jsonl"])
def test_missing_files_are_named(
    recipe: SimpleNamespace, data: Path, tmp_path: Path, gone: str
) -> None:
    (data / gone).unlink()
    with pytest.raises(DataError, match=rf"{gone.partition('/')[0]}.*--data DIR"):
        recipe.corpus.prepare(data, tmp_path, tiny_bert().tokenizer)


def test_proof_holds_and_a_planted_text_breaks_it(
    recipe: SimpleNamespace,
    data: Path,
    prepared: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(recipe.prove, "encoder_folder", lambda: folder)
    command = ["--out", str(prepared), "--data", str(data)]
    assert recipe.prove.main(command) == 0
    assert "no text of a stream was found" in capsys.readouterr().out
    path = prepared / "prepare" / "train_tokens.npy"
    clean = np.load(path)
    for planted in (LONG, SHORT, "a b c d e f g", "six words are an answer"):
        text = f". {planted.upper()} ."
        ids = tiny_bert().tokenizer(text, add_special_tokens=False).input_ids
        tokens = clean.copy()
        tokens[100 : 100 + len(ids)] = ids
        np.save(path, tokens)
        assert recipe.prove.main(command) == 1, planted
        assert "found in train document 0" in capsys.readouterr().out
    assert recipe.prove.main(["--out", str(data), "--data", str(data)]) == 2


# Examples ----------------------------------------------------------------------------------------


def test_filling_the_source_with_the_target_gives_the_text(recipe: SimpleNamespace) -> None:
    tokenizer = tiny_bert().tokenizer
    vocabulary = recipe.tasks.Vocabulary.of(tokenizer)
    text = np.array(tokenizer(FILLER, add_special_tokens=False).input_ids)
    for seed in range(50):
        tokens = text[seed : seed + 24 + 2 * seed]
        example = recipe.tasks.fill(tokens, vocabulary, np.random.default_rng(seed))
        assert example.target[-1] == vocabulary.end
        assert len(example.target) <= recipe.tasks.FILL_TARGET
        spans = np.split(example.target[:-1], np.flatnonzero(example.target == vocabulary.mask))
        spans = [span[span != vocabulary.mask] for span in spans]
        filled: list[int] = []
        for token in example.source:
            filled += spans.pop(0).tolist() if token == vocabulary.mask else [token]
        assert not spans and filled == tokens.tolist()
        masks = np.flatnonzero(example.source == vocabulary.mask)
        assert (np.diff(masks) > 1).all(), "two spans touch"
        after = example.source[masks[masks < len(example.source) - 1] + 1]
        assert not vocabulary.inside[after].any(), "a span ends inside a word"


def test_a_continuation_goes_on_and_ends_where_a_sentence_ends(recipe: SimpleNamespace) -> None:
    tokenizer = tiny_bert().tokenizer
    vocabulary = recipe.tasks.Vocabulary.of(tokenizer)
    tokens = np.array(tokenizer(FILLER, add_special_tokens=False).input_ids)
    seen = set()
    for seed in range(30):
        random = np.random.default_rng(seed)
        source, target = recipe.tasks.carry_on(tokens, 20 + seed, vocabulary, random)
        closed = target[-1] == vocabulary.end
        whole = np.concatenate([source, target[:-1] if closed else target])
        assert (whole == tokens[: len(whole)]).all() and len(source) == 20 + seed
        assert not closed or whole[-1] in vocabulary.stops
        assert len(target) <= recipe.tasks.CONTINUE_TARGET
        seen.add(closed)
    assert seen == {True, False}


def test_batches_depend_on_seed_and_step_only(recipe: SimpleNamespace, prepared: Path) -> None:
    tasks = recipe.tasks
    vocabulary = tasks.Vocabulary.of(tiny_bert().tokenizer)
    text = recipe.corpus.load(prepared / "prepare", "train")
    one, two = (tasks.Sampler(text, vocabulary, seed=1, batch_size=4) for _ in range(2))
    far = tasks.POOL + 3
    for step in (0, 1, far):
        one.batch(step)
    for ours, theirs in zip(one.batch(far), two.batch(far), strict=True):
        assert torch.equal(ours, theirs)
    other = tasks.Sampler(text, vocabulary, seed=2, batch_size=4).batch(far)
    assert not torch.equal(one.batch(far).source, other.source)
    batch = one.batch(far)
    assert (batch.source[:, 0] == vocabulary.begin).all()
    assert (batch.decoder_input[:, 0] == vocabulary.begin).all()
    real = batch.labels[:, :-1] != tasks.IGNORED
    assert torch.equal(batch.decoder_input[:, 1:][real], batch.labels[:, :-1][real])
    assert torch.equal(batch.mask.bool(), batch.source != vocabulary.pad)


def test_no_example_leaves_its_document(recipe: SimpleNamespace) -> None:
    tasks = recipe.tasks
    vocabulary = tasks.Vocabulary.of(tiny_bert().tokenizer)
    letters = tiny_bert().tokenizer.convert_tokens_to_ids(["x", "y", "z"])
    tokens = np.repeat(letters, [30, 10, 200]).astype(np.uint16)
    tokens[[15, 60, 120]] = vocabulary.stops[0]
    corpus = recipe.corpus.Corpus(tokens, np.array([0, 30, 40, 240]))
    sampler = tasks.Sampler(corpus, vocabulary, seed=1, batch_size=8)
    for step in range(8):
        batch = sampler.batch(step)
        for source, target in zip(batch.source.tolist(), batch.labels.tolist(), strict=True):
            assert len({*source, *target} & set(letters)) == 1
            assert letters[1] not in source, "a document that is too short"


# Training ----------------------------------------------------------------------------------------


def test_going_on_gives_what_an_uninterrupted_training_gives(
    recipe: SimpleNamespace, prepared: Path, tmp_path: Path
) -> None:
    whole = training_of(recipe, prepared, tmp_path / "whole")
    assert whole.run()
    part = training_of(recipe, prepared, tmp_path / "part")
    step = part.take_step

    def interrupted() -> None:
        step()
        if part.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    part.take_step = interrupted
    assert not part.run() and part.step == 3
    again = training_of(recipe, prepared, tmp_path / "part")
    assert again.run()
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, again.parameters[name]), name
    timeless = [[{**r, "seconds": 0} for r in t.curve.rows] for t in (whole, again)]
    assert timeless[0] == timeless[1] and len(timeless[0]) == 3
    assert (tmp_path / "part" / "loss.csv").read_text().splitlines()[0] == (
        "step,train_loss,valid_loss,valid_fill,valid_continue,seconds"
    )
    assert (tmp_path / "part" / "loss.svg").read_text().startswith("<?xml")


def test_only_the_decoder_moves_and_it_learns(
    recipe: SimpleNamespace, prepared: Path, tmp_path: Path
) -> None:
    training = training_of(recipe, prepared, tmp_path, steps=30, lr=1e-2)
    before = {k: v.clone() for k, v in training.model.state_dict().items()}
    training.run()
    moved = {k for k, v in training.model.state_dict().items() if not torch.equal(v, before[k])}
    frozen = {k for k in before if k.startswith("encoder.") or "word_embeddings" in k}
    assert not moved & (frozen | {"decoder.cls.predictions.decoder.weight"})
    assert any("crossattention" in k for k in moved) and any("cls.predictions" in k for k in moved)
    losses = [row["train_loss"] for row in training.curve.rows]
    assert losses[-1] < losses[0] - 0.3


def test_a_checkpoint_of_something_else_is_refused(
    recipe: SimpleNamespace, prepared: Path, tmp_path: Path
) -> None:
    training_of(recipe, prepared, tmp_path, steps=2).run()
    with pytest.raises(CheckpointError, match="another plan.*Only --steps may change"):
        training_of(recipe, prepared, tmp_path, lr=1.0).run()
    with pytest.raises(ConfigError, match="is at step 2"):
        training_of(recipe, prepared, tmp_path, steps=1).run()
    foreign = training_of(recipe, prepared, tmp_path)
    foreign.source = {"data": "other"}
    with pytest.raises(CheckpointError, match="another text"):
        foreign.run()
    longer = training_of(recipe, prepared, tmp_path, steps=4)
    assert longer.run() and longer.step == 4


def test_the_rate_rises_and_falls_to_nothing(recipe: SimpleNamespace) -> None:
    plan = recipe.plan.Plan(steps=100, lr=1.0, warmup=0.1)
    rates = [plan.lr_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == 1.0
    assert rates[-1] == pytest.approx(1 / 90) and rates[9:] == sorted(rates[9:], reverse=True)


def test_the_loss_is_that_of_the_whole_model(recipe: SimpleNamespace, prepared: Path) -> None:
    vocabulary = recipe.tasks.Vocabulary.of(tiny_bert().tokenizer)
    text = recipe.corpus.load(prepared / "prepare", "train")
    batch = recipe.tasks.Sampler(text, vocabulary, seed=1, batch_size=4).batch(0)
    model = tiny_nano()
    logits = model(
        input_ids=batch.source, attention_mask=batch.mask, decoder_input_ids=batch.decoder_input
    ).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
    torch.testing.assert_close(recipe.plan.loss_of(model, batch), expected)


# The release -------------------------------------------------------------------------------------


def test_every_stage_by_one_command(
    recipe: SimpleNamespace,
    data: Path,
    prepared: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(recipe.make, "encoder_folder", lambda: folder)
    monkeypatch.setattr(recipe.make, "FINAL_BATCHES", 2)
    words = ["--out", str(prepared), "--data", str(data), "--device", "cpu", "--precision", "fp32"]
    words += ["--batch-size", "2", "--steps", "2"]
    assert recipe.make.main([*words, "--stage", "export"]) == 2
    assert "nothing is trained" in capsys.readouterr().err
    assert recipe.make.main(words) == 0
    made = prepared / "release"
    assert {path.name for path in made.iterdir()} == {nano.WEIGHTS, nano.CONFIG, "README.md"}
    config = json.loads((made / nano.CONFIG).read_text())
    assert config["training"]["steps"] == 2 and set(config["loss"]) == {"fill", "continue"}
    card = (made / "README.md").read_text()
    assert "{" not in card and "CC BY-SA 3.0" in card and embedded.SHA256 in card
    assert recipe.make.main(words) == 0, "all done before"
    loaded = tiny_nano(nano.read_release(made))
    trained = read_tensors(prepared / "train" / "checkpoint.safetensors")[0]
    exact = tiny_nano({k[10:]: v for k, v in trained.items() if k.startswith("parameter/")})
    ids = torch.tensor([[7, 40, 41, 42, 8]])
    ours, theirs = (
        m(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=ids).logits
        for m in (loaded, exact)
    )
    torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=1e-2)
    assert not torch.equal(ours, tiny_nano()(input_ids=ids, decoder_input_ids=ids).logits)


def test_half_precision_that_cannot_hold_a_number_is_an_error(recipe: SimpleNamespace) -> None:
    with pytest.raises(CheckpointError, match="'x' holds a number"):
        recipe.release.halved("x", torch.tensor([1e6]))
