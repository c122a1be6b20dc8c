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

from lrp_fx.errors import InputError
from lrp_fx.evaluation import Case, Example, Metric, metrics, registered
from lrp_fx.evaluation.metric import applicable, chosen, register
from lrp_fx.evaluation.metrics import erasure, soft
from lrp_fx.evaluation.metrics.areas import STEPS, WAYS, area, counts, kept
from lrp_fx.evaluation.paired import compare, mean_and_error

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
    return {m.name: m(case) for m in applicable(case.example)}


def areas(scores: Tensor, of: Example) -> None:
    """Every area of these scores."""
    for name in ("ABPC", "AUAC generation", "AUAC pruning", "AU-MSE pruning, signed"):
        registered[name](Case(of, scores))


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


def divergence_area(logits: list[float]) -> float:
    """Of two classes whose logits are f and 0, from those of the whole input."""
    p = 1 / (1 + math.exp(-5.5))
    found = [p * math.log(p * (1 + math.exp(-f))) + (1 - p) * math.log((1 - p) * (1 + math.exp(f))) for f in logits]
    return (sum(found) - (found[0] + found[-1]) / 2) / 10


@pytest.mark.parametrize("name", ["AU-KL generation", "AU-KL pruning"])
def test_divergence_from_the_answer_to_the_whole(name: str) -> None:
    assert values(WEIGHTS)[name] == pytest.approx(divergence_area(SMALLEST_GONE), rel=1e-5)
    large = Example(torch.ones(12), torch.arange(1, 11), 0, Linear(WEIGHTS * 100))  # probabilities of 0 and 1
    assert 0 < values(WEIGHTS, large)[name] < math.inf


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
        if metric.name in best and "soft" not in metric.name:  # draws of another order may be luckier
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
    asked = torch.cat(model.asked)
    assert (asked[:, 0] == 100).all() and (asked[:, -1] == 111).all()
    assert ((asked == ids) | (asked == 4)).all()
    assert (asked == ids).all(1).any() and (asked[:, 1:-1] == 4).all(1).any()


def test_the_model_is_asked_once_for_each_perturbation() -> None:
    model = Linear()
    one = example(model)
    areas(torch.randn(12, generator=torch.Generator().manual_seed(0)), one)
    assert len(model.asked) == 1
    assert len(model.asked[0]) == len(model.asked[0].unique(dim=0)) <= len(WAYS) * (STEPS + 1)
    areas(torch.randn(12, generator=torch.Generator().manual_seed(0)), one)
    assert len(model.asked) == 1
    areas(torch.randn(12, generator=torch.Generator().manual_seed(1)), one)
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
    with pytest.raises(InputError, match="scores"):
        Case(example(), scores)


def test_known_tokens() -> None:
    causal = torch.zeros(12, dtype=torch.bool)
    causal[[2, 5, 9]] = True
    known = Example(torch.ones(12), torch.arange(1, 12), 0, causal=causal)
    assert values(WEIGHTS, known) == pytest.approx(
        {"hit": 1.0, "mass": 27 / 55, "pointing game": 1.0, "reciprocal rank": 1.0}
    )
    wrong = WEIGHTS.clone()
    wrong[5], wrong[0] = -3.0, 100.0  # position 0 does not count, nor does negative relevance
    assert values(wrong, known) == pytest.approx(
        {"hit": 2 / 3, "mass": 17 / 45, "pointing game": 1.0, "reciprocal rank": 1.0}
    )
    assert values(-WEIGHTS, known)["reciprocal rank"] == pytest.approx(1 / 9)
    assert values(-WEIGHTS, known)["pointing game"] == 0


def test_what_a_metric_needs_is_said() -> None:
    bare = Example(torch.ones(12), torch.arange(1, 11), 0)
    assert not applicable(bare)
    with pytest.raises(InputError, match="no model"):
        registered["ABPC"](Case(bare, WEIGHTS))
    with pytest.raises(InputError, match="causes"):
        registered["hit"](Case(bare, WEIGHTS))


# ------------------------------------------------------------------------------------------------ erasure
def test_erasure_by_hand() -> None:
    """Of ten words 1, 5 and 10 % are one word, 20 % two, 50 % five."""
    best = (10, 10, 10, 19, 40)  # what they weigh
    p = [1 / (1 + math.exp(-f)) for f in (5.5, *(5.5 - b / 10 for b in best), *(b / 10 for b in best))]
    found = values(WEIGHTS)
    assert found["comprehensiveness"] == pytest.approx(p[0] - sum(p[1:6]) / 5, rel=1e-6)
    assert found["sufficiency"] == pytest.approx(p[0] - sum(p[6:]) / 5, rel=1e-6)


@pytest.mark.parametrize("n", [1, 3, 10, 150])
def test_the_best_units_are_as_many_as_their_share(n: int) -> None:
    assert erasure.best(torch.randn(n)).sum(1).tolist() == [math.ceil(n * q / 100) for q in erasure.PERCENT]


@pytest.mark.parametrize("share", soft.RETAINED)
@pytest.mark.parametrize(
    "scores",
    [
        torch.randn(9, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0.0, 0, 0, 5, 0]),
        torch.tensor([9.0, 9, 1, 1, 1, 1]),
        torch.zeros(4),
        torch.tensor([2.0]),
    ],
    ids=["any", "one", "two sizes", "equal", "single"],
)
def test_the_share_that_is_kept_is_the_same_for_all_scores(scores: Tensor, share: float) -> None:
    likely = soft.probabilities(scores, share)
    assert float(likely.mean()) == pytest.approx(share)
    assert bool(((likely >= 0) & (likely <= 1)).all())
    assert torch.equal(likely[scores.argsort(stable=True)].sort().values, likely[scores.argsort(stable=True)])
    torch.testing.assert_close(soft.probabilities(100 * scores - 7, share), likely)


def test_soft_erasure_tells_good_from_bad() -> None:
    good, bad = values(WEIGHTS), values(-WEIGHTS)
    assert good["soft comprehensiveness"] > bad["soft comprehensiveness"] + 0.04
    assert good["soft sufficiency"] < bad["soft sufficiency"] - 0.04
    assert good["soft comprehensiveness"] == pytest.approx(bad["soft sufficiency"]), "the same inputs"


def test_leave_one_out_is_a_correlation_of_ranks() -> None:
    assert values(WEIGHTS.exp())["leave-one-out"] == pytest.approx(1)
    assert values(-WEIGHTS)["leave-one-out"] == pytest.approx(-1)
    assert values(torch.ones(12))["leave-one-out"] == 0


# ------------------------------------------------------------------------------------------------ names
def test_metrics_are_chosen_by_name() -> None:
    found = chosen(["abpc", "auac", "AUAC pruning, signed", "au-mse-pruning", registered["MoRF"]])
    assert [m.name for m in found] == ["ABPC", "AUAC generation", "AUAC pruning, signed", "AU-MSE pruning", "MoRF"]
    for wrong, said in (
        (["comprehensivness"], "did you mean 'comprehensiveness'"),
        (["abpc", "ABPC"], "ABPC is named twice"),
        ([], "no metric"),
    ):
        with pytest.raises(InputError, match=said):
            chosen(wrong)


# ------------------------------------------------------------------------------------------------ discovery
NEW_FAMILY = """
from lrp_fx.evaluation.metric import Metric, register

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
    sys.modules.pop("lrp_fx.evaluation.metrics.newcomer", None)


def test_a_new_file_is_found(newcomer: str) -> None:
    assert newcomer not in registered
    metrics.discover()
    assert values(WEIGHTS)[newcomer] == 0.0
    assert values(-WEIGHTS)[newcomer] == 0.0
    assert values(torch.eye(12)[1])[newcomer] == 1.0
    metrics.discover()  # a second time registers nothing twice


def test_a_name_is_taken_once() -> None:
    with pytest.raises(InputError, match="twice"):
        register(registered["ABPC"])


@pytest.mark.parametrize(("better", "definition"), [("up", "f_t"), ("higher", "")])
def test_a_metric_says_what_it_is(better: str, definition: str) -> None:
    with pytest.raises(InputError, match="metric m"):
        Metric("m", definition, ("bach2015",), better, lambda case: 0.0)


def test_every_metric_cites_what_is_in_the_bibliography() -> None:
    keys = (Path(__file__).parents[1] / "docs" / "bibliography.bib").read_text(encoding="utf-8")
    assert [m.name for m in registered.values() for cite in m.cites if f"{{{cite}," not in keys] == []


# ------------------------------------------------------------------------------------------------ statistics
def test_mean_and_error() -> None:
    assert mean_and_error(torch.tensor([1.0, 2, 3, 4])) == pytest.approx((2.5, math.sqrt(5 / 3) / 2))
    assert math.isnan(mean_and_error(torch.tensor([1.0]))[1])


def test_comparison_by_hand() -> None:
    """Differences 1, 2, 3, 4, -5 and one zero: W+ = 10, W- = 5, exact two-sided p = 2 · 10/32."""
    found = compare(torch.tensor([1.0, 2, 3, 4, -5, 0]), torch.zeros(6))
    assert (found.mean, found.median, found.shift) == pytest.approx((5 / 6, 1.5, 1 / 3))
    assert found.p == pytest.approx(0.625)
    assert not found.verdict("higher")


@pytest.mark.parametrize(("better", "verdicts"), [("higher", ("++", "--")), ("lower", ("--", "++"))])
def test_a_clear_difference(better: str, verdicts: tuple[str, str]) -> None:
    """Ten pairs that differ in one direction: p = 2 / 2^10."""
    up, zero = torch.arange(1.0, 11), torch.zeros(10)
    assert compare(up, zero).p == pytest.approx(2 / 1024)
    assert (compare(up, zero).verdict(better), compare(zero, up).verdict(better)) == verdicts


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [3, 13, 14, 50, 51, 120])
def test_p_is_that_of_scipy(n: int, ties: bool) -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(n)
    for _ in range(5):
        pairs = torch.randn(2, n, generator=generator, dtype=torch.float64) + torch.tensor([[0.3], [0.0]])
        a, b = (2 * pairs).round() if ties else pairs
        unequal = (a - b)[a != b]
        if len(unequal):
            assert compare(a, b).p == pytest.approx(float(stats.wilcoxon(unequal.numpy()).pvalue), abs=1e-12)


def test_equal_methods_do_not_differ() -> None:
    found = compare(torch.ones(5), torch.ones(5))
    assert (found.p, found.shift, found.verdict("higher")) == (1.0, 0.0, "")
    with pytest.raises(InputError, match="equal length"):
        compare(torch.ones(5), torch.ones(4))
