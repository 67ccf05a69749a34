"""What the methods share that route in closed form: the statistics of a task, and what they say.

Shapes: B batch, n examples, d features, T tasks seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conpet.errors import ConfigError
from conpet.methods.base import Computation, Method, State
from conpet.routing.analytic import add_task, task_scores
from conpet.routing.base import plain
from conpet.routing.gaussian import Weigh
from conpet.types import Batch

ROUTER = "router"
"""Begins the names of the router's buffers."""


@dataclass(frozen=True, kw_only=True)
class AddToRouter(Computation):
    """Add the newest task to the closed-form router (``conpet.routing.analytic``).

    The features are means over the tokens of training prompts, of the plain backbone, never of an
    answer. Where answers are free text the task is one class.
    """

    shrinkage: float
    weigh: Weigh = "examples"

    def end(self, state: State) -> None:
        task = state.task
        features = torch.from_numpy(state.features(task.train, how="mean"))  # (n, d)
        column = torch.from_numpy(task.train_labels) - task.first_column
        if not task.labels:
            column = torch.zeros_like(column)
        add_task(
            state.buffers,
            ROUTER,
            features,
            column,
            task.n_classes,
            shrinkage=self.shrinkage,
            weigh=self.weigh,
        )

    def sketch(self, state: State) -> bool:
        rows, d = sum(task.n_classes for task in state.history), state.backbone.hidden_size
        sizes = {"mean": (rows, d), "scatter": (d, d), "weight": (rows, d), "bias": (rows,)}
        for key, size in (sizes | {"count": (), "classes": (len(state.history),)}).items():
            dtype = torch.long if key == "classes" else torch.float64
            state.buffers[f"{ROUTER}/{key}"] = torch.empty(size, dtype=dtype)
        return True


@torch.no_grad()
def scores_of_tasks(state: State, batch: Batch) -> Tensor:
    """(B, T) what the closed-form router says of each task; one pass of the plain backbone."""
    features = state.forward(batch, plain(len(batch), state.device), "mean").features
    return task_scores(state.buffers, ROUTER, features)


def check_router(method: Method, router: str, own: Mapping[str, Sequence[str]]) -> None:
    """ConfigError where an option is given that concerns another router than the method's own.

    Args:
        router: the method's.
        own: the options that concern one router alone, by router.
    """
    usual = type(method)()
    for other, names in own.items():
        for name in names if other != router else ():
            given = getattr(method, name)
            if given != getattr(usual, name):
                raise ConfigError(
                    f"method.{name} is {given}, which concerns method.router={other} alone, and "
                    f"this run's is '{router}'; leave one of the two out"
                )
