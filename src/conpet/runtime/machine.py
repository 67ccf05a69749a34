"""The machine: device, precision, threads, determinism, memory, and a record of all that."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conpet.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "bf16")
PACKAGES = (
    "conpet",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
    "scikit-learn",
    "pydantic",
)


def resolve_device(name: str = "auto") -> torch.device:
    """``auto`` is the first of cuda, mps and cpu that is there.

    Raises:
        MissingDependencyError: a device was asked for that this machine does not have.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device is '{name}'; allowed: auto, cpu, mps, cuda, cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MissingDependencyError(
            f"device '{name}' was asked for, and torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; use device=cpu or auto, or install a "
            "CUDA build of torch and a driver (conpet doctor)"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise MissingDependencyError("device 'mps' was asked for and is not there; use device=cpu")
    return device


def resolve_precision(name: str, device: torch.device | str = "auto") -> str:
    """``auto`` is bf16 where the device computes it faster than fp32, else fp32.

    Raises:
        ConfigError: a precision that does not exist.
    """
    if isinstance(device, str):
        device = resolve_device(device)
    if name == "auto":
        return "bf16" if _fast_bf16(device) else "fp32"
    if name not in PRECISIONS:
        raise ConfigError(f"precision is '{name}'; allowed: auto, {', '.join(PRECISIONS)}")
    return name


def _fast_bf16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def set_threads(n: int | None) -> None:
    """Limit torch to ``n`` processor threads; None leaves its choice."""
    import torch

    if n is not None:
        torch.set_num_threads(n)


def set_deterministic(device: torch.device) -> None:
    """Ask for bitwise repeatable results; an operation that has no such form warns on CUDA.

    New memory is not filled: nothing here reads what it has not written, and filling all of it
    takes a few percent of a training step.
    """
    import torch

    if device.type == "cuda":  # cuBLAS reads it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def peak_memory_bytes(device: torch.device | None = None) -> int:
    """The most memory used so far: of the GPU where ``device`` is one, else of this process."""
    import torch

    if device is not None and device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows has none
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement on a GPU; a process's own peak cannot be reset."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def cores() -> int:
    """Processors that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """Versions and hardware, for ``environment.json``."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
