"""Models of data sets: a run is gone on with by the same model, and by no other, whatever tells them apart."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.runtime.fingerprint import model_fingerprint
from testing.keeps import Keeps, kept
from testing.rows import Classifier, Tokenizer, texts

pytestmark = pytest.mark.usefixtures("quiet")


def scaled(module: Any, given: Any, output: Any) -> Any:
    return output * 2


def hook(factor: float) -> Callable[..., Any]:
    return lambda module, given, output: output * factor


def other_forward(model: Any) -> None:
    model.forward = lambda input_ids: 2 * Keeps.forward(model, input_ids)


CHANGES: dict[str, Callable[[Any], object]] = {
    "a number": lambda m: setattr(m, "temperature", 3.0),
    "an attribute that is new": lambda m: setattr(m, "more", 1),
    "a buffer that files do not have": lambda m: m.shift.mul_(3),
    "a tensor": lambda m: m.plain.mul_(2),
    "a scale of an adapter": lambda m: m.scaling.update(default=0.25),
    "the adapter in use": lambda m: m.active.__setitem__(0, "none"),
    "an object's attribute": lambda m: setattr(m.options, "power", 2.0),
    "a module in a list": lambda m: nn.init.zeros_(m.hidden[0].weight),
    "a hook": lambda m: m.words.register_forward_hook(scaled),
    "a forward of its own": other_forward,
    "a weight": lambda m: nn.init.zeros_(m.head.weight),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_another_model_has_another_fingerprint(change: Callable[[Any], object]) -> None:
    model = kept()
    before = model_fingerprint(model)
    change(model)
    assert model_fingerprint(model) != before
    assert model_fingerprint(kept()) == before


def test_classes_and_what_hooks_close_over_count(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = kept(), kept()
    first.words.register_forward_hook(hook(2.0))
    second.words.register_forward_hook(hook(3.0))
    assert model_fingerprint(first) != model_fingerprint(second)
    before = model_fingerprint(kept())
    monkeypatch.setattr(Keeps, "gain", 2.0)
    changed = model_fingerprint(kept())
    monkeypatch.setattr(Keeps, "forward", lambda self, input_ids: self.head(self.words(input_ids).mean(1)))
    assert len({before, changed, model_fingerprint(kept())}) == 3


def test_a_model_that_has_run_is_the_same_model() -> None:
    """It has counted its calls, kept sizes and results, and a hook has noted what it saw."""
    model, noted = kept(), []  # type: ignore[var-annotated]
    model.words.register_forward_hook(lambda module, given, output: noted.append(output))
    before = model_fingerprint(model)
    for size in (3, 5):
        model(torch.ones(1, size, dtype=torch.int64))
    assert noted and model.calls == 2 and float(model.runs) == 2
    assert model_fingerprint(model) == before


class Notes:
    """A hook that is an object, and one that is a method of it."""

    def __init__(self) -> None:
        self.calls, self.noted = 0, {}  # type: ignore[var-annotated]

    def __call__(self, module: Any, given: Any, output: Any) -> None:
        self.calls += 1

    def note(self, module: Any, given: Any, output: Any) -> None:
        self.noted[len(self.noted)] = output


def test_hooks_that_count_are_the_same_hooks() -> None:
    model, notes = kept(), Notes()
    model.words.register_forward_hook(notes)
    model.head.register_forward_hook(notes.note)
    before = model_fingerprint(model)
    model(torch.ones(1, 3, dtype=torch.int64))
    assert notes.calls == len(notes.noted) == 1 and model_fingerprint(model) == before != model_fingerprint(kept())


def test_weights_that_are_elsewhere_are_no_fault() -> None:
    """Offloaded, a hook brings them when they are read."""
    with torch.device("meta"):
        empty = Keeps()
    assert model_fingerprint(empty) != model_fingerprint(kept())


def test_another_process_sees_the_same_model() -> None:
    """Whatever order strings have there, and wherever things lie."""
    code = (
        "from testing.keeps import kept\n"
        "from lrp_fx.runtime.fingerprint import model_fingerprint\n"
        "import torch\n"
        "print(model_fingerprint(kept()), model_fingerprint(torch.compile(kept())))"
    )
    root = str(Path(__file__).parents[1])
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    model, compiled = kept(), torch.compile(kept())
    assert found == [f"{model_fingerprint(model)} {model_fingerprint(compiled)}"] * 2  # type: ignore[arg-type]


class Warm(Classifier):
    """With a number that no file of weights has."""

    temperature: float

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.temperature * super().forward(input_ids, attention_mask)


def test_a_run_is_refused_for_a_model_with_another_attribute(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.parquet")
    model = Warm().eval()
    model.temperature = 1.0
    explainer = lrp_fx.convert(model, tokenizer=Tokenizer())
    given, out = texts(4), tmp_path / "run"
    explainer.map(given, save=out, rows=2, target=1)
    (out / "part-000001.parquet").unlink()
    model.temperature = 3.0
    with pytest.raises(lrp_fx.InputError, match="another model"):
        explainer.map(given, save=out, rows=2, target=1)
    model.temperature = 1.0
    rows = explainer.map(given, save=out, rows=2, target=1).table().to_pylist()
    assert [r["score"] for r in rows] == pytest.approx([float(explainer(t, target=1).score) for t in given], rel=1e-5)
