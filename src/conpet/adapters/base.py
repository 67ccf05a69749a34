"""The seams of this room: what a backbone must offer, and what one kind of adapter must offer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from torch import Generator, Tensor, nn

from conpet.types import Routing, SoftPrompt

KindName = Literal["lora", "bottleneck", "prompt", "prefix", "full"]
KINDS: tuple[KindName, ...] = ("lora", "bottleneck", "prompt", "prefix", "full")
LAYERED: tuple[KindName, ...] = ("lora", "bottleneck")
"""Kinds whose adapters lie in the layers, so that they can lie in some of them alone."""

Placement = Literal["houlsby", "pfeiffer"]
PLACEMENTS: tuple[Placement, ...] = ("houlsby", "pfeiffer")


class AdaptableBackbone(Protocol):
    """The part of a frozen backbone that adapters need."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str:
        """``encoder``, ``decoder`` or ``encoder-decoder``."""
        ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def model(self) -> nn.Module: ...

    def linears(
        self, names: Sequence[str] | None, upper: int | None = None
    ) -> dict[str, nn.Linear]:
        """Module path in ``model`` -> projection, for the given last names (None: the default), of
        the upper so many layers (None: all)."""
        ...

    def sublayers(self, placement: Placement, upper: int | None = None) -> dict[str, nn.Linear]:
        """Module path in ``model`` -> output projection of each sublayer of this placement, of the
        upper so many layers (None: all)."""
        ...

    def self_attentions(self) -> dict[nn.Module, int]:
        """The self-attentions that take prefixes, in the order of the layers -> width of their
        keys."""
        ...

    def positions(self) -> list[nn.Module]:
        """What turns the positions of tokens into vectors, for these attentions."""
        ...

    def read(self, input_ids: Tensor) -> None:
        """Let each of these attentions read tokens (B, n), with nothing before them."""
        ...

    def embed(self, input_ids: Tensor) -> Tensor:
        """The embeddings (n, d) of tokens (n,), before positions are added."""
        ...

    @property
    def ordinary_tokens(self) -> Sequence[int]:
        """Ids of the vocabulary without special tokens."""
        ...


class AdapterKind(Protocol):
    """The weights of all adapters of one kind on one backbone.

    Names are checked by the pool before they come here; heads are the pool's own business.
    """

    @property
    def hooked(self) -> tuple[nn.Module, ...]:
        """The modules inside the backbone's layers that have hooks while a routing is open."""
        ...

    def settings(self) -> dict[str, Any]:
        """All that decides, beside the tensors, what an adapter computes. JSON values."""
        ...

    def add(self, name: str, generator: Generator) -> None:
        """A new live adapter; every random number comes from ``generator`` (on the CPU)."""
        ...

    def freeze(self, name: str) -> None: ...

    def thaw(self, name: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def parameters_of(self, name: str) -> dict[str, nn.Parameter]:
        """Path -> parameter of a live adapter."""
        ...

    def storage(self, name: str) -> dict[str, Tensor]:
        """Path -> the very memory that holds the adapter, live or frozen, without gradient."""
        ...

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """Path -> shape of the tensors of any frozen adapter of this kind on this backbone."""
        ...

    def routed(self, routing: Routing) -> AbstractContextManager[SoftPrompt | None]:
        """While open, the backbone's forward mixes the adapters as ``routing`` says.

        What a kind cannot do by itself it gives: the soft prompt of the batch.
        """
        ...
