"""Estimates against patching: what is compared, and that rules of LRP know more of it than the gradient."""

from __future__ import annotations

import pytest
import torch

from benchmarks.patching import cases, measure, programs
from benchmarks.patching.measure import pearson, same_sign, spearman


def test_agreement_is_one_for_the_same_and_knows_order_and_sign() -> None:
    x = torch.tensor([-3.0, -1.0, 0.001, 2.0, 5.0])
    assert pearson(x, 3 * x + 1) == pytest.approx(1) and pearson(x, -x) == pytest.approx(-1)
    assert spearman(x, x.exp()) == pytest.approx(1) and pearson(x, x.exp()) < 0.99
    assert same_sign(x, x.sign()) == 1.0
    assert same_sign(torch.tensor([1.0, 1, -1, 1, 1]), x) == 0.5, "what is small is not asked"


def test_places_are_spread_evenly() -> None:
    assert measure.spread(range(31), 3) == [0, 15, 30] and measure.spread(range(2), 3) == [0, 1]


def test_a_partner_has_another_answer() -> None:
    (case,) = cases.cases("task_induction", 6)
    assert (case.answer != case.foil).all()
    contrast, answer = case.scores(case.model(**case.inputs))
    logits = case.model(**case.inputs).logits
    assert torch.equal(answer, logits.amax(-1)) and (contrast > 0).all()
    assert case.inputs["input_ids"].shape == case.others["input_ids"].shape


@pytest.mark.slow
def test_coefficients_know_what_patching_mlps_does_and_the_gradient_does_not() -> None:
    (case,) = cases.cases("task_induction", 5)
    mlps = measure.asked(case, 2, ["mlp"])
    true = measure.truth(mlps)
    agreement = {
        rules: {patch: pearson(said[key], true[key]) for key in true if key[0] == "contrast" for patch in [key[2]]}
        for rules in ("pa-lrp", "gradient")
        for said in [measure.estimates(mlps, rules)]
    }
    assert set(agreement["pa-lrp"]) == set(measure.PATCHES)
    assert min(agreement["pa-lrp"].values()) > 0.85
    for patch in measure.PATCHES:
        assert agreement["pa-lrp"][patch] > agreement["gradient"][patch], patch


def test_heads_that_write_nothing_carry_nothing() -> None:
    decide, _, found = programs.shares("compiled_sort", {"pa-lrp": "pa-lrp"}, 5)
    assert decide == ["heads.0", "heads.1"]
    assert found["pa-lrp"] >= 0.9
