"""The command of all benchmarks: what it lists, what it writes, and when it says that a page would change."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import architecture, registry, releases, tour
from benchmarks.__main__ import main
from benchmarks.compare import OTHERS, Noise, differences
from benchmarks.page import ROOT, Command, Page, table

FOUND = registry.discover()
PAGES = [b for b in FOUND.values() if isinstance(b, Page)]


# ------------------------------------------------------------------------------------------------ what there is
def test_every_page_is_written_by_a_command_and_reads_as_it_writes() -> None:
    assert registry.stale(FOUND) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_has_the_columns_whose_noise_is_stated(page: Page) -> None:
    headings = {line for line in page.path.read_text(encoding="utf-8").splitlines() if line.startswith("| ")}
    columns = {cell.strip() for line in headings for cell in line.strip("|").split(" | ")}
    assert set(page.noise) - {OTHERS, "text"} <= columns


@pytest.mark.parametrize("benchmark", FOUND.values(), ids=lambda b: b.name)
def test_a_command_explains_itself(benchmark: Page | Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--help"])
    assert ended.value.code == 0 and "--help" in capsys.readouterr().out


def test_without_a_name_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said and b.purpose in said for name, b in FOUND.items())
    assert main(["unheard of"]) == 2 and "there are: " in capsys.readouterr().err


def test_an_edited_page_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, headings of columns apart; a page of no command; an index that lacks something."""
    for module in ("benchmarks.page", "benchmarks.registry"):
        monkeypatch.setattr(f"{module}.MEASURED", tmp_path)
    monkeypatch.setattr(registry, "INDEX", tmp_path / "README.md")
    (page,) = (p for p in PAGES if p.name == "work")
    options = page.parser().parse_args([])
    (tmp_path / page.file).write_text(page.text(options, "| a |\n|---|\n| 1 |"))
    (tmp_path / "README.md").write_text(registry.index({"work": page}))
    assert registry.stale({"work": page}) == []
    edited = page.text(options, "").replace("Counted, not timed", "Timed")
    (tmp_path / page.file).write_text(edited)
    (tmp_path / "other.md").write_text("# By hand\n")
    (tmp_path / "README.md").write_text(registry.index({}))
    said = "\n".join(registry.stale({"work": page}))
    assert "README.md is stale" in said and "work.md: not on the page" in said
    assert "other.md is written by no command" in said


# ------------------------------------------------------------------------------------------------ what it measures
class Measured:
    """In place of a measurement: rows that are given, one after the other."""

    def __init__(self) -> None:
        self.rows = [["a", "1.00"], ["b", "2.00"]]

    def __call__(self, options: argparse.Namespace) -> Iterator[str]:
        rows = self.rows if options.names is None else [r for r in self.rows if r[0] in options.names]
        for count in range(1, len(rows) + 1):
            yield table(["name", "figure"], rows[:count])


@pytest.fixture
def measured() -> Measured:
    return Measured()


@pytest.fixture
def page(measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    monkeypatch.setattr("benchmarks.page.MEASURED", tmp_path)

    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--names", nargs="*")

    noise = {"figure": Noise(absolute=0.05)}
    return Page("toy", "A toy", "toy.md", "Toys", lambda _: "Words.", measured, options, ("names",), noise, "(wrong)")


def test_a_page_is_written_and_then_as_measured(page: Page, measured: Measured) -> None:
    assert page.main(["--check"]) == 1, "there is none yet"
    assert page.main(["--write"]) == 0
    assert page.path.read_text() == (
        "# Toys\n\nWritten by `python -m benchmarks toy --write`; do not edit by hand.\n\nWords.\n\n"
        "| name | figure |\n|---|---|\n| a | 1.00 |\n| b | 2.00 |\n"
    )
    assert page.main(["--check"]) == 0
    measured.rows[1] = ["b", "2.04"]
    assert page.main(["--check"]) == 0, "noise"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([["a", "1.00"], ["b", "2.06"]], "Toys: b, figure: 2.00 on the page, 2.06 now"),
        ([["a", "1.00"], ["b", "failed"]], "Toys: b, figure: 2.00 on the page, failed now"),
        ([["a", "1.00"]], "row b is only on the page"),
        ([["a", "1.00"], ["b", "2.00"], ["c", "3.00"]], "no row c on the page"),
    ],
)
def test_a_change_fails(
    page: Page, measured: Measured, rows: list[list[str]], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert page.main(["--write"]) == 0
    before, measured.rows = page.path.read_text(), rows
    assert page.main(["--check"]) == 1
    assert said in capsys.readouterr().out
    assert page.path.read_text() == before, "checked, not written"


def test_a_part_is_checked_alone_and_not_written_over_the_whole(page: Page, measured: Measured) -> None:
    assert page.main(["--write"]) == 0
    assert page.main(["--check", "--names", "b"]) == 0
    with pytest.raises(SystemExit):
        page.main(["--write", "--names", "b"])
    other = page.path.with_name("other.md")
    assert page.main(["--write", "--names", "b", "--page", str(other)]) == 0
    assert "| b |" in other.read_text() and "| a |" not in other.read_text()
    measured.rows[1] = ["b", "7.00"]
    assert page.main(["--check", "--names", "a"]) == 0
    assert page.main(["--check", "--names", "b"]) == 1


def test_what_the_page_calls_wrong_fails_though_it_was_so_before(page: Page, measured: Measured) -> None:
    measured.rows[0] = ["a", "1.00 (wrong)"]
    assert page.main(["--write"]) == 1
    assert page.main(["--check"]) == 1


# ------------------------------------------------------------------------------------------------ two texts
def test_lines_may_be_broken_elsewhere_and_titles_tell_tables_apart() -> None:
    rows = "| n | x |\n|---|---|\n| 1 | 5 |"
    old = f"# T\n\nOne two\nthree.\n\n## A\n\n{rows}\n\n## B\n\n{rows}\n"
    assert differences(old, old.replace("two\n", "two "), {}) == []
    (said,) = differences(old, old[::-1].replace("| 5 |", "| 6 |", 1)[::-1], {})
    assert said == "B: 1, x: 5 on the page, 6 now"
    assert differences(old, old.replace("three", "four"), {}) == [
        "not on the page: One two four.",
        "only on the page: One two three.",
    ]


def test_rows_are_told_apart_by_as_many_columns_as_it_takes() -> None:
    old = "| layers | width | s |\n|---|---|---|\n| 24 | 64 | 1.0 |\n| 24 | 1024 | 2.0 |\n"
    (said,) = differences(old, old.replace("2.0", "3.0"), {})
    assert said.endswith("24, 1024, s: 2.0 on the page, 3.0 now")
    assert differences(old, old.replace("2.0", "3.0"), {OTHERS: Noise(relative=0.5)}) == []


@pytest.mark.parametrize(("path", "prints"), [(tour.PAGE, 8), (tour.TUTORIAL, 4)], ids=["tour", "tutorial"])
def test_the_tour_and_the_tutorial_print_what_they_say(
    path: Path, prints: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written again by ``python -m benchmarks tour --write``."""
    monkeypatch.chdir(tour.ROOT)
    page = path.read_text(encoding="utf-8")
    assert page.count("```text\n") >= prints
    assert tour.followed(page) == page


def test_the_architecture_page_lists_every_file_with_its_purpose() -> None:
    """Written again by ``python -m benchmarks architecture --write``."""
    page = architecture.PAGE.read_text(encoding="utf-8")
    assert architecture.written(page) == page


# ------------------------------------------------------------------------------------------------ releases
def test_a_release_that_cannot_be_run_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    name, *cells, result, date = releases.measure(releases.Combination("new", "4.0", {}))
    assert (name, result) == ("new", "failed: there is no python4.0") and date
    assert len(cells) == len(releases.FLOORS) + 2 and set(cells) == {"-"}
    with pytest.raises(releases.Failed, match="failed: step"):
        releases.run("step", [sys.executable, "-c", "raise SystemExit(2)"], ROOT)


def test_the_tests_of_a_release_exist() -> None:
    for test in releases.TESTS:
        file, function = test.partition("[")[0].split("::")
        assert f"\ndef {function}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")
