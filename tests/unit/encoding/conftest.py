"""Encoders of the four kinds of tokenizer."""

from __future__ import annotations

import pytest

from conpet.backbones.base import Backbone
from conpet.testing import tiny_bert, tiny_llama, tiny_qwen, tiny_t5


@pytest.fixture(scope="session")
def backbones() -> dict[str, Backbone]:
    built = (tiny_bert(), tiny_llama(), tiny_qwen(), tiny_t5())
    return {backbone.name: backbone for backbone in built}


@pytest.fixture(params=["tiny-bert", "tiny-llama", "tiny-qwen", "tiny-t5"])
def backbone(request: pytest.FixtureRequest, backbones: dict[str, Backbone]) -> Backbone:
    return backbones[request.param]
