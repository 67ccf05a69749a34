"""What a run stands on: seeds, the machine, atomic files, the run folder."""

from conpet.runtime.files import (
    read_json,
    read_tensors,
    write_bytes_atomic,
    write_json_atomic,
    write_tensors_atomic,
)
from conpet.runtime.folder import RunFolder
from conpet.runtime.machine import (
    environment,
    peak_memory_bytes,
    reset_peak_memory,
    resolve_device,
    resolve_precision,
    set_deterministic,
    set_threads,
)
from conpet.runtime.seeds import derive_seed, rng, seed_everything

__all__ = [
    "RunFolder",
    "derive_seed",
    "environment",
    "peak_memory_bytes",
    "read_json",
    "read_tensors",
    "reset_peak_memory",
    "resolve_device",
    "resolve_precision",
    "rng",
    "seed_everything",
    "set_deterministic",
    "set_threads",
    "write_bytes_atomic",
    "write_json_atomic",
    "write_tensors_atomic",
]
