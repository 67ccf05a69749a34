"""A plan says what the run then does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conpet.api import fit
from conpet.api.dry_run import DryRun, dry_run
from conpet.config import RunConfig, load_config
from conpet.errors import ConfigError, ConpetError
from conpet.registry import METHODS
from conpet.runtime import RunFolder, read_json
from conpet.streams import Stream
from conpet.testing import synthetic_stream
from conpet.testing.instruction import instruction_stream

SMALL = {
    "train.epochs": 2,
    "train.batch_size": 4,
    "train.accumulate": 2,
    "replay.batch_limit": 5,
    "adapter.rank": 2,
    "generation.max_new_tokens": 6,
    "threads": 1,
    "device": "cpu",
    "precision": "fp32",
    "out": "ignored",
}
CLASSES = [name for name in METHODS if "class" in METHODS.load(name).answers]
WRITERS = [name for name in METHODS if "text" in METHODS.load(name).answers]


def configured(method: str, stream: Stream, **more: Any) -> RunConfig:
    settings = SMALL | {key.replace("__", "."): value for key, value in more.items()}
    return load_config(None, settings, method=method, stream=stream.name)


def agree(plan: DryRun, folder: Path) -> list[str]:
    """Check what a run has recorded; the names of what the plan does not know."""
    records, unknown = read_json(RunFolder(folder).state)["tasks"], []
    for task, record in zip(plan.tasks, records, strict=True):
        cost = record["cost"]
        assert (task.name, task.train) == (record["name"], record["n_train"])
        if task.steps is None:
            unknown.append(f"steps of {task.name}")
        else:
            assert task.steps == cost["steps"], task.name
        tuned = [phase.tuned for phase in task.phases]
        assert None not in tuned
        assert sum(sum(t.values()) for t in tuned if t) == cost["tuned_parameters"], task.name
    stored = list(plan.stored.values())
    if None in stored:
        unknown.append("stored")
    else:
        assert sum(n for n in stored if n) == records[-1]["cost"]["stored_parameters"]
    return unknown


@pytest.mark.parametrize("method", CLASSES)
def test_the_plan_of_a_method_is_what_its_run_does(method: str, tmp_path: Path) -> None:
    stream = synthetic_stream(n_tasks=3)
    config = configured(method, stream, backbone__name="tiny-bert")
    plan = dry_run(config, stream)
    own = {key.replace(".", "__"): value for key, value in SMALL.items() if key != "out"}
    fit(stream, out=tmp_path / "run", method=method, backbone="tiny-bert", **own)
    unknown = agree(plan, tmp_path / "run")
    if method == "latent-replay" and unknown:  # torch factors what is not there only in part
        assert unknown == [f"steps of {task.name}" for task in stream.tasks[1:]]
        assert "phase 'head' needs a model with weights" in plan.unknown[0]
    else:
        assert unknown == [] and plan.unknown == ()


SAPT_TEXT: dict[str, Any] = {
    "method__generator_steps": 3,
    "method__generator_tokens": 8,
    "method__pseudo_share": 0.2,
}


@pytest.mark.parametrize("method", WRITERS)
def test_the_plan_of_a_run_that_writes(method: str, tmp_path: Path) -> None:
    stream = instruction_stream(n_tasks=2, train=6, valid=2, test=1)
    more: dict[str, Any] = SAPT_TEXT if method == "sapt" else {}
    if method in (
        "sapt",
        "lfpt5",
    ):  # as many samples as may be kept: an untrained generator keeps none
        more = {**more, "method__pseudo": "real"}
    plan = dry_run(configured(method, stream, backbone__name="tiny-t5", **more), stream)
    own = {key.replace(".", "__"): value for key, value in SMALL.items() if key != "out"}
    fit(stream, out=tmp_path / "run", method=method, backbone="tiny-t5", **own, **more)
    assert agree(plan, tmp_path / "run") == [] and plan.unknown == ()


@pytest.mark.parametrize("format_", ["instruction", "markers"])
def test_the_generator_of_sapt_comes_and_goes(format_: str) -> None:
    stream = instruction_stream(n_tasks=3, train=20, valid=2, test=1)
    tokens = 60 if format_ == "markers" else 8  # there it writes the instruction too
    more = {**SAPT_TEXT, "method__generator_format": format_, "method__generator_tokens": tokens}
    plan = dry_run(configured("sapt", stream, backbone__name="tiny-t5", **more), stream)
    for task in plan.tasks:
        adapter, generator, reference = task.phases
        assert (adapter.steps, generator.steps, reference.steps) == (5, 3, 0)
        assert adapter.tuned is not None and generator.tuned is not None
        own = adapter.tuned["adapter"]
        rows = 2 * 2 * 32 if format_ == "markers" else 0  # two tokens, read and written
        assert generator.tuned == {"adapter": own + rows}
    samples, width = 4, 32  # a fifth of 20
    assert plan.stored["buffers"] == 3 * samples * width + (1 + 2 + 3)
    assert plan.stored["adapters"] == 3 * own


@pytest.mark.parametrize(
    ("name", "width", "adapter"),
    [
        ("t5-large", 1024, 1_179_648),
        ("t5-xl-v1.1", 2048, 2_359_296),
        ("t5-xxl-v1.1", 4096, 4_718_592),
        ("llama-2-7b", 4096, 2_097_152),
        ("llama-2-13b", 5120, 3_276_800),
    ],
)
def test_what_sapt_tunes_has_the_published_size(name: str, width: int, adapter: int) -> None:
    stream = instruction_stream(n_tasks=2)
    config = load_config(
        None, {"stream.name": "superni"}, profile="sapt-original-t5-superni", backbone=name
    )
    plan = dry_run(config, stream)
    parts = {"adapter": adapter, "attention.projection": 202 * width, "attention.key": width}
    assert [task.phases[0].tuned for task in plan.tasks] == [parts, parts]
    assert plan.stored["adapters"] == 2 * adapter
    assert plan.memory["backbone"] == 2 * plan.parameters  # bf16
    assert plan.memory["adapters"] == 4 * 2 * adapter  # fp32
    assert plan.memory["optimiser"] == 4 * 4 * sum(parts.values())  # the best state among it


def test_without_data_the_tasks_are_those_of_the_card() -> None:
    plan = dry_run(load_config(None, ["stream.order=mnli-first"], profile="sapt-original-t5-long"))
    assert [task.name for task in plan.tasks][:3] == ["mnli", "cb", "wic"] and len(plan.tasks) == 15
    assert plan.train is None and plan.steps is None and plan.stored["buffers"] is None
    assert plan.steps_of("generator") == 15 * 5000
    last = plan.tasks[-1].phases[0]
    assert last.tuned is not None and last.tuned["adapter"] == 2_359_296  # rank 8
    assert plan.stored["adapters"] == 15 * 2_359_296
    assert "the data are not there" in plan.unknown[0]


def test_quantised_weights_take_less() -> None:
    stream = instruction_stream(n_tasks=1)

    def size(quantisation: str) -> int:
        settings = {"stream.name": stream.name, "backbone.quantisation": quantisation}
        settings |= {"backbone.dtype": "bf16", "method.pseudo": "real"}
        plan = dry_run(load_config(None, settings, method="sapt", backbone="llama-2-7b"), stream)
        return int(plan.memory["backbone"] or 0)

    around = 2 * 2 * 32_000 * 4096  # embeddings and head stay whole
    assert size("none") == 2 * 6_738_415_616
    assert size("bitsandbytes-8bit") == pytest.approx((size("none") + around) / 2, rel=1e-3)
    assert size("bitsandbytes-4bit") == pytest.approx(size("none") / 4 + around * 3 / 4, rel=1e-3)


@pytest.mark.parametrize("kind", ["bottleneck", "prompt", "full"])
def test_other_adapters_are_planned_too(kind: str) -> None:
    stream = synthetic_stream(n_tasks=2)
    config = configured("sequential", stream, backbone__name="tiny-bert", adapter__kind=kind)
    plan = dry_run(config, stream)
    assert plan.unknown == () and plan.steps == 6
    if kind == "full":
        tuned = plan.tasks[0].phases[0].tuned
        assert tuned is not None and tuned["adapter"] == plan.parameters


def test_a_configuration_that_does_not_fit_is_refused() -> None:
    stream = instruction_stream(n_tasks=1)
    with pytest.raises(ConfigError, match="learns classes"):
        dry_run(configured("ewc", stream, backbone__name="tiny-t5"), stream)
    with pytest.raises(ConfigError, match="an encoder, which cannot write"):
        dry_run(configured("sapt", stream, backbone__name="tiny-bert"), stream)
    with pytest.raises(ConfigError, match="no linear module called 'q_proj'"):
        of_llama = {"backbone__name": "tiny-t5", "adapter__targets": ["q_proj"]}
        dry_run(configured("sapt", stream, **of_llama), stream)


CANNOT: list[tuple[str, str, dict[str, Any]]] = [
    ("sapt", "tiny-t5", {"method__generator_tokens": 513}),
    ("sapt", "tiny-t5", {"method__generator_format": "markers", "method__generator_tokens": 9}),
    ("sapt", "tiny-t5", {"method__pseudo": "file", "method__pseudo_file": "{}/samples.jsonl"}),
    ("sapt", "tiny-t5", {"method__pseudo": "file", "method__pseudo_file": "{}/long.jsonl"}),
    ("sapt", "tiny-bert", {"method__pseudo": "generated"}),
    ("emr", "tiny-bert", {"replay__total": 3}),
    ("sequential", "tiny-bert", {"adapter__kind": "prompt", "adapter__length": 500}),
    ("progprompt", "tiny-bert", {"adapter__length": 250}),
    ("l2p", "tiny-t5", {"adapter__length": 100}),
    ("lfpt5", "tiny-t5", {"method__generator_tokens": 513}),
    ("lfpt5", "tiny-bert", {}),
]


@pytest.mark.parametrize(("method", "backbone", "more"), CANNOT)
def test_what_a_run_refuses_its_plan_refuses_too(
    method: str, backbone: str, more: dict[str, Any], tmp_path: Path
) -> None:
    """In the same words."""
    write = backbone == "tiny-t5"
    stream = instruction_stream(n_tasks=2) if write else synthetic_stream(n_tasks=2)
    (tmp_path / "samples.jsonl").write_text('{"task": "even", "input": "a b c"}\n')
    rows = [{"task": t.name, "input": "a b", "instruction": "so " * 999} for t in stream.tasks]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = {k: v.format(tmp_path) if isinstance(v, str) else v for k, v in more.items()}
    with pytest.raises(ConpetError) as planned:
        dry_run(configured(method, stream, backbone__name=backbone, **more), stream)
    own = {key.replace(".", "__"): value for key, value in SMALL.items() if key != "out"}
    with pytest.raises(ConpetError) as refused:
        fit(stream, out=tmp_path / "run", method=method, backbone=backbone, **own, **more)
    assert (type(planned.value), f"{planned.value}") == (type(refused.value), f"{refused.value}")
    assert not (tmp_path / "run" / "state.json").exists()


def test_without_data_a_file_lacks_samples_of_the_tasks_of_the_card(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text('{"task": "mnli", "input": "a b c"}\n')
    words = [f"method.pseudo_file={file}", "method.pseudo=file", "stream.order=mnli-first"]
    with pytest.raises(ConpetError, match="no pseudo-sample of task 'cb'"):
        dry_run(load_config(None, words, profile="sapt-original-t5-long"))
