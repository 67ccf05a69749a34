"""An adapter as a folder.

    adapter_model.safetensors   the weights (LoRA, soft prompts, prefixes: peft's names)
    adapter_config.json         LoRA, soft prompts before the text, prefixes: peft's own, so that
                                peft and what builds on it can load the folder; other kinds:
                                conpet's, which peft does not know
    head.safetensors            weight (C, d) and bias (C,), where the adapter has a head
    labels.json                 labels, task, role, backbone and fingerprints; absent in a folder
                                that peft made

A folder is written beside its place, synced to the disk and renamed: it is there whole or not at
all. No pickle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from conpet.adapters.files import new_folder, read_json, read_tensors, write_json
from conpet.adapters.peft_format import (
    PREFIX_NAME,
    PREFIX_TUNING,
    PROMPT_NAMES,
    PROMPT_TUNING,
    check_lora_config,
    check_prefix_config,
    check_prompt_config,
    from_peft,
    is_pair,
    lora_config,
    prefix_config,
    prefix_from_peft,
    prefix_to_peft,
    prompt_config,
    renamed,
    to_peft,
)
from conpet.adapters.pool import Pool
from conpet.adapters.prefix import Prefix
from conpet.adapters.weights import check_shapes, fingerprint
from conpet.errors import CheckpointError, ConfigError

VERSION = 1
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
HEAD, LABELS = "head.safetensors", "labels.json"
_HEAD_KEYS = ("head.weight", "head.bias")


@dataclass(frozen=True)
class AdapterCard:
    """What ``labels.json`` says about an adapter.

    Attributes:
        labels: the classes of the head's rows, in order.
        task: the adapter's name when it was saved.
        role: ``task``, ``selector``, ...
    """

    labels: tuple[str, ...] = ()
    task: str = ""
    role: str = "task"


def save_adapter(
    pool: Pool,
    name: str,
    folder: Path,
    labels: Sequence[str] = (),
) -> None:
    """Write adapter ``name`` and its head as ``folder``, in place of what was there.

    Raises CheckpointError where the folder cannot be written; an older one is then still whole.
    Raises ConfigError for a live adapter that has weights for its training alone.
    """
    tensors = {key: tensor.cpu().contiguous() for key, tensor in pool.tensors(name).items()}
    head = _head_of(tensors)
    if head and labels and len(labels) != len(head["bias"]):
        raise ConfigError(
            f"adapter '{name}' has a head of {len(head['bias'])} classes, but {len(labels)} labels "
            "were given; give one label per row of the head"
        )
    if pool.adapters.storage(name).keys() != pool.adapters.expected_shapes().keys():
        raise ConfigError(
            f"adapter '{name}' is in training and re-parameterised, which no file holds; freeze it "
            "first, then save it"
        )
    card = {
        "version": VERSION,
        "task": name,
        "role": pool.role(name),
        "labels": list(labels),
        "backbone": {"name": pool.backbone.name, "fingerprint": pool.backbone.fingerprint},
        "fingerprint": pool.fingerprint(name),
    }
    try:
        with new_folder(Path(folder)) as new:
            _write_weights(pool, new, {k: t for k, t in tensors.items() if k not in _HEAD_KEYS})
            if head:
                save_file(head, new / HEAD)
            write_json(new / LABELS, card)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"adapter '{name}' cannot be written to {folder}: {error}. Nothing was changed there; "
            "free space or choose a folder that can be written, then save again"
        ) from error


def load_adapter(pool: Pool, name: str, folder: Path, role: str | None = None) -> AdapterCard:
    """Add the adapter in ``folder`` to the pool as ``name``, frozen, with its head.

    Folders of ``save_adapter`` are read, and those of peft with LoRA, a soft prompt or a prefix.
    ``role`` overrides the card's.
    Raises CheckpointError where the folder is damaged, half-written or does not fit the pool and
    its backbone, ConfigError where the name is taken; the pool is then as it was.
    """
    tensors, card = read_adapter(pool, folder)
    n_classes = len(tensors["head.bias"]) if "head.bias" in tensors else 0
    pool.add(name, seed=0, n_classes=n_classes, role=role or card.role)
    pool.freeze(name)
    pool.load_tensors(name, tensors)
    return card


def read_adapter(pool: Pool, folder: Path) -> tuple[dict[str, Tensor], AdapterCard]:
    """The weights in ``folder``, those of the head among them, and its card; checked against the
    pool, which stays as it is. See ``load_adapter``."""
    folder = Path(folder)
    tensors = _read_weights(pool, folder)
    card = read_json(folder / LABELS) if (folder / LABELS).exists() else None
    if (folder / HEAD).exists():
        tensors |= {f"head.{key}": t for key, t in read_tensors(folder / HEAD).items()}
    _check_fit(pool, tensors, folder)
    if card is not None:
        _check_card(pool, card, tensors, folder)
    elif _head_of(tensors):
        raise CheckpointError(
            f"{folder} has a head but no {LABELS}: the folder is half-written; restore it or learn "
            "the task again"
        )
    return tensors, AdapterCard() if card is None else _card(card)


def expect_adapter(
    pool: Pool, name: str, folder: Path, *, role: str, n_classes: int, fingerprint: str
) -> None:
    """Add what ``save_adapter`` wrote as ``folder``, frozen; it is read when it is first used.

    Raises CheckpointError where the folder is not there now; and at its first use, where it is
    damaged or is not the adapter that has this ``fingerprint``.
    """
    missing = [file for file in (WEIGHTS, CONFIG, LABELS) if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(
            f"adapter file {folder / missing[0]} is not there; restore it from a copy or learn the "
            "task again"
        )

    def read() -> dict[str, Tensor]:
        tensors, _ = read_adapter(pool, folder)
        if read_json(folder / LABELS)["fingerprint"] != fingerprint:
            raise CheckpointError(
                f"{folder} holds another adapter than the run has saved there; restore the folder "
                "from a copy or learn the task again"
            )
        return tensors

    pool.expect(name, role=role, n_classes=n_classes, fingerprint=fingerprint, read=read)


def _head_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("head."): tensors[key] for key in _HEAD_KEYS if key in tensors}


def _write_weights(pool: Pool, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    settings = pool.settings()
    if settings["kind"] == "lora":
        paths = [key.removesuffix(".A") for key in tensors if key.endswith(".A")]
        config = lora_config(
            pool.backbone.model,
            paths,
            rank=settings["rank"],
            alpha=settings["alpha"],
            backbone=pool.backbone.name,
        )
        tensors = to_peft(tensors)
    elif settings["kind"] == "prompt" and "position" not in settings:
        length, width = tensors["prompt"].shape
        config = prompt_config(
            pool.backbone.model, length=length, width=width, backbone=pool.backbone.name
        )
        tensors = renamed(tensors, PROMPT_NAMES)
    elif isinstance(pool.adapters, Prefix):
        model, sizes = pool.backbone.model, pool.adapters.sizes
        config = prefix_config(model, **sizes, backbone=pool.backbone.name)
        n_layers = sizes["n_layers"]
        table = prefix_to_peft(tensors["prefix"], n_layers=n_layers, pair=is_pair(model))
        tensors = {PREFIX_NAME: table}
    else:
        config = {"peft_type": settings["kind"].upper(), "library": "conpet", **settings}
    save_file(dict(tensors), folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, config)


def _read_weights(pool: Pool, folder: Path) -> dict[str, Tensor]:
    settings = pool.settings()
    config = read_json(folder / CONFIG)
    given = str(config.get("peft_type", ""))
    kind = {PROMPT_TUNING: "prompt", PREFIX_TUNING: "prefix"}.get(given, given.lower())
    if kind != settings["kind"]:
        raise CheckpointError(
            f"{folder} holds an adapter of kind '{kind}', but this pool is of kind "
            f"'{settings['kind']}'; make the pool with kind='{kind}'"
        )
    tensors = read_tensors(folder / WEIGHTS)
    if kind == "lora":
        check_lora_config(config, rank=settings["rank"], alpha=settings["alpha"], where=str(folder))
        return {key: tensor.float() for key, tensor in from_peft(tensors).items()}
    if given == PROMPT_TUNING:
        if "position" in settings:
            raise CheckpointError(
                f"{folder} holds a soft prompt that stands before the text, and those of this pool "
                "stand after it; make the pool with position=before"
            )
        check_prompt_config(config, length=settings["length"], where=str(folder))
        own = renamed(tensors, {long: short for short, long in PROMPT_NAMES.items()})
        return {key: tensor.float() for key, tensor in own.items()}
    if isinstance(pool.adapters, Prefix):
        sizes, pair = pool.adapters.sizes, is_pair(pool.backbone.model)
        check_prefix_config(config, length=sizes["length"], pair=pair, where=str(folder))
        if PREFIX_NAME in tensors:
            table = tensors.pop(PREFIX_NAME).float()
            tensors["prefix"] = prefix_from_peft(
                table, n_layers=sizes["n_layers"], width=sizes["width"], pair=pair
            )
        return tensors
    plain = {"position": "before"} if kind == "prompt" else {}
    for key, wanted in (plain | settings).items():
        if config.get(key) != wanted:
            raise CheckpointError(
                f"{folder} has {key} = {config.get(key)!r}, but this pool has {wanted!r}; make the "
                f"pool with {key}={config.get(key)!r}"
            )
    return tensors


def _check_fit(pool: Pool, tensors: Mapping[str, Tensor], folder: Path) -> None:
    expected = pool.adapters.expected_shapes()
    head = _head_of(tensors)
    if head:
        n_classes = len(next(iter(head.values())))
        expected |= {
            "head.weight": (n_classes, pool.backbone.hidden_size),
            "head.bias": (n_classes,),
        }
    check_shapes(tensors, expected, what=f"the adapter in {folder}")


def _check_card(
    pool: Pool, card: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path
) -> None:
    if card.get("version") != VERSION:
        raise CheckpointError(
            f"{folder / LABELS} has format version {card.get('version')}; this conpet reads "
            f"version {VERSION}. Use the conpet that made it"
        )
    try:
        backbone, given = card["backbone"], card["fingerprint"]
        if backbone["fingerprint"] != pool.backbone.fingerprint:
            raise CheckpointError(
                f"the adapter in {folder} was learned on backbone '{backbone['name']}' "
                f"({backbone['fingerprint'][:12]}), but this one is '{pool.backbone.name}' "
                f"({pool.backbone.fingerprint[:12]}); load the backbone that it was learned on"
            )
        if fingerprint(pool.settings(), tensors) != given:
            raise CheckpointError(
                f"the adapter in {folder} is damaged: its weights are not those that were saved; "
                "restore the folder from a copy or learn the task again"
            )
        _card(card)
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / LABELS} lacks {error}: the file is damaged; restore the folder from a copy "
            "or learn the task again"
        ) from error


def _card(card: Mapping[str, Any]) -> AdapterCard:
    return AdapterCard(tuple(card["labels"]), card["task"], card["role"])
