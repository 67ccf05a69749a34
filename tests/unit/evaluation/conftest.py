"""Synthetic run folders: predictions are drawn, and matrix and state are computed from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conpet.registry import METRICS
from conpet.training.history import save_task
from conpet.types import Example, Task

# method: own task right, true task routed to, score kept per later task, has routing
SHAPES = {
    "conpet-dynamic": (0.93, 0.86, 1.0, True),
    "per-task": (0.94, 1.0, 1.0, True),
    "joint": (0.90, 0.88, 1.0, False),
    "sequential": (0.95, 0.90, 0.35, False),
    "lda": (0.88, 0.80, 1.0, False),
}
LONG = [
    "organization relationship to headquarters",
    "work and its creators",
    "geographic containment",
    "sport-and-league-membership-of-teams",
]


def task_names(n: int, *, long: bool = False) -> list[str]:
    if long:
        return [f"{LONG[i % len(LONG)]} {i + 1}" for i in range(n)]
    return [f"group-{i + 1}" for i in range(n)]


def write_run(
    folder: Path,
    method: str = "conpet-dynamic",
    *,
    seed: int = 1,
    tasks: Sequence[str] = ("group-1", "group-2", "group-3"),
    learned: int | None = None,
    n_test: int = 40,
    stream: str = "fewrel",
    fingerprint: str = "f" * 64,
    top_k: int = 1,
    pending: bool = False,
) -> Path:
    """Write the folder of a run that has learned the first ``learned`` of ``tasks``.

    ``pending``: a method that learns all at once has not been evaluated yet.
    """
    rng = np.random.default_rng([seed, len(method)])
    n = len(tasks) if learned is None else learned
    rows: list[list[float | None]] = []
    (folder / "predictions").mkdir(parents=True)
    for stage in range(n):
        lines = [
            x for j in range(stage + 1) for x in _outcomes(method, tasks, j, stage, n_test, rng)
        ]
        if method == "joint" and (pending or stage < n - 1):
            rows.append([None] * (stage + 1))
            continue
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "predictions" / f"{stage + 1:02d}.jsonl").write_text(text, encoding="utf-8")
        hits = [
            [x["label"] == x["truth"] for x in lines if x["task"] == t] for t in tasks[: stage + 1]
        ]
        rows.append([100 * sum(h) / len(h) for h in hits])
    state = {
        "method": method,
        "stream": stream,
        "backbone": "minilm",
        "seed": seed,
        "settings": {
            "seed": seed,
            "method": {"name": method, "top_k": top_k},
            "adapter": {"kind": "lora", "rank": 8},
        },
        "stream_fingerprint": fingerprint,
        "planned": len(tasks),
        "tasks": [
            {
                "name": name,
                "labels": [f"{name}/{c}" for c in range(7)],
                "n_test": n_test,
                "cost": _cost(method, i, n, rng),
            }
            for i, name in enumerate(tasks[:n])
        ],
    }
    _write(folder / "state.json", state)
    _write(folder / "matrix.json", {"tasks": list(tasks[:n]), "values": rows})
    return folder


def _outcomes(
    method: str, tasks: Sequence[str], j: int, stage: int, n: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    own, reach, kept, routes = SHAPES[method]
    name = tasks[j]
    reach = 1.0 if stage == 0 else max(reach - 0.008 * stage, 0.0) * kept ** min(stage - j, 3)
    lines = []
    for i in range(n):
        truth = f"{name}/{i % 7}"
        oracle = truth if rng.random() < own - 0.02 * (j % 3) else f"{name}/{(i + 1) % 7}"
        reached = rng.random() < reach
        other = tasks[(j + 1 + int(rng.integers(stage))) % (stage + 1)] if stage else name
        to = name if reached else other
        lines.append(
            {
                "id": f"test-{j}-{i}",
                "task": name,
                "truth": truth,
                "label": oracle if to == name else f"{to}/0",
                "score": round(float(rng.uniform(0.3, 1.0)), 4),
                "routed": [to] if routes else [],
                "oracle": oracle,
            }
        )
    return lines


SENTENCE = "the river rises slowly behind old stone houses while children count passing boats"
WORDS = SENTENCE.split()


def write_free_run(
    folder: Path,
    method: str = "conpet-dynamic",
    *,
    seed: int = 1,
    tasks: Sequence[str] = ("task639 dialogue", "task1572 summary", "task073 questions"),
    n_test: int = 12,
    metric: str = "rouge-l",
    ahead: bool = True,
    by_input: bool = True,
    history: bool = True,
    answers: Sequence[str] = (),
) -> Path:
    """A finished run of a stream with free answers.

    Args:
        ahead: tasks were tested before they were learned, too.
        by_input: the routing without the instruction is recorded.
        history: the examples lie in the folder.
        answers: given to the first test examples of each task, whatever is right.
    """
    write_run(folder, method, seed=seed, tasks=tasks, n_test=n_test, stream="superni")
    rng, worth = np.random.default_rng(seed), METRICS.load(metric)
    parts = [_free_examples(name, j, n_test) for j, name in enumerate(tasks)]
    rows = []
    for stage in range(len(tasks)):
        lines = []
        for j in range(len(tasks) if ahead else stage + 1):
            for i, example in enumerate(parts[j]):
                keeps = 0.3 if j > stage else 0.9 - 0.2 * (stage - j)
                texts = [_garbled(example.answers[0], keeps, rng), example.answers[0]]
                texts[0] = answers[i] if i < len(answers) else texts[0]
                values = [worth(text, example.answers) for text in texts]
                known = j <= stage
                lines.append(
                    {
                        "id": example.id,
                        "task": tasks[j],
                        "label": texts[0],
                        "score": 0.5,
                        "routed": [tasks[j] if i % 4 or not known else tasks[0]],
                        "oracle": texts[1] if known else None,
                        "answers": example.answers,
                        "value": round(values[0], 6),
                        "oracle_value": round(values[1], 6) if known else None,
                        "routed_by_input": [tasks[i % 2]] if by_input and known else None,
                    }
                )
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / "predictions" / f"{stage + 1:02d}.jsonl").write_text(text, encoding="utf-8")
        by_task = [[x["value"] for x in lines if x["task"] == name] for name in tasks]
        rows.append([100 * sum(v) / len(v) for v in by_task if v])
    _write(folder / "matrix.json", {"tasks": list(tasks), "values": rows})
    facts = {"name": "superni", "kind": "instruction", "metric": metric}
    _write(folder / "stream.json", facts | {"template": "{instruction}\n{input}\n"})
    for j, name in enumerate(tasks) if history else ():
        save_task(folder / "history" / f"{j + 1:02d}.jsonl.gz", Task(name, (), (), (), parts[j]))
    return folder


def _free_examples(task: str, j: int, n: int) -> tuple[Example, ...]:
    rng = np.random.default_rng(j)
    return tuple(
        Example(
            f"test-{j}-{i}",
            f"input {i} of {task}: " + " ".join(rng.choice(WORDS, 60)),
            instruction=f"Do what {task} asks.",
            answers=tuple(" ".join(rng.choice(WORDS, 5)) for _ in range(1 + i % 2)),
        )
        for i in range(n)
    )


def _garbled(text: str, keeps: float, rng: np.random.Generator) -> str:
    return " ".join(word if rng.random() < keeps else "uh" for word in text.split())


def _cost(method: str, i: int, n: int, rng: np.random.Generator) -> dict[str, Any]:
    if method == "joint" and i < n - 1:
        return {}
    scale = n if method == "joint" else 1
    seconds = {"adapter": 20.0 * scale + float(rng.uniform(0, 3)), "evaluate": 1.0 + 0.6 * i}
    if method == "conpet-dynamic":
        seconds = {"selector": 9.0 * (i > 0) + float(rng.uniform(0, 2)), **seconds}
    return {
        "seconds": seconds,
        "steps": 320 * scale,
        "examples": 5120 * scale,
        "forward_passes": 5120 * scale + 280 * (i + 1),
        "tuned_parameters": 76_032,
        "stored_parameters": 76_032 * (i + 2 if SHAPES[method][3] else 1),
        "peak_memory_bytes": 1_400_000_000 + 2_000_000 * i,
    }


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def run_folder(tmp_path: Path) -> Any:
    """``run_folder("name", method, ...)`` writes a run below the test's own folder."""

    def make(name: str, method: str = "conpet-dynamic", **options: Any) -> Path:
        return write_run(tmp_path / name, method, **options)

    return make


@pytest.fixture
def free_folder(tmp_path: Path) -> Any:
    """The same with ``write_free_run``."""

    def make(name: str, method: str = "conpet-dynamic", **options: Any) -> Path:
        return write_free_run(tmp_path / name, method, **options)

    return make
