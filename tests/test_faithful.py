"""Faithfulness: what controls are, corrected p, and the pages of images and of language models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from benchmarks.faithful import images, language, next_token
from benchmarks.faithful.kept_rows import KeptRows, differing
from benchmarks.faithful.prefixes import answers, shared
from benchmarks.faithful.rankings import REFERENCE, compared, leaning, others, spread
from lrp_fx.evaluation.metric import Case, Example, registered
from lrp_fx.evaluation.paired import Comparison, corrected
from lrp_fx.evaluation.rankings import Given, later_first, random_order
from lrp_fx.targets import Class, Contrast
from testing.scoring import Sequences, without_last

FREE = torch.arange(1, 9)
KINDS = ("content only", "signed", "positive")


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


def test_the_page_of_language_models() -> None:
    torch.manual_seed(0)
    names = [m.name for m in (*language.of_tokens(), *language.of_contrast())]
    rows = {
        n: {label: {name: float(torch.rand(())) for name in names} for label in next_token.labels()} for n in range(4)
    }
    text = language.page({"stories260k": rows})
    assert "## stories260k, 4 texts" in text
    assert all(f"| {label} |" in text for label in next_token.labels())
    assert "mean_c (f" in text and "mean_c p_c" not in text and "second most likely" in text
    values = torch.tensor([row[REFERENCE]["ABPC, contrast"] for row in rows.values()]).mean()
    assert f"{values:.3f} ±" in text


class Drawn:
    """Scores at random, in the place of explanations."""

    def __init__(self, speaker: object) -> None:
        pass

    def __call__(self, given: list[next_token.Text], seed: int) -> tuple[list[dict[str, Tensor]], ...]:
        asked = next_token.labels(), [*next_token.contrasted(), *(c.label for c in next_token.controls()[:3])]
        draws = [torch.Generator().manual_seed(one.number) for one in given]
        return tuple(
            [
                {label: torch.rand(len(t.ids), generator=g) for label in labels}
                for t, g in zip(given, draws, strict=True)
            ]
            for labels in asked
        )


def test_texts_are_measured_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of the model that is shipped; then one more, and the first measured again."""
    monkeypatch.setattr(language, "Explained", Drawn)
    monkeypatch.setattr(language, "_check_needs", lambda: None)
    asked = dataclasses.replace(language.MODELS["stories260k"], kept=True)
    monkeypatch.setattr(language, "MODELS", {**language.MODELS, "stories260k": asked})
    page, file = tmp_path / "page.md", tmp_path / "rows.jsonl"
    told = ["--model", "stories260k", "--rows", str(file), "--write", "--page", str(page)]
    assert language.BENCHMARK.main([*told, "--texts", "1"]) == 0
    first = file.read_text(encoding="utf-8")
    assert "## stories260k, 1 texts" in page.read_text(encoding="utf-8")
    assert language.BENCHMARK.main([*told, "--texts", "2"]) == 0
    rows = file.read_text(encoding="utf-8")
    assert rows.startswith(first), "what was kept stays"
    assert [json.loads(line)["text"] for line in rows.splitlines()] == [0, 1]
    assert "## stories260k, 2 texts" in page.read_text(encoding="utf-8")
    assert language.BENCHMARK.main([*told, "--texts", "3", "--more", "0", "--again", "0"]) == 0
    assert file.read_text(encoding="utf-8") == rows


@pytest.mark.slow
def test_texts_of_one_length_are_explained_as_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [r for r in compared() if r.label in (REFERENCE, *(f"pa-lrp-path, {a}" for a in KINDS))]
    monkeypatch.setattr(next_token, "rankings", lambda: chosen)
    monkeypatch.setattr(next_token, "integrated", lambda speaker, one: one.ids.double())
    model = tiny()
    given = [next_token.Text(n, torch.randint(20, (length,)), 3 + n, 2) for n, length in enumerate((7, 5, 7))]
    explained = next_token.Explained(next_token.Speaker(model, model, 1, ()))
    whole, contrast = explained(given, 0)
    assert list(whole[0]) == [
        *(r.label for r in chosen),
        next_token.INTEGRATED,
        *(c.label for c in next_token.controls()),
    ]
    of_both = [r.label for r in chosen if r.label in next_token.contrasted()]
    assert list(contrast[0]) == [*of_both, *(c.label for c in next_token.controls()[:3])]
    assert "pa-lrp-path, positive" not in of_both
    alone = explained.explainers["pa-lrp-path"]
    for one, scores, of_two in zip(given, whole, contrast, strict=True):
        for target, found in ((Class(one.target), scores), (Contrast(one.target, 2), of_two)):
            expected = alone(input_ids=one.ids[None], target=target).per_token("signed")[0]
            assert torch.allclose(found["pa-lrp-path, signed"], expected, atol=1e-6)


def test_kept_texts_that_are_no_longer_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {REFERENCE: {"ABPC": 1.0}}
    text = next_token.Text(0, torch.arange(3), 0, 1)
    speaker = next_token.Speaker(None, None, 0, ())
    monkeypatch.setattr(language, "_block", lambda *given: iter([(text, row)]))
    language._measured_again(speaker, None, {0: row, 5: {}}, 0)  # type: ignore[arg-type]
    with pytest.raises(SystemExit, match="attnlrp, ABPC: 1.1 was kept, 1 is measured"):
        language._measured_again(speaker, None, {0: {REFERENCE: {"ABPC": 1.1}}}, 0)  # type: ignore[arg-type]


def test_rows_of_another_make_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = {"a": {"x": 1.0, "y": 2.0, "z": 1 / 3}, "b": {"x": 0.5, "y": -1.0}}
    KeptRows(file, "version 1").add(7, row)
    found = KeptRows(file, "version 1").read()[7]
    assert found == {"a": {"x": 1.0, "y": 2.0, "z": 0.333333}, "b": {"x": 0.5, "y": -1.0}}
    assert differing(found, row) == []
    assert differing(found, {"a": row["a"], "b": {"x": 0.5, "y": -1.1}}) == ["b, y: -1 was kept, -1.1 is measured"]
    with pytest.raises(SystemExit, match="line 1: made by version 1; this is version 2"):
        KeptRows(file, "version 2").read()
    with pytest.raises(ValueError, match="several orders"):
        KeptRows(file, "version 1").add(8, {"a": {"x": 1.0, "y": 2.0}, "b": {"y": 1.0}})


def tiny() -> Any:
    sizes: dict[str, Any] = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**sizes, vocab_size=20, num_key_value_heads=1)
    model: Any = transformers.LlamaForCausalLM(config)
    return model.eval()


@pytest.mark.parametrize("nodes", [9, 20, 1000])
def test_texts_that_begin_alike_are_answered_as_each_by_itself(nodes: int) -> None:
    model = tiny()
    texts = torch.randint(3, (12, 6), generator=torch.Generator().manual_seed(1))
    texts = torch.cat([texts, texts[3:5]])  # twice: answered once
    with torch.no_grad():
        found = answers(model, texts, nodes)
        expected = model(texts).logits[:, -1]
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(found[3], found[12])
    assert (expected[0] - expected[1]).abs().max() > 1e-3


def test_what_texts_have_in_common() -> None:
    texts = torch.tensor([[1, 2, 3], [1, 2, 4], [1, 3, 4], [2, 3, 4]])
    assert shared(texts).tolist() == [0, 2, 1, 0]


def test_a_language_model_is_asked_and_contrasted() -> None:
    """Two logits that depend on the words: what is measured of the target and of its contrast."""
    weights = torch.tensor([[1.0, -1.0], [3.0, 0.5], [-2.0, 0.0], [0.0, 0.0]])
    given: list[int] = []

    def predict(ids: Tensor) -> Tensor:
        given.append(len(ids))
        return weights[ids].sum(1)

    text = next_token.Text(0, torch.tensor([0, 1, 2]), 0, 1)
    scores, of_two = torch.tensor([1.0, 3.0, -2.0]), torch.tensor([2.0, 2.5, -2.0])
    found = next_token.measured(text, 3, predict, {"good": scores}, {"good": of_two})["good"]
    assert given == [7], "every perturbed text in one batch"
    assert found["ABPC"] > 0
    assert found["ABPC, contrast"] > 0
    worst = next_token.measured(text, 3, predict, {"bad": -scores}, {"bad": -of_two})["bad"]
    assert worst["ABPC"] == pytest.approx(-found["ABPC"])
    assert worst["ABPC, contrast"] == pytest.approx(-found["ABPC, contrast"])
    example = Example(text.ids, torch.arange(3), 0, lambda ids: _of_two(weights[ids].sum(1)), 3)
    for name in next_token.OF_CONTRAST:
        assert found[f"{name}, contrast"] == pytest.approx(registered[name](Case(example, of_two)))


def _of_two(logits: Tensor) -> Tensor:
    return torch.stack([logits[:, 0] - logits[:, 1], torch.zeros(len(logits))], 1)


def test_lengths_are_tens() -> None:
    """Then what is put in by descending score is what is left where the least were taken out: asked once."""
    assert all(n % 10 == 0 and 30 <= n <= 80 for n in next_token.LENGTHS)


def test_integrated_gradients_add_up() -> None:
    pytest.importorskip("captum")
    model = tiny().requires_grad_(False)
    one = next_token.Text(0, torch.tensor([4, 5, 6, 7]), 3, 2)
    found = next_token.integrated(next_token.Speaker(model, model, 1, ()), one)
    at = [model(torch.tensor([ids])).logits[0, -1, 3] for ids in ([4, 5, 6, 7], [1] * 4)]
    assert float(found.sum()) == pytest.approx(float(at[0] - at[1]), rel=0.05)
