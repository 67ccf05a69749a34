"""The contract of a backbone: a frozen model, its hidden states, and the places where adapters go.

Shapes: B batch, S sequence, d hidden.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from conpet.backbones.prompted import Prompted, prompted
from conpet.errors import ConfigError, RoutingError, did_you_mean
from conpet.types import SoftPrompt

Kind = Literal["encoder", "decoder", "encoder-decoder"]
Placement = Literal["houlsby", "pfeiffer"]


@dataclass(frozen=True)
class Family:
    """Where adapters go in the models of one ``model_type`` of transformers.

    Attributes:
        targets: last names of the projections that LoRA adapts by default.
        attention: ends of the module paths of the output projection of each attention.
        mlp: the same of each MLP; regular expressions, both.
        prefix: the same of each self-attention that can have a prefix; None where none can.
        keys: name in it of the projection that makes its keys.
        positions: ends of the paths of what turns positions into vectors; empty where the attention
            does so by itself.
    """

    targets: tuple[str, ...]
    attention: str
    mlp: str
    prefix: str | None = None
    keys: str = ""
    positions: str = ""


class Backbone(nn.Module, ABC):
    """A frozen transformer in eval mode, for good.

    Args:
        name: what it was loaded by.
        model: the part of a transformers model that makes hidden states.
        tokenizer: the model's own, a fast one.
    """

    kind: ClassVar[Kind]
    families: ClassVar[Mapping[str, Family]]

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__()
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._computes: torch.dtype | None = None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, soft_prompt: SoftPrompt | None = None
    ) -> Tensor:
        """Last hidden states after the final norm, (B, S, d), of ids and mask (B, S).

        A soft prompt stands before the texts or behind them; the states are those of the texts
        alone. RoutingError for one behind them where the model is causal: they would not see it.
        """
        if soft_prompt is None:
            return self._states(input_ids=input_ids, attention_mask=attention_mask)
        if soft_prompt.position == "after" and self.kind == "decoder":
            raise RoutingError(
                f"backbone '{self.name}' is causal: the states of a text never see a soft prompt "
                "behind it; put it before the text (adapter.position=before), or ask for answers "
                "in free text"
            )
        whole = self.with_prompt(soft_prompt, input_ids, attention_mask)
        states = self._states(inputs_embeds=whole.embeddings, attention_mask=whole.mask)
        return whole.text(states, input_ids.shape[1])

    def with_prompt(
        self,
        soft_prompt: SoftPrompt,
        input_ids: Tensor,
        attention_mask: Tensor,
        padding: Literal["left", "right"] = "right",
    ) -> Prompted:
        """What the model reads of a soft prompt and texts, ids and mask (B, S).

        RoutingError where they are longer than what it can read.
        """
        m, length = soft_prompt.embeddings.shape[1], input_ids.shape[1]
        if m + length > self.max_length:
            raise RoutingError(
                f"a soft prompt of {m} embeddings and texts of {length} tokens are together longer "
                f"than the {self.max_length} positions of backbone '{self.name}'; route to fewer "
                "prompts, make them shorter (adapter.length), or cut the texts"
            )
        return prompted(soft_prompt, self.embed(input_ids), attention_mask, padding=padding)

    @abstractmethod
    def _states(self, **inputs: Tensor) -> Tensor:
        """Last hidden states after the final norm, (B, N, d), of what transformers' models take:
        ``attention_mask`` and ``input_ids`` or ``inputs_embeds``."""

    def embed(self, input_ids: Tensor) -> Tensor:
        """The embeddings of tokens, of any shape: (..., d), before positions are added."""
        embeddings: Tensor = self.model.get_input_embeddings()(input_ids)
        return embeddings

    @cached_property
    def ordinary_tokens(self) -> tuple[int, ...]:
        """The ids of the vocabulary, in order, without special tokens and unused places."""
        added = self.tokenizer.added_tokens_decoder
        special = {*self.tokenizer.all_special_ids, *(i for i, t in added.items() if t.special)}
        known = self.tokenizer.get_vocab().items()
        return tuple(
            sorted(i for t, i in known if i not in special and not t.startswith("[unused"))
        )

    def train(self, mode: bool = True) -> Backbone:
        """A frozen backbone has no training mode: its dropout stays off."""
        return self

    def compute_in(self, dtype: torch.dtype) -> None:
        """Keep the projections' weights in the type that autocast computes with.

        Under autocast of that type the results are bitwise the same: it would cast the weights,
        which are frozen and therefore not remembered, in every pass. Outside it the projections no
        longer fit what comes in. A projection that shares its weight with the embeddings gets one
        of its own; quantised ones stay as they are.
        """
        self._computes = dtype
        for projection in self.every_linear().values():
            for name, p in list(projection.named_parameters(recurse=False)):
                if type(p.data) is Tensor and p.dtype == torch.float32:
                    setattr(projection, name, nn.Parameter(p.to(dtype), requires_grad=False))

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def config(self) -> PreTrainedConfig:
        """Of the part that makes hidden states."""
        return self.model.config

    @property
    def hidden_size(self) -> int:
        return int(self.config.hidden_size)

    @property
    def max_length(self) -> int:
        """Most tokens of an input, begin and end included."""
        positions = getattr(self.config, "max_position_embeddings", None)
        return min(self.tokenizer.model_max_length, positions or self.tokenizer.model_max_length)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over configuration and weights, as they are when it is first asked for."""
        config = _described(self.model.config)
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            for part in _plain_tensors(tensor):
                digest.update(part.contiguous().cpu().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, the lowest first; of an encoder-decoder those of its encoder.

        Raises:
            ConfigError: none of its modules is a list of them.
        """
        n = int(self.config.num_hidden_layers)
        for module in self.model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == n:
                return module
        raise ConfigError(
            f"the layers of backbone '{self.name}' (a '{self.config.model_type}' model) were not "
            "found; leave out backbone.layers and adapter.layers"
        )

    def linears(
        self, names: Sequence[str] | None = None, upper: int | None = None
    ) -> dict[str, nn.Linear]:
        """Module path in ``model`` -> projection, for the given last names, in the model's order.

        A name may hold dots to be more exact (``attention.output.dense``). None stands for the
        default of the model's family; ``upper`` takes those of the upper so many layers alone.
        ConfigError for a name that no projection has, and for more layers than there are.
        """
        if names is None:
            names = self._family().targets
        every = self.every_linear()
        missing = [n for n in names if not any(_ends_with(path, n) for path in every)]
        if missing:
            known = _last_names(every)
            raise ConfigError(
                f"backbone '{self.name}' has no linear module called '{missing[0]}'."
                f"{did_you_mean(missing[0], known)} Allowed: {', '.join(known)}"
            )
        found = {path: m for path, m in every.items() if any(_ends_with(path, n) for n in names)}
        return self._upper(found, upper)

    def sublayers(self, placement: Placement, upper: int | None = None) -> dict[str, nn.Linear]:
        """Module path -> output projection of attention and MLP (houlsby), or MLP (pfeiffer)."""
        family = self._family()
        ends = family.mlp if placement == "pfeiffer" else f"{family.attention}|{family.mlp}"
        found = {path: m for path, m in self.every_linear().items() if _has_end(path, ends)}
        return self._upper(found, upper)

    def _upper(self, found: dict[str, nn.Linear], upper: int | None) -> dict[str, nn.Linear]:
        """Those of the upper so many layers, and of what comes behind them (a decoder, a head)."""
        if upper is None:
            return found
        n = len(self.layers)
        if not 1 <= upper <= n:
            raise ConfigError(
                f"adapter.layers is {upper}, and backbone '{self.name}' has {n}; allowed: 1 to "
                f"{n}, or null for all"
            )
        modules = list(self.model.modules())  # registered as they are run
        behind = set(modules[modules.index(self.layers[n - upper]) :])
        return {path: m for path, m in found.items() if m in behind}

    def self_attentions(self) -> dict[nn.Module, int]:
        """The self-attentions that take prefixes, in the order of the layers -> width of their
        keys.

        Raises:
            ConfigError: the attention of the model's family takes none.
        """
        family = self.families.get(self.model.config.model_type)
        if family is None or family.prefix is None:
            able = sorted(name for name, known in self.families.items() if known.prefix)
            raise ConfigError(
                f"backbone '{self.name}' is of the family '{self.model.config.model_type}', whose "
                f"attention takes no prefix; families that can have one: {', '.join(able)}. Or use "
                "adapter.kind=lora, or prompt"
            )
        found = (m for path, m in self.model.named_modules() if _has_end(path, family.prefix))
        return {module: getattr(module, family.keys).out_features for module in found}

    def positions(self) -> list[nn.Module]:
        """What turns the positions of tokens into vectors, for these attentions."""
        ends = self._family().positions
        return [m for path, m in self.model.named_modules() if ends and _has_end(path, ends)]

    def read(self, input_ids: Tensor) -> None:
        """Let each of these attentions read tokens (B, n), with nothing before them."""
        with self.computing():
            self(input_ids, torch.ones_like(input_ids))

    def computing(self) -> AbstractContextManager[None]:
        """The autocast that its weights are kept for; nothing where there is none."""
        if self._computes is None:
            return nullcontext()
        return torch.autocast(self.device.type, self._computes)

    def every_linear(self) -> dict[str, nn.Linear]:
        """Module path in ``model`` -> module."""
        return {path: m for path, m in self.model.named_modules() if isinstance(m, nn.Linear)}

    def _family(self) -> Family:
        model_type = self.model.config.model_type
        if model_type not in self.families:
            raise ConfigError(
                f"backbone '{self.name}' is of the family '{model_type}', for which no place of "
                "adapters is known. Use lora and name its targets: one or more of "
                f"{', '.join(_last_names(self.every_linear()))}"
            )
        return self.families[model_type]


def _described(config: PreTrainedConfig) -> dict[str, Any]:
    """What a configuration, and each that it is made of, says of the computation."""
    facts = config.to_diff_dict()
    for key in ("_name_or_path", "transformers_version", "dtype", "architectures"):
        facts.pop(key, None)
    for key in config.sub_configs:
        part = getattr(config, key, None)
        if isinstance(part, PreTrainedConfig):
            facts[key] = _described(part)
    return facts


def _ends_with(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _has_end(path: str, ends: str) -> bool:
    """Whether the last names of a path are those of a regular expression."""
    return re.fullmatch(rf"(?:.*\.)?(?:{ends})", path) is not None


def _last_names(paths: Iterable[str]) -> list[str]:
    return sorted({path.rpartition(".")[2] for path in paths})


def _plain_tensors(tensor: Any) -> list[Tensor]:
    """A tensor, or the tensors inside one of a quantised type."""
    if type(tensor) in (Tensor, nn.Parameter):
        return [tensor.detach()]
    try:
        names, _ = tensor.__tensor_flatten__()
    except (AttributeError, NotImplementedError):
        return [tensor.detach().as_subclass(Tensor)]
    return [part for name in names for part in _plain_tensors(getattr(tensor, name))]
