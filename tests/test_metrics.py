"""Metrics of explanations, on a linear model whose areas can be worked out by hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import metrics
from benchmarks.metrics import Case, Example, Metric, registered
from benchmarks.metrics.paired import compare, mean_and_error
from benchmarks.metrics.perturbation import STEPS, WAYS, area, counts, kept

#: Ten words of weight 1 to 10 between two special tokens that count nothing.
WEIGHTS = torch.tensor([0.0, 4, 9, 1, 7, 10, 2, 6, 3, 8, 5, 0])


class Linear:
    """f_0 = w · x / 10, f_1 = 0 for inputs (M, T); remembers what it was asked."""

    def __init__(self, weights: Tensor = WEIGHTS) -> None:
        self.weights, self.asked = weights, []

    def __call__(self, x: Tensor) -> Tensor:
        self.asked.append(x)
        return torch.stack([x @ self.weights / 10, torch.zeros(len(x))], 1)


def example(model: Linear | None = None) -> Example:
    model = model or Linear()
    T = len(model.weights)
    return Example(torch.ones(T), torch.arange(1, T - 1), 0, model)


def values(scores: Tensor, of: Example | None = None) -> dict[str, float]:
    case = Case(of or example(), scores)
    return {m.name: m(case) for m in metrics.applicable(case.example)}


def sigmoid_area(logits: list[float]) -> float:
    p = [1 / (1 + math.exp(-f)) for f in logits]
    return (sum(p) - (p[0] + p[-1]) / 2) / 10


def squared_area(logits: list[float]) -> float:
    squares = [(5.5 - f) ** 2 for f in logits]
    return (sum(squares) - (squares[0] + squares[-1]) / 2) / 10


#: What is left of 1 + ... + 10, over 10, after the j smallest, or the j largest, are gone.
SMALLEST_GONE = [(55 - j * (j + 1) / 2) / 10 for j in range(11)]
LARGEST_GONE = [(10 - j) * (11 - j) / 20 for j in range(11)]


def test_areas_of_the_true_weights() -> None:
    found = values(WEIGHTS)
    assert found["LeRF"] == pytest.approx(3.575)  # (385 - 27.5) / 100
    assert found["MoRF"] == pytest.approx(1.925)  # (220 - 27.5) / 100
    assert found["ABPC"] == pytest.approx(1.65)
    for name in ("AUAC generation", "AUAC pruning", "AUAC pruning, signed"):
        assert found[name] == pytest.approx(sigmoid_area(SMALLEST_GONE), rel=1e-6), name
    for name in ("AU-MSE generation", "AU-MSE pruning", "AU-MSE pruning, signed"):
        assert found[name] == pytest.approx(squared_area(SMALLEST_GONE), rel=1e-6), name


def test_areas_of_reversed_scores() -> None:
    """Signed walks go the other way; pruning by absolute score does not mind the sign."""
    found = values(-WEIGHTS)
    assert (found["LeRF"], found["MoRF"], found["ABPC"]) == pytest.approx((1.925, 3.575, -1.65))
    assert found["AUAC generation"] == pytest.approx(sigmoid_area(LARGEST_GONE), rel=1e-6)
    assert found["AU-MSE pruning, signed"] == pytest.approx(squared_area(LARGEST_GONE), rel=1e-6)
    assert found["AUAC pruning"] == pytest.approx(sigmoid_area(SMALLEST_GONE), rel=1e-6)


def test_squared_error_sums_over_classes() -> None:
    both = Example(
        torch.ones(12), torch.arange(1, 11), 0, lambda x: torch.stack([x @ WEIGHTS / 10, -(x @ WEIGHTS) / 10], 1)
    )
    assert values(WEIGHTS, both)["AU-MSE generation"] == pytest.approx(2 * squared_area(SMALLEST_GONE), rel=1e-6)


def test_counts() -> None:
    assert counts(10).tolist() == list(range(11))
    assert counts(7).tolist() == [0, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7]
    for n in range(60):
        assert counts(n).tolist() == [math.ceil(n * j / 10) for j in range(11)]
        assert kept(torch.randn(n), WAYS["generation"]).sum(1).tolist() == counts(n).tolist()
        assert kept(torch.randn(n), WAYS["most first"]).sum(1).tolist() == (n - counts(n)).tolist()


def test_equal_scores_keep_the_order_of_the_sequence() -> None:
    assert kept(torch.zeros(10), WAYS["generation"])[3].tolist() == [True] * 3 + [False] * 7


def test_trapezoid_rule() -> None:
    assert area(torch.ones(11)) == pytest.approx(1.0)
    assert area(torch.linspace(0, 2, 11)) == pytest.approx(1.0)


@pytest.mark.parametrize("n", [10, 20])
def test_generation_is_signed_pruning_backwards(n: int) -> None:
    """Where ten divides the number of units, keeping the best k and dropping the worst n - k are the same inputs."""
    scores = torch.randn(n, generator=torch.Generator().manual_seed(n))
    assert kept(scores, WAYS["generation"]).equal(kept(scores, WAYS["least first"]).flip(0))


def test_positive_scores_prune_alike_signed_and_absolute() -> None:
    found = values(torch.rand(12, generator=torch.Generator().manual_seed(0)))
    assert found["AUAC pruning"] == found["AUAC pruning, signed"]
    assert found["AU-MSE pruning"] == found["AU-MSE pruning, signed"]


def test_scale_does_not_matter() -> None:
    assert values(WEIGHTS) == values(WEIGHTS * 1e-6)


def test_no_order_beats_the_true_one() -> None:
    best, generator = values(WEIGHTS), torch.Generator().manual_seed(0)
    drawn = [values(torch.rand(12, generator=generator)) for _ in range(50)]
    for metric in registered.values():
        if metric.name in best:
            sign = 1 if metric.better == "higher" else -1
            assert all(sign * d[metric.name] <= sign * best[metric.name] + 1e-9 for d in drawn), metric.name
    assert abs(np.mean([d["ABPC"] for d in drawn])) < best["ABPC"] / 4


def test_the_input_is_not_modified_and_special_tokens_stay() -> None:
    model, ids = Linear(), torch.arange(100, 112)
    before = ids.clone()
    one = Example(ids, torch.arange(1, 11), 0, lambda x: model(x.float()), fill=4)
    scores = torch.randn(12)
    copy = scores.clone()
    values(scores, one)
    assert ids.equal(before)
    assert scores.equal(copy)
    (asked,) = model.asked
    assert (asked[:, 0] == 100).all() and (asked[:, -1] == 111).all()
    assert ((asked == ids) | (asked == 4)).all()
    assert (asked == ids).all(1).any() and (asked[:, 1:-1] == 4).all(1).any()


def test_the_model_is_asked_once_for_each_perturbation() -> None:
    model = Linear()
    one = example(model)
    values(torch.randn(12, generator=torch.Generator().manual_seed(0)), one)
    assert len(model.asked) == 1
    assert len(model.asked[0]) == len(model.asked[0].unique(dim=0)) <= len(WAYS) * (STEPS + 1)
    values(torch.randn(12, generator=torch.Generator().manual_seed(0)), one)
    assert len(model.asked) == 1
    values(torch.randn(12, generator=torch.Generator().manual_seed(1)), one)
    assert len(model.asked) == 2
    everything = torch.cat(model.asked)
    assert len(everything) == len(everything.unique(dim=0))


def test_patches() -> None:
    """Units may be vectors, the fill their mean."""
    patches, fill = torch.randn(6, 3), torch.tensor([1.0, 2.0, 3.0])
    one = Example(patches, torch.arange(6), 0, fill=fill)
    keep = torch.tensor([[True, False, True, True, False, True]])
    expected = patches.clone()
    expected[[1, 4]] = fill
    assert one.perturbed(keep)[0].equal(expected)


@pytest.mark.parametrize("scores", [torch.ones(11), torch.full((12,), torch.nan)])
def test_scores_that_cannot_be_ranked(scores: Tensor) -> None:
    with pytest.raises(ValueError, match="scores"):
        Case(example(), scores)


def test_known_tokens() -> None:
    causal = torch.zeros(12, dtype=torch.bool)
    causal[[2, 5, 9]] = True
    known = Example(torch.ones(12), torch.arange(1, 12), 0, causal=causal)
    assert values(WEIGHTS, known) == pytest.approx({"hit": 1.0, "mass": 27 / 55})
    wrong = WEIGHTS.clone()
    wrong[5], wrong[0] = -3.0, 100.0  # position 0 does not count, nor does negative relevance
    assert values(wrong, known) == pytest.approx({"hit": 2 / 3, "mass": 17 / 45})


def test_what_a_metric_needs_is_said() -> None:
    bare = Example(torch.ones(12), torch.arange(1, 11), 0)
    assert not metrics.applicable(bare)
    with pytest.raises(ValueError, match="no model"):
        registered["ABPC"](Case(bare, WEIGHTS))
    with pytest.raises(ValueError, match="causes"):
        registered["hit"](Case(bare, WEIGHTS))


# ------------------------------------------------------------------------------------------------ discovery
NEW_FAMILY = """
from benchmarks.metrics import Metric, register

def first(case):
    return float(case.units.argmax() == 0)

register(Metric("argmax is first", "1 where the first free unit has the highest score", ("bach2015",), "higher", first))
"""


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A metric in a file of its own, beside the others."""
    (tmp_path / "newcomer.py").write_text(NEW_FAMILY)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    yield "argmax is first"
    registered.pop("argmax is first", None)
    sys.modules.pop("benchmarks.metrics.newcomer", None)


def test_a_new_file_is_found(newcomer: str) -> None:
    assert newcomer not in registered
    metrics.discover()
    assert values(WEIGHTS)[newcomer] == 0.0
    assert values(-WEIGHTS)[newcomer] == 0.0
    assert values(torch.eye(12)[1])[newcomer] == 1.0
    metrics.discover()  # a second time registers nothing twice


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        metrics.register(registered["ABPC"])


@pytest.mark.parametrize(("better", "definition"), [("up", "f_t"), ("higher", "")])
def test_a_metric_says_what_it_is(better: str, definition: str) -> None:
    with pytest.raises(ValueError, match="metric m"):
        Metric("m", definition, ("bach2015",), better, lambda case: 0.0)


# ------------------------------------------------------------------------------------------------ statistics
def test_mean_and_error() -> None:
    assert mean_and_error(torch.tensor([1.0, 2, 3, 4])) == pytest.approx((2.5, math.sqrt(5 / 3) / 2))
    assert math.isnan(mean_and_error(torch.tensor([1.0]))[1])


def test_comparison_by_hand() -> None:
    """Differences 1, 2, 3, 4, -5 and one zero: W+ = 10, W- = 5, exact two-sided p = 2 · 10/32."""
    pytest.importorskip("scipy")
    found = compare(torch.tensor([1.0, 2, 3, 4, -5, 0]), torch.zeros(6))
    assert (found.mean, found.median, found.shift) == pytest.approx((5 / 6, 1.5, 1 / 3))
    assert found.p == pytest.approx(0.625)
    assert not found.verdict("higher")


@pytest.mark.parametrize(("better", "verdicts"), [("higher", ("++", "--")), ("lower", ("--", "++"))])
def test_a_clear_difference(better: str, verdicts: tuple[str, str]) -> None:
    """Ten pairs that differ in one direction: p = 2 / 2^10."""
    pytest.importorskip("scipy")
    up, zero = torch.arange(1.0, 11), torch.zeros(10)
    assert compare(up, zero).p == pytest.approx(2 / 1024)
    assert (compare(up, zero).verdict(better), compare(zero, up).verdict(better)) == verdicts


def test_equal_methods_do_not_differ() -> None:
    pytest.importorskip("scipy")
    found = compare(torch.ones(5), torch.ones(5))
    assert (found.p, found.shift, found.verdict("higher")) == (1.0, 0.0, "")
    with pytest.raises(ValueError, match="equal length"):
        compare(torch.ones(5), torch.ones(4))
