"""Seeds, the machine, atomic files and the run folder."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conpet.errors import CheckpointError, ConfigError, MissingDependencyError
from conpet.runtime import (
    RunFolder,
    derive_seed,
    environment,
    peak_memory_bytes,
    read_json,
    read_tensors,
    resolve_device,
    resolve_precision,
    rng,
    seed_everything,
    set_deterministic,
    set_threads,
    write_bytes_atomic,
    write_json_atomic,
    write_tensors_atomic,
)

AS_ROOT = os.geteuid() == 0

# Seeds


def test_derived_seeds_are_the_same_in_every_process() -> None:
    code = "from conpet.runtime import derive_seed; print(derive_seed(1, 'batches', 3))"
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert int(other.stdout) == derive_seed(1, "batches", 3) == 5060480054517933076


def test_derived_seeds_keep_parts_apart() -> None:
    seeds = {derive_seed(1, "ab"), derive_seed(1, "a", "b"), derive_seed("1a", "b"), derive_seed(1)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_repeat() -> None:
    assert np.array_equal(rng(1, "x").random(4), rng(1, "x").random(4))


def test_seed_everything_seeds_numpy_and_torch() -> None:
    def draw() -> tuple[float, float]:
        seed_everything(2**40)
        return float(np.random.rand()), float(torch.rand(()))

    assert draw() == draw()


# The machine


def test_auto_device_exists() -> None:
    assert torch.zeros(1, device=resolve_device("auto")).sum() == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_that_is_absent_is_refused(name: str) -> None:
    with pytest.raises(MissingDependencyError, match="use device=cpu"):
        resolve_device(name)


def test_unknown_device_and_precision_are_refused() -> None:
    with pytest.raises(ConfigError, match="allowed: auto, cpu"):
        resolve_device("gpu")
    with pytest.raises(ConfigError, match="allowed: auto, fp32"):
        resolve_precision("fp8", "cpu")


def test_precision() -> None:
    assert resolve_precision("auto", "cpu") in ("bf16", "fp32")
    assert resolve_precision("fp32", torch.device("cpu")) == "fp32"


def test_threads_and_determinism() -> None:
    before = torch.get_num_threads()
    try:
        set_threads(1)
        assert torch.get_num_threads() == 1
        set_threads(None)
        assert torch.get_num_threads() == 1
        set_deterministic(torch.device("cpu"))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(before)


def test_environment_and_memory() -> None:
    facts = environment()
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["cores"] >= 1
    before = peak_memory_bytes()
    block = torch.ones(before // 4 + 4_000_000)  # floats: more than the peak so far
    assert peak_memory_bytes(torch.device("cpu")) > before > 10_000_000
    del block


# Files


def test_json_and_tensors_come_back(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a" / "b.json", {"ü": [1, None]})
    assert read_json(tmp_path / "a" / "b.json") == {"ü": [1, None]}
    tensors = {"w": torch.randn(3, 2).T, "step": torch.tensor(5), "none": torch.zeros(0, 4)}
    path = tmp_path / "t.safetensors"
    write_tensors_atomic(path, tensors, {"task": "ü", "n": [1, 2]})
    back, metadata = read_tensors(path)
    assert metadata == {"task": "ü", "n": [1, 2]}
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    assert set(load_file(path)) == set(tensors)  # a plain safetensors file for others
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "t.safetensors"]


def test_nan_does_not_get_into_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(tmp_path / "x.json", float("nan"))


def full_disk(path: Path) -> None:
    """Make the temporary file of ``path`` a door to a device that is always full."""
    path.with_name(f".{path.name}.tmp").symlink_to("/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_bytes_atomic(path, b"old")
    full_disk(path)
    with pytest.raises(CheckpointError, match=r"No space left.*free some space"):
        write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_while_tensors_are_written(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors_atomic(path, {"w": torch.ones(2)})
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from conpet.errors import CheckpointError\n"
        "from conpet.runtime import write_tensors_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    write_tensors_atomic(Path(sys.argv[1]), {'w': torch.ones(5000)})\n"
        "except CheckpointError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert "cannot write" in done.stdout
    assert torch.equal(read_tensors(path)[0]["w"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 4, 30, -1])
def test_damaged_tensors_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors_atomic(path, {"w": torch.ones(100)}, {"a": 1})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_tensors(path)


def test_damaged_and_missing_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'{"a": ')
    with pytest.raises(CheckpointError, match="is damaged"):
        read_json(tmp_path / "x.json")
    (tmp_path / "y.json").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_json(tmp_path / "y.json")
    with pytest.raises(CheckpointError, match="cannot read"):
        read_json(tmp_path / "none.json")
    with pytest.raises(CheckpointError, match="cannot read"):
        read_tensors(tmp_path / "none.safetensors")


def test_a_kill_during_writing_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    code = (
        "import sys, torch\nfrom pathlib import Path\n"
        "from conpet.runtime import write_tensors_atomic\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    write_tensors_atomic(Path(sys.argv[1]), {'w': torch.full((200_000,), float(n))})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    process.kill()
    process.wait()
    weights = read_tensors(path)[0]["w"]
    assert torch.all(weights == weights[0])


# The run folder


def test_paths_lie_in_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    names = [name for name, value in vars(RunFolder).items() if isinstance(value, property)]
    paths = [value for name in names if isinstance(value := getattr(folder, name), Path)]
    assert len(set(paths)) == len(paths) > 12
    assert all(folder.path in path.parents for path in paths)
    assert not folder.path.exists()


def test_create_and_exists(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "run").create()
    assert list(folder.path.iterdir()) == []
    assert not folder.exists
    folder.write_text(folder.config, "x: 1\n")
    assert folder.exists


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(CheckpointError, match="make the run folder"):
        RunFolder(tmp_path / "run").create()


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
def test_no_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="write permission"):
        RunFolder(tmp_path / "run").create()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_place_where_nobody_may_write_is_refused() -> None:
    with pytest.raises(CheckpointError) as caught:
        RunFolder(Path("/proc/self/run")).create()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno in (errno.EACCES, errno.ENOENT, errno.EPERM)


def _hold(path: Path, ready: Event) -> None:
    with RunFolder(path).locked():
        ready.set()
        time.sleep(60)


def test_the_lock_keeps_others_out_and_falls_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    with (
        pytest.raises(CheckpointError, match="another process is at work"),
        RunFolder(tmp_path).locked(),
    ):
        pass
    process.kill()
    process.join()
    with RunFolder(tmp_path).locked():
        pass
