"""Compiled layers compute what the plain ones do, whatever adapters a pass is routed to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from conpet.adapters.base import KindName
from conpet.adapters.pool import Pool
from conpet.api.opened import open_run
from conpet.backbones.base import Backbone
from conpet.backbones.compiled import compile_layers, layers_of
from conpet.backbones.generative import GenerativeBackbone
from conpet.backbones.trunk import Trunk
from conpet.config import load_config
from conpet.runtime import RunFolder, write_json_atomic
from conpet.testing import tiny_bert, tiny_llama, tiny_t5
from conpet.types import Routing

pytestmark = [
    # torch asks inputs for it, and hides its own warning
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # by inductor
]
NAMES = ("a", "b", "c")
Make = Callable[..., Backbone]


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def pool_on(backbone: Backbone, kind: KindName = "lora") -> Pool:
    """Two frozen adapters and a live one, each of which changes what the backbone says."""
    pool = Pool(backbone, kind=kind, rank=2, size=3, length=2)
    for i, name in enumerate(NAMES):
        pool.add(name, seed=i)
        generator = torch.Generator().manual_seed(i)
        shapes = {key: tensor.shape for key, tensor in pool.tensors(name).items()}
        drawn = {k: torch.randn(shape, generator=generator) * 0.3 for k, shape in shapes.items()}
        pool.load_tensors(name, drawn)
        if name != "c":
            pool.freeze(name)
    return pool


def backbone_of(pool: Pool) -> Backbone:
    assert isinstance(pool.backbone, Backbone)
    return pool.backbone


def texts(n: int, length: int) -> tuple[Tensor, Tensor]:
    ids = torch.randint(10, 60, (n, length), generator=torch.Generator().manual_seed(n + length))
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    return ids, mask


def passed(pool: Pool, routing: Routing | None, n: int, length: int) -> list[Tensor]:
    """States of real tokens; and the gradient of the live adapter, where gradient is on."""
    (ids, mask), backbone = texts(n, length), backbone_of(pool)
    if routing is None:
        return [backbone(ids, mask)[mask.bool()]]
    with pool.routed(routing) as soft_prompt:
        states: Tensor = backbone(ids, mask, soft_prompt)[mask.bool()]
    if not (torch.is_grad_enabled() and "c" in routing.names):
        return [states]
    live = list(pool.parameters_of("c").values())
    return [states, *torch.autograd.grad(states.square().sum(), live)]


def check(plain: Pool, compiled: Pool, routing: Routing | None, n: int, length: int) -> Tensor:
    ours, theirs = (passed(pool, routing, n, length) for pool in (compiled, plain))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    return ours[0].detach()


def pair(make: Make, backend: Any, kind: KindName = "lora") -> tuple[Pool, Pool]:
    """A pool on a plain backbone, and the same on a compiled one."""
    plain, compiled = pool_on(make(), kind), pool_on(make(), kind)
    compile_layers(backbone_of(compiled), compiled.adapters.hooked, backend)
    return plain, compiled


ONE = Routing(("a",), torch.ones(3, 1))
OTHER = Routing(("b",), torch.ones(3, 1))
EACH = Routing(("a", "b"), torch.eye(2)[[0, 1, 0]])
DENSE = Routing(NAMES, torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 2.0], [1.0, 0.1, 0.0]]))
LIVE = Routing(("c",), torch.ones(3, 1))


def check_all(
    plain: Pool, compiled: Pool, routings: Sequence[Routing | None], gradients: Sequence[bool]
) -> None:
    """Each without gradient, then with, one after another; no two say the same."""
    for gradient in gradients:
        found: list[Tensor] = []
        with torch.set_grad_enabled(gradient):
            for i, routing in enumerate(routings):
                check(plain, compiled, routing, 3, 8 + 8 * (i % 2))
                states = check(plain, compiled, routing, 3, 8)
                assert not any(torch.allclose(states, other, atol=1e-3) for other in found)
                found.append(states)


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_the_routing_changes_between_passes(make: Make) -> None:
    counter = CompileCounter()
    plain, compiled = pair(make, counter)
    check_all(plain, compiled, (None, ONE, OTHER, EACH, DENSE), [False])
    graphs = []
    with torch.no_grad():
        for length in (24, 32, 40):
            for routing in (OTHER, EACH, DENSE, None, ONE):
                check(plain, compiled, routing, 3, length)
            graphs.append(counter.frame_count)
    assert graphs[0] == graphs[-1] > 0  # known routings of other lengths compile nothing anew


def test_the_graphs_that_are_differentiated_are_right_too() -> None:
    check_all(*pair(tiny_bert, "aot_eager"), (LIVE, DENSE), [True])


@pytest.mark.parametrize("kind", ["bottleneck", "prefix", "prompt"])
def test_other_kinds_of_adapters(kind: KindName) -> None:
    check_all(*pair(tiny_bert, "eager", kind), (None, ONE, EACH), [False])


def test_answers_are_written_through_compiled_layers() -> None:
    written = []
    for pool in pair(lambda: tiny_llama(generative=True), "eager"):
        for routing in (ONE, EACH):  # one after the other
            with torch.no_grad(), pool.routed(routing):
                writer = backbone_of(pool)
                assert isinstance(writer, GenerativeBackbone)
                ids = writer.write(*texts(3, 8), end_id=1, max_new_tokens=4)
            written.append(ids.tolist())
    assert written[:2] == written[2:] and written[0] != written[1]


def test_all_stacks_have_their_layers_compiled() -> None:
    backbone = tiny_t5(generative=True)
    layers, model = layers_of(backbone), cast(Any, backbone.model)
    assert layers == [*model.encoder.block, *model.decoder.block]
    compile_layers(backbone, ())
    assert all("forward" in vars(layer) for layer in layers)


def test_the_layers_below_the_adapters_are_passed_alone() -> None:
    plain, compiled = tiny_bert(), tiny_bert()
    trunk = Trunk(compiled, 1)
    compile_layers(compiled, compiled.linears(None, 1).values(), "eager")
    ids, mask = texts(3, 8)
    with torch.no_grad():
        with trunk.given(trunk.lower(ids, mask)):
            states = compiled(ids, mask)
        torch.testing.assert_close(states, plain(ids, mask))
        torch.testing.assert_close(compiled(ids, mask), plain(ids, mask))


@pytest.mark.parametrize("wanted", [False, True])
def test_a_run_compiles_where_its_configuration_says_so(tmp_path: Path, wanted: bool) -> None:
    words = ["backbone=tiny-bert", "device=cpu", f"backbone.compile={str(wanted).lower()}"]
    config = load_config(None, words, stream="s", out=str(tmp_path))
    folder = RunFolder(tmp_path).create()
    write_json_atomic(folder.environment, {"precision": "fp32"})
    write_json_atomic(folder.stream, {"name": "s", "kind": "text", "fingerprints": {}})
    folder.write_text(folder.config, config.to_yaml())
    backbone = open_run(folder, config, with_data=True).state.backbone
    assert all(("forward" in vars(layer)) is wanted for layer in layers_of(backbone))
    adapted = backbone.linears(None)
    types = {type(projection) for projection in adapted.values()}
    assert (types != {torch.nn.Linear}) is wanted
    assert all(isinstance(p, torch.nn.Linear) for p in adapted.values())
