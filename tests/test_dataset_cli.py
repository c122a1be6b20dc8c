"""``lrp-fx run``: what is a class, and what the exit code says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import lrp_fx
from testing.rows import Classifier, Tokenizer, texts

pytest.importorskip("pyarrow.parquet")
pytest.importorskip("typer")
pytestmark = pytest.mark.usefixtures("quiet")
Command = Callable[..., int]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    explainer = lrp_fx.convert(Classifier().eval(), tokenizer=Tokenizer())
    explainer(texts(1)[0], target=0)
    place = tmp_path_factory.mktemp("graph") / "graph.lrp"
    explainer.save(place)
    return place


@pytest.fixture
def command(graph: Path, tmp_path: Path) -> Command:
    """Runs over rows of ids, and gives the exit code."""
    from lrp_fx.cli.app import app

    def run(rows: list[list[int]], *more: str) -> int:
        (tmp_path / "in.jsonl").write_text("".join(json.dumps({"ids": ids}) + "\n" for ids in rows))
        with pytest.raises(SystemExit) as ended:
            app(["run", str(graph), str(tmp_path / "in.jsonl"), str(tmp_path / "out"), "--ids-column", "ids", *more])
        return int(ended.value.code or 0)

    return run


def test_a_class_that_there_is_not_is_refused_before_any_work(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for target, said in (("-5", "--target -5: there is no such class"), ("99", "no such class: 99"), ("x", "'x'")):
        assert command([[1, 2]], "--target", target) == 1
        assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert command([[1, 2]], "--target", "2") == 0


def test_the_exit_code_says_when_all_rows_are_in_error(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command([[1, 2], []], "--target", "1") == 0 and "1 in error" in capsys.readouterr().out


def test_all_rows_in_error_is_a_failure(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command([[], [10_000]], "--target", "1") == 1
    assert "all 2 rows are in error" in capsys.readouterr().err
