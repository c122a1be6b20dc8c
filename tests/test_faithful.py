"""Faithfulness: what controls are, corrected p, and the pages of images and of a language model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.faithful import images, language
from benchmarks.faithful.rankings import REFERENCE, compared, leaning, others, spread
from lrp_fx.evaluation.metric import Case, Example
from lrp_fx.evaluation.paired import Comparison, corrected
from lrp_fx.evaluation.rankings import Given, later_first, random_order
from testing.scoring import Sequences, without_last

FREE = torch.arange(1, 9)


def given(**found: Tensor) -> Given:
    return Given(10, FREE, {label.replace("_", " "): scores for label, scores in found.items()}, torch.Generator())


def correlation(scores: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([scores[FREE].double(), torch.arange(8.0).double()]))[0, 1])


def test_a_control_leans_to_later_tokens_as_much_as_another_ranking() -> None:
    torch.manual_seed(0)
    own, other = torch.randn(10), torch.randn(10) + 0.5 * torch.arange(10)
    scores = leaning("other").scores(given(**{REFERENCE: own, "other": other}))
    assert correlation(scores) == pytest.approx(correlation(other), abs=1e-6)
    assert abs(correlation(own) - correlation(other)) > 0.3
    place = torch.arange(8.0).double() - 3.5
    left = [s[FREE].double() - s[FREE].double().mean() for s in (own, scores)]
    rest = [x - place * (x @ place) / (place @ place) for x in left]  # but for the lean it is the same ranking
    assert torch.allclose(rest[0] / rest[0].norm(), rest[1] / rest[1].norm(), atol=1e-6)


def test_position_that_is_spread_has_the_same_sum_and_no_place() -> None:
    content, both = torch.randn(10), torch.randn(10)
    scores = spread("pa-lrp", "signed").scores(given(**{"pa-lrp, content only": content, "pa-lrp, signed": both}))
    assert scores[FREE].sum() == pytest.approx(float(both[FREE].sum()), abs=1e-5)
    assert torch.allclose(scores - content, (scores - content)[0].expand(10), atol=1e-6)


def test_controls_that_know_nothing() -> None:
    assert later_first().scores(given()).argsort().tolist() == list(range(10))
    first, second = (random_order().scores(given()) for _ in range(2))
    assert torch.equal(first, second), "the generator decides"


def test_rules_of_other_work_come_before_those_of_the_preset() -> None:
    for ruleset in others():
        assert ruleset.kinds["softmax"][0] in ("softmax.temperature", "softmax.shared")
        assert ruleset.kinds["softmax"][1] == "softmax.taylor"
    labels = [r.label for r in compared()]
    assert len(set(labels)) == len(labels)


def test_p_is_corrected_for_the_number_of_comparisons() -> None:
    p = (0.01, 0.04, 0.03, 0.005)
    found = corrected([Comparison(0, 0, 0, x) for x in p])
    assert [c.p for c in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])  # as in Holm 1979
    assert corrected([]) == []


def test_the_last_token_is_taken_off() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    sequences = Sequences(torch.arange(8).view(2, 4), mask, torch.zeros(2), torch.tensor([[0, 1, 1, 0], [0, 1, 0, 1]]))
    less = without_last(sequences)
    assert less.mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
    assert less.causal.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0]]


def test_positive_scores_inside_are_a_share_of_all_positive_ones() -> None:
    marked = Example(torch.zeros(4, 1), torch.arange(4), 0, causal=torch.tensor([True, True, False, False]))
    assert images.LOCALISATION(Case(marked, torch.tensor([1.0, -5.0, 3.0, -1.0]))) == pytest.approx(0.25)
    assert images.LOCALISATION(Case(marked, torch.tensor([-1.0, -2.0, -3.0, 0.0]))) == 0


def test_the_page_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [r for r in compared() if r.label in (REFERENCE, "pa-lrp, content only", "pa-lrp, signed")]
    monkeypatch.setattr(images, "rankings", lambda: chosen)
    monkeypatch.setattr(images, "controls", lambda: [random_order(), spread("pa-lrp", "signed")])
    page = tmp_path / "page.md"
    assert images.BENCHMARK.main(["--count", "3", "--write", "--page", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "## vit_mnist, 3 images" in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|") and "±" in line]
    assert rows == [r.label for r in chosen] + ["random order", "pa-lrp, signed, spread evenly"]


def test_the_page_of_a_language_model() -> None:
    torch.manual_seed(0)
    names = [m.name for m in (*language.of_tokens(), *language.of_contrast())] + ["MoRF", "LeRF"]
    labels = [r.label for r in (*language.rankings(), *language.controls())]
    rows = [{label: {name: float(torch.rand(())) for name in names} for label in labels} for _ in range(4)]
    text = language.page(rows)
    assert "## SmolLM2-135M, 4 texts" in text
    assert all(f"| {label} |" in text for label in labels)
    assert "mean_c" in text and "second most likely" in text
    values = torch.tensor([row[REFERENCE]["ABPC, contrast"] for row in rows]).mean()
    assert f"{values:.3f} ±" in text


def test_a_language_model_is_asked_and_contrasted() -> None:
    """Two logits that depend on the words: what is measured of the target and of its contrast."""
    weights = torch.tensor([[1.0, -1.0], [3.0, 0.5], [-2.0, 0.0], [0.0, 0.0]])

    def model(ids: Tensor, logits_to_keep: int) -> object:
        assert logits_to_keep == 1
        return type("Output", (), {"logits": weights[ids].sum(1, keepdim=True)})

    text = language.Text(torch.tensor([0, 1, 2]), 0, 1)
    scores = {"good": torch.tensor([1.0, 3.0, -2.0])}
    found = language.measured(model, text, 3, scores, {"good": torch.tensor([2.0, 2.5, -2.0])})
    assert found["good"]["ABPC"] > 0
    assert found["good"]["ABPC, contrast"] > 0
    worst = language.measured(model, text, 3, {"bad": -scores["good"]}, {"bad": -torch.tensor([2.0, 2.5, -2.0])})
    assert worst["bad"]["ABPC"] == pytest.approx(-found["good"]["ABPC"])
    assert worst["bad"]["ABPC, contrast"] == pytest.approx(-found["good"]["ABPC, contrast"])
