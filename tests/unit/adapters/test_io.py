"""Adapters on disk: exact round trips, atomic writing, and clear refusals."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conpet.adapters import io
from conpet.adapters.io import load_adapter, save_adapter
from conpet.adapters.pool import Pool
from conpet.errors import CheckpointError, ConfigError

Fill = Callable[..., Pool]


@pytest.fixture
def saved(backbone: Any, filled: Fill, tmp_path: Path) -> tuple[Pool, Path]:
    pool = filled(Pool(backbone, rank=3), "people", n_classes=2)
    save_adapter(pool, "people", tmp_path / "01-people", ["x", "ü"])
    return pool, tmp_path / "01-people"


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 3, "alpha": 0.5},
        {"kind": "bottleneck", "size": 3},
        {"kind": "prompt", "length": 3},
        {"kind": "prefix", "length": 3},
        {"kind": "full"},
    ],
)
@pytest.mark.parametrize("n_classes", [0, 2])
def test_round_trip_is_exact(
    backbone: Any, filled: Fill, tmp_path: Path, options: dict[str, Any], n_classes: int
) -> None:
    pool = filled(Pool(backbone, **options), "a", n_classes=n_classes)
    save_adapter(pool, "a", tmp_path / "a", ["x", "y"][:n_classes])
    digest = pool.fingerprint("a")
    pool.remove("a")
    card = load_adapter(pool, "b", tmp_path / "a", role="selector")
    assert pool.fingerprint("b") == digest and not pool.is_live("b")
    assert pool.role("b") == "selector" and pool.has_head("b") == bool(n_classes)
    assert (card.task, card.role) == ("a", "task")
    assert card.labels == ("x", "y")[:n_classes]


def test_the_folder_is_open_formats_only(saved: tuple[Pool, Path]) -> None:
    _, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "head.safetensors",
        "labels.json",
    ]
    card = json.loads((folder / "labels.json").read_text("utf-8"))
    assert card["labels"] == ["x", "ü"] and card["backbone"]["name"] == "tiny-bert"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 3)
    assert config["inference_mode"] and config["target_modules"] == ["query", "value"]


def test_other_kinds_do_not_pretend_to_be_peft(backbone: Any, filled: Fill, tmp_path: Path) -> None:
    pool = filled(Pool(backbone, kind="bottleneck", size=3, placement="pfeiffer"), "a")
    save_adapter(pool, "a", tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config == {
        "peft_type": "BOTTLENECK",
        "library": "conpet",
        "kind": "bottleneck",
        "size": 3,
        "placement": "pfeiffer",
        "activation": "relu",
    }


def _damage(name: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return cut


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _flip(folder: Path) -> None:
    data = bytearray((folder / io.WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / io.WEIGHTS).write_bytes(bytes(data))


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / io.WEIGHTS)
        change(tensors)
        save_file(tensors, folder / io.WEIGHTS)

    return apply


def _json(file: str, **values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **values}))

    return apply


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, "cannot be read"),
        (_damage(io.WEIGHTS), "cannot be read"),
        (_damage(io.CONFIG), "cannot be read"),
        (_damage(io.HEAD), "cannot be read"),
        (_damage(io.LABELS), "cannot be read"),
        (_remove(io.WEIGHTS), "cannot be read"),
        (_remove(io.CONFIG), "cannot be read"),
        (_remove(io.LABELS), "half-written"),
        (_remove(io.HEAD), "damaged"),
        (_flip, "weights are not those that were saved"),
        (lambda folder: (folder / io.LABELS).write_text("[]"), "no JSON object"),
        (lambda folder: (folder / io.LABELS).write_text('{"version": 1}'), "lacks 'backbone'"),
        (_json(io.LABELS, version=2), "reads version 1"),
        (_tensors(lambda t: t.pop(next(iter(t)))), "1 tensors are missing"),
        (_tensors(lambda t: t.update(more=torch.ones(1))), "not known .first: 'more'"),
        (_tensors(lambda t: t.update({k: v[:2] for k, v in t.items()})), "has shape"),
        (_json(io.CONFIG, r=4), "make the pool with rank=4"),
        (_json(io.CONFIG, lora_alpha=6), "alpha=6"),
        (_json(io.CONFIG, peft_type="BOTTLENECK"), "kind 'bottleneck'"),
        (_json(io.CONFIG, use_dora=True), "use_dora = True"),
        (_json(io.CONFIG, rank_pattern={"query": 2}), "rank_pattern"),
        (_json(io.CONFIG, init_lora_weights="pissa"), "pissa"),
    ],
)
def test_damaged_and_foreign_folders_are_refused_and_the_pool_is_unchanged(
    saved: tuple[Pool, Path], harm: Callable[[Path], None], message: str
) -> None:
    pool, folder = saved
    harm(folder)
    digest = pool.fingerprint("people")
    with pytest.raises(CheckpointError, match=message):
        load_adapter(pool, "again", folder)
    assert pool.names == ("people",) and pool.fingerprint("people") == digest


def test_another_backbone_or_other_targets_are_refused(
    backbone: Any, saved: tuple[Pool, Path]
) -> None:
    _, folder = saved
    for options, message in (
        ({"rank": 3, "targets": ["key"]}, "other target modules"),
        ({"rank": 3, "targets": ["query", "key", "value"]}, "4 tensors are missing"),
        ({"kind": "bottleneck"}, "make the pool with kind='lora'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_adapter(Pool(backbone, **options), "a", folder)
    backbone.fingerprint = "another"
    with pytest.raises(CheckpointError, match="learned on backbone 'tiny-bert'"):
        load_adapter(Pool(backbone, rank=3), "a", folder)


def test_taken_names_and_wrong_labels_are_refused(saved: tuple[Pool, Path]) -> None:
    pool, folder = saved
    with pytest.raises(ConfigError, match="already"):
        load_adapter(pool, "people", folder)
    with pytest.raises(ConfigError, match="head of 2 classes, but 3 labels"):
        save_adapter(pool, "people", folder, ["x", "y", "z"])


@pytest.mark.parametrize("moment", ["save_file", "write_json", "fsync", "rename"])
def test_a_failed_write_leaves_the_old_folder_whole(
    saved: tuple[Pool, Path], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    pool, folder = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    pool.head("people").grow(1, seed=0)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    if moment == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif moment == "rename":
        real = Path.rename

        def rename(self: Path, target: Path) -> Path:
            return full() if self.suffix == ".new" else real(self, target)  # type: ignore[func-returns-value,return-value]

        monkeypatch.setattr(Path, "rename", rename)
    else:
        monkeypatch.setattr(io, moment, full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_adapter(pool, "people", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_saving_again_replaces_the_folder(saved: tuple[Pool, Path]) -> None:
    pool, folder = saved
    pool.head("people").grow(1, seed=0)
    save_adapter(pool, "people", folder, ["x", "y", "z"])
    assert load_adapter(pool, "again", folder).labels == ("x", "y", "z")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_place_that_cannot_hold_a_folder(saved: tuple[Pool, Path], tmp_path: Path) -> None:
    pool, _ = saved
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="choose a folder that can be written"):
        save_adapter(pool, "people", tmp_path / "file" / "01-people")
