"""Targets of data sets: one for all rows, told by what it asks for, whoever goes on with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lrp_fx
from lrp_fx.targets import At, Class, Contrast, Direction, Predicted, Span, as_target, content_of, is_for_each
from testing.rows import Classifier, Tokenizer, texts

pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def explainer() -> lrp_fx.Explainer:
    return lrp_fx.convert(Classifier().eval(), tokenizer=Tokenizer())


def test_a_run_of_one_direction_is_not_gone_on_with_another(explainer: lrp_fx.Explainer, tmp_path: Path) -> None:
    first, second = torch.eye(3)[0], torch.eye(3)[1]
    given, out = texts(4), tmp_path / "run"
    explainer.map(given, save=out, rows=2, target=Direction(first))
    (out / "part-000001.parquet").unlink()
    with pytest.raises(lrp_fx.InputError, match=r"another settings.target"):
        explainer.map(given, save=out, rows=2, target=Direction(second))
    rows = explainer.map(given, save=out, rows=2, target=Direction(first.clone())).table().to_pylist()
    alone = [float(explainer(text, target=0).score) for text in given]
    assert [row["score"] for row in rows] == pytest.approx(alone, rel=1e-5)


def test_the_content_of_targets_is_what_they_ask_for() -> None:
    long = torch.arange(2000.0)
    other = long.clone()
    other[700] += 1
    for a, b in (
        (Direction(long), Direction(other)),
        (Direction(long), Direction(long, position=0)),
        (At("residual.0", Direction(long)), At("residual.0", Direction(other))),
        (Class(1), Class(2)),
        (Contrast(1, 2), Contrast(2, 1)),
        (as_target(lambda y: y[:, 0]), as_target(lambda y: y[:, 1])),
        (Span([1, 2], 0), Span([1, 2], 1)),
    ):
        assert content_of(a) != content_of(b)
    assert content_of(Direction(long)) == content_of(Direction(long.clone()))
    assert content_of(Class(1)) == repr(Class(1)), "for people, where that says it all"
    assert content_of(Class("a").named(lambda name, size: 3)) == content_of(Class("a"))


SEVERAL: list[Any] = [
    [0, 1, 2, 0],
    ["a", "b", "c", "d"],
    torch.tensor([0, 1, 2, 0]),
    Class([0, 1, 2, 0]),
    Contrast([0, 1, 2, 0], 1),
    Contrast([0, 1], [1, 0]),
    Predicted(position=[0, 1]),
    Direction(torch.ones(4, 3)),
    Direction(torch.ones(4, 3), position=None),
    Direction(torch.ones(3), position=[0, 1]),
    Span([[1, 2], [2, 1]], 0),
    Span([1, 2], [0, 1]),
    [Class(0), Class(1)],
]


@pytest.mark.parametrize("target", SEVERAL, ids=str)
def test_one_target_per_text_is_refused(explainer: lrp_fx.Explainer, target: Any) -> None:
    """Batches are sorted by length: rows would get the targets of others."""
    with pytest.raises(lrp_fx.TargetError, match=r"one for all its rows\n +next: .*target_column="):
        explainer.map(texts(4), target=target)


def test_one_target_for_all_is_none_per_text(explainer: lrp_fx.Explainer) -> None:
    for target in (None, 1, "a", [1], torch.tensor(1), Contrast(0, 1), Direction(torch.ones(3)), Span([1, 2], 0)):
        assert not is_for_each(as_target(target))
    assert not is_for_each(Direction(torch.ones(1, 3)))
    (row,) = explainer.map(texts(1), target=[2])
    assert row["target_indices"] == [2]


def test_a_function_is_refused_for_what_is_mapped(explainer: lrp_fx.Explainer) -> None:
    for target in (lambda y: y[:, 0], At("residual.0", 1)):
        with pytest.raises(lrp_fx.TargetError, match=r"map\(\) explains all rows with one graph"):
            explainer.map(texts(2), target=target)
