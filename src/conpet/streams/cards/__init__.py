"""The named streams: one YAML card each, read when its name is asked for as an attribute here.

A card for data of one's own is written likewise and given by its path; ``schema.Card`` says what a
card may hold.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from conpet.errors import ConfigError
from conpet.streams.readers import read_text
from conpet.streams.schema import Card, parse

FOLDER = Path(__file__).parent


def read_card(path: Path) -> Card:
    """The card in a YAML file; its name defaults to the file's.

    Raises:
        DataError: no such file, or not UTF-8.
        ConfigError: broken YAML, an unknown key, a wrong value.
    """
    try:
        values = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # e.g. an impossible date
        raise ConfigError(f"{path} is broken YAML: {error}; mend it") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is no card; a card is a mapping, e.g. 'file: data.jsonl'")
    return parse(Card, {"name": path.stem} | values, str(path))


def __getattr__(name: str) -> Card:
    path = FOLDER / f"{name}.yaml"
    if name.startswith("_") or not path.is_file():
        raise AttributeError(f"module {__name__!r} has no card {name!r}")
    return read_card(path)
