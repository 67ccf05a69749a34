"""The ordered adapters on one backbone, their heads, and the forward pass that mixes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conpet.adapters.base import KINDS, LAYERED, AdaptableBackbone, AdapterKind, KindName, Placement
from conpet.adapters.bottleneck import bottleneck as bottleneck_adapters
from conpet.adapters.full import Full
from conpet.adapters.head import Head, logits_of
from conpet.adapters.lora import lora
from conpet.adapters.lowrank import LowRank
from conpet.adapters.prefix import Prefix
from conpet.adapters.prompt import Prompt
from conpet.adapters.seeding import generator_for
from conpet.adapters.tokens import AddedTokens
from conpet.adapters.weights import check_shapes, fingerprint
from conpet.errors import ConfigError, RoutingError, did_you_mean
from conpet.types import Position, Routing, SoftPrompt

Read = Callable[[], Mapping[str, Tensor]]
"""Reads the weights of an adapter and its head from where they are kept."""


@dataclass(slots=True)
class _Record:
    role: str
    live: bool = True
    saved: bool = False
    digest: tuple[int, str] | None = None  # classes of the head and fingerprint, once frozen
    read: Read | None = None  # of an adapter whose weights nobody has asked for yet


class Pool(nn.Module):
    """Named adapters of one kind on one frozen backbone.

    A new adapter is live: it has gradients. A frozen one has none and is bitwise constant until it
    is thawed. Adapter and head weights are fp32.

    Args:
        backbone: stays the caller's; it is no submodule of the pool.
        kind: ``lora`` (rank, alpha, dropout, targets, layers), ``bottleneck`` (size, placement,
            activation, layers), ``prompt`` (length, bottleneck, position), ``prefix`` (length) or
            ``full`` (one adapter: the backbone's own weights).
        layers: adapters in the upper so many layers alone; those below stay as they are for all
            adapters. None: in all.
        rank, alpha, dropout, targets: see ``conpet.adapters.lora.lora``.
        size, placement, activation: see ``conpet.adapters.bottleneck.bottleneck``.
        length, bottleneck, position: see ``conpet.adapters.prompt.Prompt``, and for the first
            ``prefix.Prefix``.
    """

    def __init__(
        self,
        backbone: AdaptableBackbone,
        *,
        kind: KindName = "lora",
        rank: int = 8,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: Sequence[str] | None = None,
        size: int = 64,
        placement: Placement = "houlsby",
        activation: str | None = None,
        length: int = 10,
        bottleneck: int | None = None,
        layers: int | None = None,
        position: Position = "before",
    ) -> None:
        super().__init__()
        if layers is not None and kind not in LAYERED:
            raise ConfigError(
                f"adapter.layers is {layers}, and adapters of kind '{kind}' lie in no layers that "
                f"could be chosen; leave it out, or use kind {' or '.join(LAYERED)}"
            )
        # Not registered: the backbone is neither saved, moved nor counted with the pool.
        object.__setattr__(self, "backbone", backbone)
        self.backbone: AdaptableBackbone
        self.adapters: AdapterKind
        if kind == "lora":
            self.adapters = lora(
                backbone, rank=rank, alpha=alpha, dropout=dropout, targets=targets, layers=layers
            )
        elif kind == "bottleneck":
            self.adapters = bottleneck_adapters(
                backbone, size=size, placement=placement, activation=activation, layers=layers
            )
        elif kind == "prompt":
            self.adapters = Prompt(
                backbone, length=length, bottleneck=bottleneck, position=position
            )
        elif kind == "prefix":
            self.adapters = Prefix(backbone, length=length)
        elif kind == "full":
            self.adapters = Full(backbone)
        else:
            raise ConfigError(
                f"unknown adapter kind '{kind}'.{did_you_mean(kind, KINDS)} "
                f"Allowed: {', '.join(KINDS)}"
            )
        self._records: dict[str, _Record] = {}
        self._unread: set[str] = set()
        self._joined: tuple[tuple[str, ...], Tensor, Tensor] | None = None
        self._heads = nn.ModuleDict()
        self._tokens = nn.ModuleDict()
        self._routing = False

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters in the order of their addition."""
        return tuple(self._records)

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __len__(self) -> int:
        return len(self._records)

    def settings(self) -> dict[str, Any]:
        """What the adapters compute, beside their tensors: kind, sizes, scale. JSON values."""
        return self.adapters.settings()

    @property
    def prompt_length(self) -> int:
        """Positions that one adapter puts beside a text; 0 where they are no soft prompts."""
        return self.adapters.length if isinstance(self.adapters, Prompt) else 0

    def positions(self, routing: Routing) -> int:
        """Most positions that soft prompts take beside a text of a batch under ``routing``."""
        return self.adapters.positions(routing) if isinstance(self.adapters, Prompt) else 0

    # -- life of an adapter ---------------------------------------------------------------------

    def add(
        self, name: str, *, seed: int, n_classes: int = 0, role: str = "task", n_tokens: int = 0
    ) -> None:
        """Add a live adapter, a head of its own where ``n_classes`` > 0, and ``n_tokens`` tokens
        that it alone knows (see ``token_ids``).

        The first weights depend on ``seed`` and ``name`` alone, not on the global random state nor
        on what was added before.
        """
        if name in self._records:
            raise ConfigError(
                f"the pool has an adapter '{name}' already; remove it first or choose another name"
            )
        self._make(name, seed, n_classes, n_tokens)
        self._records[name] = _Record(role)

    def expect(self, name: str, *, role: str, n_classes: int, fingerprint: str, read: Read) -> None:
        """Add a frozen adapter that a file holds, saved as it is; it is read when it is first used.

        Until then it takes neither time nor memory: a pool of thousands opens at once.

        Args:
            n_classes: of its head; 0 where it has none.
            fingerprint: of its weights.
            read: gives them; called once, and again only if it raised.
        """
        if name in self._records:
            raise ConfigError(f"the pool has an adapter '{name}' already; remove it first")
        self._records[name] = _Record(role, False, True, (n_classes, fingerprint), read)
        self._unread.add(name)

    @property
    def in_memory(self) -> tuple[str, ...]:
        """The adapters whose weights are here; those of the others have not been asked for."""
        return tuple(name for name in self._records if name not in self._unread)

    def _make(self, name: str, seed: int, n_classes: int, n_tokens: int = 0) -> None:
        self.adapters.add(name, generator_for(seed, "adapter", name))
        if n_classes > 0:
            head = Head(self.backbone.hidden_size, n_classes, seed=seed, name=name)
            self._heads[_key(name)] = head.to(self._device())
        if n_tokens > 0:
            generator = generator_for(seed, "tokens", name)
            self._tokens[_key(name)] = AddedTokens(self.backbone.model, n_tokens, generator)

    def freeze(self, name: str) -> None:
        """End the training of an adapter and its head; nothing happens if it is frozen already."""
        record = self._record(name)
        if record.live:
            self.adapters.freeze(name)
            self._parts_require_grad(name, False)
            record.live = False

    def _fetch(self, name: str) -> _Record:
        """Its record, with the weights in memory."""
        record = self._record(name)
        if record.read is not None:
            assert record.digest is not None
            tensors = record.read()
            self._check_sizes(name, tensors, record.digest[0])
            self._make(name, 0, record.digest[0])
            self.adapters.freeze(name)
            self._parts_require_grad(name, False)
            record.read = None
            self._unread.discard(name)
            self._fill(name, tensors)
        return record

    def _check_sizes(self, name: str, tensors: Mapping[str, Tensor], n_classes: int) -> None:
        """Before anything is made of them."""
        shapes = self.adapters.expected_shapes()
        if n_classes:
            width = self.backbone.hidden_size
            shapes |= {"head.weight": (n_classes, width), "head.bias": (n_classes,)}
        check_shapes(tensors, shapes, what=f"adapter '{name}'")

    def thaw(self, name: str) -> None:
        """Make a frozen adapter and its head live again, from the same weights."""
        record = self._fetch(name)
        if not record.live:
            self._joined = None
            self.adapters.thaw(name)
            self._parts_require_grad(name, True)
            record.live, record.saved, record.digest = True, False, None

    def remove(self, name: str) -> None:
        """Forget an adapter and its head; with kind ``full``, the pretrained weights come back."""
        if self._record(name).read is None:
            self.adapters.remove(name)
        self._joined = None
        self._unread.discard(name)
        for parts in (self._heads, self._tokens):
            if _key(name) in parts:
                del parts[_key(name)]
        del self._records[name]

    @property
    def changed(self) -> tuple[str, ...]:
        """The adapters that were added, thawed or loaded since they were last marked as saved."""
        return tuple(name for name, record in self._records.items() if not record.saved)

    def mark_saved(self, name: str) -> None:
        """Say that a file holds the adapter as it is now."""
        self._record(name).saved = True

    def is_live(self, name: str) -> bool:
        return self._record(name).live

    def role(self, name: str) -> str:
        return self._record(name).role

    def has_head(self, name: str) -> bool:
        return self.n_classes(name) > 0

    def n_classes(self, name: str) -> int:
        """Classes of an adapter's head; 0 where it has none."""
        record = self._record(name)
        if record.read is not None:
            assert record.digest is not None
            return record.digest[0]
        key = _key(name)
        if key not in self._heads:
            return 0
        head = self._heads[key]
        assert isinstance(head, Head)
        return head.n_classes

    def head(self, name: str) -> Head:
        if name in self._unread:
            self._fetch(name)
        key = _key(name)
        if key not in self._heads:
            self._record(name)
            raise ConfigError(f"adapter '{name}' has no head; add it with n_classes > 0")
        head = self._heads[key]
        assert isinstance(head, Head)
        return head

    def logits(self, names: Sequence[str], features: Tensor) -> Tensor:
        """(B, sum of C) fp32: what the heads of adapters make of features (B, d), side by side.

        Those of frozen adapters are one product, from a matrix that is kept until one changes.
        """
        n = next((i for i, name in enumerate(names) if self.is_live(name)), len(names))
        found = [self.head(name)(features) for name in names[n:]]
        if n:
            found.insert(0, logits_of(*self._frozen_heads(tuple(names[:n])), features))
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def _frozen_heads(self, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """W (sum of C, d) and b of several heads."""
        if self._joined is None or self._joined[0] != names:
            heads = [self.head(name) for name in names]
            weight = torch.cat([head.weight.detach() for head in heads])
            self._joined = names, weight, torch.cat([head.bias.detach() for head in heads])
        return self._joined[1:]

    def token_ids(self, name: str) -> tuple[int, ...]:
        """The ids of the tokens that the adapter added, behind those of the backbone."""
        self._record(name)
        tokens = self._tokens_of(name)
        return () if tokens is None else tuple(tokens.first_id + i for i in range(len(tokens.read)))

    # -- weights --------------------------------------------------------------------------------

    def parameters_of(self, name: str) -> dict[str, nn.Parameter]:
        """The trainable parameters, ``head.weight`` and ``head.bias`` last; none if frozen."""
        if not self._record(name).live:
            return {}
        found = self.adapters.parameters_of(name)
        if (tokens := self._tokens_of(name)) is not None:
            found |= {f"tokens.{key}": p for key, p in tokens.named_parameters()}
        if self.has_head(name):
            found |= {f"head.{key}": p for key, p in self.head(name).named_parameters()}
        return found

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A copy of all weights of the adapter and its head, named as in ``parameters_of``."""
        return {
            key: tensor.clone(memory_format=torch.contiguous_format)
            for key, tensor in self._storage(name).items()
        }

    def stacked(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The down-projections of frozen LoRA or bottleneck adapters, stacked along the rank:
        ``path.A`` -> (n * r, d). Raises ConfigError for other kinds, unknown and live adapters."""
        if not isinstance(self.adapters, LowRank):
            raise ConfigError(
                f"adapters of kind '{self.settings()['kind']}' have no down-projections to stack; "
                "allowed: lora, bottleneck"
            )
        for name in names:
            if self._fetch(name).live:
                raise ConfigError(f"adapter '{name}' is in training; freeze it to stack it")
        return self.adapters.stacked(names)

    def load_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the weights of an adapter, live or frozen, with what ``tensors`` returned.

        Raises CheckpointError, before anything is changed, where names or shapes do not fit.
        """
        self._fill(name, tensors)
        record = self._record(name)
        record.saved, record.digest = False, None

    def _fill(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self._joined = None
        own = self._storage(name)
        shapes = {key: tuple(tensor.shape) for key, tensor in own.items()}
        check_shapes(tensors, shapes, what=f"adapter '{name}'")
        for key, tensor in own.items():
            tensor.copy_(tensors[key])

    def fingerprint(self, name: str) -> str:
        """sha256 over the kind's settings and all weights of the adapter and its head.

        That of a frozen adapter is computed once: it is the key of every cache and asked for often.
        """
        record = self._record(name)
        n_classes = self.n_classes(name)
        if record.digest is not None and record.digest[0] == n_classes:
            return record.digest[1]
        digest = fingerprint(self.settings(), self._storage(name))
        if not record.live:
            record.digest = (n_classes, digest)
        return digest

    def count(self, name: str) -> tuple[int, int]:
        """Parameters of the adapter and of its head; works on the meta device too."""
        sizes = {key: tensor.numel() for key, tensor in self._storage(name).items()}
        head = sum(size for key, size in sizes.items() if key.startswith("head."))
        return sum(sizes.values()) - head, head

    # -- the forward pass -----------------------------------------------------------------------

    @contextmanager
    def routed(self, routing: Routing) -> Iterator[SoftPrompt | None]:
        """While it is open, the backbone's forward adds the adapters, weighted as ``routing`` says.

        Row b of the routing belongs to row b of the batch. Gradients reach the live adapters, the
        routing weights where they carry one, and the input. Soft prompts are part of the input:
        what is given is to be handed to the backbone, and is None for other kinds of adapter.

            with pool.routed(routing) as soft_prompt:
                hidden = backbone(input_ids, attention_mask, soft_prompt)

        Raises RoutingError: unknown adapter; ``expand``; ``concat`` of what is no soft prompt;
        already routed; several adapters with tokens of their own, whose ids are the same; and, in
        the forward, a batch whose size is not the number of rows.
        """
        for name in routing.names:
            if name not in self._records:
                self._record(name, RoutingError)
        self._fetch_used(routing)
        speaking = []
        if len(self._tokens):
            speaking = [name for name in routing.names if self._tokens_of(name) is not None]
        if len(speaking) > 1:
            raise RoutingError(
                f"adapters {', '.join(speaking)} have tokens of their own with the same ids; route "
                "to one of them alone"
            )
        if routing.combine == "expand":
            raise RoutingError(
                "the pool computes routings of combine 'mix' and 'concat', not 'expand'; repeat "
                "each example for each of its adapters and give one-hot rows"
            )
        if routing.combine == "concat" and not isinstance(self.adapters, Prompt):
            raise RoutingError(
                f"routing combine is 'concat', and the adapters are of kind "
                f"'{self.settings()['kind']}': only soft prompts can stand behind one another; use "
                "combine 'mix', or a pool of kind 'prompt'"
            )
        if self._routing:
            raise RoutingError(
                "the pool is routed already; close the outer routing first and name all adapters "
                "of a pass in one routing"
            )
        self._routing = True
        try:
            with ExitStack() as parts:
                soft_prompt = parts.enter_context(self.adapters.routed(routing))
                for name in speaking:  # their logits stand behind what an adapter makes of the head
                    parts.enter_context(self._opened_tokens(name))
                yield soft_prompt
        finally:
            self._routing = False

    # -- inside ---------------------------------------------------------------------------------

    def _record(self, name: str, error: type[Exception] = ConfigError) -> _Record:
        if name not in self._records:
            raise error(
                f"the pool has no adapter '{name}'.{did_you_mean(name, self._records)} "
                f"It holds: {', '.join(self._records) or 'none'}"
            )
        return self._records[name]

    def _fetch_used(self, routing: Routing) -> None:
        """Read the adapters that the forward pass will ask for."""
        if not self._unread:
            return
        unread = [i for i, name in enumerate(routing.names) if name in self._unread]
        if unread and (not routing.weights.requires_grad or routing.top is not None):
            used = (routing.weights.detach()[:, unread] != 0).any(dim=0).tolist()
            unread = [i for i, is_used in zip(unread, used, strict=True) if is_used]
        for i in unread:
            self._fetch(routing.names[i])

    def _storage(self, name: str) -> dict[str, Tensor]:
        self._fetch(name)
        found = self.adapters.storage(name)
        if (tokens := self._tokens_of(name)) is not None:
            found |= {f"tokens.{key}": p.detach() for key, p in tokens.named_parameters()}
        if self.has_head(name):
            found |= {f"head.{key}": p.detach() for key, p in self.head(name).named_parameters()}
        return found

    def _parts_require_grad(self, name: str, live: bool) -> None:
        for parts in (self._heads, self._tokens):
            if _key(name) in parts:
                parts[_key(name)].requires_grad_(live)

    def _opened_tokens(self, name: str) -> AbstractContextManager[None]:
        tokens = self._tokens_of(name)
        assert tokens is not None
        return tokens.opened()

    def _tokens_of(self, name: str) -> AddedTokens | None:
        if _key(name) not in self._tokens:
            return None
        tokens = self._tokens[_key(name)]
        assert isinstance(tokens, AddedTokens)
        return tokens

    def _device(self) -> torch.device:
        return next(self.backbone.model.parameters()).device


def _key(name: str) -> str:
    """A submodule name: no dots, and never the name of a method."""
    return "head:" + name.replace(".", "/")
