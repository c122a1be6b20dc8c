"""Tidy graphs: what costs a pass over a large value and says nothing is gone, and the values are the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lrp_fx
from lrp_fx.canonicalize.passes import canonicalize
from lrp_fx.capture.ladder import capture
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.tracing import trace
from lrp_fx.optimize.simplify import simplify

X, Y = (torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))


def tidied(function: Callable[[Tensor, Tensor], Tensor]) -> fx.GraphModule:
    mode = FakeTensorMode()
    module = trace(lambda x, y: [function(x, y)], [mode.from_tensor(X), mode.from_tensor(Y)], mode)
    simplify(module.graph)
    module.recompile()
    torch.testing.assert_close(module(X, Y)[0], function(X, Y))
    return module


def negated(module: fx.GraphModule) -> list[tuple[int, ...]]:
    return [tuple(n.meta["val"].shape) for n in module.graph.nodes if op_name(n) == "aten.neg"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: (-x).sum(-1),
        lambda x, y: (-x * y).sum(-1),
        lambda x, y: (x * -y).sum(-1),
    ],
    ids=["sum", "left factor", "right factor"],
)
def test_sums_are_negated_instead_of_their_terms(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert negated(tidied(function)) == [(2, 3)]


def test_two_signs_cancel_out_in_value() -> None:
    assert negated(tidied(lambda x, y: (-x * -y).sum(-1))) == [(2, 3, 4), (2, 3)], (
        "one sign is delayed, the other stays with its factor"
    )


def test_a_square_has_no_sign() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        negative = -x
        return (negative * negative).sum(-1)

    assert negated(tidied(function)) == [(2, 3, 4)]


def test_a_product_that_is_read_otherwise_keeps_its_sign() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        product = -x * y
        return product + product.sum(-1, keepdim=True)

    assert negated(tidied(function)) == [(2, 3, 4)]


class Ones(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        scale = counts * 1.0  # makes floats of integers: no identity
        hidden: Tensor = self.linear(x * 1.0) / 1
        return hidden * scale * 2.0


def test_products_with_one_are_gone_and_casts_by_them_are_not() -> None:
    torch.manual_seed(0)
    model, counts = Ones().eval(), torch.tensor([1, 2, 3, 4])
    program = canonicalize(capture(model, {"x": X, "counts": counts}, {"x": "content", "counts": "mask"}))
    constants = [
        n.args[1]
        for n in program.graph.nodes
        if op_name(n) in ("aten.mul", "aten.div") and not isinstance(n.args[1], fx.Node)
    ]
    assert sorted(constants) == [1.0, 2.0]
    with torch.no_grad():
        assert torch.equal(program.module(X, counts)[program.outputs.explained], model(X, counts))


@pytest.mark.parametrize("reshaped", [False, True])
@pytest.mark.parametrize("copy", [lambda x: x * 1.0, Tensor.contiguous], ids=["product with one", "copy"])
def test_what_makes_a_dense_copy_for_an_operation_on_strides_stays(
    copy: Callable[[Tensor], Tensor], reshaped: bool
) -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 7)

        def forward(self, x: Tensor) -> Tensor:
            pairs = copy(self.linear(x)[..., 1:] if reshaped else self.linear(x)[..., 1:3])
            return torch.view_as_real(
                torch.view_as_complex(pairs.reshape(*pairs.shape[:-1], 3, 2) if reshaped else pairs) * 2.0
            ).flatten(1)

    torch.manual_seed(0)
    model = Complex().eval()
    relevance = lrp_fx.convert(model)(x=X, target=1)
    assert torch.equal(relevance.output, model(X)) and float(relevance.ledger.error.max()) < 1e-5
