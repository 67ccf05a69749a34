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
    if "class" in METHODS.load(method).answers
    for adapter in METHODS.load(method).adapter_kinds
    for backbone, kind in KINDS.items()
    if adapter not in ("full", "prompt", "prefix") or backbone == "tiny-bert"
]
CASES += [
    Case(method, adapter if adapter in kinds else kinds[0], backbone, "instruction")
    for method in METHODS
    if "text" in METHODS.load(method).answers
    for kinds in [METHODS.load(method).adapter_kinds]
    for adapter, backbone in (("lora", "tiny-t5"), ("bottleneck", "tiny-llama"))
    if adapter in METHODS.load(method).adapter_kinds
]
RESHAPED = ("adapter__bottleneck", 6)  # soft prompts that are re-parameterised while they train
CASES += [
    Case("conpet-dynamic", "prompt", "tiny-llama", "relation", (RESHAPED,)),
    Case("conpet-dynamic", "prompt", "tiny-llama", "instruction"),
    Case("replay", "prompt", "tiny-t5", "instruction", (RESHAPED, ("replay__share", 0.2))),
]
CASES += [
    Case("epi", "prefix", "tiny-llama", "relation", (("method__start", "mean"),)),
    Case("epi", "prefix", "tiny-t5", "typing", (("method__shrinkage", 0.0),)),
    Case("epi", "prefix", "tiny-t5", "instruction"),
    Case("epi", "prefix", "tiny-llama", "instruction", (("method__start", "last"),)),
    Case("conpet-dynamic", "prefix", "tiny-llama", "relation"),
    Case("per-task", "prefix", "tiny-t5", "typing"),
    Case("conpet-dynamic", "prefix", "tiny-llama", "instruction"),
    Case("sequential", "prefix", "tiny-t5", "instruction"),
]
MARKERS = (("method__generator_format", "markers"), ("method__generator_tokens", 56))
TWO_OF_THEM = (("method__top_k", 2), ("method__train_top_k", True))
SELECTION = (("method__attend", "selection"), ("train__accumulate", 2))
CASES += [
    Case("sapt", "lora", "tiny-t5", "instruction", MARKERS),
    Case("sapt", "prompt", "tiny-t5", "instruction", (RESHAPED,)),
    Case("sapt", "prompt", "tiny-llama", "instruction", (RESHAPED,)),
    Case("sapt", options=(*TWO_OF_THEM, ("method__reference", "sample"))),
    Case("sapt", options=SELECTION),
]
ANALYTIC = ("method__router", "analytic")
CASES += [
    Case("conpet-dynamic", options=(ANALYTIC, ("method__top_k", 2))),
    Case("conpet-dynamic", "lora", "tiny-t5", "instruction", (ANALYTIC,)),
    Case("sapt", options=(ANALYTIC,)),
    Case("sapt", "prompt", "tiny-t5", "instruction", (ANALYTIC, ("method__top_k", 1))),
]
CASES += [
    Case("progprompt", "prompt", options=(("method__task_id", True), RESHAPED)),
    Case("progprompt", "prompt", "tiny-t5", "instruction"),
    Case("progprompt", "prompt", "tiny-llama", "instruction", (("method__task_id", True),)),
    Case("l2p", "prompt", options=(("method__old_classes", "seen"), ("train__accumulate", 2))),
    Case("l2p", "prompt", "tiny-t5", "instruction"),
    Case("l2p", "prompt", "tiny-llama", "instruction", (RESHAPED,)),
    Case("lfpt5", "prompt", "tiny-t5", "instruction", (("method__pseudo", "real"),)),
    Case("lfpt5", "prompt", "tiny-t5", "instruction", (("train__accumulate", 2),)),
    Case("lfpt5", "prompt", "tiny-llama", "instruction", (("method__pseudo", "real"), RESHAPED)),
]
CASES += [
    Case("conpet-dynamic", "lora", "tiny-qwen", "instruction", (("method__top_k", 2),)),
    Case("replay", "lora", "tiny-llama", "instruction", (("replay__share", 0.2),)),
    Case("conpet-dynamic", backbone="tiny-qwen"),
    Case("conpet-dynamic", options=(("method__top_k", 2), ("replay__kind", "full"))),
    Case("conpet-dynamic", options=(("method__top_k", "all"), ("train__accumulate", 2))),
    Case("conpet-dynamic", options=(("replay__kind", "memory"), ("replay__per_class", 2))),
    *(
        Case(method, options=(("replay__kind", "dynamic"),))
        for method in ("replay", "ea-emr", "emar", "crl")
    ),
    Case("emr", options=(("replay__frequency", 2), ("replay__features", "logits"))),
    Case("replay", options=(("replay__total", 12), ("replay__selection", "herding"))),
    Case("emar", options=(("replay__share", 0.3), ("replay__epoch", "limit"))),
    Case("crl", options=(("replay__kind", "full"), ("method__pool_rows", 3))),
    Case("ewc", options=(("method__fisher", "expected"), ("method__fisher_examples", 5))),
    Case("seq-star", options=(("method__logits", "linear"), ("method__columns", "seen"))),
    Case("o-lora", options=(("method__norm", 0.1), ("train__accumulate", 2))),
    Case("latent-replay", options=(("method__features", "backbone"),)),
    Case(
        "conpet-dynamic",
        options=(("method__selector_target", "label"), ("method__balance", True)),
    ),
]
UPPER = ("adapter__layers", 1)  # the layer below it is computed once for each text
CASES += [
    Case("conpet-dynamic", options=(UPPER, ("method__top_k", 2))),
    Case("conpet-dynamic", options=(UPPER, ("backbone__trunk_gib", 2e-5))),
    Case(
        "replay", "bottleneck", "tiny-llama", "relation", (UPPER, ("backbone__trunk_dtype", "bf16"))
    ),
    Case("sapt", "lora", "tiny-t5", "instruction", (UPPER,)),
]


@pytest.mark.parametrize("case", CASES, ids=str, scope="class")
class TestMethods(MethodContract):
    """One class of tests for each case."""
