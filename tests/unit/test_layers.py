"""Who imports whom. The layers are those of the architecture page, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import conpet

ROOT = Path(conpet.__file__).parent

LAYERS = [
    ["errors"],
    ["types"],
    ["registry"],
    ["runtime"],
    ["config", "events"],
    ["encoding"],
    [
        "streams",
        "backbones",
        "adapters",
        "replay",
        "routing",
        "evaluation.scoring",
        "evaluation.continual",
        "evaluation.memo",
    ],
    ["objectives"],
    ["methods"],
    ["training", "evaluation.evaluator"],
    ["serving", "evaluation"],  # what evaluation holds besides the above makes the report
    ["api", "testing"],
    ["studies"],
    ["cli"],
]
"""Lowest first. A room imports from lower layers and from itself, never from a sibling."""

LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

LIGHT = ("errors", "types", "registry", "runtime", "config", "events", "streams", "cli")
"""Rooms that a command needs before it works: torch and transformers must not be among them."""


def modules() -> dict[str, Path]:
    """Dotted name below ``conpet`` -> file."""
    files = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(part for part in parts if part != "__init__")] = path
    return files


MODULES = modules()


def room_of(module: str) -> str:
    parts = module.split(".")
    two = ".".join(parts[:2])
    return two if two in LEVEL else parts[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """Names below ``conpet`` that are imported, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name[7:] for a in node.names if a.name.startswith("conpet."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            base, _, rest = node.module.partition(".")
            if base == "conpet":
                for alias in node.names:
                    full = f"{rest}.{alias.name}".lstrip(".")
                    yield full if full in MODULES else rest


def forbidden(importer: str, imported: str) -> bool:
    ours, theirs = room_of(importer), room_of(imported)
    return ours != theirs and LEVEL[theirs] >= LEVEL[ours]


def test_every_room_has_a_layer() -> None:
    assert {room_of(module) for module in MODULES if module} <= set(LEVEL)


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_imports_go_downwards(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    wrong = {name for name in imports(tree) if name and forbidden(module, name)}
    assert not wrong, f"{module} may not import {sorted(wrong)}"


def test_methods_do_not_import_each_other() -> None:
    """A method imports the base and what methods share; never another registered method."""
    from conpet.registry import METHODS

    files = {METHODS.entry(name).target.partition(":")[0][7:] for name in METHODS}
    for module in files & set(MODULES):
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        assert not (set(imports(tree)) & files - {module}), module


def test_no_cycle() -> None:
    """Nor one that an import inside a function would hide."""
    graph = {}
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[module] = {name for name in imports(tree) if name in MODULES} - {module}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("room", LIGHT)
def test_light_rooms_do_not_load_torch(room: str) -> None:
    code = (
        f"import conpet.{room}, sys; "
        "print(*sorted({'torch', 'transformers', 'accelerate', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""


def test_the_check_itself_finds_what_is_forbidden() -> None:
    assert forbidden("adapters.lora", "backbones.base")
    assert forbidden("config.load", "streams.load")
    assert forbidden("evaluation.evaluator", "training.trainer")
    assert not forbidden("cli.run", "api")
    assert not forbidden("streams.load", "streams.base")
    tree = ast.parse("def f():\n    from conpet.streams import load_stream\nimport conpet.errors")
    assert set(imports(tree)) == {"streams", "errors"}
