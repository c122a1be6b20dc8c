"""What random programs have found: each as the smallest program that showed it, with the right values."""

from __future__ import annotations

import pytest
import torch

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
