"""Operations that no rule lists are classified by probing, reported, and still close their books."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def _define(name: str, body: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A custom operator that the library has never seen, differentiable through its own decomposition."""

    @torch.library.custom_op(f"lrp_fx_tests::{name}", mutates_args=())
    def op(x: Tensor) -> Tensor:
        return body(x).clone()

    op.register_fake(lambda x: torch.empty_like(body(x)))

    def backward(ctx: object, grad: Tensor) -> Tensor:
        return torch.func.vjp(body, ctx.saved_tensors[0])[1](grad)[0]  # type: ignore[attr-defined]

    op.register_autograd(backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))
    return op


OPERATORS: dict[str, tuple[Callable[[Tensor], Tensor], str | None]] = {
    "linear": (_define("mix", lambda x: x.flip(-1) * 2.0 - x), "linear.affine"),
    "affine": (_define("shift", lambda x: x * 0.5 + 3.0), "linear.affine"),
    "elementwise": (_define("wave", lambda x: torch.sin(x) * x), "elementwise.inferred"),
    "homogeneous": (_define("cube_norm", lambda x: x * x.norm(dim=-1, keepdim=True) ** 2), "homogeneous.inferred"),
    "of no class": (_define("odd", lambda x: torch.cosh(x.sum(-1, keepdim=True)) + x), None),
}


class Model(nn.Module):
    def __init__(self, op: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.op = nn.Embedding(12, 6), nn.Linear(6, 3), op

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.op(self.embed(input_ids)).mean(1))


@pytest.mark.parametrize("case", OPERATORS)
def test_custom_operators_are_classified(case: str) -> None:
    op, rule = OPERATORS[case]
    explain = lrp_fx.convert(Model(op).double().eval(), conserve="site")
    relevance = explain(input_ids=IDS)
    assert relevance.ledger.error.max() <= 1e-10
    if rule is None:
        assert explain.coverage["unexplained"], "reported, never silent"
        assert "unexplained" in relevance.ledger.sinks
    else:
        assert explain.coverage["inferred"] == {rule: 1}
        assert not explain.coverage["unexplained"]


def test_strict_mode_refuses_what_has_no_class_only() -> None:
    lrp_fx.convert(Model(OPERATORS["elementwise"][0]).double().eval(), strict=True)(input_ids=IDS)
    with pytest.raises(lrp_fx.UnsupportedOperatorError, match="lrp_fx_tests.odd"):
        lrp_fx.convert(Model(OPERATORS["of no class"][0]).double().eval(), strict=True)(input_ids=IDS)


def test_inferred_operator_gets_what_its_known_spelling_gets() -> None:
    custom = lrp_fx.convert(Model(OPERATORS["elementwise"][0]).double().eval())(input_ids=IDS)
    written = lrp_fx.convert(Model(lambda x: torch.sin(x) * x).double().eval())(input_ids=IDS)
    assert torch.allclose(custom.tokens, written.tokens, rtol=1e-9)
