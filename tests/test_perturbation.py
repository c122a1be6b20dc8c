"""The benchmark of perturbation: its rankings exist, and its page says what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

import lrp_fx
from benchmarks import perturbation
from benchmarks.faithful.tables import HEADLINE, areas
from testing.scoring import load_model, load_sequences


def test_rankings_are_presets_and_options_that_exist() -> None:
    found = perturbation.rankings()
    labels = [r.label for r in (*found, *perturbation.controls())]
    assert len(set(labels)) == len(labels)
    assert {perturbation.REFERENCE, perturbation.RANDOM, perturbation.LATER} <= set(labels)
    assert {r.rules for r in found if isinstance(r.rules, str)} <= set(lrp_fx.rulesets())
    assert set(HEADLINE) <= {m.name for m in areas()}


def test_the_page_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Explain, perturb and write, on three sequences of a small trained model."""
    folder = Path(__file__).parents[1] / "examples" / "models" / "synth_rope"
    sequences = load_sequences(folder, 3)
    sentences = [ids[: int(mask.sum())] for ids, mask in zip(sequences.ids, sequences.mask, strict=True)]
    material = perturbation.Material("synth_rope", load_model(folder), 0, sentences)
    controls = [c for c in perturbation.controls() if c.label == perturbation.RANDOM]
    chosen = [r for r in perturbation.rankings() if r.label == perturbation.REFERENCE]
    monkeypatch.setattr(perturbation, "rankings", lambda: chosen)
    monkeypatch.setattr(perturbation, "controls", lambda: controls)
    monkeypatch.setattr(perturbation, "load", lambda *_: material)
    written = ["--write", "--page", str(tmp_path / "page.md")]
    assert perturbation.BENCHMARK.main([str(tmp_path), "--model", "synth_rope", *written]) == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "## synth_rope, 3 sentences" in page
    headings, _, *rows = [line for line in page.splitlines() if line.startswith("|")][:4]
    assert [h.strip(" ↑↓") for h in headings.split("|")[2:-1]] == list(HEADLINE)
    assert [row.split("|")[1].strip() for row in rows] == [r.label for r in (*controls, *chosen)]
    assert all(row.count("±") == 5 for row in rows)
    assert all(metric.definition in page for metric in areas())
