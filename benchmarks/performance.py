"""Write the tables of docs/performance.md from the committed results.

    python benchmarks/performance.py

Replaces what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``. What was not measured has no
place on the page. A test checks that the page is current.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tables import fill

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
Document = Mapping[str, Any]


def step() -> str:
    """What a training step has beyond the floor, by benchmarks/floor.py."""
    lines = ["| phase | texts | precision | step / floor | encoding | optimiser | all else |"]
    lines.append("|---" * 7 + "|")
    for one in read("floor")["measured"]:
        seconds, over = one["seconds"], one["step_over_floor"]["median"]
        encoding = seconds["encoding"]["median"] / seconds["step"]["median"]
        optimiser = one["optimiser_share"]["median"]
        rest = 1 - 1 / over - encoding - optimiser
        words = [one["case"], one["texts"], one["precision"], f"{over:.3f}"]
        words += [f"{100 * share:.1f} %" for share in (encoding, optimiser, rest)]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def measured() -> str:
    """The figures of the other benchmarks, a section each."""
    return "\n\n".join(section for name in SECTIONS for section in sections(name))


def sections(name: str) -> Iterator[str]:
    if not (RESULTS / f"{name}.json").exists():
        return
    document, title = read(name), SECTIONS[name]
    yield f"## {title}\n\n`{document['command']}`"
    yield "\n".join(figures(document))
    if name == "stream":
        yield "\n".join(parts(document))
    if (RESULTS / f"{name}.png").exists():
        yield f"![{title}](../benchmarks/results/{name}.png)"


def figures(document: Document) -> Iterator[str]:
    yield "| figure | value | goal | reached |"
    yield "|---|---|---|---|"
    for figure in document["figures"]:
        goal = "–" if figure["goal"] is None else f"≤ {figure['goal']:.2f}"
        reached = "–" if figure["goal"] is None else "yes" if figure["ok"] else "no"
        yield f"| {figure['name']} | {figure['value']:.3f} | {goal} | {reached} |"


def parts(document: Document) -> Iterator[str]:
    """The seconds of a stream by what they went to, of both ways."""
    ways = document["ways"]
    yield f"| seconds | {' | '.join(ways)} |"
    yield "|---" * (len(ways) + 1) + "|"
    for part in dict.fromkeys(part for way in ways.values() for part in way["parts"]):
        values = [way["parts"].get(part, {"median": 0.0})["median"] for way in ways.values()]
        yield f"| {part} | {' | '.join(f'{value:.1f}' for value in values)} |"
    whole = [f"{way['seconds']['median']:.1f}" for way in ways.values()]
    yield f"| whole | {' | '.join(whole)} |"


def read(name: str) -> Document:
    document: Document = json.loads((RESULTS / f"{name}.json").read_text())
    return document


SECTIONS = {
    "growth_methods": "One task or a thousand",
    "serve_batch": "Many adapters in a batch",
    "peers": "Beside plain peft",
    "stream": "A whole stream",
    "trunk": "Adapters in the upper layers",
    "gpu": "Training and writing on a GPU",
}
TABLES: dict[str, Callable[[], str]] = {"step": step, "measured": measured}


def render(page: str) -> str:
    return fill(page, TABLES, PAGE.name)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
