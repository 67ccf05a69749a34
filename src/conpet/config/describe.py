"""What can be set: keys of the configuration and options of a method, as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from conpet.config.schema import MethodConfig, RunConfig, Section

REQUIRED = "(required)"
SYMBOLS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))


@dataclass(frozen=True)
class KeyDoc:
    """One key: dotted name, type and range, default or ``(required)``, meaning."""

    key: str
    type: str
    default: Any
    doc: str


def describe_keys() -> list[KeyDoc]:
    """Every key of the configuration, in the order of the file."""
    return list(_describe(RunConfig, ""))


def _describe(section: type[Section], prefix: str) -> Iterator[KeyDoc]:
    for name, field in section.model_fields.items():
        if section is MethodConfig and name == "options":
            yield KeyDoc("method.OPTION", "any", "the method's", field.description or "")
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _describe(field.annotation, f"{prefix}{name}.")
        else:
            yield _key_doc(prefix + name, field)


def describe_fields(fields: Mapping[str, FieldInfo]) -> list[KeyDoc]:
    """The fields of a pydantic class (``__pydantic_fields__``), e.g. the options of a method."""
    return [_key_doc(name, field) for name, field in fields.items()]


def _key_doc(key: str, field: FieldInfo) -> KeyDoc:
    default = REQUIRED if field.is_required() else field.get_default(call_default_factory=False)
    limits = _limits(field.metadata)
    return KeyDoc(key, _type_text(field.annotation) + limits, default, field.description or "")


def _limits(metadata: list[Any]) -> str:
    found = [
        f"{symbol} {getattr(item, name):g}"
        for item in metadata
        for name, symbol in SYMBOLS
        if name in getattr(type(item), "__slots__", ())
    ]
    return f" ({', '.join(found)})" if found else ""


def _type_text(kind: Any) -> str:
    """``int | None`` -> ``int | null``, ``Literal["a", "b"]`` -> ``a | b``."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is NoneType:
        return "null"
    if origin is Annotated:
        return _type_text(args[0]) + _limits([part for item in args[1:] for part in _parts(item)])
    if origin is Literal:
        return " | ".join(str(arg) for arg in args)
    if origin in (Union, UnionType):
        return " | ".join(_type_text(arg) for arg in args)
    if origin is tuple:
        return f"list of {_type_text(args[0])}"
    if origin is dict:
        return f"{{{_type_text(args[0])}: {_type_text(args[1])}}}"
    return {"str": "text", "Path": "path", "bool": "true | false"}.get(kind.__name__, kind.__name__)


def _parts(item: Any) -> list[Any]:
    return item.metadata if isinstance(item, FieldInfo) else [item]
