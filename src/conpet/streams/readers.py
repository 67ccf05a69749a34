"""Rows out of files: JSONL (plain or gzip), CSV, Parquet and saved ``datasets`` folders.

Every row carries where it stands ("data.jsonl line 7"), so that each error can say it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from conpet.errors import DataError, MissingDependencyError

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")


class Row(NamedTuple):
    """One row: where it stands, and its fields."""

    source: str
    values: dict[str, Any]


def suffix_of(path: Path) -> str | None:
    """The readable suffix of ``path`` (one of SUFFIXES), or None."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def stem_of(path: Path) -> str:
    """The file name without its readable suffix."""
    return path.name[: len(path.name) - len(suffix_of(path) or "")]


def read_rows(path: Path) -> list[Row]:
    """All rows of a file.

    Raises:
        DataError: missing, empty, not UTF-8, damaged, or of an unknown kind.
        MissingDependencyError: Parquet without pyarrow.
    """
    suffix = suffix_of(path)
    if suffix is None:
        raise DataError(f"cannot read {path}: allowed are files ending in {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        rows = list(_parquet(path))
    elif suffix.startswith(".csv"):
        rows = list(_csv(path))
    else:
        rows = list(read_jsonl(path))
    if not rows:
        raise DataError(f"{path} is empty; it needs at least one row")
    return rows


def read_json(path: Path) -> Any:
    """The value in a JSON file; DataError with the line where it is broken."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {error.lineno}: broken JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number too long, or nested too deep
        raise DataError(f"{path}: broken JSON ({error}); mend it") from error


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, unpacked if its name ends in .gz; a leading BOM is dropped."""
    data = _read_bytes(path)
    if path.name.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is no whole gzip file ({error}); copy it again") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} line {line} is not UTF-8: byte 0x{data[error.start]:02x} at offset "
            f"{error.start}; convert the file, e.g. iconv -f latin1 -t utf-8 {path.name}"
        ) from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}; check the path") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check its rights") from error


def read_jsonl(path: Path) -> Iterator[Row]:
    """One JSON object a line; blank lines are skipped."""
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        source = f"{path} line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}: broken JSON ({error}); allowed: one JSON object") from error
        if not isinstance(values, dict):
            raise DataError(
                f"{source} holds a JSON {type(values).__name__}; each line is one JSON object, "
                'e.g. {"text": "...", "label": "..."}'
            )
        yield Row(source, values)


def _csv(path: Path) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        for cells in reader:
            if not cells:
                continue
            source = f"{path} line {reader.line_num}"
            if len(cells) != len(header):
                raise DataError(
                    f"{source} has {len(cells)} cells; the header has {len(header)}: "
                    f"{', '.join(header)}; quote cells that hold commas"
                )
            yield Row(source, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: broken CSV ({error}); mend it") from error


def _parquet(path: Path) -> Iterator[Row]:
    parquet = _require("pyarrow.parquet", "pyarrow", path)
    arrow = _require("pyarrow", "pyarrow", path)
    data = _read_bytes(path)
    try:
        rows = parquet.read_table(io.BytesIO(data)).to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no whole Parquet file ({error}); write it again") from error
    for number, values in enumerate(rows, start=1):
        yield Row(f"{path} row {number}", values)


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``datasets``' ``save_to_disk`` has written this folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def read_saved_dataset(folder: Path) -> dict[str | None, list[Row]]:
    """Rows by split name (None where the folder holds one set without splits).

    Columns of class numbers (``ClassLabel``) come out as class names.
    """
    package = _require("datasets", "datasets", folder)
    try:
        loaded = package.load_from_disk(str(folder))
    except Exception as error:  # the package raises many kinds for a damaged folder
        raise DataError(f"{folder} is no whole datasets folder ({error}); save it again") from error
    parts = dict(loaded) if isinstance(loaded, dict) else {None: loaded}
    rows: dict[str | None, list[Row]] = {}
    for split, part in parts.items():
        names = {
            column: feature.names
            for column, feature in part.features.items()
            if isinstance(feature, package.ClassLabel)
        }
        rows[split] = [
            Row(
                f"{folder} {split or 'set'} row {number}",
                {key: _class_name(value, names.get(key)) for key, value in values.items()},
            )
            for number, values in enumerate(part, start=1)
        ]
    return rows


def _class_name(value: Any, names: list[str] | None) -> Any:
    if names is None:
        return value
    return None if value is None or value < 0 else names[value]  # -1 stands for "not labelled"


def _require(module: str, package: str, path: Path) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"reading {path} needs the package {package}: pip install {package}"
        ) from error
