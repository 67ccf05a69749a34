"""LoRA, soft prompts and prefixes in the words of peft: its configuration file and its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conpet.errors import CheckpointError

if TYPE_CHECKING:
    from peft import PeftConfig

PREFIX = "base_model.model."
SUFFIXES = {".A": ".lora_A.weight", ".B": ".lora_B.weight"}

# Fields that do not change what a trained adapter computes, or that are checked by themselves:
# the adapted modules show in the tensors' names.
UNCHECKED = frozenset(
    [
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    ]
)


PROMPT_TUNING = "PROMPT_TUNING"
PROMPT_NAMES = {"prompt": "prompt_embeddings"}
PREFIX_TUNING, PREFIX_NAME = "PREFIX_TUNING", "prompt_embeddings"


def to_peft(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``PATH.A`` -> ``base_model.model.PATH.lora_A.weight``, and B alike."""
    return {PREFIX + key[:-2] + SUFFIXES[key[-2:]]: tensor for key, tensor in tensors.items()}


def from_peft(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of ``to_peft``; a name of another form stays, and is refused as unknown later."""
    found = {}
    for key, tensor in tensors.items():
        for short, long in SUFFIXES.items():
            if key.startswith(PREFIX) and key.endswith(long):
                key = key.removeprefix(PREFIX).removesuffix(long) + short
                break
        found[key] = tensor
    return found


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """``tensors`` by new names where ``names`` has one."""
    return {names.get(key, key): tensor for key, tensor in tensors.items()}


def lora_config(
    model: nn.Module, paths: Sequence[str], *, rank: int, alpha: float, backbone: str
) -> dict[str, Any]:
    """The ``adapter_config.json`` with which peft adapts exactly ``paths`` of ``model``."""
    from peft import LoraConfig

    config = LoraConfig(
        r=rank,
        lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,  # type: ignore[arg-type]
        target_modules=target_modules(model, paths),
        base_model_name_or_path=backbone,
        inference_mode=True,
    )
    fields = _fields(config)
    fields["target_modules"] = sorted(fields["target_modules"])
    return fields


def _fields(config: PeftConfig) -> dict[str, Any]:
    return dict(config.to_dict())


def target_modules(model: nn.Module, paths: Sequence[str]) -> list[str]:
    """Last names where they match nothing else in ``model`` (as peft does), else whole paths.

    The last names of a T5 encoder, for one, would match its decoder too.
    """
    names = sorted({path.rpartition(".")[2] for path in paths})
    matched = {path for path, _ in model.named_modules() if path.rpartition(".")[2] in names}
    return names if matched == set(paths) else sorted(paths)


def check_lora_config(config: Mapping[str, Any], *, rank: int, alpha: float, where: str) -> None:
    """CheckpointError unless ``config`` is plain LoRA of this rank and alpha."""
    from peft import LoraConfig

    for key, given, wanted in (
        ("r", config.get("r"), rank),
        ("lora_alpha", config.get("lora_alpha"), alpha),
    ):
        if given != wanted:
            raise CheckpointError(
                f"{where} has {key} = {given}, but this pool has {wanted}; make the pool with "
                f"rank={config.get('r')} and alpha={config.get('lora_alpha')}"
            )
    plain = _fields(LoraConfig())
    for key, value in config.items():
        if key not in UNCHECKED and value and value != plain.get(key):
            raise CheckpointError(
                f"{where} has {key} = {value!r}, a variant of LoRA that the pool does not compute; "
                "allowed is plain LoRA; train it again without the variant"
            )
    if config.get("init_lora_weights", True) not in (True, False, "gaussian", "orthogonal"):
        raise CheckpointError(
            f"{where} was made with init_lora_weights = {config['init_lora_weights']!r}, which "
            "changes the backbone's weights; convert it to plain LoRA with peft first"
        )


def prompt_config(model: Any, *, length: int, width: int, backbone: str) -> dict[str, Any]:
    """The ``adapter_config.json`` with which peft puts ``length`` embeddings before a text.

    Of an encoder-decoder they stand before the text that the encoder reads.
    """
    from peft import PromptTuningConfig

    return _fields(
        PromptTuningConfig(
            task_type=_task_type(model),
            num_virtual_tokens=length,
            token_dim=width,
            num_transformer_submodules=1,
            base_model_name_or_path=backbone,
            inference_mode=True,
        )
    )


def _task_type(model: Any) -> Any:
    """What peft calls the use of a model."""
    from peft import TaskType

    if not model.can_generate():
        return TaskType.FEATURE_EXTRACTION
    return TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM


def is_pair(model: Any) -> bool:
    """Whether peft takes a model for an encoder and a decoder, of which the decoder has prefixes.

    It then reads four tensors a layer, keys and values of self-attention and of cross-attention,
    from a table that holds two a layer, twice behind one another: layer i takes the pairs 2 i and
    2 i + 1 of L, counted round, and what it takes for the cross-attention is dropped. Half of the
    table has then no part in anything, and layers share what is left. A table that is said to be of
    2 L layers, whose odd pairs are filled with zeros, gives every layer its own.
    """
    return bool(model.can_generate() and model.config.is_encoder_decoder)


def prefix_to_peft(prefix: Tensor, *, n_layers: int, pair: bool) -> Tensor:
    """(m, 2 L d) -> (m, 2 L d), or (m, 4 L d) of a pair."""
    if not pair:
        return prefix
    m = len(prefix)
    own = prefix.view(m, n_layers, -1)
    return torch.stack([own, torch.zeros_like(own)], dim=2).reshape(m, -1)


def prefix_from_peft(table: Tensor, *, n_layers: int, width: int, pair: bool) -> Tensor:
    """The reverse, for a table of any number of layers; one that does not fit stays as it is."""
    m = len(table)
    if not pair or table.dim() != 2 or table.shape[1] % (2 * width):
        return table
    pairs = table.view(m, -1, 2 * width)
    taken = [2 * i % pairs.shape[1] for i in range(n_layers)]
    return pairs[:, taken].reshape(m, -1).contiguous()


def prefix_config(
    model: Any, *, length: int, width: int, heads: int, n_layers: int, backbone: str
) -> dict[str, Any]:
    """The ``adapter_config.json`` with which peft puts ``length`` keys and values of this width
    into the cache of every layer."""
    from peft import PrefixTuningConfig

    pair = is_pair(model)
    return _fields(
        PrefixTuningConfig(
            task_type=_task_type(model),
            num_virtual_tokens=length,
            token_dim=width,
            num_attention_heads=heads,
            num_layers=2 * n_layers if pair else n_layers,
            num_transformer_submodules=2 if pair else 1,
            base_model_name_or_path=backbone,
            inference_mode=True,
        )
    )


def check_prefix_config(config: Mapping[str, Any], *, length: int, pair: bool, where: str) -> None:
    """CheckpointError unless ``config`` is a prefix of this length, in the same place."""
    given = config.get("num_virtual_tokens")
    if given != length:
        raise CheckpointError(
            f"{where} holds a prefix of {given} positions, but those of this pool have {length}; "
            f"make the pool with length={given}"
        )
    submodules, wanted = config.get("num_transformer_submodules"), 2 if pair else 1
    if submodules != wanted:
        raise CheckpointError(
            f"{where} has num_transformer_submodules = {submodules}; allowed with this backbone is "
            f"{wanted}. Load a backbone that {'reads alone' if pair else 'writes answers'}, as the "
            "one was that the prefix was made for, or train it again"
        )


def check_prompt_config(config: Mapping[str, Any], *, length: int, where: str) -> None:
    """CheckpointError unless ``config`` is a soft prompt of this length, before one text."""
    given = config.get("num_virtual_tokens")
    if given != length:
        raise CheckpointError(
            f"{where} holds a soft prompt of {given} embeddings, but those of this pool have "
            f"{length}; make the pool with length={given}"
        )
    submodules = config.get("num_transformer_submodules")
    if submodules != 1:
        raise CheckpointError(
            f"{where} has num_transformer_submodules = {submodules}; allowed is 1: one soft "
            "prompt, before the text (of an encoder-decoder, the text that its encoder reads). "
            "Train it again with num_transformer_submodules=1"
        )
