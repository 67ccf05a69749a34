"""The command line through its entry point: what it prints, where, with which exit code."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import conpet as conpet_package
from conpet.cli import main
from conpet.cli.app import VERBS
from conpet.cli.common import table
from conpet.cli.docs import help_text, markdown
from conpet.config import PRESETS, parse_config
from conpet.registry import BACKBONES, METHODS, METRICS, STREAMS

TINY = [
    "--backbone=tiny-bert",
    "stream.n_tasks=2",
    "train.epochs=1",
    "replay.batch_limit=3",
    "threads=1",
    "device=cpu",
]
WORDS = ["card", "money", "rain", "music"]


def write_data(path: Path, words: Sequence[str]) -> Path:
    """Twenty texts about each word; the label is the word."""
    rows = [
        {"text": f"{kind} {word} number {i}", "label": word}
        for word in words
        for i in range(10)
        for kind in ("some", "any")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class Conpet:
    """Calls ``main`` in this process; torch is loaded once for all tests."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture

    def __call__(self, *arguments: object) -> Result:
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = self.capture.readouterr()
        return Result(code, captured.out, captured.err)


@pytest.fixture
def conpet(capsys: pytest.CaptureFixture[str]) -> Conpet:
    return Conpet(capsys)


def spawn(*arguments: object, cwd: Path | None = None) -> Result:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "conpet.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(conpet_package.__file__).parents[1])},
    )
    return Result(done.returncode, done.stdout, done.stderr)


# Help


def test_help_is_instant() -> None:
    """Under 0.3 s of processor time, which other processes on the machine hardly change."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    seconds = []
    for _ in range(5):
        before = used()
        result = spawn("--help")
        seconds.append(used() - before)
    assert result.code == 0
    assert all(verb in result.out for verb in VERBS)
    assert min(seconds) < 0.3


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_an_example_and_json(verb: str) -> None:
    text = help_text([verb])
    assert f"    conpet {verb}" in text
    assert "--json" in text


def test_the_page_of_the_command_line_is_current() -> None:
    page = Path(__file__).parents[3] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == markdown(), "run: make docs"


# What there is


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("methods", METHODS),
        ("streams", STREAMS),
        ("backbones", BACKBONES),
        ("metrics", METRICS),
    ],
)
def test_ls(conpet: Conpet, kind: str, names: Iterable[str]) -> None:
    listed = conpet("ls", kind, "--json").document[kind]
    presets = list(PRESETS) if kind == "methods" else []
    assert [entry["name"] for entry in listed] == [*names, *presets]
    text = conpet("ls", kind).out
    assert all(entry["summary"] in text for entry in listed)


@pytest.mark.parametrize("name", list(METHODS))
def test_show_method(conpet: Conpet, name: str) -> None:
    document = conpet("show", "method", name, "--json").document
    assert document["doc"]
    assert all(option["doc"] for option in document["options"])
    assert document["doc"].splitlines()[0] in conpet("show", "method", name).out


def test_show_preset(conpet: Conpet) -> None:
    document = conpet("show", "method", "conpet-static", "--json").document
    assert list(document["bases"]) == ["replay", "emr", "ea-emr", "emar", "crl"]
    assert "replay | emr | ea-emr | emar | crl" in conpet("show", "method", "conpet-static").out


def test_show_stream(conpet: Conpet) -> None:
    document = conpet("show", "stream", "banking77", "--preset", "small", "--json").document
    assert (document["n_tasks"], document["n_labels"]) == (7, 77)
    text = conpet("show", "stream", "banking77").out
    assert "7 tasks" in text and "source: BANKING77" in text


def test_show_config_and_backbone(conpet: Conpet) -> None:
    keys = conpet("show", "config", "--json").document["keys"]
    assert {
        name: value
        for name, value in next(k for k in keys if k["key"] == "train.lr").items()
        if name != "doc"
    } == {"key": "train.lr", "type": "float (> 0)", "default": 2e-3}
    assert "train.epochs" in conpet("show", "config").out
    assert conpet("show", "backbone", "tiny-bert", "--json").document["kind"] == "encoder"
    assert conpet("show", "config", "x").code == conpet("show", "method").code == 2


@pytest.mark.parametrize("method", list(METHODS))
def test_init_prints_a_configuration_of_defaults(conpet: Conpet, method: str) -> None:
    text = conpet("init", method, "fewrel").out
    assert parse_config(text) == parse_config(f"method: {method}\nstream: fewrel")
    settings = [line for line in text.splitlines()[1:] if line and not line.endswith(":")]
    assert all("  # " in line for line in settings)
    assert yaml.safe_load(text)["stream"]["name"] == "fewrel"


def test_validate(conpet: Conpet, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("stream: {name: banking77, preset: small}\n")
    assert "is fine: conpet-dynamic on banking77, 7 tasks" in conpet("validate", file).out
    assert conpet("validate", file, "seed=3", "--json").document["config"]["seed"] == 3
    assert conpet("validate", file, "sed=3").code == 2
    assert conpet("validate", "seed=3").code == 2
    assert list(tmp_path.iterdir()) == [file]


# Errors


def test_a_user_error_is_one_message_and_exit_2() -> None:
    result = spawn("run", "--stream", "banking7")
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(
        "ConfigError: unknown stream 'banking7'. Did you mean 'banking77'?"
    )
    assert "Traceback" not in result.err
    assert len(result.err.splitlines()) == 1


def test_a_user_error_as_json(conpet: Conpet) -> None:
    result = conpet("show", "method", "sequental", "--json")
    assert result.code == 2
    assert result.document["error"]["type"] == "ConfigError"
    assert "Did you mean 'sequential'" in result.document["error"]["message"]
    assert "Did you mean 'sequential'" in result.err


@pytest.mark.parametrize("arguments", [["runn"], ["ls", "things"], ["run", "--nothing"]])
def test_wrong_usage_is_exit_2(conpet: Conpet, arguments: list[str]) -> None:
    assert conpet(*arguments).code == 2
    result = conpet(*arguments, "--json")
    assert result.code == 2
    assert result.document["error"]["type"] == "UsageError"


def test_a_defect_is_exit_1_with_its_traceback(
    conpet: Conpet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS._entries, "broken", METHODS.entry("lda"))
    METHODS._entries["broken"] = type(METHODS.entry("lda"))("conpet.errors:Nothing", "broken")
    result = conpet("show", "method", "broken", "--json")
    assert result.code == 1
    assert "Traceback" in result.err
    assert result.document["error"]["type"] == "AttributeError"


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "{}/none", "text"],
        ["eval", "{}/none"],
        ["report", "{}/none", "--out", "{}/report"],
        ["learn", "{}/none", "{}/none.jsonl"],
        ["predict", "{}/none"],
        ["run", "a.yaml", "b.yaml"],
        ["run", "--stream", "{}/none.jsonl"],
        ["run", "{}/none.yaml"],
    ],
)
def test_what_is_not_there_is_exit_2(conpet: Conpet, tmp_path: Path, arguments: list[str]) -> None:
    result = conpet(*(word.format(tmp_path) for word in arguments))
    assert result.code == 2, result.err
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


# A whole run


def test_run_predict_eval_learn_report(conpet: Conpet, tmp_path: Path) -> None:
    folder, data = tmp_path / "run", write_data(tmp_path / "things.jsonl", WORDS)
    command = ["run", *TINY, "--stream", data, "--out", folder, "--json"]
    first = conpet(*command)
    assert first.code == 0, first.err
    assert first.document["finished"] is True
    assert len(first.document["row"]) == first.document["n_tasks"] == 2
    assert "task 2/2" in first.err
    assert conpet(*command).document == first.document  # all is done; nothing is learned twice

    other = conpet(*command, "seed=2")
    assert other.code == 2
    assert "seed" in other.document["error"]["message"]

    check_predict(conpet, folder, tmp_path)
    again = spawn("eval", folder, "--json")
    assert again.document["row"] == first.document["row"]  # and nothing else is on stdout

    more = write_data(tmp_path / "more.jsonl", ["weather", "travel"])
    learned = conpet("learn", folder, more, "--quiet", "--json")
    assert learned.code == 0, learned.err
    assert learned.document["tasks"][-1] == "more"
    assert "task 3/3" not in learned.err

    report = conpet("report", folder, "--out", tmp_path / "report", "--json").document
    assert Path(report["html"]).is_file()
    assert "conpet-dynamic" in conpet("report", folder, "--out", tmp_path / "report").out


def check_predict(conpet: Conpet, folder: Path, place: Path) -> None:
    """Texts, a file to standard output, and a file to a file give the same answers."""
    answers = conpet("predict", folder, "where is my card", "top up", "--json").document
    assert len(answers["predictions"]) == 2
    assert set(answers["predictions"][0]) == {"id", "label", "score", "tasks"}
    assert answers["predictions"][0]["label"] in WORDS

    source, output = place / "in.jsonl", place / "out.jsonl"
    source.write_text('{"id": "a", "text": "where is my card"}\n{"id": "b", "text": "top up"}\n')
    assert conpet("predict", folder, "--input", source, "--output", output).code == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "b"]
    assert [line["label"] for line in lines] == [a["label"] for a in answers["predictions"]]
    shown = conpet("predict", folder, "--input", source).out
    assert shown == output.read_text()
    assert lines[0]["label"] in conpet("predict", folder, "where is my card").out


def test_doctor(tmp_path: Path) -> None:
    start = time.perf_counter()
    result = spawn("doctor", "--json", cwd=tmp_path)
    assert time.perf_counter() - start < 60  # 20 s on a machine that does nothing else
    findings = {finding["name"]: finding for finding in result.document["findings"]}
    assert set(findings) == {"versions", "device", "backbone", "stream", "disk", "training"}
    assert findings["training"]["status"] == "ok", findings["training"]
    assert result.code == (0 if result.document["ok"] else 2)
    assert list(tmp_path.iterdir()) == []


# Printing


def test_table_aligns_numbers_to_the_right() -> None:
    rows = [("task", "score"), ("a", 1.0), ("long name", 100.0), ("b", None)]
    assert table(rows).splitlines() == [
        "task       score",
        "a            1.0",
        "long name  100.0",
        "b              -",
    ]
