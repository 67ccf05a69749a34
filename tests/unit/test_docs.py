"""The documentation says what is so: links, commands, keys, options, counts, layers, code."""

from __future__ import annotations

import doctest
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
import yaml

import conpet as package
from conpet.cli import app, main
from conpet.cli.show import default_text
from conpet.config import describe_keys, load_config, parse_config
from conpet.config.schema import ELSEWHERE
from conpet.errors import ConfigError
from conpet.evaluation.definitions import DEFINITIONS
from conpet.registry import METHODS, STREAMS
from conpet.streams import Card, Fields, load_stream
from conpet.streams.load import data_roots
from conpet.streams.readers import Row
from conpet.streams.schema import parse
from conpet.streams.tabular import Layout, read_records

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "examples" / "README.md", *DOCS.rglob("*.md")])
BUILT_IN = [name for name in METHODS if METHODS.entry(name).target.startswith("conpet.")]

page = pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


class Block(NamedTuple):
    """A fenced block and where it stands."""

    language: str
    text: str
    place: str


def blocks(path: Path, language: str | None = None) -> list[Block]:
    found = []
    text = path.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        line = text[: match.start()].count("\n") + 1
        found.append(Block(match[1], match[2], f"{path.relative_to(ROOT)} line {line}"))
    return [block for block in found if language in (None, block.language)]


def prose(path: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def inline_code(path: Path) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(path))]


def table(path: Path, head: str) -> list[list[str]]:
    """The cells of the rows under the table row that begins with ``| head |``."""
    lines = iter(path.read_text(encoding="utf-8").splitlines())
    assert any(line.startswith(f"| {head} |") for line in lines), f"{path}: no table of {head}"
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


# Links


def anchors(path: Path) -> set[str]:
    """The names that a page's headings have as link targets."""
    heads = re.findall(r"^#+ (.+)$", prose(path), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@page
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path}: {target}"
        assert there.is_relative_to(ROOT), f"{path}: {target} leads out of the project"
        assert not anchor or anchor in anchors(there), f"{path}: no heading {target}"


def test_every_page_can_be_reached_from_the_front_page() -> None:
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        here = todo.pop()
        seen.add(here)
        for target in re.findall(r"\]\(([^)\s#]+\.md)", prose(here)):
            there = (here.parent / target).resolve()
            if there not in seen and there in PAGES:
                todo.append(there)
    assert set(PAGES) <= seen


# Commands


def commands(path: Path) -> Iterator[list[str]]:
    """The words of every ``conpet`` line in the blocks without a language; redirections cut off."""
    for block in blocks(path):
        if block.language:
            continue
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["conpet"]:
                yield words[1 : words.index(">")] if ">" in words else words[1:]


COMMANDS = [(path, words) for path in PAGES for words in commands(path)]
LINES = sorted({shlex.join(words) for _, words in COMMANDS})


def settings(words: list[str]) -> list[str]:
    return [word for word in words if re.match(r"[a-z_.]+=", word)]


@pytest.mark.parametrize("line", LINES)
def test_commands_are_understood(line: str) -> None:
    """Verbs, arguments and options exist, and the values are of the right type."""
    verb, *rest = shlex.split(line)
    group = typer.main.get_command(app)
    command = group.get_command(None, verb)  # type: ignore[attr-defined]
    assert command is not None, f"no verb {verb}"
    command.make_context(verb, rest)  # raises UsageError


OWN = {"method": "--method", "stream": "--stream", "backbone": "--backbone"}


@pytest.mark.parametrize("line", [one for one in LINES if one.startswith("run ")])
def test_settings_of_runs_are_accepted(line: str) -> None:
    """Keys and values, by the configuration itself; ``anchor`` is tried below."""
    words = shlex.split(line)
    file = next((ROOT / word for word in words if word.startswith("examples/")), None)
    given = {key: words[words.index(o) + 1] for key, o in OWN.items() if o in words}
    named = file or "stream" in given or "profile=sapt" in line  # a profile of a whole run
    given |= {} if named else {"stream": "banking77"}
    if given.get("method") == "anchor":
        with pytest.raises(ConfigError, match="unknown method 'anchor'"):
            load_config(file, settings(words), **given)
    else:
        load_config(file, settings(words), **given)


def cheap(line: str) -> bool:
    """Quick, without files that the reader is to make."""
    verb, *rest = shlex.split(line)
    there = verb == "validate" and (ROOT / rest[0]).is_file()
    return "anchor" not in rest and (there or verb in ("ls", "show", "init"))


@pytest.mark.parametrize("line", [one for one in LINES if cheap(one)])
def test_cheap_commands_work(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line))
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_commands_in_sentences_name_verbs_and_options(path: Path) -> None:
    group = typer.main.get_command(app)
    for code in inline_code(path):
        words = shlex.split(code)
        if words[0] != "conpet" or len(words) == 1:
            continue
        command = group.get_command(None, words[1])  # type: ignore[attr-defined]
        assert command is not None, f"{path}: {code}"
        known = {option for p in command.params for option in p.opts} | {"--help"}
        assert {w for w in words if w.startswith("--")} <= known, f"{path}: {code}"


# Keys and options

FILES = r"\.(json|jsonl|yaml|md|py|csv|html|parquet)\b|\.gz\b|\("


@page
def test_keys_that_are_named_exist(path: Path) -> None:
    known = {key.key for key in describe_keys()}
    known |= {f"method.{f.name}" for name in BUILT_IN for f in fields(METHODS.load(name))}
    known |= {"train.*", "adapter.*", "replay.*", "method.NAME", "method.OPTION"}
    sections = "|".join(sorted({key.partition(".")[0] for key in known if "." in key}))
    for code in inline_code(path):
        for key in re.findall(rf"(?<![\w./])((?:{sections})\.[\w*]+)", code):
            if not re.search(re.escape(key.partition(".")[0]) + FILES, code):
                assert key in known, f"{path}: {code}"


@page
def test_yaml_blocks_are_accepted(path: Path) -> None:
    for block in blocks(path, "yaml"):
        values = yaml.safe_load(block.text)
        if "file" in values:
            parse(Card, values, block.place)
        else:
            parse_config(block.text, name=block.place)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_method_has_a_page_with_its_options(name: str) -> None:
    path, method = DOCS / "methods" / f"{name}.md", METHODS.load(name)
    assert path.read_text(encoding="utf-8").startswith(f"# {name}\n")
    wanted = {f"`{f.name}`": method.__pydantic_fields__[f.name].default for f in fields(method)}
    rows = table(path, "option") if wanted else []
    assert {row[0]: row[1] for row in rows} == {
        key: f"`{default_text(default)}`" for key, default in wanted.items()
    }


def test_the_list_of_methods_is_that_of_the_registry() -> None:
    rows = table(DOCS / "methods" / "README.md", "method")
    written = {re.sub(r"\[`(.*)`\].*", r"\1", row[0]): row[3:] for row in rows}
    assert written == {
        name: [
            ", ".join(METHODS.load(name).replay_kinds),
            ", ".join(METHODS.load(name).adapter_kinds),
        ]
        for name in BUILT_IN
    }


# Concepts and data


def test_formulas_are_those_of_the_report() -> None:
    rows = table(DOCS / "concepts.md", "metric")
    assert [(row[0], row[1]) for row in rows] == [
        (d.title, d.formula) for d in DEFINITIONS.values()
    ]


@page
def test_examples_at_the_prompt_give_what_they_show(path: Path) -> None:
    for block in blocks(path, "pycon"):
        test = doctest.DocTestParser().get_doctest(block.text, {}, block.place, str(path), 0)
        assert doctest.DocTestRunner().run(test).failed == 0, block.place


@page
def test_rows_of_data_are_read(path: Path) -> None:
    for block in blocks(path, "json"):
        for number, line in enumerate(block.text.splitlines()):
            row = Row(f"{block.place} row {number}", json.loads(line))
            records = list(read_records([row], Fields(), Layout.of(row, Fields())))
            assert records, row.source
            for example in (record.example for record in records):
                marked = [example.text[start:end] for start, end in example.entities]
                assert set(marked) <= {"Ada Lovelace", "London"}, "spans hold whole names"


def test_fields_of_rows_are_all_described() -> None:
    named = re.findall(r"`(\w+)`", " ".join(row[0] for row in table(DOCS / "data.md", "field")))
    assert set(named) == set(Fields.model_fields) - {"spans"}


def test_keys_of_cards_are_all_described() -> None:
    text = (DOCS / "data.md").read_text(encoding="utf-8").partition("## Cards")[2]
    assert not [key for key in Card.model_fields if not re.search(rf"\b{key}\b", text)]


STREAM_ROWS = table(DOCS / "data.md", "stream")


def test_every_named_stream_is_described() -> None:
    assert sorted(row[0].strip("`") for row in STREAM_ROWS) == list(STREAMS)


@pytest.mark.parametrize("row", STREAM_ROWS, ids=lambda row: row[0].strip("`"))
def test_what_is_said_of_named_streams_is_so(row: list[str]) -> None:
    name, kind, tasks, labels, counts, files, licence = row
    card = STREAMS.load(name.strip("`"))
    assert card.licence.startswith(licence.partition(";")[0])
    paths = re.findall(r"`([^`]+)`", files) or [card.file]
    assert set(paths) >= {f for f in (card.file, card.groups) if isinstance(f, str)}
    found = [
        any((r / f"{p}{z}").exists() for r in data_roots() for z in ("", ".gz")) for p in paths
    ]
    if not all(found):
        pytest.skip(f"{', '.join(paths)} not below CONPET_DATA")
    facts = load_stream(card.name, seed=100).describe()
    assert (facts["kind"], facts["n_labels"]) == (kind, int(labels))
    assert facts["n_tasks"] == int(re.match(r"\d+", tasks)[0])  # type: ignore[index]
    if counts == "not counted":  # data that nobody here has
        return
    assert [facts[s] for s in ("train", "valid", "test")] == [
        int(n.replace(",", "")) for n in counts.split(" / ")
    ]


# Examples


def test_every_example_is_described_and_valid() -> None:
    rows = table(ROOT / "examples" / "README.md", "file")
    named = {re.sub(r"\[(.*)\]\(\1\)", r"\1", row[0]) for row in rows}
    files = set((ROOT / "examples").glob("*.yaml"))
    assert named == {file.name for file in files}
    for file in files:
        load_config(file)


# Architecture


def test_the_tree_is_that_of_the_package() -> None:
    tree = next(b for b in blocks(DOCS / "architecture.md") if b.text.startswith("src/conpet/"))
    named = set(re.findall(r"^  ([\w.]+/?) ", tree.text, re.M))
    here = Path(package.__file__).parent
    rooms = {f"{p.name}/" for p in here.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert named == rooms | {p.name for p in here.glob("*.py")} - {"__init__.py"}


def test_the_layers_are_those_that_are_checked() -> None:
    (block,) = blocks(DOCS / "architecture.md", "layers")
    written = [set(layer.split(" | ")) for layer in " ".join(block.text.split()).split(" > ")]
    module = runpy.run_path(str(Path(__file__).with_name("test_layers.py")))
    there = {module["room_of"](name) for name in module["MODULES"] if name}
    layers = [set(layer) & there for layer in reversed(module["LAYERS"])]
    assert written == [layer for layer in layers if layer]


def test_what_a_folder_is_not_bound_to_is_listed() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert not [key for key in ELSEWHERE if f"`{key}`" not in text.partition("is bound to")[2]]


# Python

SMALLER = {
    'preset="small"': "train_per_class=2, valid_per_class=1, test_per_class=1",
    'backbone="minilm"': 'backbone="tiny-bert", train__epochs=1, replay__batch_limit=3',
    'load_backbone("minilm")': 'load_backbone("tiny-bert")',
}
"""What makes a page's Python quick; all else is run as it stands."""


@pytest.mark.parametrize("name", ["README.md", "docs/quickstart.md"])
def test_python_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(ROOT / name, "python")
    code = block.text
    for slow, quick in SMALLER.items():
        assert slow in code, f"{block.place} lacks {slow}"
        code = code.replace(slow, quick)
    exec(compile(code, block.place, "exec"), {})
    assert capsys.readouterr().out
    check_layout(tmp_path / "runs" / "bank-py")


def check_layout(run: Path) -> None:
    """Everything in a run folder is named by the architecture page, and the page names no more."""
    (block,) = blocks(DOCS / "architecture.md", "layout")
    named = {line.split()[0].rstrip("/") for line in block.text.splitlines()}
    other = {"learner", "pseudo", "answers.json"}  # of other methods and streams
    missing = {*other, "trackers", "top_k.json", "trunk", "unseen"}  # where asked for
    assert {p.name for p in run.iterdir()} | missing == named


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """The package of the page, installed: its two files, and its entry point."""
    here = DOCS / "add-a-method.md"
    for block in blocks(here, "python"):
        (tmp_path / block.text.partition("\n")[0].removeprefix("# ")).write_text(block.text)
    (block,) = blocks(here, "toml")
    points = tomllib.loads(block.text)["project"]["entry-points"]
    lines = [f"[{group}]\n{k} = {v}\n" for group in points for k, v in points[group].items()]
    info = tmp_path / "conpet_anchor-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: conpet-anchor\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("".join(lines))
    return tmp_path


def test_the_method_to_add_works(plugin: Path) -> None:
    """As a plugin in processes of its own: a run with its option, and the contract."""
    source = Path(package.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{plugin}"}

    def python(*arguments: str) -> str:
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=plugin, env=environment, timeout=900
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run = next(words for words in commands(DOCS / "add-a-method.md") if words[0] == "run")
    small = [f"stream.{split}_per_class=1" for split in ("train", "valid", "test")]
    small += ["stream.n_tasks=2", "train.epochs=1", "--backbone=tiny-bert", "threads=1"]
    assert "whole" in python("conpet.cli", *run, *small)
    assert " passed" in python("pytest", "-q", "-p", "no:cacheprovider", "test_anchor.py")
