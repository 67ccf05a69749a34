"""``conpet init``: a configuration to begin with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conpet.cli.common import AsJson, emit, work

if TYPE_CHECKING:
    from conpet.config import KeyDoc, RunConfig


def verb(
    method: Annotated[str, typer.Argument(help="See: conpet ls methods.", show_default=False)],
    stream: Annotated[str, typer.Argument(help="A name or a path.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Print a configuration with every key, its default and its meaning.

    \b
    Example:
      conpet init conpet-dynamic fewrel > run.yaml
    """
    with work():
        from conpet.config import load_config

        config = load_config(None, method=method, stream=stream)
        text = commented_yaml(config)
    emit(config.to_dict(), text, as_json)


def commented_yaml(config: RunConfig) -> str:
    """The configuration as YAML; what each key means stands behind it."""
    from conpet.config import describe_fields, describe_keys

    options = describe_fields(type(config.build_method()).__pydantic_fields__)
    docs = {key.key: key for key in describe_keys()} | {f"method.{o.key}": o for o in options}
    lines = ["# conpet run FILE; a key that is left out has the value that stands here"]
    for section, value in config.to_dict().items():
        if isinstance(value, dict):
            lines += ["", f"{section}:"]
            lines += [_line("  ", key, v, docs[f"{section}.{key}"]) for key, v in value.items()]
        else:
            lines.append(_line("", section, value, docs[section]))
    return "\n".join(lines)


def _line(indent: str, key: str, value: Any, doc: KeyDoc) -> str:
    setting = f"{indent}{key}: {_yaml(value)}"
    return f"{setting:<32}  # {doc.doc} ({doc.type})"


def _yaml(value: Any) -> str:
    """JSON is YAML; words that need no quotes have none."""
    if isinstance(value, str) and value.replace("-", "").replace("_", "").isalnum():
        plain = value.lower() not in ("null", "true", "false", "yes", "no", "on", "off")
        return value if plain and not value[0].isdigit() else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)
