"""What stands for the old inputs of SAPT: real texts, those of a file, generated ones; and runs."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from conpet import ContinualModel, fit
from conpet.backbones.base import Backbone
from conpet.config import load_config
from conpet.errors import ConfigError, DataError
from conpet.events import Observer
from conpet.methods.base import PhaseSpec, State
from conpet.methods.reflection import QUERIES, attention
from conpet.methods.sapt import SAPT
from conpet.streams import Stream
from conpet.testing import synthetic_stream, teach, tiny_bert, tiny_state, tiny_t5
from conpet.testing.instruction import instruction_stream
from conpet.testing.runs import AtStep, differing
from conpet.training.trainer import Interrupted
from conpet.types import Task

TEXT = instruction_stream(4, train=10, valid=3, test=4)
TWO = replace(TEXT, tasks=TEXT.tasks[:2])
CLASSES = synthetic_stream(n_tasks=2, train=5)
RELATIONS = synthetic_stream("relation", 2)
SPEC = PhaseSpec(epochs=1, batch_size=4)


def taught(method: SAPT, n: int, backbone: Backbone | None = None, seed: int = 1) -> State:
    """A state that has learned n tasks."""
    state = tiny_state(backbone=backbone or tiny_t5(generative=True), spec=SPEC, seed=seed)
    teach(state, method, *(TEXT if state.writes else CLASSES).tasks[:n])
    return state


# Samples that are not generated -------------------------------------------------------------------


@pytest.mark.parametrize(("share", "n"), [(0.02, 1), (0.1, 1), (0.29, 2), (0.3, 3), (1.0, 10)])
def test_a_share_of_the_training_inputs_is_kept_but_at_least_one(share: float, n: int) -> None:
    """floor(share * 10), at least 1."""
    state = taught(SAPT(pseudo="real", pseudo_share=share), 1)
    task = TEXT.tasks[0]
    samples = state.pseudo[task.name]
    assert (samples.source, len(samples.inputs), samples.quality) == ("real", n, {})
    own = [(example.instruction, example.text) for example in task.train]
    places = [own.index(pair) for pair in samples.inputs]
    assert places == sorted(set(places))
    assert state.buffers[QUERIES + task.name].shape == (n, attention(state).width)


def test_real_samples_are_drawn_by_the_seed() -> None:
    method = SAPT(pseudo="real", pseudo_share=0.4)
    kept = [taught(method, 1, seed=seed).pseudo for seed in (1, 1, 2)]
    assert kept[0] == kept[1] != kept[2]


def test_auto_generates_where_the_backbone_writes() -> None:
    writes, names = tiny_state(backbone=tiny_t5(generative=True)), tiny_state()
    assert SAPT().source(writes) == "generated"
    assert SAPT().source(names) == "real"
    assert SAPT(pseudo="real").source(writes) == "real"


def sample_file(folder: Path, rows: list[dict[str, Any]], name: str = "samples.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(tasks: tuple[Task, ...], n: int = 4) -> list[dict[str, Any]]:
    """Rows of all tasks in turn."""
    return [
        {"task": t.name, "input": f"sample {i} of {t.name}", "instruction": t.train[0].instruction}
        for i in range(n)
        for t in tasks
    ]


def test_samples_may_come_from_a_file(tmp_path: Path) -> None:
    path = sample_file(tmp_path, rows_of(TEXT.tasks))
    state = taught(SAPT(pseudo="file", pseudo_file=path, pseudo_share=0.3), 2)
    for task in TEXT.tasks[:2]:
        samples = state.pseudo[task.name]
        assert samples.source == "file"
        words = task.train[0].instruction
        own = [(words, f"sample {i} of {task.name}") for i in range(4)]
        places = [own.index(pair) for pair in samples.inputs]
        assert len(places) == 3 and places == sorted(set(places))
        assert len(state.buffers[QUERIES + task.name]) == 3


def test_those_of_a_file_are_drawn_by_the_seed(tmp_path: Path) -> None:
    path = sample_file(tmp_path, rows_of(TEXT.tasks, n=20))
    method = SAPT(pseudo="file", pseudo_file=path, pseudo_share=0.5)
    first, again, other = (taught(method, 2, seed=seed).pseudo for seed in (1, 1, 2))
    assert first == again
    for task in TEXT.tasks[:2]:
        found = [{text for _, text in kept[task.name].inputs} for kept in (first, other)]
        top = {f"sample {i} of {task.name}" for i in range(5)}
        assert found[0] != found[1] and top not in found
    numbers = [[int(text.split()[1]) for _, text in s.inputs] for s in first.values()]
    assert numbers[0] != numbers[1], "of each task by itself"


def test_a_file_may_hold_fewer_samples_and_no_instructions(tmp_path: Path) -> None:
    path = tmp_path / "samples.csv"
    path.write_text("task,input\neven,a b\nswap,c d\n")
    state = taught(SAPT(pseudo="file", pseudo_file=path, pseudo_share=1.0), 2)
    assert state.pseudo["even"].inputs == (("", "a b"),)
    few = "1 file samples stand for its inputs (10 were wanted)"
    assert list(SAPT(pseudo="file", pseudo_file=path, pseudo_share=1.0).notes(state)) == [few]
    nothing = [{"task": "even", "input": 7, "instruction": None}]
    path = sample_file(tmp_path, nothing)
    state = taught(SAPT(pseudo="file", pseudo_file=path), 1)
    assert state.pseudo["even"].inputs == (("", "7"),)


class Started(Observer):
    """Whether any task was begun."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.notes: list[str] = []

    def task_started(self, number: int, total: int, name: str) -> None:
        self.tasks.append(name)

    def note(self, level: str, text: str) -> None:
        self.notes.append(text)


def run(
    out: Path, stream: Stream = TEXT, *, observer: Observer | None = None, **options: Any
) -> ContinualModel:
    settings: dict[str, Any] = {
        "backbone": "tiny-t5" if stream.free else "tiny-bert",
        "train__epochs": 1,
        "generation__max_new_tokens": 4,
        "method__generator_steps": 1,
        "method__generator_tokens": 8,
        "threads": 1,
        "device": "cpu",
        "precision": "fp32",
    }
    return fit(stream, out=out, method="sapt", observer=observer, **settings | options)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_of(TEXT.tasks[:1]), "no pseudo-sample of task 'swap'; it has those of: even. Add"),
        ([{"task": "even", "text": "a"}], "line 1 has no 'task' or no 'input'"),
        ([*rows_of(TWO.tasks), {"input": "a"}], "line 9 has no 'task' or no 'input'"),
        ([*rows_of(TWO.tasks), {"task": "even", "input": " "}], "line 9 has no 'task' or no"),
        ([], "is empty; it needs at least one row"),
        (
            [{"task": t.name, "input": "a", "instruction": "so " * 999} for t in TWO.tasks],
            "'pseudo-even-0': its instruction and the answer cue take 3[0-9]* tokens",
        ),
    ],
)
def test_a_file_that_will_not_do_is_refused_before_anything_is_learned(
    rows: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    path, started = sample_file(tmp_path, rows), Started()
    options: dict[str, Any] = {"method__pseudo": "file", "method__pseudo_file": path}
    with pytest.raises(DataError, match=message):
        run(tmp_path / "run", TWO, observer=started, **options)
    assert started.tasks == []


LLAMA: dict[str, Any] = {"backbone": "tiny-llama"}
OTHER_FILE: dict[str, Any] = {"method__pseudo": "file", "method__pseudo_file": "/no/such.jsonl"}
CANNOT: list[tuple[Stream, dict[str, Any], type[Exception], str]] = [
    (TWO, OTHER_FILE, DataError, "no such file: /no/such.jsonl"),
    (CLASSES, {"method__pseudo": "generated"}, ConfigError, "use method.pseudo=real or file"),
    (
        TWO,
        {"method__generator_tokens": 513},
        ConfigError,
        "generator_tokens is 513, and backbone 'tiny-t5', which has 512, can write .* 512 of",
    ),
    (TWO, LLAMA | {"method__generator_tokens": 497}, ConfigError, "write no more than 496 of"),
    (
        TWO,
        LLAMA | {"method__generator_tokens": 487, "adapter__kind": "prompt"},
        ConfigError,
        "write no more than 486 of them; lower it",
    ),
    (
        TWO,
        {"method__generator_format": "markers"},
        ConfigError,
        "the instruction of task 'even' alone takes [0-9]+, so that no input would follow it",
    ),
]


@pytest.mark.parametrize(("stream", "options", "error", "message"), CANNOT)
def test_what_cannot_be_generated_is_refused_before_anything_is_learned(
    stream: Stream, options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    started = Started()
    with pytest.raises(error, match=message):
        run(tmp_path / "run", stream, observer=started, **options)
    assert started.tasks == []


def test_entities_are_not_marked_in_a_file(tmp_path: Path) -> None:
    path = sample_file(tmp_path, rows_of(RELATIONS.tasks))
    options: dict[str, Any] = {"method__pseudo": "file", "method__pseudo_file": path}
    with pytest.raises(ConfigError, match="'task-1' have entities, .* use method.pseudo=real"):
        run(tmp_path / "run", RELATIONS, **options)


def test_a_prompt_that_needs_entities_has_them_in_real_samples(tmp_path: Path) -> None:
    model = run(tmp_path / "run", RELATIONS, backbone__prompt="entity")
    assert model.tasks == ("task-1", "task-2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.pseudo=file"], "pseudo is 'file' and method.pseudo_file None; give both"),
        (["method.pseudo_file=a.jsonl"], "pseudo is 'auto' and method.pseudo_file .*a.jsonl; give"),
        (["method.train_top_k=true"], "needs a number as method.top_k"),
        (
            ["method.train_top_k=true", "method.top_k=2", "method.attend=selection"],
            "attend is 'selection', so that each adapter learns alone; leave out",
        ),
        (["stream.valid=test"], "learns from validation examples.* give method.reference_from=tr"),
        (["method.top_k=0"], "top_k"),
        (["method.temperature=0"], "temperature"),
        (["method.pseudo_share=0"], "pseudo_share"),
        (["method.generator_tokens=7"], "generator_tokens"),
        (["replay.kind=memory"], "what it keeps of old tasks is chosen by method.pseudo"),
        (["adapter.kind=full"], "lora, bottleneck, prompt"),
    ],
)
def test_options_that_do_not_fit_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, words, method="sapt", stream="banking77")


def test_test_examples_may_choose_a_state_but_give_no_reference() -> None:
    words = ["stream.valid=test", "method.reference_from=train"]
    assert load_config(None, words, method="sapt", stream="banking77").stream.valid == "test"
    load_config(None, ["stream.valid=test"], method="sequential", stream="banking77")


@pytest.mark.parametrize("words", [["adapter.kind=prompt"], ["method=sapt-prompt"]])
def test_a_profile_goes_with_soft_prompts(words: list[str]) -> None:
    config = load_config(None, words, profile="sapt-original-t5-superni")
    assert (config.method.name, config.adapter.kind) == ("sapt", "prompt")


# Runs ---------------------------------------------------------------------------------------------


def test_a_run_with_a_file_is_configured_and_continued_by_its_folder(tmp_path: Path) -> None:
    path = sample_file(tmp_path, rows_of(TEXT.tasks[:3]))
    options: dict[str, Any] = {"method__pseudo": "file", "method__pseudo_file": path}
    run(tmp_path / "run", TWO, **options)
    again = run(tmp_path / "run", TWO, **options)
    assert again.tasks == ("even", "swap")
    assert isinstance(again.method, SAPT) and again.method.pseudo_file == path
    more = Started()
    with pytest.raises(DataError, match=f"no pseudo-sample of task '{TEXT.tasks[3].name}'"):
        again.learn(TEXT.tasks[3], observer=more)
    assert more.tasks == []
    assert again.learn(TEXT.tasks[2]).tasks == ("even", "swap", "either")
    path.unlink()
    assert ContinualModel(again.folder, again.config).predict(["what?"])


def test_a_finished_run_learns_on_from_its_pseudo_samples(tmp_path: Path) -> None:
    model, notes = run(tmp_path / "run", TWO), Started()
    kept = {p.name: p.read_bytes() for p in (tmp_path / "run" / "pseudo").iterdir()}
    assert sorted(kept) == ["01-even.json", "02-swap.json"]
    opened = ContinualModel(model.folder, model.config)
    opened.learn(TEXT.tasks[2], observer=notes)
    after = {p.name: p.read_bytes() for p in (tmp_path / "run" / "pseudo").iterdir()}
    assert sorted(after) == ["01-even.json", "02-swap.json", "03-either.json"]
    assert all(after[name] == content for name, content in kept.items())
    assert "@generator" not in "".join(p.name for p in (tmp_path / "run" / "adapters").iterdir())
    said = [note for note in notes.notes if "pseudo-samples kept" in note]
    assert len(said) == 1 and "task 'either'" in said[0] and "distinct-2" in said[0]


FORMATS: dict[str, dict[str, Any]] = {
    "instruction": {},
    "markers": {"method__generator_format": "markers", "method__generator_tokens": 60},
}


@pytest.mark.parametrize("how", FORMATS)
def test_a_run_that_is_stopped_inside_its_generator_ends_as_if_it_had_not_been(
    how: str, tmp_path: Path
) -> None:
    options = FORMATS[how] | {"method__generator_steps": 4, "method__generator_shortest": 1}
    whole = run(tmp_path / "whole", TWO, **options)
    stop = AtStep(3, lambda: signal.raise_signal(signal.SIGINT))  # one step is the adapter's
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", TWO, observer=stop, **options)
    kept = load_file(tmp_path / "stopped" / "checkpoint" / "task.safetensors")
    words = {key.rsplit("/", 1)[1] for key in kept if key.startswith("adapter/@generator/")}
    assert ("tokens.write" in words) == (how == "markers") and len(words) > 2
    assert differing(run(tmp_path / "stopped", TWO, **options), whole) == []


@pytest.mark.parametrize("how", FORMATS)
def test_a_stream_without_instructions_is_learned(how: str, tmp_path: Path) -> None:
    def silent(task: Task) -> Task:
        parts: dict[str, Any] = {
            split: tuple(replace(example, instruction="") for example in getattr(task, split))
            for split in ("train", "valid", "test")
        }
        return replace(task, **parts)

    stream = replace(TWO, tasks=tuple(map(silent, TWO.tasks)))
    model = run(tmp_path / "run", stream, **FORMATS[how])
    kept = json.loads((tmp_path / "run" / "pseudo" / "01-even.json").read_text())
    assert how == "markers" or all(row["instruction"] == "" for row in kept["inputs"])
    assert model.tasks == ("even", "swap")


def test_what_is_said_of_real_samples() -> None:
    method = SAPT(pseudo_share=0.3)
    state = taught(method, 1, tiny_bert())
    assert list(method.notes(state)) == ["3 real samples stand for its inputs"]


def test_the_matrix_has_a_score_for_every_stage(tmp_path: Path) -> None:
    model = run(tmp_path / "run", CLASSES)
    assert not np.isnan(np.tril(model.matrix.values)).any()
    for weights in model.route([e.text for e in CLASSES.tasks[0].test]):
        assert set(weights) == {"task-1", "task-2"}
        assert sum(weights.values()) == pytest.approx(1.0)
