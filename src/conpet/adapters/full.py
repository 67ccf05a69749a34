"""Full tuning: the one adapter of the pool is the backbone itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from conpet.adapters.base import AdaptableBackbone
from conpet.errors import ConfigError, RoutingError
from conpet.types import Routing


class Full:
    """All weights of the backbone as one adapter. Implements ``AdapterKind``.

    A new adapter starts from the pretrained weights, which are kept on the CPU until it is removed.
    """

    def __init__(self, backbone: AdaptableBackbone) -> None:
        _ = backbone.fingerprint  # that of the pretrained weights: computed before they move
        self._parameters = dict(backbone.model.named_parameters())
        fixed = [name for name, p in self._parameters.items() if not p.is_floating_point()]
        if fixed:
            raise ConfigError(
                f"full tuning needs floating-point weights, but '{fixed[0]}' is quantised; load "
                "the backbone without quantisation, or use kind 'lora'"
            )
        self._name: str | None = None
        self._original: dict[str, Tensor] = {}

    @property
    def hooked(self) -> tuple[nn.Module, ...]:
        return ()

    def settings(self) -> dict[str, Any]:
        return {"kind": "full"}

    def add(self, name: str, generator: Generator) -> None:
        if self._name is not None:
            raise ConfigError(
                f"full tuning has one adapter, and '{self._name}' is it; '{name}' cannot be added. "
                "Use kind 'lora', 'bottleneck' or 'prompt', or a method that has one adapter"
            )
        self._original = {k: p.detach().to("cpu", copy=True) for k, p in self._parameters.items()}
        self._name = name
        self.thaw(name)

    def freeze(self, name: str) -> None:
        for parameter in self._parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None

    def thaw(self, name: str) -> None:
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)

    def remove(self, name: str) -> None:
        """Put the pretrained weights back, bit for bit."""
        self.freeze(name)
        with torch.no_grad():
            for key, parameter in self._parameters.items():
                parameter.copy_(self._original[key])
        self._name, self._original = None, {}

    def parameters_of(self, name: str) -> dict[str, nn.Parameter]:
        return dict(self._parameters)

    def storage(self, name: str) -> dict[str, Tensor]:
        return {key: parameter.detach() for key, parameter in self._parameters.items()}

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: tuple(parameter.shape) for key, parameter in self._parameters.items()}

    @contextmanager
    def routed(self, routing: Routing) -> Iterator[None]:
        """Nothing to add: the weights are in the backbone already, for every row alike."""
        if routing.names != (self._name,) or not bool((routing.weights == 1).all()):
            raise RoutingError(
                "full tuning cannot be mixed or left out: its weights are the backbone's own; "
                f"route every row to '{self._name}' with weight exactly 1"
            )
        yield
