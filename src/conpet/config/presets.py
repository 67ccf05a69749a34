"""Names for another method with some values set, as a paper calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conpet.errors import ConfigError, did_you_mean

STATIC_BASES = ("replay", "emr", "ea-emr", "emar", "crl")


@dataclass(frozen=True)
class Preset:
    """A name that stands for a method with one setting.

    Attributes:
        bases: the methods that ``method.base`` may name; the first one is the default.
        section, key, value: the setting.
        words: how the setting is called in a sentence.
    """

    summary: str
    doc: str
    bases: tuple[str, ...]
    section: str
    key: str
    value: str
    words: str


PRESETS = {
    "conpet-static": Preset(
        "one shared adapter, dynamic replay; method.base=replay|emr|ea-emr|emar|crl",
        "Static ConPET (arXiv 2309.14763): a method made for a small memory, with one shared\n"
        "adapter and replay.kind=dynamic: old examples come from the full history, at a number of\n"
        "steps that does not depend on the number of tasks. method.base names the method; its own\n"
        "options go with it. Without a memory to choose, emr is the same as replay.",
        STATIC_BASES,
        *("replay", "kind", "dynamic", "dynamic replay"),
    ),
    "sapt-prompt": Preset(
        "soft prompts instead of LoRA, mixed and selected by one shared attention (SAPT)",
        "SAPT-Prompt (arXiv 2401.08295): the method sapt with adapter.kind=prompt. The soft\n"
        "prompts of all tasks are added with the weights of the attention, and their sum stands\n"
        "before the text. adapter.length is their length, adapter.bottleneck the optional network\n"
        "behind them. The options are those of sapt.",
        ("sapt",),
        *("adapter", "kind", "prompt", "soft prompts"),
    ),
}


def expand_preset(tree: Mapping[str, Any]) -> dict[str, Any]:
    """``method: {name: conpet-static, base: emr}`` -> ``method: {name: emr}`` with dynamic replay.

    Raises:
        ConfigError: another base, or another value of the setting that the name stands for.
    """
    method = tree.get("method")
    if not isinstance(method, Mapping) or method.get("name") not in PRESETS:
        return dict(tree)
    method, name = dict(method), method["name"]
    preset = PRESETS[name]
    base = method.pop("base", preset.bases[0])
    if base not in preset.bases:
        raise ConfigError(
            f"method.base is '{base}', which {name} cannot build on."
            f"{did_you_mean(str(base), preset.bases)} Allowed: {', '.join(preset.bases)}"
        )
    section = tree.get(preset.section, {})
    if isinstance(section, Mapping):
        if section.get(preset.key, "auto") not in ("auto", preset.value):
            raise ConfigError(
                f"{preset.section}.{preset.key} is '{section[preset.key]}', and {name} is a method "
                f"with {preset.words}; leave it out, or run the method itself: --method {base}"
            )
        section = {**section, preset.key: preset.value}
    return {**tree, "method": {**method, "name": base}, preset.section: section}


def label_of(method: str, settings: Mapping[tuple[str, str], str]) -> str:
    """What tables call a run: ``conpet-static(emr)`` for emr with dynamic replay.

    ``settings``: the values that presets set, by section and key.
    """
    for name, preset in PRESETS.items():
        if method in preset.bases and settings[preset.section, preset.key] == preset.value:
            return f"{name}({method})" if len(preset.bases) > 1 else name
    return method
