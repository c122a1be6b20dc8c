"""Sources of data sets: what rows say in whatever holds them, and what is said of those that cannot be read."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import lrp_fx
from lrp_fx.datasets.rows import Columns, read_row
from lrp_fx.datasets.sources import source_of
from lrp_fx.datasets.values import id_of, target_of, whole_number
from testing.rows import Classifier, Tokenizer, texts

pytest.importorskip("pyarrow.parquet")
arrow = pytest.importorskip("pyarrow")
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def explainer() -> lrp_fx.Explainer:
    return lrp_fx.convert(Classifier().eval(), tokenizer=Tokenizer())


# ------------------------------------------------------------------------------------------------ ids
def test_a_row_in_error_keeps_what_it_is_called(explainer: lrp_fx.Explainer) -> None:
    """A text that is none, a target that is none, a column that is not there, a text that is empty."""
    given: list[dict[str, Any]] = [
        {"id": "doc-17", "text": None, "label": 1},
        {"id": "0", "text": "abc", "label": 1},
        {"id": "doc-19", "text": "abc", "label": math.nan},
        {"id": "doc-20", "label": 1},
        {"id": "doc-21", "text": "", "label": 1},
        {"id": "doc-22", "text": "abc", "label": 2.5},
    ]
    rows = list(explainer.map(given, target_column="label"))
    assert [row["id"] for row in rows] == [row["id"] for row in given]
    assert [row["error"] is None for row in rows] == [False, True, False, False, False, False]


def test_what_a_row_is_called() -> None:
    """A number of a tensor or an array by itself, a missing one by its place; and what no file can hold, escaped."""
    for value, name in (
        (torch.tensor(10), "10"),
        (np.int64(7), "7"),
        (10.0, "10"),
        ("a", "a"),
        (None, None),
        (math.nan, None),
        ("\ud800x", "\\ud800x"),
    ):
        assert id_of(value) == name
        assert read_row(3, {"id": value, "text": "ab"}, Columns()).id == ("3" if name is None else name)


def test_ids_that_no_file_can_hold_end_no_run(explainer: lrp_fx.Explainer, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": "\\ud83d", "text": "abc"}\n{"id": "b", "text": "\\ud83d"}\n')
    rows = explainer.map(tmp_path / "in.jsonl", save=tmp_path / "run").table().to_pylist()
    assert [row["id"] for row in rows] == ["\\ud83d", "b"]


# ------------------------------------------------------------------------------------------------ targets
def test_targets_of_rows() -> None:
    for value, target in ((3, 3), (3.0, 3), (np.float64(3), 3), (torch.tensor(3), 3), ("3", "3"), ("v3", "v3")):
        assert target_of(value) == target
    assert target_of("3", texts=True) == target_of(" 3.0 ", texts=True) == 3 and target_of("v3", texts=True) == "v3"
    for value in (None, math.nan, 2.5, [1], torch.tensor([1, 2])):
        with pytest.raises(lrp_fx.InputError, match="target"):
            target_of(value)
    with pytest.raises(lrp_fx.InputError, match="no target"):
        target_of("", texts=True)
    assert [whole_number(text) for text in ("3", "-5", "+2", "3.5", "x", "", "1e3")] == [
        3,
        -5,
        2,
        None,
        None,
        None,
        None,
    ]


def test_numbers_in_a_csv_are_classes(explainer: lrp_fx.Explainer, tmp_path: Path) -> None:
    """As in a list, in Parquet, and as --target has it."""
    place = tmp_path / "in.csv"
    with place.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label", "id"], ["abc", "2", ""], ["abd", "0.0", "x"], ["abe", "", "y"]])
    rows = list(explainer.map(place, target_column="label"))
    assert [row["target_indices"] for row in rows] == [[2], [0], None]
    assert [row["id"] for row in rows] == ["0", "x", "y"] and "no target" in rows[2]["error"]
    listed = list(explainer.map([{"text": "abc", "label": 2}], target_column="label"))
    assert listed[0]["score"] == rows[0]["score"]


def test_labels_that_are_numbers_of_other_classes_are_not_guessed(tmp_path: Path) -> None:
    model = Classifier().eval()
    model.config = SimpleNamespace(id2label={0: "1", 1: "2", 2: "3"}, to_dict=dict)
    (tmp_path / "in.csv").write_text("text,label\nabc,1\n")
    explainer = lrp_fx.convert(model, tokenizer=Tokenizer())
    with pytest.raises(lrp_fx.InputError, match="'1' is class 1 or the label of class 0"):
        explainer.map(tmp_path / "in.csv", target_column="label")


# ------------------------------------------------------------------------------------------------ columns
def test_columns_are_refused_where_rows_have_none(explainer: lrp_fx.Explainer, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("abc\nabd\n")
    lists: tuple[Any, ...] = (
        ["abc", "abd"],
        [[1, 2]],
        [("a", "b")],
        (text for text in ["abc"] * 9),
        tmp_path / "in.txt",
    )
    for data in lists:
        for options in ({"target_column": "label"}, {"text_column": "t"}, {"ids_column": "t"}, {"id_column": "who"}):
            with pytest.raises(lrp_fx.InputError, match="there is no column"):
                explainer.map(data, **options)
    rows = list(explainer.map(iter([{"text": "abc", "label": 1}, "abd"]), target_column="label"))
    assert rows[0]["target_indices"] == [1] and "there is no column 'label'" in rows[1]["error"]


def test_names_of_columns_are_texts(explainer: lrp_fx.Explainer) -> None:
    options: tuple[dict[str, Any], ...] = (
        {"text_column": 5},
        {"text_column": ("a",)},
        {"text_column": ("a", "b", "c")},
        {"ids_column": ["a", "b"]},
        {"id_column": 3},
        {"target_column": ["x"]},
        {"save": 3},
    )
    for given in options:
        (name,) = given
        with pytest.raises(lrp_fx.InputError, match=rf"{name}="):
            explainer.map([{"text": "abc"}], **given)
    with pytest.raises(lrp_fx.InputError, match="not both"):
        explainer.map([{"text": "abc", "label": 1}], target=1, target_column="label")


# ------------------------------------------------------------------------------------------------ files and frames
def test_arrays_of_objects_and_marks_at_the_beginning(tmp_path: Path) -> None:
    rows = [{"text": "abc"}, {"text": "abd"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name, text, found in (
        ("a.json", json.dumps(rows), rows),
        ("b.json", json.dumps(rows, indent=1), rows),
        ("c.jsonl", "\ufeff" + lines, rows),
        ("d.json", lines, rows),
        ("e.jsonl", '["abc", "abd"]\n["x", "y"]\n', [["abc", "abd"], ["x", "y"]]),
        ("f.json", json.dumps({"text": "abc"}, indent=1), rows[:1]),
        ("g.json", "[]", []),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert list(source_of(tmp_path / name).rows) == found, name


def test_entries_of_any_length(tmp_path: Path) -> None:
    before, place = csv.field_size_limit(), tmp_path / "in.csv"
    place.write_text('text,id\n"' + "a " * 100_000 + '",1\nab,2\n')
    found = list(source_of(place).rows)
    assert [len(row["text"]) for row in found] == [200_000, 2] and csv.field_size_limit() == before


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt"])
def test_files_of_another_encoding_are_named(explainer: lrp_fx.Explainer, tmp_path: Path, suffix: str) -> None:
    place = tmp_path / f"in{suffix}"
    place.write_bytes('text\nab\n{"text": "café"}\n'.encode("latin1"))
    with pytest.raises(lrp_fx.InputError, match=rf"in{suffix} is not UTF-8 \(line 3\)\n +next: save it as UTF-8"):
        explainer.map(place, save=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Frame:
    """What polars gives: columns when it is iterated, and rows when it is asked for them."""

    columns = ["text", "id"]  # noqa: RUF012

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.held = rows

    def __len__(self) -> int:
        return len(self.held)

    def __iter__(self) -> Any:
        return iter([[row[name] for row in self.held] for name in self.columns])

    def iter_rows(self, *, named: bool) -> Any:
        return iter(self.held if named else [tuple(row.values()) for row in self.held])


def test_frames_and_what_speaks_arrow_give_rows() -> None:
    given = [{"text": text, "id": str(n)} for n, text in enumerate(texts(5))]
    table = arrow.Table.from_pylist(given)
    for data in (Frame(given), table, table.to_batches()[0], table.to_reader()):
        opened = source_of(data)
        assert list(opened.rows) == given and opened.fields == ("text", "id")
    polars = pytest.importorskip("polars")
    assert list(source_of(polars.DataFrame(given)).rows) == given
    with pytest.raises(lrp_fx.InputError, match="collect"):
        source_of(polars.DataFrame(given).lazy())
