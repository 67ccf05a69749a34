"""Runs that keep what the layers below the adapters give: the same results, fewer passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conpet import ContinualModel, fit, load
from conpet.adapters.pool import Pool
from conpet.api.asking import Inputs
from conpet.api.opened import OpenRun
from conpet.errors import ConfigError
from conpet.methods.base import State
from conpet.testing import synthetic_stream
from conpet.testing.instruction import instruction_stream
from conpet.testing.runs import differing, predictions
from conpet.types import Batch, Routing

STREAM = synthetic_stream()
SMALL: dict[str, Any] = {
    "train__epochs": 2,
    "train__batch_size": 4,
    "replay__batch_limit": 5,
    "threads": 1,
    "device": "cpu",
    "precision": "fp32",
    "adapter__layers": 1,
}


def run(out: Path, stream: Any = STREAM, backbone: str = "tiny-bert", **how: Any) -> ContinualModel:
    return fit(stream, out=out, backbone=backbone, **{**SMALL, "method": "conpet-dynamic", **how})


def opened(model: ContinualModel, *, with_data: bool = False) -> OpenRun:
    return load(model.folder.path, device="cpu")._open(with_data=with_data)


def passes(model: ContinualModel) -> list[float]:
    return [task["cost"]["forward_passes"] for task in model.store.tasks]


@pytest.mark.parametrize("backbone", ["tiny-bert", "tiny-t5", "tiny-llama"])
def test_a_run_learns_the_same_with_it_and_without(tmp_path: Path, backbone: str) -> None:
    kept = run(tmp_path / "kept", backbone=backbone)
    plain = run(tmp_path / "plain", backbone=backbone, backbone__keep_trunk=False)
    ours, theirs = opened(kept).state, opened(plain).state
    assert ours.trunk is not None
    assert theirs.trunk is None
    assert {p.suffix for p in kept.folder.trunk.iterdir()} == {".index", ".states"}
    assert not plain.folder.trunk.exists()
    for name in ours.pool.names:
        for key, tensor in ours.pool.tensors(name).items():
            torch.testing.assert_close(
                tensor, theirs.pool.tensors(name)[key], rtol=1e-3, atol=1e-4, msg=f"{name} {key}"
            )
    for stage in range(1, len(STREAM.tasks) + 1):
        one, other = (predictions(model, stage) for model in (kept, plain))
        assert [line["label"] for line in one] == [line["label"] for line in other]
        scores = ([line["score"] for line in lines] for lines in (one, other))
        np.testing.assert_allclose(*scores, atol=1e-4)
    assert all(0.5 * b <= a < 0.8 * b for a, b in zip(passes(kept), passes(plain), strict=True))


def test_with_adapters_in_all_layers_nothing_is_kept(tmp_path: Path) -> None:
    model = run(tmp_path, adapter__layers=2)
    assert opened(model).state.trunk is None
    assert not model.folder.trunk.exists()


def test_an_encoder_decoder_that_writes(tmp_path: Path) -> None:
    stream, how = instruction_stream(2), {"generation__max_new_tokens": 4}
    kept = run(tmp_path / "kept", stream, "tiny-t5", **how)
    plain = run(tmp_path / "plain", stream, "tiny-t5", **how, backbone__keep_trunk=False)
    texts = [e.text for e in stream.tasks[0].test]
    assert kept.predict(texts) == plain.predict(texts)
    assert passes(kept)[0] < passes(plain)[0]
    assert differing(kept, run(tmp_path / "twin", stream, "tiny-t5", **how)) == []


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"adapter__layers": None}, "all of its layers"),
        ({"adapter__layers": 2}, "all of its layers"),
        ({"backbone": "tiny-llama", "stream": instruction_stream(2)}, "decoder that writes"),
    ],
)
def test_it_is_refused_where_it_cannot_be(tmp_path: Path, how: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(tmp_path / "run", **how, backbone__keep_trunk=True)


def test_a_decoder_that_writes_goes_without(tmp_path: Path) -> None:
    model = run(tmp_path, instruction_stream(2), "tiny-llama", generation__max_new_tokens=4)
    assert opened(model).state.trunk is None


def test_an_answer_passes_the_layers_below_once(tmp_path: Path) -> None:
    """Selector and adapter: two passes, of which the lower half is one."""
    model = run(tmp_path)
    state, method = (lambda o: (o.state, o.method))(opened(model))
    batch = asked(state, [e.text for task in STREAM.tasks for e in task.test])
    before = state.passes
    with torch.no_grad():
        method.scores(state, batch, method.route(state, batch))
    distinct = len({tuple(row) for row in batch.input_ids.tolist()})
    assert state.passes - before == len(batch) * 2 * 0.5 + distinct * 0.5


def asked(state: State, texts: list[str]) -> Batch:
    """Inputs in one batch, as they are predicted."""
    return Inputs(state, texts)._batch(np.arange(len(texts)))


def test_a_run_that_is_opened_again_computes_nothing_anew(tmp_path: Path) -> None:
    state = opened(run(tmp_path), with_data=True).state
    rows = np.concatenate([part for task in state.history for part in (task.train, task.test)])
    state.features(rows, state.task_names[0])
    before = state.passes
    state.features(rows, state.task_names[1])
    assert state.passes - before == len(rows) / 2


def test_an_adapter_with_tokens_of_its_own_goes_through_all_layers(tmp_path: Path) -> None:
    model = run(tmp_path)
    state = opened(model).state
    batch = asked(state, ["a text of words"])
    state.pool = Pool(state.backbone, layers=1)
    for name, tokens in (("plain", 0), ("speaks", 1)):
        state.pool.add(name, seed=1, n_tokens=tokens)
        before = state.passes
        for _ in range(2):
            state.forward(batch, Routing((name,), torch.ones(1, 1)))
        assert state.passes - before == (2 if tokens else 1.5)


def test_half_precision_takes_half_the_room(tmp_path: Path) -> None:
    sizes, scores = {}, {}
    texts = [e.text for task in STREAM.tasks for e in task.test]
    for dtype in ("auto", "bf16"):
        model = run(tmp_path / dtype, backbone__trunk_dtype=dtype)
        sizes[dtype] = sum(p.stat().st_size for p in model.folder.trunk.glob("*.states"))
        scores[dtype] = np.array([answer.score for answer in model.predict(texts)])
    np.testing.assert_allclose(scores["bf16"], scores["auto"], atol=0.05)
    assert (scores["bf16"] != scores["auto"]).any(), "what is kept is rounded, and it shows"
    assert sizes["bf16"] == sizes["auto"] / 2


def test_no_more_room_is_taken_than_allowed(tmp_path: Path) -> None:
    model = run(tmp_path, backbone__trunk_gib=2e-5)
    size = sum(p.stat().st_size for p in model.folder.trunk.glob("*.states"))
    assert 0 < size <= 2e-5 * 2**30
