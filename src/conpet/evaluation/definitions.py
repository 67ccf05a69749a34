"""What the report says about each metric; they are computed in ``continual``."""

from __future__ import annotations

from typing import NamedTuple


class Definition(NamedTuple):
    """How a metric is named, computed and read; ``_j`` and ``_{j<T}`` are subscripts."""

    title: str
    formula: str
    meaning: str


DEFINITIONS: dict[str, Definition] = {
    "whole_accuracy": Definition(
        "whole accuracy",
        "Σ_j n[j]·R[T, j] / Σ_j n[j]",
        "Micro average: right answers among all test examples of the tasks learned, none of which "
        "says which task it belongs to.",
    ),
    "average_accuracy": Definition(
        "average accuracy (AP)",
        "1/T · Σ_j R[T, j]",
        "Macro average: every task counts the same.",
    ),
    "forgetting": Definition(
        "forgetting (F.Ra)",
        "1/(T−1) · Σ_{j<T} ( max_{j≤i<T} R[i, j] − R[T, j] )",
        "How far tasks fell from their best before the last stage. Lower is better.",
    ),
    "backward_transfer": Definition(
        "backward transfer (BWT)",
        "1/(T−1) · Σ_{j<T} ( R[T, j] − R[j, j] )",
        "What later tasks did to earlier ones. Higher is better.",
    ),
    "backward_transfer_over_T": Definition(
        "BWT, divided by T",
        "1/T · Σ_{j<T} ( R[T, j] − R[j, j] )",
        "The same sum with the divisor that some published tables use.",
    ),
    "forward_transfer": Definition(
        "forward transfer (FWT)",
        "1/T · Σ_j ( R[j, j] − s0[j] )",
        "Against s0[j], the score of a fresh adapter tuned on task j alone (the per-task run with "
        "the same backbone, adapter and seed); not measured without that run.",
    ),
    "learning_accuracy": Definition(
        "learning accuracy",
        "1/T · Σ_j R[j, j]",
        "How well each task was known when it had just been learned.",
    ),
    "selector_accuracy": Definition(
        "selector accuracy",
        "share of examples whose best routed task is the true one",
        "Over all examples (micro); the tables in CSV hold the mean over tasks (macro) as well.",
    ),
    "oracle": Definition(
        "oracle",
        "accuracy + routing + competition − rescued",
        "Accuracy if the task of every example were known. Rescued: right, though wrong if the "
        "task were known; only mixed adapters have it.",
    ),
    "routing": Definition(
        "routing error",
        "wrong ∧ right if the task were known ∧ true task not routed to",
        "Points that a perfect router would win.",
    ),
    "competition": Definition(
        "competition",
        "wrong ∧ right if the task were known ∧ true task routed to",
        "A class of another task scored higher. Methods without routing have all tasks compete.",
    ),
    "within_task": Definition(
        "within-task error",
        "wrong ∧ wrong if the task were known",
        "No router can mend it. Accuracy + routing + competition + within-task = 100.",
    ),
}
