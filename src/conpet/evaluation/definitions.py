"""What the report calls each metric and says about it; they are computed in ``continual``."""

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
        "Against s0[j], the score of a fresh adapter tuned on task j alone with the same backbone, "
        "adapter, training and seed: of the per-task run beside this one, or measured before "
        "(conpet report RUN --single-task); not known without them.",
    ),
    "zero_shot": Definition(
        "zero-shot transfer",
        "1/(T−1) · Σ_{j≥2} R[j−1, j]",
        "Each task just before it is learned, where that was measured (forward_rows); 0 where "
        "answers are labels, which are not known by then. Some papers call this forward transfer.",
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
    "selector_accuracy_by_input": Definition(
        "selector accuracy, input alone",
        "the same, the routing seeing no instruction",
        "An instruction that a whole task shares gives the task away; this is the routing without "
        "it.",
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

GRADED: dict[str, Definition] = {
    "whole_accuracy": Definition(
        "whole accuracy",
        "Σ_j n[j]·R[T, j] / Σ_j n[j]",
        "Micro average: all test examples of the tasks learned count the same; none says which "
        "task it belongs to.",
    ),
    "selector_accuracy": Definition(
        "selector accuracy, full prompt",
        "share of examples whose best routed task is the true one",
        "Instruction and input, as a new prompt has them. Over all examples (micro); the tables in "
        "CSV hold the mean over tasks (macro) as well.",
    ),
    "oracle": Definition(
        "oracle",
        "accuracy + routing + competition − rescued",
        "Mean of o, what an answer is worth if the task is known. Rescued: what the answer given "
        "is worth beyond it; only mixed adapters have that.",
    ),
    "routing": Definition(
        "routing error",
        "mean of max(0, o − v), true task not routed to",
        "v is what the answer is worth. Points that a perfect router would win.",
    ),
    "competition": Definition(
        "competition",
        "mean of max(0, o − v), true task routed to",
        "What other tasks' adapters spoiled beside the right one. Methods without routing have all "
        "tasks compete.",
    ),
    "within_task": Definition(
        "within-task error",
        "mean of 1 − max(v, o)",
        "No router can mend it. The stream's metric + routing + competition + within-task = 100.",
    ),
}
"""Where answers are free text: worth v, 0..1, by the stream's metric, instead of right or wrong."""

OF_FREE_ANSWERS = ("zero_shot", "selector_accuracy_by_input")
"""Metrics that a report on class labels leaves out."""

_TITLES = {"rouge-l": "ROUGE-L", "token-f1": "token F1"}


def metric_title(metric: str) -> str:
    """How people call a metric of the METRICS registry: ``exact-match`` -> exact match."""
    return _TITLES.get(metric, metric.replace("-", " "))


def define(name: str, metric: str = "accuracy", *, free: bool = False) -> Definition:
    """What is called "accuracy" under the name of the stream's own metric: ``whole ROUGE-L``."""
    title, formula, meaning = GRADED.get(name, DEFINITIONS[name]) if free else DEFINITIONS[name]
    if not name.startswith("selector"):
        title = title.replace("accuracy", metric_title(metric))
        formula = formula.replace("accuracy", metric_title(metric))
    return Definition(title, formula, meaning)
