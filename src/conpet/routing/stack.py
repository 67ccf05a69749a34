"""Soft prompts behind one another, the newest first (Progressive Prompts, arXiv 2301.12314).

Shapes: B batch, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from conpet.errors import RoutingError
from conpet.types import Routing


def stacked(names: Sequence[str], batch_size: int, device: torch.device) -> Routing:
    """[P_T; ...; P_1] before every text; ``names`` are in learning order."""
    return Routing(
        tuple(reversed(names)), torch.ones(batch_size, len(names), device=device), "concat"
    )


def stacked_up_to(names: Sequence[str], task: Tensor) -> Routing:
    """[P_j; ...; P_1] before each text, j its true task; ``task`` (B,) indexes ``names``.

    The weights rank: 1 for P_j, 1/2 for the prompt before it, and so on.

    Raises:
        RoutingError: a task is not known.
    """
    if bool((task < 0).any()) or bool((task >= len(names)).any()):
        raise RoutingError(
            "the task of an example is not known; its prompts are those that were learned up to "
            "it. Leave out method.task_id, or ask for examples of the run's tasks"
        )
    ages = task[:, None] - torch.arange(len(names) - 1, -1, -1, device=task.device)[None, :]
    weights = torch.where(ages >= 0, 1 / (1.0 + ages.clamp_min(0)), 0.0)
    return Routing(tuple(reversed(names)), weights, "concat")
