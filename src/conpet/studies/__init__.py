"""The questions that the papers leave open, each as a study that anybody can run again.

A study is a grid of runs, and what is made of them: rows, a plot, ten lines of text. One file a
study; one line here registers it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from conpet.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from conpet.studies.base import Study

STUDIES = {
    "claim": "what Static ConPET promises, in both readings",
    "comparison": "every method on one stream beside its bounds: the table (--stream)",
    "full-tuning": "full tuning against an adapter, with and without replay",
    "scalability": "one adapter against one a task, at 5 to 40 tasks",
    "replay": "the whole history sampled against a small memory, at equal steps",
    "active-modules": "how many adapters should answer, by similarity and number of tasks",
    "scale": "layers, ranks, larger shapes on random weights, LLaMA-7B by arithmetic",
    "trunk": "adapters in the upper layers alone: a quarter, half and all of them",
    "interference": "the selector on tasks that are alike and on tasks that are not",
    "text-tasks": "each instruction task with an adapter of its own, beside two baselines",
    "text-stream": "what is kept of a stream of instruction tasks",
    "sapt": "one attention that mixes and selects: beside its rivals, and without its parts",
    "memory": "memory and stored bytes as tasks grow, measured and by arithmetic",
}
"""Name -> what it is about. Its ``STUDY`` lies in the module of that name."""


def load_study(name: str) -> Study:
    """The study called ``name``.

    Raises:
        ConfigError: there is none; with the closest name and the list of all.
    """
    if name not in STUDIES:
        width = max(map(len, STUDIES))
        listed = "\n".join(f"  {known:<{width}}  {about}" for known, about in STUDIES.items())
        raise ConfigError(
            f"unknown study '{name}'.{did_you_mean(name, STUDIES)} Allowed:\n{listed}"
        )
    study: Study = import_module(f"conpet.studies.{name.replace('-', '_')}").STUDY
    return study
