"""AdamW over parameters by name, and its learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from conpet.methods.base import ParamGroup


def optimiser_for(
    groups: Sequence[ParamGroup], weight_decay: float, eps: float, saved: Mapping[str, Tensor]
) -> torch.optim.Optimizer:
    """AdamW with decay on matrices only; slots restored from ``saved``."""
    described = [
        {
            "params": [p for p in group.parameters.values() if (p.dim() > 1) is matrices],
            "lr": group.lr,
            "full_lr": group.lr,
            "weight_decay": weight_decay if matrices else 0.0,
        }
        for group in groups
        for matrices in (True, False)
    ]
    described = [group for group in described if group["params"]] or [
        {"params": [torch.zeros(0)], "full_lr": 0.0}
    ]
    by_name = {name: p for group in groups for name, p in group.parameters.items()}
    on_cpu = all(p.device.type == "cpu" for p in by_name.values())
    optimiser = torch.optim.AdamW(described, eps=eps, fused=on_cpu)  # many small tensors
    for key, value in saved.items():
        name, _, slot = key.rpartition("/")
        device = "cpu" if slot == "step" else by_name[name].device  # as AdamW keeps them
        optimiser.state[by_name[name]][slot] = value.to(device)
    return optimiser


def set_lr(optimiser: torch.optim.Optimizer, share: float) -> None:
    """So much of the full learning rate, 0..1."""
    for group in optimiser.param_groups:
        group["lr"] = group["full_lr"] * share
