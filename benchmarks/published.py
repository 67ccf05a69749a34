"""What others have published on the streams of the study ``comparison``, with its setting.

Only figures that were read where ``source`` says; none is of our setting, so a gap is no contest.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean


@dataclass(frozen=True)
class Published:
    """Scores of one method.

    Attributes:
        scores: average scores, one an order or run; their mean is what a gap is to.
        beside: further figures of the same source, in words.
        source: where they were read.
        setting: what they were measured on.
    """

    scores: tuple[float, ...]
    source: str
    setting: str
    beside: str = ""

    @property
    def score(self) -> float:
        return mean(self.scores)

    def __str__(self) -> str:
        told = " and ".join(f"{score:.1f}" for score in self.scores)
        return f"{told} ({self.beside})" if self.beside else told


NONE = "none published for this setting"

_FORK = "GainLoRA's own runs, as a results sheet quotes its paper"
_TAKEN = "GainLoRA's table, where it is marked as taken from earlier work; the same sheet"
_TABLE = "the table of O-LoRA (arXiv 2310.14152), as the MIGU paper quotes it"
_NOTES = "the SABER paper's run, by public notes on it"
_T5 = "T5-large, all 15 tasks, 10 epochs, two orders"
_T5_THREE = "T5-large, all 15 tasks, mean of three orders"
_LLAMA = "LLaMA-2-7B, all 15 tasks, the first order"
_README = "README of sefeoglu/CRE_PTM"
_TEN = "after 10 tasks, a memory of 10"
_CODE = "`test_result.txt` in the code of ConPET"
_CONPET = "FewRel in ten tasks"

LONG = {
    "sequential": Published((49.46, 33.81), _FORK, _T5, "forgetting 27.6 and 45.5"),
    "ewc": Published((43.24, 46.25), _FORK, _T5, "forgetting 23.7 and 32.9"),
    "o-lora": Published((70.98, 71.21), _FORK, _T5, "forgetting 3.7 and 4.0"),
    "epi": Published((75.19,), _TAKEN, "T5-large, all 15 tasks, order 4", "forgetting 0.8"),
    "sapt": Published((78.14,), _NOTES, "T5-large, all 15 tasks, the first order", "BWT -0.5"),
    "replay": Published((60.32,), _NOTES, _LLAMA, "BWT -19.5"),
    "lfpt5": Published((69.2,), _TABLE, _T5_THREE),
    "progprompt-task-id": Published((77.9,), _TABLE, f"{_T5_THREE}; the task id is given"),
    "joint": Published((76.5,), _TABLE, _T5_THREE),
    "per-task": Published((78.1,), _TABLE, f"{_T5_THREE}; all weights tuned"),
}
FEWREL = {
    "crl": Published((83.1,), _README, f"BERT-base, {_TEN}"),
    "emar": Published((73.8,), _README, f"BERT-base, {_TEN}"),
    "emr": Published((54.1,), _README, f"before BERT, {_TEN}", "whole accuracy 42.0"),
    "ea-emr": Published((61.2,), _README, f"before BERT, {_TEN}", "whole accuracy 49.0"),
    "ewc": Published((12.70, 18.23), _CODE, f"{_CONPET}; strengths 1000 and 5000"),
    "lwf": Published((19.80,), _CODE, f"{_CONPET}; its columns of labels were mixed up"),
}
STREAMS: dict[str, tuple[dict[str, Published], str]] = {
    "fewrel": (
        FEWREL,
        "a frozen encoder of 22M parameters with LoRA, 40 examples of 69 relations",
    ),
    "clinc150-mixed": ({}, ""),
    "long-sequence": (
        LONG,
        "eight of the tasks, a backbone of 37M parameters, 150 steps a task, 64 source tokens",
    ),
}
"""The published figures of a stream by arm, and why ours differ from them."""
