"""What random programs have found: each as the smallest program that showed it, with the right values."""

from __future__ import annotations

import pytest
import torch

import lrp_fx
from testing.fuzz.laws import Case
from testing.fuzz.program import Program, Step

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("summed", ["sum_of_three", "sum_of_three_reassociated", "sum_of_stack"])
def test_a_stack_of_values_has_the_axes_that_any_of_them_is_known_to_have(summed: str) -> None:
    """The first value of the stack was put together row by row, so that only the second tells which axis is tokens."""
    steps = (Step("unbound_and_stacked", (0,)), Step(summed, (1, 0)), Step("multiplied_by_table", (2,)))
    case = Case(Program(steps))
    found = case.explained().ledger
    half = (found.score - case.model.head.bias[1]) / 2  # a product of content and position, and a bias
    assert torch.allclose(found.leaves["content"], half) and torch.allclose(found.leaves["position"], half)


@pytest.mark.parametrize("written", ["softmax_written_out", "softmax_by_logsumexp"])
def test_a_recurrence_between_softmaxes_is_found_however_they_are_written(written: str) -> None:
    """A softmax over features beside a region is none over tokens."""

    def explained(name: str) -> torch.Tensor:
        steps = (Step(name, (0,)), Step("delta_rule", (1,)), Step(name, (2,)))
        return Case(Program(steps)).explained().content["input_ids"]

    found, expected = explained(written), explained("softmax")
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("summed", ["cumulative_sum", "cumulative_sum_as_product"])
def test_as_many_rows_as_tokens_are_the_tokens(summed: str) -> None:
    """A product with a fixed matrix that gives a row for each token: what is turned by places there has tokens."""
    steps = (Step(summed, (0,)), Step("rotary_attention", (1,)))
    found = Case(Program(steps)).explained()
    placed = found.per_token("signed", content=False)
    assert isinstance(placed, torch.Tensor) and bool(placed.abs().sum() > 0)
    assert torch.allclose(placed.sum(1), found.ledger.leaves["position"])


@pytest.mark.parametrize("dynamic", [True, False])
def test_rows_that_some_are_written_to_are_the_tokens(dynamic: bool) -> None:
    """A kernel over places behind `y[:, [0, 2]] = ...` is a position in every capture."""
    steps = (Step("written_by_index", (0,)), Step("spectral_convolution", (1,)))
    case = Case(Program(steps))
    found = lrp_fx.convert(case.model, dynamic=dynamic)(**case.inputs, target=1).ledger
    half = (found.score - case.model.head.bias[1]) / 2
    assert torch.allclose(found.leaves["content"], half) and torch.allclose(found.leaves["position"], half)


@pytest.mark.parametrize("product", ["row_products", "row_products_written_out"])
def test_what_a_signal_sums_is_no_statistic_of_it(product: str) -> None:
    """A signal that is a sum, times the same with its tokens moved: two signals, not one and a statistic of it."""

    def explained(experts: str) -> torch.Tensor:
        steps = (Step(experts, (0,)), Step("padded_around", (1,)), Step(product, (2, 1)))
        return Case(Program(steps)).explained().content["input_ids"]

    assert torch.allclose(explained("two_experts"), explained("two_experts_by_mask"), rtol=1e-9, atol=1e-12)
