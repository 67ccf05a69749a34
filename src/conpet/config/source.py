"""Where values come from: YAML files with the line of every key, and ``key=value`` words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from conpet.errors import ConfigError

Key = tuple[str, ...]


@dataclass
class Values:
    """Nested values, and for each key where it was written: ``in run.yaml line 12``."""

    tree: dict[str, Any] = field(default_factory=dict)
    origin: dict[Key, str] = field(default_factory=dict)

    def update(self, other: Values) -> None:
        """Put ``other`` over these values, key by key."""
        _merge(self.tree, other.tree)
        self.origin |= other.origin

    def where(self, key: Key) -> str:
        """The place of a key, or of the nearest section around it; empty if it was not written."""
        for n in range(len(key), 0, -1):
            if key[:n] in self.origin:
                return self.origin[key[:n]]
        return ""


def _merge(under: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(under.get(key), dict):
            _merge(under[key], value)
        else:
            under[key] = dict(value) if isinstance(value, Mapping) else value


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of its version 1.2: ``2e-3`` is a number, not a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path | str) -> Any:
    """The content of a YAML file.

    Raises:
        ConfigError: it cannot be read, is no UTF-8 text, no YAML, or repeats a key.
    """
    return parse_yaml(_read(Path(path)), Path(path).name)[0]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is no UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; give the path of a YAML file "
            "(conpet init METHOD STREAM > run.yaml writes one)"
        ) from None


def parse_yaml(text: str, name: str) -> tuple[Any, dict[Key, str]]:
    """The value of a YAML text, and the line of each key; ``name`` is for messages."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        origin: dict[Key, str] = {}
        _note_lines(node, (), name, origin)
        return loader.construct_document(node), origin
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{name}{line} is no YAML: {error.problem}; mend it there") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # e.g. a date that does not exist
        problem = str(error).splitlines()[0]
        raise ConfigError(f"{name} is no YAML: {problem}; mend it there") from None


def _note_lines(node: yaml.Node, prefix: Key, name: str, origin: dict[Key, str]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        key, line = (*prefix, str(key_node.value)), key_node.start_mark.line + 1
        if key in origin:
            raise ConfigError(
                f"key '{'.'.join(key)}' is written twice: {origin[key]} and line {line}; keep one"
            )
        origin[key] = f"in {name} line {line}"
        _note_lines(value_node, key, name, origin)


def values_of_file(path: Path) -> Values:
    """A configuration file. An empty file is an empty configuration."""
    return values_of_text(_read(path), path.name)


def values_of_text(text: str, name: str) -> Values:
    """Like ``values_of_file``; ``name`` is for messages."""
    tree, origin = parse_yaml(text, name)
    if tree is None:
        return Values()
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{name} holds a {type(tree).__name__}; a configuration is made of 'key: value' "
            "lines (conpet init METHOD STREAM prints one)"
        )
    return Values(tree, origin)


def values_of_words(words: Iterable[str]) -> Iterator[Values]:
    """``["train.lr=1e-3"]`` -> ``{"train": {"lr": 0.001}}``; values are typed as in YAML."""
    for word in words:
        name, equals, text = word.partition("=")
        key = tuple(name.strip().split("."))
        if not equals or not all(key):
            raise ConfigError(
                f"'{word}' is no setting; write key=value, e.g. train.lr=1e-3 (conpet show config)"
            )
        value = parse_yaml(text, f"the value of {name}")[0]
        yield value_at(key, value, "on the command line")


def value_at(key: Key, value: Any, place: str) -> Values:
    """One value at a dotted place."""
    tree: Any = value
    for part in reversed(key):
        tree = {part: tree}
    return Values(tree, {key: place})
