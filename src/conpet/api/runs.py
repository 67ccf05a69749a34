"""Begin a run, go on with it, or open what it learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conpet.api.model import ContinualModel
from conpet.config import RunConfig, diff, load_config
from conpet.errors import CheckpointError
from conpet.events import Observer
from conpet.runtime import (
    RunFolder,
    environment,
    read_json,
    resolve_precision,
    write_json_atomic,
)
from conpet.streams import Stream, load_stream
from conpet.streams.load import fields_of
from conpet.training.store import RunStore


def fit(
    stream: Stream | str,
    *,
    out: str | Path,
    method: str = "conpet-dynamic",
    backbone: str = "minilm",
    observer: Observer | None = None,
    **overrides: Any,
) -> ContinualModel:
    """Learn a stream, task after task; on a folder that was begun, go on where it stopped.

    Args:
        stream: a ``Stream``, or the name or path of one.
        out: the run folder.
        overrides: configuration keys with ``__`` for the dot: ``train__epochs=3, seed=2``.
    """
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    name = stream if isinstance(stream, str) else stream.name
    config = load_config(None, keys, method=method, stream=name, backbone=backbone, out=str(out))
    return run(config, stream=None if isinstance(stream, str) else stream, observer=observer)


def run(
    config: RunConfig, *, stream: Stream | None = None, observer: Observer | None = None
) -> ContinualModel:
    """Run a configuration in its folder; begin, resume, or find that all is done.

    Raises CheckpointError where the folder belongs to another configuration or other data.
    """
    stream = stream or stream_of(config)
    config.check_stream(text=stream.free)
    folder = RunFolder(config.folder())
    folder.create()
    with folder.locked():
        if folder.state.exists() or folder.checkpoint.exists():
            _check_same(folder, config, stream)
        else:  # nothing is learned yet: another configuration costs nothing
            _check_free(folder)
            _begin(folder, config, stream)
        model = ContinualModel(folder, config)
        model.learn_stream(stream, observer)
    return model


def load(folder: str | Path, *, device: str = "auto") -> ContinualModel:
    """Open a run folder to predict, evaluate, or learn more."""
    run_folder = RunFolder(Path(folder))
    if not run_folder.state.exists():
        raise CheckpointError(
            f"'{folder}' is no run folder with a learned task (state.json is missing); give the "
            "--out folder of a conpet run"
        )
    config = load_config(run_folder.config, {"device": device, "out": run_folder.path})
    return ContinualModel(run_folder, config)


def stream_of(config: RunConfig) -> Stream:
    """Load the stream that a configuration names."""
    c = config.stream
    return load_stream(
        c.name,
        data=c.data,
        preset=None if c.preset == "none" else c.preset,
        seed=c.seed,
        train_per_class=c.train_per_class,
        valid_per_class=c.valid_per_class,
        test_per_class=c.test_per_class,
        n_tasks=c.n_tasks,
        groups=c.groups,
        order=c.order or c.tasks,
        fields=c.fields,
        valid=c.valid,
        only=c.only,
    )


def _check_free(folder: RunFolder) -> None:
    """Files of others that a run would take for its own are left alone."""
    taken = [path.name for path in folder.parts if path.exists()]
    if taken and not folder.config.exists():
        raise CheckpointError(
            f"'{folder.path}' holds {', '.join(taken)}, but is no run folder (config.yaml is "
            "missing). Nothing was touched. Give a new or empty folder with --out"
        )


def _begin(folder: RunFolder, config: RunConfig, stream: Stream) -> None:
    write_json_atomic(
        folder.environment,
        environment() | {"precision": resolve_precision(config.precision, config.device)},
    )
    facts: dict[str, Any] = {"name": stream.name, "kind": stream.kind, "metric": stream.metric}
    facts |= {"template": stream.template, "attribution": stream.attribution}
    facts["fields"] = fields_of(config.stream.name, config.stream.fields)
    write_json_atomic(folder.stream, facts | {"fingerprints": stream.fingerprints})
    folder.write_text(folder.config, config.to_yaml())  # last: it says that the rest is there


def _check_same(folder: RunFolder, config: RunConfig, stream: Stream) -> None:
    if not folder.config.exists():
        raise CheckpointError(
            f"run folder '{folder.path}' has lost its config.yaml. Nothing was touched. Restore it "
            "from a copy, or give another --out"
        )
    other = diff(load_config(folder.config, []), config)
    if other:
        raise CheckpointError(
            f"run folder '{folder.path}' was made with another configuration: {'; '.join(other)}. "
            "Nothing was touched. Give the same values to resume, or another --out"
        )
    learned = {task["name"]: task["fingerprint"] for task in RunStore(folder).tasks}
    known = read_json(folder.stream)["fingerprints"] | learned
    both = zip(known.items(), stream.fingerprints.items(), strict=False)
    if any(old != new for old, new in both):  # one may go on where the other ends
        changed = [name for name, value in known.items() if stream.fingerprints.get(name) != value]
        names = ", ".join(changed[:5])
        raise CheckpointError(
            f"run folder '{folder.path}' was made with other data: task(s) {names} differ or are "
            "missing. Nothing was touched. Use the data it began with, or another --out"
        )
