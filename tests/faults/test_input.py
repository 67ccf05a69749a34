"""Data and settings that cannot be used: the message reaches the user, and no run is begun."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faultkit import TINY, Conpet, refused, rows, write_rows

Rows = list[dict[str, Any]]
RELATION = {"text": "Ada met Bo", "head": [0, 3], "tail": [8, 10], "label": "met"}


def text(change: Callable[[Rows], object]) -> Callable[[Path], object]:
    """A file whose rows were changed."""

    def write(path: Path) -> None:
        lines: Rows = list(rows(["one", "two"]))
        change(lines)
        write_rows(path, lines)

    return write


def relations(**change: Any) -> Callable[[Path], object]:
    """A file of relations, one of which was changed."""
    lines = [RELATION | {"text": f"Ada met Bo {i}"} for i in range(20)]
    lines[5] |= change
    return lambda path: write_rows(path, lines)


def first_train_row(lines: Rows, **change: Any) -> None:
    for i, line in enumerate(lines):
        line["split"] = ("train", "test")[i % 2]
    lines[1] |= change


FILES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "missing": (lambda path: None, ("no such file", "data.jsonl")),
    "empty": (lambda path: path.write_text(""), ("data.jsonl is empty",)),
    "broken JSON": (
        lambda path: path.write_text('{"text": "a", "label": "x"}\n{"text": \n'),
        ("data.jsonl line 2", "broken JSON"),
    ),
    "not UTF-8": (
        lambda path: path.write_bytes(b'{"text": "caf\xe9", "label": "x"}\n'),
        ("line 1", "not UTF-8", "iconv"),
    ),
    "a field is missing": (
        text(lambda lines: lines[6].pop("label")),
        ("line 7", "no field 'label'", "fields"),
    ),
    "a label in two tasks": (
        text(lambda lines: lines[-1].update(label="one-0")),
        ("label 'one-0' lies in two tasks", "line 84"),
    ),
    "an unseen label in test": (
        text(lambda lines: first_train_row(lines, label="new", task="one")),
        ("label 'new'", "unseen"),
    ),
    "an empty text": (text(lambda lines: lines[3].update(text=" ")), ("line 4", "empty text")),
    "a duplicate id": (
        text(lambda lines: [line.update(id=min(i, 40)) for i, line in enumerate(lines)]),
        ("line 42", "duplicate id '40'", "line 41"),
    ),
    "an unsafe task name": (
        text(lambda lines: [line.update(task="a/b") for line in lines]),
        ("'a/b'", "no safe folder name"),
    ),
    "a span out of range": (relations(head=[0, 99]), ("line 6", "[0, 99) is out of range")),
    "spans that cross": (relations(head=[0, 6], tail=[4, 9]), ("line 6", "cross")),
}


@pytest.mark.parametrize(("write", "words"), FILES.values(), ids=FILES)
def test_data(
    conpet: Conpet,
    tmp_path: Path,
    write: Callable[[Path], object],
    words: tuple[str, ...],
) -> None:
    path, folder = tmp_path / "data.jsonl", tmp_path / "run"
    write(path)
    result = conpet("run", f"--stream={path}", *TINY, f"--out={folder}", "--json")
    refused(result, *words)
    assert result.document["error"]["type"] == "DataError"
    assert all(word in result.document["error"]["message"] for word in words)
    assert not folder.exists()


def test_entities_that_cannot_fit_are_found_before_anything_is_trained(
    conpet: Conpet, tmp_path: Path
) -> None:
    """Though the one that does not fit lies in the last task."""
    long = "a" * 60 + " met " + "b" * 60
    lines = [
        RELATION | {"text": f"Ada met Bo {i}", "task": task, "label": f"{task}-{i % 2}"}
        for task in ("one", "two")
        for i in range(20)
    ]
    lines[-1] |= {"id": "the long one", "text": long, "head": [0, 60], "tail": [65, 125]}
    for i, line in enumerate(lines):
        line.setdefault("id", str(i))
    path = write_rows(tmp_path / "data.jsonl", lines)
    folder = tmp_path / "run"
    result = conpet("run", f"--stream={path}", *TINY, f"--out={folder}", "backbone.max_length=64")
    refused(result, "'the long one'", "max_length is 64", "raise it")
    assert not (folder / "state.json").exists()
    assert not (folder / "checkpoint").exists()


SETTINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "method": (("--method=sequental",), ("unknown method", "Did you mean 'sequential'")),
    "stream": (("--stream=banking7",), ("unknown stream", "Did you mean 'banking77'")),
    "backbone": (("--backbone=tiny-brt",), ("backbone 'tiny-brt'", "Did you mean 'tiny-bert'")),
    "key": (("train.epoch=3",), ("unknown key 'train.epoch'", "Did you mean 'train.epochs'")),
    "option of a method": (("method.topk=2",), ("topk", "top_k")),
    "preset": (("--preset=smal",), ("preset", "small")),
    "profile": (("profile=conpet-orginal",), ("profile", "conpet-original")),
    "learning rate": (("train.lr=-1",), ("train.lr", "-1", "greater than 0")),
    "dropout": (("adapter.dropout=1.5",), ("adapter.dropout", "1.5")),
    "type": (("train.epochs=many",), ("train.epochs", "many")),
    "seed": (("--seed=-1",), ("seed", "-1")),
    "top_k": (("method.top_k=0",), ("top_k", "0")),
    "device": (("device=gpu",), ("device", "gpu", "cuda")),
    "precision": (("precision=fp16",), ("fp16", "bf16", "fp32")),
    "tasks of a stream": (("stream.n_tasks=99",), ("n_tasks is 99", "allowed: 1 to 9")),
    "projections": (("adapter.targets=[qery]",), ("qery", "query")),
    "replay of a method": (
        ("--method=sequential", "replay.kind=dynamic"),
        ("replay.kind", "sequential", "none"),
    ),
    "budget of a memory": (
        ("--method=emr", "replay.total=5"),
        ("replay.total is 5", "fewer exemplars than the stream has classes"),
    ),
    "two budgets": (("replay.kind=memory", "replay.total=50", "replay.per_class=2"), ("one",)),
    "replay without meaning": (
        ("--method=ewc", "replay.kind=dynamic"),
        ("replay.kind is 'dynamic'", "holding weights", "allowed: auto, none"),
    ),
    "profile of another stream": (("profile=conpet-original",), ("has no values for stream",)),
    "adapter of a method": (("adapter.kind=full",), ("adapter.kind", "lora")),
}


@pytest.mark.parametrize(("given", "words"), SETTINGS.values(), ids=SETTINGS)
def test_settings(
    conpet: Conpet,
    data: Path,
    tmp_path: Path,
    given: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    folder = tmp_path / "run"
    result = conpet("run", f"--stream={data}", *TINY, f"--out={folder}", *given)
    refused(result, *words)
    assert not (folder / "state.json").exists()
    assert conpet("run", f"--stream={data}", *TINY, f"--out={folder}", "--method=lda").code == 0


def test_an_error_is_the_only_document(conpet: Conpet, data: Path, tmp_path: Path) -> None:
    """Also after work that prints, on a run that goes wrong in its second task."""
    words = ("--stream", data, *TINY, "train.lr_from={2: 1.0e+30}", "train.clip=null")
    result = conpet("run", *words, f"--out={tmp_path / 'run'}", "--json")
    assert set(json.loads(result.out)) == {"error"}
