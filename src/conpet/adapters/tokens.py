"""Token rows of an adapter's own, behind a frozen vocabulary: read and written like the others.

Shapes: n added tokens, V rows of the frozen vocabulary, d width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from conpet.errors import ConfigError


class AddedTokens(nn.Module):
    """n tokens with the ids V, ..., V + n - 1, each a trainable row of the embeddings and, where
    the model writes, of its output head.

    A row begins at the mean of the frozen ones plus noise of a tenth of their spread, so that the
    new tokens differ. Nothing of the model is changed: hooks answer for the ids beyond its own,
    while ``opened``.

    Raises:
        ConfigError: the model is not made so that they can be added (``check_tokens``).
    """

    def __init__(self, model: nn.Module, n: int, generator: Generator) -> None:
        super().__init__()
        check_tokens(model)
        table = cast(Any, model).get_input_embeddings()
        head = cast(Any, model).get_output_embeddings()
        # Tuples, so that no frozen module becomes a submodule
        self._tables = tuple(
            module
            for module in model.modules()
            if isinstance(module, nn.Embedding) and module.weight is table.weight
        )
        self._head = (head,) if head is not None else ()
        self.first_id = table.num_embeddings
        self.read = nn.Parameter(_rows(table.weight, n, generator))
        self.write = nn.Parameter(_rows((head or table).weight, n, generator))

    @contextmanager
    def opened(self) -> Iterator[None]:
        """While it is open, the model knows the added tokens."""
        handles = []
        for table in self._tables:
            asked: list[Tensor] = []  # of each table its own
            handles += [
                table.register_forward_pre_hook(_Known(self.first_id, asked)),
                table.register_forward_hook(_Looked(self, asked)),
            ]
        handles += [head.register_forward_hook(self._written) for head in self._head]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _written(self, head: nn.Module, args: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        """Logits (..., V) with those of the added tokens behind them."""
        own = args[0].to(logits.dtype) @ self.write.to(logits.dtype).T
        return torch.cat([logits, own], dim=-1)


def check_tokens(model: nn.Module) -> None:
    """ConfigError unless one plain table is read everywhere, and as many logits come straight from
    the head."""
    parts = cast(Any, model)
    table, head = parts.get_input_embeddings(), parts.get_output_embeddings()
    decoder: Any = getattr(parts, "decoder", None)
    read = decoder.get_input_embeddings() if hasattr(decoder, "get_input_embeddings") else table
    if (
        not isinstance(table, nn.Embedding)
        or getattr(read, "weight", None) is not table.weight
        or (head is not None and len(head.weight) != table.num_embeddings)
        or hasattr(model, "final_logits_bias")
    ):
        raise ConfigError(
            f"tokens cannot be added to a model of type {type(model).__name__}: its embeddings and "
            "its head are not of the plain kind; leave out what needs them, such as "
            "method.generator_format=markers"
        )


class _Known:
    """Keeps the ids that are asked for, and lets the frozen table see only those that it has."""

    def __init__(self, first_id: int, asked: list[Tensor]) -> None:
        self.first_id, self.asked = first_id, asked

    def __call__(self, table: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.asked[:] = [args[0]]
        return (args[0].clamp(max=self.first_id - 1), *args[1:])


class _Looked:
    """Puts the added rows where their ids stood."""

    def __init__(self, tokens: AddedTokens, asked: list[Tensor]) -> None:
        self.tokens, self.asked = tokens, asked

    def __call__(self, table: nn.Module, args: tuple[Tensor, ...], found: Tensor) -> Tensor:
        (ids,) = self.asked
        own = ids >= self.tokens.first_id
        if not bool(own.any()):
            return found
        place = (ids - self.tokens.first_id).clamp(min=0)
        return torch.where(own[..., None], self.tokens.read[place].to(found.dtype), found)


@torch.no_grad()
def _rows(weight: Tensor, n: int, generator: Generator) -> Tensor:
    plain = weight.float()
    noise = torch.randn(n, weight.shape[1], generator=generator).to(weight.device)
    return plain.mean(dim=0) + 0.1 * plain.std(dim=0) * noise
