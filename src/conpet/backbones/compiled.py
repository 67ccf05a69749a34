"""The layers of a backbone compiled by torch, adapted projections left out of the graphs.

Adapters are forward hooks that exist while a routing is open, other ones in each pass.
``torch.compile`` looks at hooks when it traces and does not look again (dynamo's
``skip_nnmodule_hook_guards``): a layer traced without adapters would stay without them, in silence.
So a projection that may have a hook is called from outside the graph, hook and all; what lies
between projections is compiled: norms, rotary positions, attention, the MLP.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import nn

from conpet.backbones.base import Backbone


def compile_layers(
    backbone: Backbone, hooked: Iterable[nn.Module], backend: str = "inductor"
) -> None:
    """Compile the forward of every transformer layer, for batches of any shape.

    Hooks of a layer itself are called as ever, and so is what is put in place of its ``forward``.

    Args:
        hooked: modules inside the layers whose forward hooks come and go.
        backend: of ``torch.compile``.
    """
    for module in hooked:
        kind: Any = type(module)
        module.__class__ = _called_apart(kind)
    for layer in layers_of(backbone):
        layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend)


def layers_of(backbone: Backbone) -> list[nn.Module]:
    """The transformer layers of all stacks: what a projection's path names up to its first
    number."""
    paths: dict[str, None] = {}
    for path in backbone.every_linear():
        parts = path.split(".")
        at = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
        if at is not None:
            paths[".".join(parts[: at + 1])] = None
    return [backbone.model.get_submodule(path) for path in paths]


@cache
def _called_apart(kind: type[Any]) -> type[Any]:
    """A class of modules that is as ``kind``, and that a graph ends before and begins behind. One
    for all layers: a function for each would be compiled for each."""
    call = torch.compiler.disable(kind.__call__)
    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
