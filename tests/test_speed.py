"""The page of the speed benchmark, and what is left out of it, without a model and without a clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import __main__ as page
from benchmarks.speed import measure
from benchmarks.speed.contenders import BASE
from benchmarks.speed.models import MODELS

FIRST, SECOND = list(MODELS)[:2]
IMAGES = next(name for name, timed in MODELS.items() if not timed.words)


def test_cells_are_lengths_by_batches_and_long_texts_come_alone() -> None:
    assert page.cells_of(FIRST, [128, 2048], [1, 8]) == [(128, 1), (128, 8), (2048, 1)]
    assert page.cells_of(FIRST, [100], [1]) == [], "no length of that model"
    assert page.cells_of(IMAGES, [128], [1, 8]) == [(197, 1), (197, 8)], "images have their own length"


def made(model: str, length: int, text: str) -> tuple[tuple[str, int, int], str]:
    return (model, length, 1), f"### {model}, {length} tokens, batch 1\n\n{text}\n"


def test_sections_are_replaced_and_others_kept_in_order(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    page.write(file, dict([made(SECOND, 128, "second"), made(FIRST, 2048, "long"), made(FIRST, 128, "old")]))
    page.write(file, dict([made(FIRST, 128, "new"), made(FIRST, 512, "more")]))
    text = file.read_text()
    assert text.startswith("# Performance") and text.count("# Performance") == 1
    assert [line for line in text.split("### ")[0].splitlines() if line] == [
        line for line in page.intro().splitlines() if line
    ]
    found = [tuple(part.split("\n\n")) for part in text.split("### ")[1:]]
    assert [(title, body.strip()) for title, body, *_ in found] == [
        (f"{FIRST}, 128 tokens, batch 1", "new"),
        (f"{FIRST}, 512 tokens, batch 1", "more"),
        (f"{FIRST}, 2048 tokens, batch 1", "long"),
        (f"{SECOND}, 128 tokens, batch 1", "second"),
    ]
    page.write(file, {})
    assert file.read_text() == text, "written again, it is the same"


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
    section = page.section(FIRST, (128, 1), found, {}, list(fakes))
    assert section.splitlines()[-1] == "Left out: gradient x input alone would take more than 5 minutes."


def test_without_a_gradient_nothing_is_timed(timed: Any) -> None:
    fakes = {BASE: Fake(1.0, "no kernel"), "forward": Fake(1.0)}
    found = timed(fakes)
    assert found[BASE] == {"why": "ValueError: no kernel"} and fakes["forward"].runs == 0
