"""What a learned run is worth, and how long its answers take, with fewer or more adapters."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from conpet.api.asking import Inputs, answering
from conpet.api.opened import OpenRun, precision_of
from conpet.api.scores import score, summary
from conpet.errors import ConfigError
from conpet.events import Observer
from conpet.methods.base import Method
from conpet.registry import METHODS
from conpet.runtime import environment

TopK = int | str
"""A number of adapters, or ``all``."""


def has_top_k(method: type[Method] | Method) -> bool:
    """Whether a method has the option ``top_k``."""
    return is_dataclass(method) and any(field.name == "top_k" for field in fields(method))


def check_top_k(name: str, method: Method, top_k: Sequence[TopK], n_tasks: int) -> list[TopK]:
    """The numbers that are asked for, each once.

    Raises:
        ConfigError: the method ``name`` has no such option, or a number is out of range.
    """
    if not has_top_k(method):
        able = [name for name in METHODS if has_top_k(METHODS.load(name))]
        raise ConfigError(
            f"method '{name}' has no option top_k, the number of adapters that answer; methods "
            f"that have it: {', '.join(able)}"
        )
    for k in top_k:
        if k != "all" and not (type(k) is int and 1 <= k <= n_tasks):
            raise ConfigError(
                f"top_k is {k!r}, and the run has learned {n_tasks} task(s), each with an adapter; "
                f"allowed: 1 to {n_tasks}, and all"
            )
    if not top_k:
        raise ConfigError("no top_k was given; give one or several, e.g. 1,2,all")
    return list(dict.fromkeys(top_k))


def evaluate_top_k(
    run: OpenRun, metric: str, top_k: Sequence[TopK], observer: Observer | None = None
) -> dict[str, Any]:
    """All tests answered anew with each of ``top_k``: scores, and seconds by the clock.

    The seconds are those of routing and answering; one batch before is not counted. Nothing is
    taken from a cache: answers in free text are written, frozen adapters asked.

    Returns:
        ``tasks``, ``n_test``, ``metric``, ``own`` (the run's own k), ``rows`` (``k``, ``average``,
        ``whole``, ``row``, ``seconds``) and ``machine``, as plain JSON values.
    """
    assert run.data is not None
    observer, state = observer or Observer(), run.state
    names, tests = state.task_names, [task.test for task in run.data]
    n_test = [len(test) for test in tests]
    inputs = Inputs(state, [e for test in tests for e in test])
    rows = []
    for k in top_k:
        ask = answering(state, _with_top_k(run.method, k))
        inputs.ask_longest(ask)
        started = time.perf_counter()
        answers = iter(inputs.ask(ask, observer, f"top_k={k}"))
        seconds = time.perf_counter() - started
        given = [[next(answers) for _ in test] for test in tests]
        row = [score(metric, a, test) for a, test in zip(given, tests, strict=True)]
        averages = summary(names, row, n_test)
        rows.append(
            {
                "k": k,
                "average": averages["average"],
                "whole": averages["whole"],
                "row": row,
                "seconds": round(seconds, 3),
            }
        )
        observer.note("info", f"top_k={k}: average {averages['average']:.1f} in {seconds:.1f} s")
    return {
        "tasks": list(names),
        "n_test": n_test,
        "metric": metric,
        "own": getattr(run.method, "top_k", None),
        "rows": rows,
        "machine": _machine(run),
    }


def _with_top_k(method: Method, k: TopK) -> Method:
    changed: Method = replace(method, top_k=k)  # type: ignore[type-var]
    return changed


def _machine(run: OpenRun) -> Mapping[str, Any]:
    """What the seconds depend on."""
    known = environment()
    facts = {"device": str(run.state.device), "precision": precision_of(run.folder)}
    return facts | {key: known[key] for key in ("threads", "cores", "processor", "gpus")}
