"""The page of the speed benchmark, and what is left out of it, without a model and without a clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import measure
from benchmarks.speed import times as page
from benchmarks.speed.contenders import BASE
from benchmarks.speed.models import MODELS

FIRST, SECOND = list(MODELS)[:2]
IMAGES = next(name for name, timed in MODELS.items() if not timed.words)


def test_cells_are_lengths_by_batches_and_long_texts_come_alone() -> None:
    assert page.cells_of(FIRST, [128, 2048], [1, 8]) == [(128, 1), (128, 8), (2048, 1)]
    assert page.cells_of(FIRST, [100], [1]) == [], "no length of that model"
    assert page.cells_of(IMAGES, [128], [1, 8]) == [(197, 1), (197, 8)], "images have their own length"


def section(model: str, length: int, text: str) -> tuple[page.Key, str]:
    return (model, length, 1), f"### {model}, {length} tokens, batch 1\n\n{text}\n"


def test_sections_are_replaced_and_others_kept_in_order(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    old = dict([section(SECOND, 128, "second"), section(FIRST, 2048, "long"), section(FIRST, 128, "old")])
    file.write_text("# Performance\n\nWords.\n\n" + page.in_order(old))
    new = page.sections_of(file) | dict([section(FIRST, 128, "new"), section(FIRST, 512, "more")])
    text = page.in_order(new)
    found = [tuple(part.split("\n\n")) for part in text.split("### ")[1:]]
    assert [(title, body.strip()) for title, body, *_ in found] == [
        (f"{FIRST}, 128 tokens, batch 1", "new"),
        (f"{FIRST}, 512 tokens, batch 1", "more"),
        (f"{FIRST}, 2048 tokens, batch 1", "long"),
        (f"{SECOND}, 128 tokens, batch 1", "second"),
    ]
    file.write_text(text)
    assert page.in_order(page.sections_of(file)) == text, "written again, it is the same"


def test_the_process_that_measures_says_what_it_finds_in_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def peaks(model: str, cells: list[measure.Cell], name: str) -> list[measure.Found]:
        asked.append((model, cells, name))
        return [{"cell": [128, 1], "found": {name: {"mib": 3.0}}}]

    monkeypatch.setattr(measure, "peaks", peaks)
    measure.main("peaks", FIRST, "[[128, 1]]", '["forward"]', "0.0")
    assert asked == [(FIRST, [(128, 1)], "forward")]
    assert json.loads(capsys.readouterr().out) == {"cell": [128, 1], "found": {"forward": {"mib": 3.0}}}


# ------------------------------------------------------------------------------------------------ what is timed
class Fake:
    """In place of a model and of a contender: runs are counted, and take as long as they are said to."""

    def __init__(self, seconds: float, error: str = "") -> None:
        self.seconds, self.error, self.runs = seconds, error, 0

    def __call__(self, inputs: Any) -> None:
        if self.error:
            raise ValueError(self.error)
        self.runs += 1


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Fake]], dict[str, measure.Found]]:
    class Model:
        def build(self) -> None: ...

        def inputs(self, length: int, batch: int) -> dict[str, Any]:
            return {}

    def seconds(run: Fake, inputs: Any) -> float:
        run(inputs)
        return run.seconds

    def times(fakes: dict[str, Fake]) -> dict[str, measure.Found]:
        monkeypatch.setattr(measure, "MODELS", {"fake": Model()})
        monkeypatch.setattr(
            measure, "CONTENDERS", {name: lambda timed, model, fake=fake: fake for name, fake in fakes.items()}
        )
        monkeypatch.setattr(measure, "_seconds", seconds)
        (row,) = measure.times("fake", [(128, 1)], list(fakes), budget=1.0)
        assert row["cell"] == [128, 1]
        return row["found"]  # type: ignore[no-any-return]

    return times


def test_ratios_are_to_the_gradient(timed: Any) -> None:
    found = timed({BASE: Fake(0.5), "forward": Fake(0.25), "broken": Fake(0.1, "no kernel")})
    assert (found[BASE]["ratio"], found["forward"]["ratio"], found["forward"]["ms"]) == (1.0, 0.5, 250.0)
    assert found["broken"] == {"why": "ValueError: no kernel"}


def test_what_would_take_too_long_is_left_out(timed: Any) -> None:
    """The gradient's own rounds count: five runs of it, and five of what takes as long."""
    fakes = {BASE: Fake(0.11 * measure.SECONDS), "lrp_fx": Fake(1.0)}
    found = timed(fakes)
    assert "ratio" in found[BASE] and "left out" in found["lrp_fx"]["why"]
    assert fakes["lrp_fx"].runs == 0


def test_a_cell_whose_gradient_takes_too_long_is_left_out(timed: Any) -> None:
    fakes = {BASE: Fake(0.21 * measure.SECONDS), "forward": Fake(1.0)}
    found = timed(fakes)
    assert (fakes[BASE].runs, fakes["forward"].runs) == (2, 0), "it was run once to see how long it takes"
    written = page.section(FIRST, (128, 1), found, {}, list(fakes))
    assert written.splitlines()[-1] == "Left out: gradient x input alone would take more than 5 minutes."


def test_without_a_gradient_nothing_is_timed(timed: Any) -> None:
    fakes = {BASE: Fake(1.0, "no kernel"), "forward": Fake(1.0)}
    found = timed(fakes)
    assert found[BASE] == {"why": "ValueError: no kernel"} and fakes["forward"].runs == 0
