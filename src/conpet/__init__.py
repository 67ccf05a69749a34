"""conpet: continual learning of many tasks on one frozen language model.

The names below are imported when they are first used, so that ``import conpet`` is instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conpet.api import ContinualModel, fit, load, load_backbone, load_stream, run

__all__ = ["ContinualModel", "fit", "load", "load_backbone", "load_stream", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'conpet' has no attribute '{name}'")
    from conpet import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
