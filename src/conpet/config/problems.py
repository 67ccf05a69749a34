"""Problems found in a configuration, said in the house form: problem, given, allowed, next step."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from conpet.config.schema import MethodConfig, RunConfig
from conpet.config.source import Key, Values
from conpet.errors import ConfigError, did_you_mean

HELP = "All keys: conpet show config"
LIMITS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument", "invalid_key")
MISSING = ("missing", "missing_argument")


def config_error(error: ValidationError, values: Values) -> ConfigError:
    """The first problem of a validation, unknown keys before all others."""
    problems = _problems(error, (), values.tree)
    key, problem = next((p for p in problems if p[1]["type"] in UNKNOWN), problems[0])
    place = values.where(key)
    name, given = ".".join(key), problem["input"]
    where = f" {place}" if place else ""
    if problem["type"] in UNKNOWN:
        known = allowed_keys(key[:-1], values)
        hint = did_you_mean(key[-1], known)
        if not hint:
            return ConfigError(f"unknown key '{name}'{where}. {_next_step(key, values)}")
        full = hint.replace("Did you mean '", f"Did you mean '{''.join(f'{k}.' for k in key[:-1])}")
        return ConfigError(f"unknown key '{name}'{where}.{full} {_next_step(key, values)}")
    if problem["type"] in MISSING:
        return ConfigError(f"'{name}' is not given; write one{where}. {_next_step(key, values)}")
    wanted = " or ".join(dict.fromkeys(_wanted(k, p) for k, p in problems if k == key))
    return ConfigError(
        f"'{name}'{where} is {given!r}; it must be {wanted}. {_next_step(key, values)}"
    )


def _problems(error: ValidationError, prefix: Key, tree: Any) -> list[tuple[Key, Any]]:
    """All problems with their keys; those of a method's own dataclass come wrapped in one."""
    found: list[tuple[Key, Any]] = []
    for problem in error.errors(include_url=False):
        key = (*prefix, *_key(problem, tree))
        inner = problem.get("ctx", {}).get("error")
        if isinstance(inner, ValidationError):
            found += _problems(inner, key, _below(tree, problem["loc"]))
        else:
            found.append((key, problem))
    return found


def _key(problem: Any, tree: Any) -> Key:
    """Where a problem is, without the branches of unions that pydantic adds, e.g. ``int``."""
    if problem["type"] in MISSING:
        return tuple(map(str, problem["loc"]))
    key: list[str] = []
    for part in problem["loc"]:
        tree = _below(tree, (part,))
        if tree is None and problem["input"] is not None:
            break
        key.append(str(part))
    return tuple(key)


def _below(tree: Any, loc: tuple[int | str, ...]) -> Any:
    """The value at a place; None where there is none."""
    for part in loc:
        inside = isinstance(tree, dict) and part in tree
        listed = isinstance(tree, list | tuple) and isinstance(part, int) and part < len(tree)
        if not (inside or listed):
            return None
        tree = tree[part]
    return tree


def allowed_keys(section: Key, values: Values) -> list[str]:
    """The keys that a section may have; for ``method`` also the options of the method in use."""
    model: Any = RunConfig
    for part in section:
        model = model.model_fields[part].annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    if model is MethodConfig:
        return ["name", *MethodConfig(name=_method(values)).options]
    return list(model.model_fields)


def _method(values: Values) -> str:
    given = values.tree.get("method", {})
    name = given.get("name") if isinstance(given, dict) else given
    return name or MethodConfig.model_fields["name"].default


def _next_step(key: Key, values: Values) -> str:
    if key[0] == "method":
        return f"All options: conpet show method {_method(values)}"
    return HELP


def _wanted(key: Key, problem: Any) -> str:
    context = problem.get("ctx", {})
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "a section of 'key: value' lines"
    for name, words in LIMITS.items():
        if name in context:
            return f"{words} {context[name]:g}"
    if "expected" in context:
        return str(context["expected"])
    if "pattern" in context:
        return (
            "auto, cpu, mps, cuda or cuda:N" if key == ("device",) else f"like {context['pattern']}"
        )
    message = str(problem["msg"])
    return message.removeprefix("Input should be ").removeprefix("Value error, ")
