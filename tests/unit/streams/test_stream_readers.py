"""Files into rows, and every way in which a file can be bad."""

from __future__ import annotations

import gzip
import os
import sys
from pathlib import Path

import pytest

from conpet.errors import DataError, MissingDependencyError
from conpet.streams import load_stream
from conpet.streams.readers import read_json, read_rows


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_jsonl_with_blank_lines_bom_and_line_separators_inside(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '\ufeff{"text": "a\u2028b"}\r\n\n{"text": "c"}\n')
    rows = read_rows(path)
    assert [row.values["text"] for row in rows] == ["a\u2028b", "c"]
    assert [row.source for row in rows] == [f"{path} line 1", f"{path} line 3"]


def test_gzip_reads_like_the_plain_file(tmp_path: Path) -> None:
    for name, text in (("a.jsonl", '{"text": "é"}\n'), ("a.csv", "text\né\n")):
        plain = write(tmp_path / name, text)
        packed = write(tmp_path / f"{name}.gz", gzip.compress(text.encode()))
        assert [r.values for r in read_rows(packed)] == [r.values for r in read_rows(plain)]


def test_csv_quotes_and_line_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"two\nlines, one cell",x\nplain,y\n')
    rows = read_rows(path)
    assert rows[0].values == {"text": "two\nlines, one cell", "label": "x"}
    assert rows[1].source.endswith("a.csv line 4")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: .*gone\.jsonl; check the path"):
        read_rows(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"no such file: .*gone\.jsonl; check the path"):
        load_stream(tmp_path / "gone.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_file(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(DataError, match=rf"{name} is empty; it needs at least one row"):
        read_rows(write(tmp_path / name, content))


def test_csv_with_a_header_only(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_rows(write(tmp_path / "a.csv", "text,label\n"))


@pytest.mark.parametrize("bad", ['{"text": ', "{'a': 1}", '{"a": 1} x', "[" * 100_000, "9" * 5000])
def test_broken_json_says_its_line(tmp_path: Path, bad: str) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n\n' + bad + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl line 3: broken JSON \(.+\); allowed: one JSON"):
        read_rows(path)


@pytest.mark.parametrize(("bad", "kind"), [("[1]", "list"), ('"a"', "str"), ("null", "NoneType")])
def test_json_that_is_no_object(tmp_path: Path, bad: str, kind: str) -> None:
    with pytest.raises(DataError, match=f"line 1 holds a JSON {kind}; each line is one JSON obj"):
        read_rows(write(tmp_path / "a.jsonl", bad))


def test_broken_json_file_says_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"g\.json line 2: broken JSON: Expecting"):
        read_json(write(tmp_path / "g.json", '{\n"a": }'))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_not_utf8_says_line_and_byte(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, b'{"text": "a"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"line 2 is not UTF-8: byte 0xe9 at offset 27; .*iconv"):
        read_rows(path)


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"text": "a"}\n' * 100)
    for content in (whole[:-9], b"no gzip", whole[:20] + b"\xff" * 20):
        with pytest.raises(DataError, match="no whole gzip file"):
            read_rows(write(tmp_path / "a.jsonl.gz", content))


@pytest.mark.parametrize(("row", "n"), [("a", 1), ("a,b,c", 3)])
def test_csv_row_of_another_width(tmp_path: Path, row: str, n: int) -> None:
    path = write(tmp_path / "a.csv", f"text,label\nx,y\n{row}\n")
    with pytest.raises(DataError, match=f"line 3 has {n} cells; the header has 2: text, label"):
        read_rows(path)


def test_broken_csv(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv line 2: broken CSV"):
        read_rows(write(tmp_path / "a.csv", 'text,label\n"a"b,c\n'))


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*a\.xlsx: allowed are .*\.jsonl, .*\.parq"):
        load_stream(write(tmp_path / "a.xlsx", b"PK"))


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="the superuser may read everything",
)
def test_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "{}")
    path.chmod(0)
    with pytest.raises(DataError, match="cannot read .*: Permission denied; check its rights"):
        read_rows(path)


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    path = tmp_path / "a.parquet"
    columns = {"text": ["one", "two"], "mentions": [[[0, 3]], [[0, 2]]]}
    parquet.write_table(arrow.table(columns), path)
    rows = read_rows(path)
    assert rows[1].values == {"text": "two", "mentions": [[0, 2]]}
    assert rows[1].source == f"{path} row 2"
    with pytest.raises(DataError, match="no whole Parquet file"):
        read_rows(write(path, path.read_bytes()[:-20]))


@pytest.mark.parametrize("package", ["pyarrow", "datasets"])
def test_absent_package(tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.parquet", None)
    path = write(tmp_path / "a.parquet", b"PAR1")
    if package == "datasets":
        path = tmp_path
        write(path / "dataset_dict.json", "{}")
    with pytest.raises(MissingDependencyError, match=f"needs the package {package}: pip install"):
        load_stream(path)


@pytest.mark.filterwarnings("ignore")  # of packages below datasets
def test_saved_datasets_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="saved datasets folders need datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )

    def part(split: str) -> object:
        values = {"text": [f"{split} {i}" for i in range(6)], "label": [0, 1] * 3}
        return datasets.Dataset.from_dict(values, features=features)

    folder = tmp_path / "answers"
    parts = {"train": part("train"), "validation": part("valid"), "test": part("test")}
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    stream = load_stream(folder)
    assert stream.tasks[0].name == "answers"
    assert sorted(stream.labels) == ["no", "yes"]
    assert [e.text for e in stream.tasks[0].valid] == [f"valid {i}" for i in range(6)]
    datasets.Dataset.from_dict({"text": ["a"], "label": [-1]}, features=features).save_to_disk(
        str(tmp_path / "one")
    )
    with pytest.raises(DataError, match="row 1: the label is None"):
        load_stream(tmp_path / "one")
    datasets.DatasetDict({"extra": part("x")}).save_to_disk(str(tmp_path / "odd"))
    with pytest.raises(DataError, match=r"has a split 'extra'.*Allowed: train, valid, test"):
        load_stream(tmp_path / "odd")
    (folder / "dataset_dict.json").write_text("{}")
    with pytest.raises(DataError, match="no whole datasets folder"):
        load_stream(folder)
