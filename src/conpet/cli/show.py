"""``conpet show``: one thing in full."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conpet.cli.common import AsJson, Data, Preset, emit, table, work
from conpet.errors import ConfigError
from conpet.registry import METHODS

if TYPE_CHECKING:
    from conpet.config import KeyDoc

Shown = tuple[dict[str, Any], str]  # the document for programs, the text for people


class Kind(StrEnum):
    method = "method"
    stream = "stream"
    backbone = "backbone"
    config = "config"


def verb(
    kind: Annotated[Kind, typer.Argument(help="What to show.", show_default=False)],
    name: Annotated[
        str | None, typer.Argument(help="Its name; none for config.", show_default=False)
    ] = None,
    data: Data = None,
    preset: Preset = None,
    as_json: AsJson = False,
) -> None:
    """Show a method with its options, a stream with its counts, a backbone, or all config keys.

    \b
    Examples:
      conpet show method conpet-dynamic
      conpet show stream banking77 --preset small
      conpet show config
    """
    if (name is None) != (kind is Kind.config):
        raise ConfigError(
            "'config' takes no name, the others need one: conpet show method NAME, "
            "conpet show config (conpet ls methods|streams|backbones)"
        )
    show: dict[Kind, Callable[[str], Shown]] = {
        Kind.method: show_method,
        Kind.stream: lambda name: show_stream(name, data=data, preset=preset),
        Kind.backbone: show_backbone,
        Kind.config: lambda _: show_config(),
    }
    with work():
        document, text = show[kind](name or "")
    emit(document, text, as_json)


def show_method(name: str) -> Shown:
    """What it does, and its options."""
    from conpet.config import PRESETS, describe_fields

    if name in PRESETS:
        return show_preset(name)
    method = METHODS.load(name)
    doc = inspect.cleandoc(method.__doc__ or "")
    options = describe_fields(method.__pydantic_fields__)
    document = {
        "name": name,
        "summary": METHODS.entry(name).summary,
        "doc": doc,
        "replay": list(method.replay_kinds),
        "adapters": list(method.adapter_kinds),
        "answers": list(method.answers),
        "options": [asdict(option) for option in options],
    }
    kinds = {"replay": method.replay_kinds, "adapters": method.adapter_kinds}
    kinds["answers"] = method.answers
    lists = "\n".join(f"{title}: {', '.join(values)}" for title, values in kinds.items())
    return document, f"{name}\n\n{doc}\n\n{lists}\n\n{_keys(options)}"


def show_preset(name: str) -> Shown:
    """What it stands for, and what it can be built on."""
    from conpet.config import PRESETS

    preset = PRESETS[name]
    document = {"name": name, "summary": preset.summary, "doc": preset.doc, "bases": preset.bases}
    key = ("base", preset.bases[0], " | ".join(preset.bases), "the method; its options go with it")
    text = table([("key", "default", "type", "meaning"), key])
    return document, f"{name}\n\n{preset.doc}\n\n{text}"


def show_stream(name: str, *, data: object = None, preset: str | None = None) -> Shown:
    """Its tasks, labels, counts, lengths and duplicates."""
    from conpet.config import StreamConfig
    from conpet.streams import load_stream

    seed = StreamConfig.model_fields["seed"].default
    facts = load_stream(name, data=data, preset=preset, seed=seed).describe()  # type: ignore[arg-type]
    rows = [
        (t["name"], len(t["labels"]), t["train"], t["valid"], t["test"], ", ".join(t["labels"]))
        for t in facts["tasks"]
    ]
    total = ("all", facts["n_labels"], facts["train"], facts["valid"], facts["test"], "")
    words = facts["words"]
    text = [
        f"{facts['name']}: {facts['n_tasks']} tasks, "
        f"kind {facts['kind']}, metric {facts['metric']}",
        f"words of a text: {words['min']} to {words['max']}, median {words['median']:g}",
        f"in train and in test: {facts['duplicates_train_test']} texts; "
        f"repeats left out: {facts['duplicates_dropped']}",
        f"fingerprint: {facts['fingerprint'][:16]}",
        f"source: {facts['attribution'] or '-'}",
        "",
        table([("task", "labels", "train", "valid", "test", "label names"), *rows, total]),
    ]
    return facts, "\n".join(text)


def show_backbone(name: str) -> Shown:
    """Its family and size; it is loaded for that."""
    from conpet.backbones.loading import load_backbone
    from conpet.registry import BACKBONES

    backbone = load_backbone(name)
    known = {"summary": BACKBONES.entry(name).summary} if name in BACKBONES else {}
    facts = {
        "name": backbone.name,
        **known,
        "kind": backbone.kind,
        "hidden_size": backbone.hidden_size,
        "max_length": backbone.max_length,
        "parameters": sum(p.numel() for p in backbone.model.parameters()),
        "adapted_projections": len(backbone.linears(None)),
        "fingerprint": backbone.fingerprint,
    }
    return facts, table([("key", "value"), *facts.items()])


def show_config() -> Shown:
    """Every key of the configuration."""
    from conpet.config import describe_keys

    keys = describe_keys()
    return {"keys": [asdict(key) for key in keys]}, _keys(keys)


def _keys(keys: list[KeyDoc]) -> str:
    if not keys:
        return "no options"
    head = ("key", "default", "type", "meaning")
    return table([head, *((k.key, default_text(k.default), k.type, k.doc) for k in keys)])


def default_text(value: object) -> str:
    """A default as it is written in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if value in ((), [], {}):
        return "[]" if value in ((), []) else "{}"
    return f"{value:g}" if isinstance(value, float) else str(value)
