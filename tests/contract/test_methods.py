"""Every registered method keeps the contract, with every kind of adapter on every backbone kind."""

from __future__ import annotations

import pytest

from conpet.registry import METHODS
from conpet.streams.base import Kind
from conpet.testing.contract import MethodContract
from conpet.testing.runs import Case

KINDS: dict[str, Kind] = {"tiny-bert": "text", "tiny-llama": "relation", "tiny-t5": "typing"}

CASES = [
    Case(method, adapter, backbone, kind)
    for method in METHODS
    for adapter in METHODS.load(method).adapter_kinds
    for backbone, kind in KINDS.items()
]
CASES += [
    Case("conpet-dynamic", backbone="tiny-qwen"),
    Case("conpet-dynamic", options=(("method__top_k", 2), ("replay__kind", "full"))),
    Case("conpet-dynamic", options=(("method__top_k", "all"), ("train__accumulate", 2))),
    Case("conpet-dynamic", options=(("replay__kind", "memory"), ("replay__per_class", 2))),
    Case(
        "conpet-dynamic",
        options=(("method__selector_target", "label"), ("method__balance", True)),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str, scope="class")
class TestMethods(MethodContract):
    """One class of tests for each case."""
