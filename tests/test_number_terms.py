"""What number is a term of a value, and of what values that is not said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from lrp_fx.ir.number_terms import number_terms

CASES: dict[str, tuple[Callable[[Tensor], Tensor], float | None]] = {
    "a sum": (lambda g: 1 + g, 1.0),
    "a difference": (lambda g: 1 - g, 1.0),
    "the other way": (lambda g: g - 1, -1.0),
    "a term some times": (lambda g: torch.add(g, torch.ones_like(g), alpha=3), 3.0),
    "a multiple": (lambda g: (g + 3) * 2 / 4, 1.5),
    "with the other sign": (lambda g: -(g + 3), -3.0),
    "of two": (lambda g: (g + 1) + (g.roll(1) + 2), 3.0),
    "moved": (lambda g: (1 + g)[:, None].transpose(1, 2).reshape(-1), 1.0),
    "one of several": (lambda g: (1 + g).chunk(2, -1)[1], 1.0),
    "none": (lambda g: g * 2, None),
    "taken away again": (lambda g: (1 + g) - 1, None),
    "a product of values": (lambda g: (1 + g) * g.roll(1), None),
    "a function": (lambda g: (1 + g).tanh(), None),
    "padded": (lambda g: torch.nn.functional.pad(1 + g, (1, 1)), None),
    "beside others": (lambda g: torch.cat([1 + g, g]), None),
    "of an integer": (lambda g: (1.5 + g).long(), None),
    "divided by zero": (lambda g: (1 + g) / 0, None),
    "infinite": (lambda g: g + torch.full_like(g, float("-inf")), None),
    "rounded": (lambda g: torch.div(1.5 + g, 2, rounding_mode="floor"), None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_number_that_is_a_term(name: str) -> None:
    function, expected = CASES[name]
    graph = make_fx(function, tracing_mode="fake")(torch.randn(2, 4)).graph
    (result,) = graph.output_node().all_input_nodes
    assert number_terms(graph).get(result) == expected
