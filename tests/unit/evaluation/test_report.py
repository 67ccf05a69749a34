from __future__ import annotations

import csv
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from conpet.errors import CheckpointError, DataError
from conpet.evaluation.page import formula, number, size
from conpet.evaluation.report import report

Make = Callable[..., Path]
PNG = b"\x89PNG\r\n\x1a\n"
VOID = {"meta", "link", "br", "path", "use"}


class Page(HTMLParser):
    """Collects text, links to the outside, and tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.wrong: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_two_methods(run_folder: Make, tmp_path: Path) -> None:
    runs = [run_folder(f"a{s}", seed=s) for s in (1, 2)] + [run_folder("j", "joint")]
    files = report(runs, tmp_path / "out")
    page = Page(files.html.read_text(encoding="utf-8"))

    assert not page.open and not page.wrong
    assert all(link.startswith(("#", "data:")) for link in page.links)
    row = next(row for row in files.rows if row["method"] == "conpet-dynamic")
    shown = f"{row['whole_accuracy']:.1f} ± {row['whole_accuracy_spread']:.1f}"
    assert shown in page.text
    assert shown in files.markdown.read_text(encoding="utf-8")
    assert "nan" not in page.text.lower()
    assert "–" in page.text  # joint has no forgetting
    for word in ("Summary", "Accuracy over steps", "Where the points go", "Routing", "Definitions"):
        assert word in page.text

    assert [r["run"] for r in rows_of(files.table)] == [
        run.name for run in (runs[2:] + runs[:2] if files.rows[0]["method"] == "joint" else runs)
    ]
    assert {r["group"]: r["seeds"] for r in rows_of(files.summary)} == {
        "conpet-dynamic": "1 2",
        "joint": "1",
    }
    assert len(rows_of(files.stages)) == 9
    assert len(files.plots) == len(set(files.plots)) > 0
    assert all(path.read_bytes().startswith(PNG) for path in files.plots)


def test_the_same_runs_give_the_same_bytes(run_folder: Make, tmp_path: Path) -> None:
    runs = [run_folder("a"), run_folder("b", "sequential")]
    report(runs, tmp_path / "one")
    report(runs, tmp_path / "two")
    one, two = (
        {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        for out in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two


def test_runs_on_other_streams_have_a_section_of_their_own(
    run_folder: Make, tmp_path: Path
) -> None:
    runs = [
        run_folder("a"),
        run_folder("b", "lda", stream="banking77", fingerprint="e" * 64, tasks=("x", "y")),
    ]
    files = report(runs, tmp_path / "out", title="Two & more")
    page = Page(files.html.read_text(encoding="utf-8"))
    assert "2 streams" in page.text
    assert page.text.count("Accuracy matrices") == 2
    assert "Two & more" in page.text
    assert [row["stream"] for row in files.rows if row["group"] == "lda"] == ["banking77"]


def test_an_unfinished_run_is_marked(run_folder: Make, tmp_path: Path) -> None:
    files = report([run_folder("a", learned=1)], tmp_path / "out")
    page = Page(files.html.read_text(encoding="utf-8"))
    assert "conpet-dynamic (1 of 3 tasks)" in page.text
    assert "not finished" in page.text
    assert not files.rows[0]["finished"]


def test_a_run_before_its_only_evaluation(run_folder: Make, tmp_path: Path) -> None:
    files = report([run_folder("a", "joint", learned=2, pending=True)], tmp_path / "out")
    assert files.rows[0]["whole_accuracy"] is None
    assert not Page(files.html.read_text(encoding="utf-8")).wrong


def test_names_cannot_break_the_page(run_folder: Make, tmp_path: Path) -> None:
    names = ("<script>x</script>", "a|b & $c$", "p" * 90)
    files = report([run_folder("a", tasks=names, stream="s|<b>")], tmp_path / "out", title="<i>")
    html = files.html.read_text(encoding="utf-8")
    assert "<script>" not in html and "<b>s" not in html and "<title>&lt;i&gt;</title>" in html
    assert not Page(html).wrong


def test_many_tasks(run_folder: Make, tmp_path: Path) -> None:
    names = tuple(f"t{i}" for i in range(42))
    files = report([run_folder("a", tasks=names, n_test=2)], tmp_path / "out")
    assert not Page(files.html.read_text(encoding="utf-8")).wrong


def test_a_run_given_twice_counts_once(run_folder: Make, tmp_path: Path) -> None:
    folder = run_folder("a")
    files = report([folder, folder / ".." / "a"], tmp_path / "out")
    assert files.rows[0]["runs"] == 1


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run folder was given"):
        report([], tmp_path / "out")


def test_nothing_is_written_when_a_run_is_damaged(run_folder: Make, tmp_path: Path) -> None:
    folder = run_folder("a")
    (folder / "matrix.json").unlink()
    with pytest.raises(CheckpointError):
        report([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written(run_folder: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        report([run_folder("a")], tmp_path / "file" / "out")


def test_how_numbers_are_written() -> None:
    assert number(None) == number(float("nan")) == "–"
    assert number(-1234.56) == "−1,234.6"
    assert number(-0.01) == "0.0"
    assert number(76032, 0) == "76,032"
    assert [size(v) for v in (None, 999, 1_400_000, 2_500_000_000)] == [
        "–",
        "999 B",
        "1.4 MB",
        "2.5 GB",
    ]
    assert formula("Σ_{j<T} R_j") == "Σ<sub>j&lt;T</sub> R<sub>j</sub>"
