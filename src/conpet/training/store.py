"""A run on disk: committed tasks, and the checkpoint inside the task that is being learned.

A task is committed by the rename of ``state.json``, which names every file that belongs to the
state. Whatever else lies in the folder is left over from a crash and is ignored, then overwritten.
The checkpoint is one safetensors file whose header holds the progress as JSON; it too is replaced
by one rename. No pickle anywhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conpet.adapters.io import expect_adapter, load_adapter, save_adapter
from conpet.errors import CheckpointError
from conpet.methods.base import State
from conpet.replay.pseudo import PseudoSamples
from conpet.runtime import (
    RunFolder,
    read_json,
    read_tensors,
    write_json_atomic,
    write_tensors_atomic,
)
from conpet.runtime.files import disk_errors
from conpet.training.trainer import Progress

VERSION = 1
FOLDER_OF_ROLE = {"selector": "router"}  # every other role lies in adapters/


class RunStore:
    """Reads and writes the state of one run folder."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.record: dict[str, Any] = {
            "version": VERSION,
            "tasks": [],
            "adapters": {},
            "logits": {},
            "pseudo": {},
        }
        if folder.state.exists():
            self.record = read_json(folder.state)
            _check_version(folder.state, self.record)

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """One record per committed task: name, fingerprint, labels, n_test, cost."""
        return self.record["tasks"]

    # Commits -------------------------------------------------------------------------------------

    def restore(self, state: State, *, lazily: bool = False) -> None:
        """Load the committed adapters, learner and replay into a fresh state.

        ``lazily``: an adapter is read, and checked, when it is first used.
        """
        for name, where in self.record["adapters"].items():
            folder, role = self.folder.path / where["folder"], where["role"]
            # What is trained again gets another folder, and a process that reads has to have it;
            # earlier versions did not note fingerprints.
            if lazily and role == "task" and "fingerprint" in where:
                facts = {key: where[key] for key in ("n_classes", "fingerprint")}
                expect_adapter(state.pool, name, folder, role=role, **facts)
            else:
                load_adapter(state.pool, name, folder, role=role)
                state.pool.mark_saved(name)
        if self.record.get("learner"):
            tensors, _ = read_tensors(self.folder.path / self.record["learner"])
            _load_learner(state, tensors)
        state.replay.hold(self.record.get("replay", {}))
        state.pseudo = {
            name: PseudoSamples.from_json(read_json(self.folder.path / where))
            for name, where in self.record.get("pseudo", {}).items()
        }
        state.passes = self.record.get("passes", 0)

    def commit(self, state: State, tasks: Sequence[Mapping[str, Any]], **facts: Any) -> None:
        """Write all that changed since the last commit, then make it count by one rename."""
        number = f"{len(state.history):02d}"
        state.logits.keep_only({state.cache_key(name) for name in state.pool.names})
        adapters = {k: v for k, v in self.record["adapters"].items() if k in state.pool.names}
        for name in state.pool.changed:
            role = state.pool.role(name)
            where = f"{FOLDER_OF_ROLE.get(role, 'adapters')}/{number}-{name.removeprefix('@')}"
            labels = _labels_of(state, name)
            save_adapter(state.pool, name, self.folder.path / where, labels=labels)
            adapters[name] = {
                "folder": where,
                "role": role,
                "n_classes": state.pool.n_classes(name),
                "fingerprint": state.pool.fingerprint(name),
            }
        pseudo = dict(self.record.get("pseudo", {}))
        for name in state.pseudo.keys() - pseudo.keys():
            pseudo[name] = f"pseudo/{number}-{name}.json"
            write_json_atomic(self.folder.path / pseudo[name], state.pseudo[name].to_json())
        learner = None
        tensors = _learner(state)
        if tensors:
            learner = f"learner/{number}.safetensors"
            write_tensors_atomic(self.folder.path / learner, tensors, {})
        self.record = {
            "version": VERSION,
            **facts,
            "tasks": list(tasks),
            "adapters": adapters,
            "learner": learner,
            "replay": state.replay.held(),
            "pseudo": pseudo,
            "logits": state.logits.commit(),
            "trunk": state.kept.commit(),
            "passes": state.passes,
        }
        write_json_atomic(self.folder.state, self.record)
        for name in state.pool.changed:
            state.pool.mark_saved(name)
        self._remove_checkpoint()
        self._clean()

    def finish_commit(self) -> None:
        """Do what a crash right after a commit left undone."""
        path = self.folder.checkpoint
        if path.exists():
            _, meta = read_tensors(path)
            if meta.get("task_fingerprint") in [task["fingerprint"] for task in self.tasks]:
                self._remove_checkpoint()
        self._clean()

    def _remove_checkpoint(self) -> None:
        with disk_errors(self.folder.checkpoint):
            self.folder.checkpoint.unlink(missing_ok=True)

    def _clean(self) -> None:
        """Remove what older commits wrote and this one no longer names."""
        wanted = {where["folder"] for where in self.record["adapters"].values()}
        wanted |= {self.record.get("learner"), *self.record.get("pseudo", {}).values()}
        for parent in ("adapters", "router", "learner", "pseudo"):
            for path in (self.folder.path / parent).glob("*"):
                if f"{parent}/{path.name}" in wanted:
                    continue
                with disk_errors(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    # The checkpoint inside a task ----------------------------------------------------------------

    def save_checkpoint(self, state: State, progress: Progress, task_fingerprint: str) -> None:
        """Write everything that differs from the last commit, and where training stands."""
        pool = state.pool
        tensors = {f"learner/{k}": v for k, v in _learner(state).items()}
        for name in pool.changed:
            tensors |= {f"adapter/{name}/{k}": v for k, v in pool.tensors(name).items()}
        tensors |= {f"optimiser/{k}": v for k, v in progress.optimiser.items()}
        tensors |= {f"best/{k}": v for k, v in progress.best.items()}
        tensors |= {f"rng/{k}": v for k, v in _rng_state().items()}
        meta = {
            "version": VERSION,
            "task": state.task.name,
            "task_fingerprint": task_fingerprint,
            "progress": progress.to_json(),
            "adapters": {
                name: {
                    "role": pool.role(name),
                    "live": pool.is_live(name),
                    "n_classes": pool.head(name).weight.shape[0] if pool.has_head(name) else 0,
                    "n_tokens": len(pool.token_ids(name)),
                }
                for name in pool.changed
            },
            "replay": state.replay.held(),
            "pseudo": {
                name: samples.to_json()
                for name, samples in state.pseudo.items()
                if name not in self.record.get("pseudo", {})
            },
            "logits": state.logits.commit(),
            "trunk": state.kept.commit(),
            "passes": state.passes,
        }
        write_tensors_atomic(self.folder.checkpoint, tensors, meta)

    def load_checkpoint(self, state: State, task_fingerprint: str) -> Progress:
        """Bring the state to the checkpoint in its newest task; a fresh Progress if none."""
        path = self.folder.checkpoint
        if not path.exists():
            state.logits.rollback(self.record["logits"])
            state.kept.rollback(self.record.get("trunk", {}))
            return Progress()
        tensors, meta = read_tensors(path)
        _check_version(path, meta)
        if meta["task_fingerprint"] != task_fingerprint:
            raise CheckpointError(
                f"{path} holds an unfinished task '{meta.get('task')}', made from other data than "
                f"task '{state.task.name}' that is to be learned now. Finish it with its own data, "
                "or delete the file to give up what it holds"
            )
        for name, facts in meta["adapters"].items():
            if name not in state.pool.names:
                sizes = {key: facts.get(key, 0) for key in ("n_classes", "n_tokens")}
                state.pool.add(name, seed=0, role=facts["role"], **sizes)
            elif state.pool.has_head(name):
                head = state.pool.head(name)
                head.grow(facts["n_classes"] - head.weight.shape[0], 0)
            # first: live and frozen adapters may hold other tensors
            (state.pool.thaw if facts["live"] else state.pool.freeze)(name)
            state.pool.load_tensors(name, _under(tensors, f"adapter/{name}/"))
        _load_learner(state, _under(tensors, "learner/"))
        _set_rng_state(_under(tensors, "rng/"))
        state.replay.hold(meta["replay"])
        for name, values in meta.get("pseudo", {}).items():
            state.pseudo[name] = PseudoSamples.from_json(values)
        state.logits.rollback(meta["logits"])
        state.kept.rollback(meta.get("trunk", {}))
        state.passes = meta["passes"]
        return Progress.from_json(
            meta["progress"], _under(tensors, "optimiser/"), _under(tensors, "best/")
        )


def _check_version(path: Path, facts: Any) -> None:
    version = facts.get("version") if isinstance(facts, dict) else None
    if version != VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; this conpet reads version {VERSION}. Use the "
            "conpet that made it, or restore the file from a copy"
        )


def _labels_of(state: State, name: str) -> tuple[str, ...]:
    """What the rows of an adapter's head stand for."""
    own = next((task.labels for task in state.history if task.name == name), None)
    rows = state.pool.head(name).weight.shape[0] if state.pool.has_head(name) else 0
    return next(
        (known for known in (own, state.labels) if known and len(known) == rows), state.task_names
    )


def _learner(state: State) -> dict[str, Tensor]:
    """Buffers and modules of the method, by name."""
    tensors = {f"buffer:{name}": t.contiguous() for name, t in state.buffers.items()}
    for name, module in state.modules.items():
        tensors |= {f"module:{name}:{k}": v.contiguous() for k, v in module.state_dict().items()}
    return tensors


def _load_learner(state: State, tensors: Mapping[str, Tensor]) -> None:
    for key, value in tensors.items():
        kind, _, name = key.partition(":")
        if kind == "buffer":
            state.buffers[name] = value
    for name, module in state.modules.items():
        module.load_state_dict(_under(tensors, f"module:{name}:"))


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _rng_state() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_rng_state(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
