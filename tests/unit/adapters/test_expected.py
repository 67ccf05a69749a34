"""Adapters that lie in files until they are used: the same as loaded ones, but for when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conpet.adapters.io import expect_adapter, load_adapter, save_adapter
from conpet.adapters.pool import Pool
from conpet.errors import CheckpointError, ConfigError
from conpet.types import Routing

Fill = Callable[..., Pool]
Pair = tuple[Tensor, Tensor]
NAMES = ("a", "b", "c")


@pytest.fixture
def saved(backbone: Any, filled: Fill, tmp_path: Path) -> Pool:
    pool = filled(Pool(backbone), *NAMES, n_classes=2)
    for name in NAMES:
        pool.freeze(name)
        save_adapter(pool, name, tmp_path / name)
    return pool


@pytest.fixture
def expecting(backbone: Any, saved: Pool, tmp_path: Path) -> Pool:
    pool = Pool(backbone)
    for name in NAMES:
        digest = saved.fingerprint(name)
        expect_adapter(pool, name, tmp_path / name, role="task", n_classes=2, fingerprint=digest)
    return pool


def features(pool: Pool, batch: Pair, routing: Routing) -> Tensor:
    with pool.routed(routing), torch.no_grad():
        hidden: Tensor = pool.backbone(*batch)  # type: ignore[operator]
    return hidden


def test_what_is_known_without_the_weights(saved: Pool, expecting: Pool, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name / "adapter_model.safetensors").unlink()
    assert expecting.names == NAMES and expecting.changed == () and "a" in expecting
    for name in NAMES:
        assert expecting.fingerprint(name) == saved.fingerprint(name)
        assert expecting.n_classes(name) == 2 and expecting.has_head(name)
        assert not expecting.is_live(name) and expecting.parameters_of(name) == {}
        assert expecting.role(name) == "task"
    expecting.remove("b")
    assert expecting.names == ("a", "c") and expecting.in_memory == ()


def test_only_what_a_routing_uses_is_read(saved: Pool, expecting: Pool, batch: Pair) -> None:
    routing = Routing(NAMES, torch.eye(3)[[2, 0, 2, 2]])
    torch.testing.assert_close(
        features(expecting, batch, routing), features(saved, batch, routing), rtol=0, atol=0
    )
    assert expecting.in_memory == ("a", "c")
    assert expecting.changed == (), "the files hold them as they are"


def test_weights_with_gradient_read_all_that_they_name(expecting: Pool, batch: Pair) -> None:
    weights = torch.zeros(4, 3, requires_grad=True)
    with expecting.routed(Routing(NAMES, weights)):
        expecting.backbone(*batch)[..., 0].sum().backward()  # type: ignore[operator]
    assert expecting.in_memory == NAMES
    assert weights.grad is not None and bool((weights.grad != 0).all())


@pytest.mark.parametrize(
    "use",
    [
        lambda pool: pool.tensors("b"),
        lambda pool: pool.head("b"),
        lambda pool: pool.thaw("b"),
        lambda pool: pool.count("b"),
        lambda pool: pool.stacked(["b"]),
    ],
)
def test_other_uses_read_it_too(saved: Pool, expecting: Pool, use: Callable[[Pool], Any]) -> None:
    use(expecting)
    assert expecting.in_memory == ("b",)
    found, wanted = expecting.tensors("b"), saved.tensors("b")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_file_of_another_size_is_refused_again_and_again(
    backbone: Any, saved: Pool, tmp_path: Path
) -> None:
    pool, digest = Pool(backbone), saved.fingerprint("a")
    expect_adapter(pool, "a", tmp_path / "a", role="task", n_classes=3, fingerprint=digest)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="does not fit"):
            pool.tensors("a")
    assert pool.in_memory == ()


def test_a_thawed_one_counts_as_changed(expecting: Pool) -> None:
    expecting.thaw("b")
    assert expecting.is_live("b") and expecting.changed == ("b",)


def test_what_is_not_there_is_said_at_once_and_what_is_damaged_when_it_is_used(
    backbone: Any, saved: Pool, expecting: Pool, batch: Pair, tmp_path: Path
) -> None:
    facts: dict[str, Any] = {"role": "task", "n_classes": 2, "fingerprint": "x"}
    with pytest.raises(CheckpointError, match="not there; restore it"):
        expect_adapter(Pool(backbone), "d", tmp_path / "d", **facts)
    with pytest.raises(ConfigError, match="already"):
        expect_adapter(expecting, "a", tmp_path / "a", **facts)
    with pytest.raises(CheckpointError, match="another adapter than the run has saved"):
        other = Pool(backbone)
        expect_adapter(other, "a", tmp_path / "a", **facts)
        other.head("a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    one = Routing(("a",), torch.ones(4, 1))
    with pytest.raises(CheckpointError, match="cannot be read"):
        features(expecting, batch, one)
    path.write_bytes(whole)  # restored from a copy, it is read
    torch.testing.assert_close(features(expecting, batch, one), features(saved, batch, one))
    loaded = Pool(backbone)
    load_adapter(loaded, "a", tmp_path / "a")
    assert loaded.fingerprint("a") == expecting.fingerprint("a")
