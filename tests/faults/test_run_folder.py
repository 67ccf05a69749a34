"""A run folder that is damaged, foreign or busy: a clear message, and nothing in it is touched."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faultkit import TINY, Conpet, files_of, outcome, refused, rows, write_rows

Damage = Callable[[Path], None]


@pytest.fixture(scope="session")
def command(data: Path) -> tuple[str, ...]:
    return ("run", f"--stream={data}", *TINY, "method.top_k=2")


@pytest.fixture(scope="session")
def made(
    conpet: Conpet, command: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A run that is finished, and one that was stopped inside its second task."""
    parent = tmp_path_factory.mktemp("made")
    assert conpet(*command, f"--out={parent / 'finished'}").code == 0
    stop = {
        "target": "conpet.training.trainer:Trainer.step",
        "call": 30,
        "signal_name": "SIGINT",
    }
    assert conpet(*command, f"--out={parent / 'stopped'}", fault=stop).code == 130
    return {name: parent / name for name in ("finished", "stopped")}


@pytest.fixture
def finished(made: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(made["finished"], tmp_path / "run")


@pytest.fixture
def stopped(made: dict[str, Path], tmp_path: Path) -> Path:
    folder = shutil.copytree(made["stopped"], tmp_path / "run")
    assert (folder / "checkpoint" / "task.safetensors").exists()
    return folder


@pytest.mark.parametrize("name", ["finished", "stopped"])
def test_another_configuration(
    conpet: Conpet, command: tuple[str, ...], made: dict[str, Path], name: str
) -> None:
    before = files_of(made[name])
    result = conpet(*command, f"--out={made[name]}", "train.lr=0.5", "seed=9")
    refused(result, "another configuration", "train.lr: 0.002 is now 0.5", "seed", "--out")
    assert files_of(made[name]) == before


def test_a_mistake_before_anything_is_learned_costs_no_folder(
    conpet: Conpet, command: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    refused(conpet(*command, f"--out={folder}", "--backbone=tiny-brt"), "tiny-bert")
    assert conpet(*command, f"--out={folder}").code == 0


def test_other_data(conpet: Conpet, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", rows(["one", "two"]))
    folder = tmp_path / "run"
    command = ("run", f"--stream={data}", *TINY, "--method=lda", f"--out={folder}")
    assert conpet(*command).code == 0
    lines = rows(["one", "two"])
    lines[0]["text"] += " more"
    write_rows(data, lines)
    before = files_of(folder)
    refused(conpet(*command), "other data", "task(s) one", "--out")
    assert files_of(folder) == before


def truncated(path: str) -> Damage:
    def damage(folder: Path) -> None:
        os.truncate(folder / path, (folder / path).stat().st_size // 2)

    return damage


def flipped(path: str) -> Damage:
    """One bit, deep in the file: its form is still right."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / path).read_bytes())
        content[len(content) * 3 // 4] ^= 4
        (folder / path).write_bytes(content)

    return damage


def removed(path: str) -> Damage:
    return lambda folder: (folder / path).unlink()


def replaced(path: str, content: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / path).write_text(content)

    return damage


CHECKPOINT = "checkpoint/task.safetensors"
ADAPTER = "adapters/01-one/adapter_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        pytest.param(truncated(CHECKPOINT), CHECKPOINT, id="half a checkpoint"),
        pytest.param(flipped(CHECKPOINT), CHECKPOINT, id="a bit of the checkpoint"),
        pytest.param(replaced(CHECKPOINT, ""), CHECKPOINT, id="an empty checkpoint"),
        pytest.param(truncated(ADAPTER), ADAPTER, id="half an adapter"),
        pytest.param(flipped(ADAPTER), "01-one is damaged", id="a bit of an adapter"),
        pytest.param(removed(ADAPTER), ADAPTER, id="no adapter"),
        pytest.param(removed("adapters/01-one/labels.json"), "labels.json", id="no labels"),
        pytest.param(truncated("state.json"), "state.json is damaged", id="half a state"),
        pytest.param(replaced("state.json", "[]"), "state.json", id="a foreign state"),
        pytest.param(truncated("history/01.jsonl.gz"), "history/01.jsonl.gz", id="half a history"),
        pytest.param(flipped("history/01.jsonl.gz"), "history/01.jsonl.gz", id="a bit of history"),
        pytest.param(removed("config.yaml"), "config.yaml", id="no configuration"),
        pytest.param(replaced("config.yaml", "a: ["), "config.yaml", id="a broken configuration"),
        pytest.param(replaced("stream.json", "{"), "stream.json is damaged", id="a broken stream"),
        pytest.param(
            replaced("environment.json", ""), "environment.json is damaged", id="no environment"
        ),
    ],
)
def test_damaged(
    conpet: Conpet, command: tuple[str, ...], stopped: Path, damage: Damage, word: str
) -> None:
    damage(stopped)
    before = files_of(stopped)
    refused(conpet(*command, f"--out={stopped}"), word)
    assert files_of(stopped) == before


def test_a_damaged_checkpoint_may_be_deleted(
    conpet: Conpet, command: tuple[str, ...], stopped: Path, made: dict[str, Path]
) -> None:
    """As its message says; what is learned from the start of the task again is the same."""
    truncated(CHECKPOINT)(stopped)
    refused(conpet(*command, f"--out={stopped}"), "may be deleted")
    (stopped / CHECKPOINT).unlink()
    assert conpet(*command, f"--out={stopped}").code == 0
    assert outcome(stopped) == outcome(made["finished"])


@pytest.mark.parametrize("damage", [truncated, flipped, removed])
@pytest.mark.parametrize("suffix", ["states", "index"])
def test_damaged_states_are_computed_anew(
    conpet: Conpet,
    command: tuple[str, ...],
    tmp_path: Path,
    damage: Callable[[str], Damage],
    suffix: str,
) -> None:
    """What layers below the adapters gave can always be made again; a run ends as it would have,
    but for rounding: texts come together in other batches."""
    folder, step = tmp_path / "run", "conpet.training.trainer:Trainer.step"
    words = (*command, "adapter.layers=1", f"--out={folder}")
    fault = {"target": step, "call": 30, "signal_name": "SIGINT"}
    assert conpet(*words, fault=fault).code == 130
    (path,) = (folder / "trunk").glob(f"*.{suffix}")
    damage(f"trunk/{path.name}")(folder)
    assert conpet(*words).code == 0
    assert conpet(*command, "adapter.layers=1", f"--out={tmp_path / 'whole'}").code == 0
    ended, whole = (outcome(tmp_path / name) for name in ("run", "whole"))
    assert ended["matrix"] == whole["matrix"]


@pytest.mark.parametrize("verb", ["eval", "learn"])
def test_a_damaged_adapter_is_seen_before_anything_begins(
    conpet: Conpet, finished: Path, tmp_path: Path, verb: str
) -> None:
    flipped(ADAPTER)(finished)
    source = write_rows(tmp_path / "more.jsonl", rows(["four"]))
    before = files_of(finished)
    more = {"eval": [], "learn": [source]}[verb]
    refused(conpet(verb, finished, *more), "01-one is damaged")
    assert files_of(finished) == before


def test_a_damaged_adapter_never_answers(conpet: Conpet, finished: Path) -> None:
    """Whichever the text is routed to: an adapter is read, and checked, when it is first used."""
    for path in (finished / "adapters").iterdir():
        flipped(f"adapters/{path.name}/adapter_model.safetensors")(finished)
    before = files_of(finished)
    refused(conpet("predict", finished, "ba ku"), "adapters/", "is damaged")
    assert files_of(finished) == before


@pytest.mark.parametrize("backbone", ["tiny-llama", "tiny-t5"])
def test_an_adapter_of_another_backbone(conpet: Conpet, finished: Path, backbone: str) -> None:
    text = (finished / "config.yaml").read_text()
    (finished / "config.yaml").write_text(text.replace("name: tiny-bert", f"name: {backbone}"))
    before = files_of(finished)
    refused(conpet("predict", finished, "ba ku"), "router/03-selector")
    assert files_of(finished) == before


def test_predictions_need_no_history(conpet: Conpet, finished: Path) -> None:
    shutil.rmtree(finished / "history")
    assert conpet("predict", finished, "ba ku").code == 0


def test_files_of_others_are_left_alone(
    conpet: Conpet, command: tuple[str, ...], tmp_path: Path
) -> None:
    mine = tmp_path / "adapters" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    refused(conpet(*command, f"--out={tmp_path}"), "adapters", "no run folder", "--out")
    assert mine.read_text() == "mine"


def test_a_file_where_the_folder_should_be(
    conpet: Conpet, command: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "run").write_text("mine")
    refused(conpet(*command, f"--out={tmp_path / 'run'}"), str(tmp_path / "run"))
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("verb", ["run", "learn"])
def test_two_processes_in_one_folder(
    conpet: Conpet, command: tuple[str, ...], finished: Path, tmp_path: Path, verb: str
) -> None:
    """The first one holds still inside a step, and the second one is refused."""
    source = write_rows(tmp_path / "more.jsonl", rows(["four"]))
    step = {"target": "conpet.training.trainer:Trainer.step", "signal_name": "SIGSTOP"}
    first = conpet.start("learn", finished, source, "--quiet", fault=step)
    first.wait_until_stopped()
    before = files_of(finished)
    words = {"run": (*command, f"--out={finished}"), "learn": ("learn", finished, source)}[verb]
    refused(conpet(*words), "another process", "--out")
    assert files_of(finished) == before
    first.kill(signal.SIGCONT)
    assert first.wait().code == 0


# Disk and rights


@pytest.mark.parametrize("room", [3_000, 12_000, 25_000])
def test_no_room(
    conpet: Conpet,
    command: tuple[str, ...],
    made: dict[str, Path],
    tmp_path: Path,
    room: int,
) -> None:
    """The disk takes no file above a size; when it does, the run ends as if it always had."""
    folder = tmp_path / "run"
    refused(conpet(*command, f"--out={folder}", room=room), "cannot", "run the same command")
    assert conpet(*command, f"--out={folder}").code == 0
    assert outcome(folder) == outcome(made["finished"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 120 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=120k none {disk} 2>/dev/null") != 0:
        pytest.skip("only root may mount a small disk")
    yield disk
    os.system(f"umount {disk}")


def test_no_space(
    conpet: Conpet, command: tuple[str, ...], made: dict[str, Path], small_disk: Path
) -> None:
    folder = small_disk / "run"
    refused(conpet(*command, f"--out={folder}"), "No space left", "free some space")
    assert os.system(f"mount -o remount,size=10m {small_disk}") == 0
    assert conpet(*command, f"--out={folder}").code == 0
    assert outcome(folder) == outcome(made["finished"])


@pytest.fixture
def locked_up(made: dict[str, Path], tmp_path: Path) -> Iterator[Path]:
    """A finished run in which nobody may write."""
    folder = shutil.copytree(made["finished"], tmp_path / "locked up")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


def test_no_right_to_make_a_folder(
    conpet: Conpet, command: tuple[str, ...], locked_up: Path
) -> None:
    before = files_of(locked_up)
    result = conpet(*command, f"--out={locked_up / 'new'}", humble=True)
    refused(result, "Permission denied", "write permission", "--out")
    assert files_of(locked_up) == before


def test_no_right_to_write_into_a_run(conpet: Conpet, locked_up: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "more.jsonl", rows(["four"]))
    before = files_of(locked_up)
    refused(conpet("learn", locked_up, source, humble=True), "Permission denied")
    assert conpet("predict", locked_up, "ba ku", humble=True).code == 0
    assert conpet("eval", locked_up, humble=True).code == 0
    assert files_of(locked_up) == before


def test_no_graphics_card(conpet: Conpet, command: tuple[str, ...], tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    folder = tmp_path / "run"
    refused(conpet(*command, f"--out={folder}", "device=cuda"), "cuda", "device=cpu", "doctor")
    assert conpet(*command, f"--out={folder}", "device=auto").code == 0


# Defects


def test_a_defect_is_told_apart_and_loses_nothing(
    conpet: Conpet, command: tuple[str, ...], made: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    fault = {"target": "conpet.training.trainer:Trainer.step", "call": 40}
    result = conpet(*command, f"--out={folder}", "--json", fault=fault)
    assert result.code == 1
    assert "Traceback" in result.err
    assert result.document["error"]["type"] == "RuntimeError"
    assert conpet(*command, f"--out={folder}").code == 0
    assert outcome(folder) == outcome(made["finished"])


def test_a_second_signal_does_not_wait(
    conpet: Conpet, command: tuple[str, ...], made: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    fault = {
        "target": "conpet.evaluation.evaluator:_oracle",
        "call": 2,
        "signal_name": "SIGSTOP",
    }
    first = conpet.start(*command, f"--out={folder}", fault=fault)
    first.wait_until_stopped()
    for number in (signal.SIGTERM, signal.SIGINT):
        first.kill(number)
    first.kill(signal.SIGCONT)
    result = first.wait()
    assert result.code == 130
    assert "Traceback" not in result.err
    assert conpet(*command, f"--out={folder}").code == 0
    assert outcome(folder) == outcome(made["finished"])


def test_a_signal_while_it_starts(conpet: Conpet, command: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fault = {"target": "conpet.api.opened:Pool.__init__", "signal_name": "SIGINT"}
    result = conpet(*command, f"--out={folder}", fault=fault)
    assert result.code == 130
    assert "Traceback" not in result.err
    assert conpet(*command, f"--out={folder}").code == 0


def test_a_loss_that_is_not_finite(conpet: Conpet, data: Path, tmp_path: Path) -> None:
    """The second task goes wrong; the first one is safe, and answers."""
    folder = tmp_path / "run"
    words = ("run", f"--stream={data}", *TINY, f"--out={folder}", "train.clip=null")
    result = conpet(*words, "train.lr_from={2: 1.0e+30}", "--json")
    refused(result, "not finite", "task 'two'", "train.lr")
    assert result.document["error"]["type"] == "TrainingError"
    state = json.loads((folder / "state.json").read_text())
    assert [task["name"] for task in state["tasks"]] == ["one"]
    assert conpet("predict", folder, "ba ku").code == 0
