"""L2P: choices by instance, a bounded pool, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conpet import fit
from conpet.config import load_config
from conpet.errors import ConfigError
from conpet.methods.base import PhaseSpec, State
from conpet.methods.l2p import L2P, keys
from conpet.testing import synthetic_stream, teach, tiny_state

STREAM = synthetic_stream(n_tasks=3)
METHOD = L2P(pool=6, top_n=2)


def learned(n: int, method: L2P = METHOD, lr: float = 1e-2) -> State:
    state = tiny_state(spec=PhaseSpec(epochs=2, batch_size=4, lr=lr), kind="prompt", length=3)
    teach(state, method, *STREAM.tasks[:n])
    return state


@torch.no_grad()
def test_an_answer_does_not_depend_on_its_batch() -> None:
    state = learned(3)
    batch = state.batch(state.task.test).without_answers()
    together = METHOD.route(state, batch)
    scores = METHOD.scores(state, batch, together)
    assert len({tuple(row) for row in together.weights.tolist()}) > 1, "rows choose differently"
    for b in range(len(batch)):
        one = batch.select(torch.tensor([b]))
        alone = METHOD.route(state, one)
        assert torch.equal(alone.weights[0], together.weights[b])
        found = METHOD.scores(state, one, alone)[0]
        torch.testing.assert_close(found, scores[b], rtol=0, atol=1e-5)


def test_the_pool_does_not_grow() -> None:
    state = learned(1)
    sizes = [sum(sum(state.pool.count(name)) for name in state.pool.names)]
    teach(state, METHOD, STREAM.tasks[1])
    assert state.pool.names == METHOD.names
    sizes.append(sum(sum(state.pool.count(name)) for name in state.pool.names))
    assert sizes[1] - sizes[0] == 2 * (32 + 1), "two rows of the head"
    assert not state.buffers and list(state.modules) == ["keys"]


def test_keys_come_nearer_to_what_chooses_them() -> None:
    state = learned(1, lr=5e-2)
    fresh = METHOD.modules(state)["keys"]
    rows = state.task.train
    query = torch.from_numpy(state.features(rows, how="mean"))
    with torch.no_grad():
        before = fresh(query).topk(2, dim=1).values.mean()
        after = keys(state)(query).topk(2, dim=1).values.mean()
    assert after > before + 0.05


@torch.no_grad()
def test_answers_are_among_all_classes_seen() -> None:
    state = learned(3)
    batch = state.batch(state.history[0].test).without_answers()
    scores = METHOD.scores(state, batch, METHOD.route(state, batch))
    assert scores.shape == (len(batch), 6) and float(scores.min()) > -100, "none is masked"


def test_masked_classes_keep_their_rows() -> None:
    """No gradient reaches the rows of the head that stand for old classes."""
    for old_classes, kept in (("masked", True), ("seen", False)):
        method = L2P(pool=6, top_n=2, old_classes=old_classes)  # type: ignore[arg-type]
        state = learned(1, method)
        state.spec = PhaseSpec(epochs=1, batch_size=4, lr=1e-2, weight_decay=0.0)
        before = state.pool.tensors(method.names[0])["head.weight"]
        teach(state, method, STREAM.tasks[1])
        after = state.pool.tensors(method.names[0])["head.weight"]
        assert torch.equal(after[:2], before) == kept


def test_a_pool_that_is_smaller_than_what_is_chosen_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"top_n is 5, and the pool has 3 prompts; lower it to 3"):
        load_config(None, ["method.pool=3"], method="l2p", stream="banking77")


def test_prompts_that_leave_no_room_are_refused(tmp_path: Path) -> None:
    how: dict[str, Any] = {"method": "l2p", "backbone": "tiny-bert", "adapter__length": 100}
    with pytest.raises(ConfigError, match=r"100 in each of 5 soft prompts, which leaves 12 of the"):
        fit(STREAM, out=tmp_path / "a", **how)


def test_other_adapters_are_refused() -> None:
    with pytest.raises(ConfigError, match="its pool holds soft prompts.*allowed: prompt"):
        load_config(None, ["adapter.kind=lora"], method="l2p", stream="banking77")
