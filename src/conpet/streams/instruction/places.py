"""Where the files of instruction tasks lie, and which format a folder of them has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from conpet.errors import DataError, did_you_mean
from conpet.streams.cells import SPLIT_WORDS
from conpet.streams.checks import Split
from conpet.streams.readers import read_json

TaskFiles = dict[Split | None, Path]
"""The files of a task by part; None: one file with the whole task."""

DEFINITION = "definition.json"


def stem_of(path: Path, ending: str) -> str | None:
    """The file name without ``ending`` (".json"), plain or as ``.gz``; None where it has another
    one."""
    name = path.name.removesuffix(".gz")
    return name.removesuffix(ending) if name.endswith(ending) and path.is_file() else None


def task_files(
    root: Path, ending: str, tasks: Mapping[str, str] | None = None
) -> dict[str, TaskFiles]:
    """Task name -> its files, in the order of ``tasks``, else of the numbers and letters in the
    names.

    Args:
        root: a folder of tasks (a folder each, with train, test and so on; or a file each), the
            folder of one task, or the file of one.
        ending: of the files, with the dot. A file with a whole task ends in ".json".
        tasks: those to take, name -> folder or file below ``root`` (its ending may be left out).

    Raises:
        DataError: no task there; a named one is missing; a task without a train file.
    """
    if root.is_file():
        return {stem_of(root, ending) or root.stem: {None: root}}
    if tasks is not None:
        return {
            name: _files_of(_named(root, place, ending), ending) for name, place in tasks.items()
        }
    if any(stem_of(path, ending) in SPLIT_WORDS for path in root.iterdir()):
        return {root.name: _files_of(root, ending)}
    found: dict[str, TaskFiles] = {}
    for path in sorted(root.iterdir(), key=lambda path: _by_number(path.name)):
        whole = stem_of(path, ".json") if ending == ".json" else None
        if path.is_dir() and not path.name.startswith("."):
            found[path.name] = _files_of(path, ending)
        elif whole:
            found[whole] = {None: path}
    if not found:
        raise DataError(
            f"{root} holds no task; put a folder for each task into it, with train{ending} and "
            f"test{ending}"
        )
    return found


def _named(root: Path, place: str, ending: str) -> Path:
    for name in (place, f"{place}{ending}", f"{place}{ending}.gz"):
        if (root / name).exists():
            return root / name
    here = sorted(path.name for path in root.iterdir())
    raise DataError(
        f"{root} has no task '{place}'.{did_you_mean(place, here)} It holds: "
        f"{', '.join(here[:8]) or 'nothing'}{', ...' if len(here) > 8 else ''}; put the task there"
    )


def _files_of(path: Path, ending: str) -> TaskFiles:
    if path.is_file():
        return {None: path}
    files: TaskFiles = {}
    for file in sorted(path.iterdir()):
        split = SPLIT_WORDS.get(stem_of(file, ending) or "")
        if split is None:
            continue
        if split in files:
            raise DataError(
                f"{path} has two {split} files, {files[split].name} and {file.name}; keep one"
            )
        files[split] = file
    if "train" not in files:
        here = ", ".join(sorted(file.name for file in path.iterdir())[:8])
        raise DataError(
            f"task folder {path} has no train{ending}; it holds: {here or 'nothing'}; needed is "
            f"train{ending}, and test{ending} where there is one: add it, or move the folder away"
        )
    return files


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts task2 before task10."""
    pieces = re.split(r"(\d+)", name)
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]


def format_of(path: Path) -> str | None:
    """The format of instruction tasks that a file or folder is in; None where it is none of them.

    One file tells: a JSON object with "Definition" or "Instances", or train.jsonl beside
    definition.json.
    """
    if path.is_file():
        return None if stem_of(path, ".json") is None else "natural-instructions"
    for folder in (path, *sorted(p for p in path.iterdir() if p.is_dir())):
        files = sorted(folder.iterdir())
        if any(file.name == DEFINITION for file in files) and any(
            stem_of(file, ".jsonl") == "train" for file in files
        ):
            return "instruction-folders"
        if any(_is_task(file) for file in files if stem_of(file, ".json") is not None):
            return "natural-instructions"
    return None


def _is_task(path: Path) -> bool:
    try:
        values = read_json(path)
    except DataError:
        return False
    return isinstance(values, dict) and not {"Definition", "Instances"}.isdisjoint(values)
