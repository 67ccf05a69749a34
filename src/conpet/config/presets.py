"""Names for another method with some values set, as a paper calls it."""

from __future__ import annotations

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


def expand_preset(tree: dict[str, Any]) -> None:
    """``method: {name: conpet-static, base: emr}`` -> ``method: {name: emr}`` with dynamic replay.

    Raises:
        ConfigError: another base, or another kind of replay.
    """
    method = tree.get("method")
    if not isinstance(method, dict) or method.get("name") not in PRESETS:
        return
    name = method["name"]
    preset = PRESETS[name]
    base = method.pop("base", preset.bases[0])
    if base not in preset.bases:
        raise ConfigError(
            f"method.base is '{base}', which {name} cannot build on."
            f"{did_you_mean(str(base), preset.bases)} Allowed: {', '.join(preset.bases)}"
        )
    replay = tree.setdefault("replay", {})
    if isinstance(replay, dict):
        if replay.get("kind", "auto") not in ("auto", "dynamic"):
            raise ConfigError(
                f"replay.kind is '{replay['kind']}', and {name} is a method with dynamic replay; "
                f"leave it out, or run the method itself: --method {base}"
            )
        replay["kind"] = "dynamic"
    method["name"] = base


def label_of(method: str, replay: str) -> str:
    """What tables call a run: ``conpet-static(emr)`` for emr with dynamic replay."""
    static = method in STATIC_BASES and replay == "dynamic"
    return f"conpet-static({method})" if static else method
