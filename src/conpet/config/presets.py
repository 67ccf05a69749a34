"""Names for another method with some values set, as a paper calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conpet.errors import ConfigError, did_you_mean

STATIC_BASES = ("replay", "emr", "ea-emr", "emar", "crl")


@dataclass(frozen=True)
class Preset:
    """A name that stands for a method with dynamic replay.

    Attributes:
        bases: the methods that ``method.base`` may name; the first one is the default.
    """

    summary: str
    doc: str
    bases: tuple[str, ...]


PRESETS = {
    "conpet-static": Preset(
        "one shared adapter, dynamic replay; method.base=replay|emr|ea-emr|emar|crl",
        "Static ConPET (arXiv 2309.14763): a method made for a small memory, with one shared\n"
        "adapter and replay.kind=dynamic: old examples come from the full history, at a number of\n"
        "steps that does not depend on the number of tasks. method.base names the method; its own\n"
        "options go with it. Without a memory to choose, emr is the same as replay.",
        STATIC_BASES,
    )
}


def expand_preset(tree: Mapping[str, Any]) -> dict[str, Any]:
    """``method: {name: conpet-static, base: emr}`` -> ``method: {name: emr}`` with dynamic replay.

    Raises:
        ConfigError: another base, or another kind of replay.
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
    replay = tree.get("replay", {})
    if isinstance(replay, Mapping):
        if replay.get("kind", "auto") not in ("auto", "dynamic"):
            raise ConfigError(
                f"replay.kind is '{replay['kind']}', and {name} is a method with dynamic replay; "
                f"leave it out, or run the method itself: --method {base}"
            )
        replay = {**replay, "kind": "dynamic"}
    return {**tree, "method": {**method, "name": base}, "replay": replay}


def label_of(method: str, replay: str) -> str:
    """What tables call a run: ``conpet-static(emr)`` for emr with dynamic replay."""
    static = method in STATIC_BASES and replay == "dynamic"
    return f"conpet-static({method})" if static else method
