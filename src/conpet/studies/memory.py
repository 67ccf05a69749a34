"""Study ``memory``: memory and stored bytes as tasks grow, beside the arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from conpet.evaluation.collect import RunRecord
from conpet.runtime import RunFolder
from conpet.studies.arithmetic import FP32, TRAINED, head_parameters, stored_parameters
from conpet.studies.base import Cell, Plan, Probe, Row, Rows, Study
from conpet.studies.rows import raw_state
from conpet.studies.say import distinct, mean, pick, say, tell
from conpet.studies.sizes import DYNAMIC

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS = {"tiny": (2, 4), "small": (2, 7, 14, 28), "full": (2, 7, 14, 28)}
METHODS = {
    "conpet-static": ("method.base=replay",),
    "conpet-dynamic": (*DYNAMIC, "method.start=selector"),
}
MIB = 2**20
WEIGHTS = ("adapters", "router")
PARTS = (*WEIGHTS, "learner", "history", "logits", "tokens", "predictions")
"""Of a run folder."""


def grid(plan: Plan) -> list[Cell]:
    return [
        plan.cell(m, {"method": m, "tasks": n, "seed": seed}, *METHODS[m], f"stream.n_tasks={n}")
        for seed, n, m in product(plan.seeds, TASKS[plan.size.name], METHODS)
    ]


def probes(plan: Plan) -> list[Probe]:
    """A process that opens each run and answers, after all runs."""
    return [
        Probe(cell.labels, ("answer", str(plan.run_folder(cell.name))), needs=cell.name)
        for cell in grid(plan)
    ]


def measure(record: RunRecord) -> Row:
    """Bytes on the disk by part, and what the shapes say that they have to be."""
    folder = RunFolder(record.folder)
    on_disk = {f"{part}_bytes": bytes_below(folder.path / part) for part in PARTS}
    adapter, width, one_each = _shape(record)
    labels = [len(task.labels) for task in record.tasks]
    rows = _selector_rows(record) if one_each else 0
    counted = stored_parameters(adapter, width, labels, one_each=one_each, selector_rows=rows)
    head = max(labels[-1], rows) if one_each else sum(labels)  # phases follow one another
    trained = adapter + head_parameters(width, head)
    return on_disk | {
        "weights_bytes": sum(on_disk[f"{part}_bytes"] for part in WEIGHTS),
        "adapter_parameters": adapter,
        "computed_parameters": counted,
        "computed_bytes": counted * FP32,
        "computed_training_bytes": trained * FP32 * TRAINED,
        "training_memory_bytes": record.tasks[-1].cost.peak_memory_bytes,
        "training_memory_by_task": [task.cost.peak_memory_bytes for task in record.tasks],
    }


def bytes_below(folder: Path) -> int:
    """Of all files; 0 where the folder is not there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _shape(record: RunRecord) -> tuple[int, int, bool]:
    """Parameters of an adapter without head, width of the head, whether tasks have one each."""
    state, folder = raw_state(record), RunFolder(record.folder).path
    adapters = {n: f["folder"] for n, f in state["adapters"].items() if f["role"] != "selector"}
    first = folder / next(iter(adapters.values()))
    weights, head = (_shapes(first / f"{x}.safetensors") for x in ("adapter_model", "head"))
    width = next(shape[1] for shape in head if len(shape) == 2)
    one_each = set(adapters) == {task.name for task in record.tasks}
    return sum(map(math.prod, weights)), width, one_each


def _shapes(path: Path) -> list[list[int]]:
    """Of the tensors in a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118


def _selector_rows(record: RunRecord) -> int:
    method = record.settings["method"]
    if method.get("top_k") == "all":
        return 0
    if method.get("selector_target") == "label":
        return sum(len(task.labels) for task in record.tasks)
    return len(record.tasks)


def plot(rows: Rows) -> Figure:
    from conpet.studies.figures import Panel, line, panels

    def lines(column: str, note: str = "") -> list:
        return [line(pick(rows, method=m), "tasks", column, f"{m}{note}") for m in METHODS]

    weights = [*lines("weights_bytes"), *lines("computed_bytes", ", computed")]
    return panels(
        [
            Panel("Training, peak memory", "tasks", "bytes", lines("training_memory_bytes")),
            Panel("Answering, peak memory", "tasks", "bytes", lines("answer_memory_bytes")),
            Panel("Adapters on the disk", "tasks", "bytes", weights),
        ]
    )


def text(rows: Rows) -> Iterator[str]:
    numbers = sorted(distinct(rows, "tasks"))
    for method in METHODS:
        runs = pick(rows, method=method)
        few, many = pick(runs, tasks=numbers[0]), pick(runs, tasks=numbers[-1])
        yield (
            f"{method}, {numbers[0]} and {numbers[-1]} tasks: peak memory of training "
            f"{_mib(few, 'training_memory_bytes')} and {_mib(many, 'training_memory_bytes')} MiB, "
            f"of answering {_mib(few, 'answer_memory_bytes')} and "
            f"{_mib(many, 'answer_memory_bytes')} MiB (imports alone "
            f"{_mib(many, 'imports_memory_bytes')})."
        )
        yield (
            f"{method}: each task more adds {_growth(few, many, 'training_memory_bytes')} KiB to "
            f"training, {_growth(few, many, 'answer_memory_bytes')} KiB to answering and "
            f"{_growth(few, many, 'weights_bytes')} KiB to the weights on the disk, which by "
            f"arithmetic are {_growth(few, many, 'computed_bytes')} KiB."
        )
        yield (
            f"{method}, {numbers[-1]} tasks: {say(many, 'stored_parameters', 0)} parameters are "
            f"kept, {say(many, 'computed_parameters', 0)} by arithmetic; their files hold "
            f"{say(many, 'weights_bytes', 0)} bytes, 4 bytes each are "
            f"{say(many, 'computed_bytes', 0)}; the history takes "
            f"{say(many, 'history_bytes', 0)}, caches "
            f"{tell(mean(many, 'logits_bytes') + mean(many, 'tokens_bytes'), ',.0f')}."
        )
    adapter = pick(rows, method="conpet-dynamic", tasks=numbers[-1])
    yield (
        f"An adapter without its head has {say(adapter, 'adapter_parameters', 0)} parameters; "
        f"tuning the newest task holds {say(adapter, 'computed_training_bytes', 0)} bytes of "
        "weights, gradients and moments by arithmetic."
    )


def _mib(rows: Rows, name: str) -> str:
    return say([{"bytes": row[name] / MIB} for row in rows if row.get(name)], "bytes", 0)


def _growth(few: Rows, many: Rows, name: str) -> str:
    """KiB a task, between the smallest and the largest number of tasks."""
    if not few or not many or few[0]["tasks"] == many[0]["tasks"]:
        return say([], name)
    more = many[0]["tasks"] - few[0]["tasks"]
    return tell((mean(many, name) - mean(few, name)) / more / 1024, ",.1f")


STUDY = Study(
    name="memory",
    title="Memory as tasks grow",
    question="What do more tasks cost in memory while learning and answering, and in stored bytes, "
    "measured and by arithmetic?",
    streams={"": "banking77"},
    grid=grid,
    plot=plot,
    text=text,
    measure=measure,
    probes=probes,
)
