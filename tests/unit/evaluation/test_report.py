from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from conpet.errors import CheckpointError, DataError
from conpet.evaluation.answers import LONGEST, SHOWN, samples, task_table
from conpet.evaluation.collect import collect
from conpet.evaluation.comparison import group_runs
from conpet.evaluation.definitions import define, metric_title
from conpet.evaluation.page import formula, number, plain, size
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


# Free answers -------------------------------------------------------------------------------------


def test_free_answers(free_folder: Make, tmp_path: Path) -> None:
    runs = [free_folder(f"a{s}", seed=s) for s in (1, 2)] + [free_folder("q", "sequential")]
    files = report(runs, tmp_path / "out")
    page = Page(files.html.read_text(encoding="utf-8"))
    markdown = files.markdown.read_text(encoding="utf-8")

    assert not page.open and not page.wrong
    assert "nan" not in re.findall(r"\w+", page.text.lower())
    for words in (
        "ROUGE-L over steps",
        "ROUGE-L matrices",
        "whole ROUGE-L",
        "Each task",
        "exact match at the end",
        "token F1 at the end",
        "Answers before and after",
        "selector accuracy, input alone",
        "zero-shot transfer",
    ):
        assert words in page.text
    for words in ("whole ROUGE-L", "### Each task", "### Answers before and after", "input alone"):
        assert words in markdown
    assert "labels learned" not in page.text and "whole accuracy" not in page.text
    row = next(row for row in files.rows if row["method"] == "conpet-dynamic")
    assert row["metric"] == "rouge-l"
    assert f"{row['zero_shot']:.1f} ± {row['zero_shot_spread']:.1f}" in page.text
    assert row["selector_accuracy"] > row["selector_accuracy_by_input"] > 0
    parts = ("whole_accuracy", "routing", "competition", "within_task")
    assert sum(row[name] for name in parts) == pytest.approx(100.0, abs=1e-4)


def test_another_metric_is_called_by_its_name(free_folder: Make, tmp_path: Path) -> None:
    files = report([free_folder("a", metric="exact-match")], tmp_path / "out")
    page = Page(files.html.read_text(encoding="utf-8"))
    for words in ("Exact match over steps", "whole exact match", "ROUGE-L at the end"):
        assert words in page.text
    assert "exact match at the end exact match at the end" not in page.text
    assert [metric_title(m) for m in ("token-f1", "bleu-4")] == ["token F1", "bleu 4"]
    assert define("selector_accuracy", "rouge-l").title == "selector accuracy"
    assert define("whole_accuracy").title == "whole accuracy"


def test_the_table_of_tasks_by_hand(free_folder: Make) -> None:
    runs = [collect(free_folder(f"a{s}", seed=s)) for s in (1, 2)]
    (group,) = group_runs(runs)
    table = task_table(group)
    assert table.others == ("exact-match", "token-f1")
    first = runs[0].tasks[0].name
    learned, last, exact, _ = table.rows[first]
    assert learned == pytest.approx(sum(run.matrix.values[0, 0] for run in runs) / 2)
    assert last == pytest.approx(sum(run.matrix.values[-1, 0] for run in runs) / 2)
    hits = [o.label in o.answers for run in runs for o in run.outcomes if o.task == first]
    assert exact == pytest.approx(100 * sum(hits) / len(hits))
    assert table.average == pytest.approx(
        [sum(column) / len(table.rows) for column in zip(*table.rows.values(), strict=True)]
    )


def test_samples_are_the_same_examples_in_every_run(free_folder: Make) -> None:
    one, two = (collect(free_folder(n, m)) for n, m in (("a", "conpet-dynamic"), ("b", "lda")))
    shown = [samples(run) for run in (one, two)]
    assert len(shown[0]) == SHOWN * 3
    assert [(s.task, s.input, s.right) for s in shown[0]] == [
        (s.task, s.input, s.right) for s in shown[1]
    ]
    first = shown[0][0]
    assert first.input.startswith("input ") and len(first.input) <= LONGEST
    path = one.folder / "predictions" / "01.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (line,) = [x for x in lines if "; or: ".join(x["answers"]) == first.right]
    assert (first.before, first.before_value) == (line["label"], 100 * line["value"])


def test_texts_cannot_break_the_page(free_folder: Make, tmp_path: Path) -> None:
    wild = ["<script>x</script> | `a` *b* [c](d) $e$", "two\n\nlines | long " * 40, ""] * 4
    folder = free_folder("a", answers=wild, tasks=("t|1", "<b>2</b>"))
    files = report([folder], tmp_path / "out")
    html, markdown = (p.read_text(encoding="utf-8") for p in (files.html, files.markdown))
    page = Page(html)
    assert not page.open and not page.wrong
    assert "<script>" not in html and "<b>2" not in html
    assert "<script>x</script> | `a`" in page.text and "(empty)" in page.text
    rows = [line for line in markdown.splitlines() if line.startswith("| t\\|1 | input")]
    assert len(rows) == SHOWN
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}, "five cells each"
    assert not re.search(r"(?<!\\)<script", markdown)
    assert plain("a|b & <i> \\") == "a\\|b \\& \\<i\\> \\\\"


def test_without_history_ids_stand_for_inputs(free_folder: Make, tmp_path: Path) -> None:
    folder = free_folder("a", history=False)
    assert {s.input[:6] for s in samples(collect(folder))} == {"(test-"}
    shutil.rmtree(folder / "predictions")
    with pytest.raises(CheckpointError, match="cannot be read"):
        report([folder], tmp_path / "out")


def test_an_answer_that_was_not_asked_for_is_a_dash(free_folder: Make, tmp_path: Path) -> None:
    """A method that learns all at once answers after the last task alone."""
    folder = free_folder("j", "joint", ahead=False, by_input=False)
    path = folder / "matrix.json"
    matrix = json.loads(path.read_text())
    matrix["values"][:2] = [[None], [None, None]]
    path.write_text(json.dumps(matrix))
    for stage in (1, 2):
        (folder / "predictions" / f"{stage:02d}.jsonl").unlink()
    shown = samples(collect(folder))
    assert [s.before is None for s in shown] == [True] * 6 + [False] * 3
    files = report([folder], tmp_path / "out")
    assert "selector accuracy, input alone" not in files.html.read_text(encoding="utf-8")
    assert files.rows[0]["zero_shot"] is None


def test_free_answers_and_labels_in_one_report(
    run_folder: Make, free_folder: Make, tmp_path: Path
) -> None:
    labels = run_folder("b", fingerprint="e" * 64)
    files = report([free_folder("a"), labels], tmp_path / "out")
    page = Page(files.html.read_text(encoding="utf-8"))
    for words in ("Accuracy matrices", "ROUGE-L matrices", "whole accuracy", "whole ROUGE-L"):
        assert words in page.text
    assert page.text.count("Answers before and after") == 1
    assert page.text.count("average accuracy (AP)") == 2, "a column and its definition"


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
