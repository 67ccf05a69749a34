"""LoRA and soft prompts in the words of peft: its configuration file and its tensor names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    from peft import PromptTuningConfig, TaskType

    config = model.config
    task = TaskType.FEATURE_EXTRACTION
    if model.can_generate():
        task = TaskType.SEQ_2_SEQ_LM if config.is_encoder_decoder else TaskType.CAUSAL_LM
    return _fields(
        PromptTuningConfig(
            task_type=task,
            num_virtual_tokens=length,
            token_dim=width,
            num_transformer_submodules=1,
            base_model_name_or_path=backbone,
            inference_mode=True,
        )
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
