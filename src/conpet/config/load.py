"""Reading a configuration: defaults < profile < file < command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from conpet.config.presets import expand_preset
from conpet.config.problems import config_error
from conpet.config.profiles import profile_values
from conpet.config.schema import RunConfig, expand_names
from conpet.config.source import Values, value_at, values_of_file, values_of_text, values_of_words
from conpet.errors import ConfigError, did_you_mean

FLAT = {
    "method": "method.name",
    "stream": "stream.name",
    "backbone": "backbone.name",
    "preset": "stream.preset",
    "data": "stream.data",
    "seed": "seed",
    "device": "device",
    "out": "out",
    "profile": "profile",
}
"""The few values that have an option of their own, and their keys."""


def load_config(
    path: Path | str | None = None, overrides: Iterable[str] | Mapping[str, Any] = (), **flat: Any
) -> RunConfig:
    """Read a run configuration.

    Args:
        path: a YAML file; None for the defaults alone.
        overrides: ``["method.top_k=2", "seed=3"]``, typed as in YAML, or ``{"method.top_k": 2}``;
            they win over the file.
        flat: method, stream, backbone, preset, data, seed, device, out, profile; None is left out.

    Raises:
        ConfigError: unknown key, value out of range, no YAML, ...; with the line and a way out.
    """
    values = Values() if path is None else values_of_file(Path(path))
    return _build(values, overrides, flat)


def parse_config(
    text: str, overrides: Iterable[str] | Mapping[str, Any] = (), name: str = "the text"
) -> RunConfig:
    """Like ``load_config``, from a YAML text."""
    return _build(values_of_text(text, name), overrides, {})


def _build(
    values: Values, overrides: Iterable[str] | Mapping[str, Any], flat: dict[str, Any]
) -> RunConfig:
    values.tree = expand_names(values.tree)
    over = Values()
    for name, value in flat.items():
        if name not in FLAT:
            raise ConfigError(
                f"unknown argument '{name}'.{did_you_mean(name, FLAT)} Allowed: {', '.join(FLAT)}"
            )
        if value is not None:
            over.update(value_at(tuple(FLAT[name].split(".")), value, f"given as {name}"))
    for word in _values_of(overrides):  # one by one: `adapter=bottleneck adapter.size=16`
        word.tree = expand_names(word.tree)
        over.update(word)
    values.update(over)
    values.tree = expand_preset(values.tree)
    values = _over_profile(values)
    try:
        return RunConfig.model_validate(values.tree)
    except ValidationError as error:
        raise config_error(error, values) from None


def _values_of(overrides: Iterable[str] | Mapping[str, Any]) -> Iterable[Values]:
    if not isinstance(overrides, Mapping):
        return values_of_words(overrides)
    return [
        value_at(tuple(name.split(".")), value, "among the overrides")
        for name, value in overrides.items()
    ]


def _over_profile(values: Values) -> Values:
    """The values, over those of the profile they ask for."""
    profile = values.tree.get("profile")
    if profile is None:
        return values
    stream, backbone = values.tree.get("stream"), values.tree.get("backbone")
    method = values.tree.get("method")
    stream_name = stream.get("name") if isinstance(stream, dict) else None
    backbone_name = backbone.get("name", "minilm") if isinstance(backbone, dict) else "minilm"
    method_name = method.get("name") if isinstance(method, dict) else None
    given = (
        str(profile),
        None if stream_name is None else str(stream_name),
        str(backbone_name),
        None if method_name is None else str(method_name),
    )
    result = Values(profile_values(*given))
    result.update(values)
    return result
