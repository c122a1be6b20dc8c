"""Products of a value with a function of itself: which count as two factors, which as one, which are reported."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import lrp_fx
from lrp_fx.ir.graph import op_name

B, T, D = 2, 5, 4
X = torch.randn(B, T, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Function = Callable[..., Tensor]


class Host(nn.Module):
    """x -> W x -> the function, given learned maps u and w -> numbers; the product asked about is the last but the
    sums.
    """

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.project, self.w, self.u = nn.Linear(D, D), nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(self.project(x), self.w, self.u)
        return torch.stack([y.flatten(1).sum(1), y.flatten(1)[:, 0]], 1)


def explained(function: Function, **options: object) -> tuple[lrp_fx.Explainer, lrp_fx.Relevance]:
    explainer = lrp_fx.convert(Host(function), conserve="site", dynamic=False, **options)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return explainer, explainer(X, target=0)


def kinds(function: Function) -> set[str]:
    """What the multiplications of values that carry are, on the way of relevance."""
    rewritten = lrp_fx.convert(Host(function), {"x": X}, strict=True, dynamic=False).rewritten
    found = [
        a
        for a in rewritten.applications.values()
        if op_name(a.node).removeprefix("aten.") in ("mul", "div", "matmul", "bmm", "baddbmm")
    ]
    return {a.kind for a in found if all(isinstance(x, fx.Node) and rewritten.flow.carries(x) for x in a.node.args[:2])}


#: function of (h, w, u) -> kinds of its products.
FUNCTIONS: dict[str, tuple[Function, set[str]]] = {
    # independent: a learned map stands between the operands
    "through a learned map": (lambda h, w, u: h * torch.sigmoid(w(h)), {"gate"}),
    "two learned maps": (lambda h, w, u: w(h) * u(h), {"product"}),
    "learned scores": (lambda h, w, u: torch.sigmoid(w(h) @ u(h).mT) @ h, {"product"}),
    "a learned map written as a sum": (
        lambda h, w, u: h * torch.sigmoid((h.unsqueeze(-2) * w.weight).sum(-1)),
        {"gate"},
    ),
    "halves of one map": (lambda h, w, u: h[..., :2] * torch.sigmoid(h[..., 2:]), {"gate"}),
    "parts of one map": (
        lambda h, w, u: torch.tanh(h.chunk(2, -1)[0]) @ torch.sigmoid(h.chunk(2, -1)[1]).mT,
        {"product"},
    ),
    # pointwise: one factor
    "square": (lambda h, w, u: h * h, {"elementwise"}),
    "pointwise": (lambda h, w, u: h * torch.sigmoid(h), {"elementwise"}),
    "both pointwise": (lambda h, w, u: torch.tanh(h) * torch.sigmoid(h), {"elementwise"}),
    "rows of pointwise functions": (lambda h, w, u: torch.einsum("btd,btd->bt", h, torch.sigmoid(h)), {"linear"}),
    # normalising: the statistic is frozen
    "norm": (lambda h, w, u: h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-3), {"normalise"}),
    "norm by einsum": (lambda h, w, u: h / torch.einsum("btd,btd->bt", h, h).sqrt().unsqueeze(-1), {"normalise"}),
    "norm of a function": (
        lambda h, w, u: torch.relu(h) * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-3),
        {"normalise"},
    ),
    # forms of one value: every factor counts
    "gram": (lambda h, w, u: h @ h.mT, {"product"}),
    "gram written out": (lambda h, w, u: (h.unsqueeze(-2) * h.unsqueeze(-3)).sum(-1), {"product"}),
    "row statistic": (lambda h, w, u: torch.einsum("btd,btd->bt", h, h), {"product"}),
    "neighbours": (lambda h, w, u: h * h.roll(1, 1), {"product"}),
    "matrix power": (lambda h, w, u: (h.mT @ h) @ (h.mT @ h), {"product"}),
    "outer": (lambda h, w, u: torch.einsum("btd,bte->btde", h, h), {"product"}),
    "cosine": (lambda h, w, u: F.normalize(h, dim=-1) @ h.mT, {"product", "normalise"}),
    "positive parts": (lambda h, w, u: torch.relu(h) @ h.mT, {"product"}),
    # weights of a softmax: attention, tied or not
    "tied attention": (lambda h, w, u: (h @ h.mT).softmax(-1) @ h, {"product"}),
    "pooled by itself": (lambda h, w, u: h.softmax(1) * h, {"product"}),
}

#: dependent in another way: reported.
UNKNOWN: dict[str, Function] = {
    "neighbour's sigmoid": lambda h, w, u: h * torch.sigmoid(h.roll(1, 1)),
    "neighbour's sigmoid, sliced": lambda h, w, u: h[:, 1:] * torch.sigmoid(h[:, :-1]),
    "running sum": lambda h, w, u: h * torch.tanh(h.cumsum(1)),
    "kernel matrix": lambda h, w, u: torch.sigmoid(h) @ h.mT,
    "kernel matrix written out": lambda h, w, u: (torch.sigmoid(h).unsqueeze(-2) * h.unsqueeze(-3)).sum(-1),
    "two functions": lambda h, w, u: torch.sigmoid(h) * torch.tanh(h.flip(1)),
    "kernel of a function and its value": lambda h, w, u: F.scaled_dot_product_attention(torch.sigmoid(h), h, w(h)),
    "added product": lambda h, w, u: torch.baddbmm(torch.ones(T, T, dtype=h.dtype), torch.tanh(h), torch.exp(h).mT),
    "tied sigmoid attention": lambda h, w, u: torch.sigmoid(h @ h.mT) @ h,
}

#: One function, two spellings, one relevance.
PAIRS: dict[str, tuple[Function, Function]] = {
    "gram": (FUNCTIONS["gram"][0], FUNCTIONS["gram written out"][0]),
    "square": (lambda h, w, u: (h * h).sum(-1), FUNCTIONS["row statistic"][0]),
    "square of a row": (lambda h, w, u: h.square().sum(-1), lambda h, w, u: h.unsqueeze(-2) @ h.unsqueeze(-1)),
    "rows": (lambda h, w, u: (h * torch.sigmoid(h)).sum(-1), FUNCTIONS["rows of pointwise functions"][0]),
    "rows, the function first": (
        lambda h, w, u: F.silu(h).sum(-1),
        lambda h, w, u: torch.einsum("btd,btd->bt", torch.sigmoid(h), h),
    ),
    "outer": (FUNCTIONS["outer"][0], lambda h, w, u: h.unsqueeze(-1) @ h.unsqueeze(-2)),
    "neighbours": (lambda h, w, u: h * (h + h.roll(1, 1)), lambda h, w, u: h.square() + h.roll(1, 1) * h),
    "tied attention": (
        FUNCTIONS["tied attention"][0],
        lambda h, w, u: F.scaled_dot_product_attention(h, h, h, scale=1.0),
    ),
    "pooled": (lambda h, w, u: (h.softmax(1) * h).sum(1), lambda h, w, u: torch.einsum("btd,btd->bd", h.softmax(1), h)),
    "gate": (FUNCTIONS["through a learned map"][0], FUNCTIONS["a learned map written as a sum"][0]),
    "computed weights": (
        lambda h, w, u: torch.stack(
            [F.linear(h[i], torch.outer(w(h)[i, 0], u(h)[i, 1]), w.weight[0]) for i in range(B)]
        ),
        lambda h, w, u: h @ (w(h)[:, 0, :, None] * u(h)[:, 1, None, :]).mT + w.weight[0],
    ),
    "computed kernel": (
        lambda h, w, u: torch.stack([F.conv1d(h[i].T, w(h)[i, :4, :, None], w.weight[0]).T for i in range(B)]),
        lambda h, w, u: h @ w(h)[:, :4].mT + w.weight[0],
    ),
    "interpolated": (
        lambda h, w, u: torch.lerp(w(h), u(h), torch.sigmoid(h)),
        lambda h, w, u: w(h) + torch.sigmoid(h) * (u(h) - w(h)),
    ),
    "sigmoid": (
        lambda h, w, u: torch.sigmoid(1.7 * h) @ w(h).mT,
        lambda h, w, u: 1 / (1 + torch.exp(-1.7 * h)) @ w(h).mT,
    ),
    "tanh": (lambda h, w, u: torch.tanh(h), lambda h, w, u: (h.exp() - (-h).exp()) / (h.exp() + (-h).exp())),
    "softplus": (lambda h, w, u: F.softplus(h), lambda h, w, u: torch.log(1 + torch.exp(h))),
    "chain behind a map": (
        lambda h, w, u: torch.sigmoid(w(h)[..., :1]) * u(h * w(h)),
        lambda h, w, u: u(h * w(h) * torch.sigmoid(w(h)[..., :1])),
    ),
    "chain behind a sum": (
        lambda h, w, u: (h * w(h)).sum(-1, keepdim=True) * u(h),
        lambda h, w, u: torch.einsum("bti,bti,btj->btj", h, w(h), u(h)),
    ),
    "norm": (
        FUNCTIONS["norm of a function"][0],
        lambda h, w, u: torch.relu(h * torch.rsqrt(torch.einsum("btd,btd->bt", h, h) / D + 1e-3).unsqueeze(-1)),
    ),
    "cosine": (FUNCTIONS["cosine"][0], lambda h, w, u: (h @ h.mT) / torch.linalg.vector_norm(h, dim=-1, keepdim=True)),
}
#: Pairs whose parts are tested by others as well.
SLOW = {
    "square of a row",
    "rows, the function first",
    "outer",
    "neighbours",
    "gate",
    "cosine",
    "computed weights",
    "computed kernel",
    "tanh",
    "softplus",
    "pooled",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_product_is(name: str) -> None:
    function, expected = FUNCTIONS[name]
    assert kinds(function) == expected


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if i in (0, 2, 4) else [pytest.mark.slow]) for i, n in enumerate(UNKNOWN)]
)
def test_dependent_in_another_way_is_reported_and_refused(name: str) -> None:
    explainer, relevance = explained(UNKNOWN[name])
    assert explainer.coverage["unexplained"] == {"tangent.unexplained": 1}, explainer.rewritten.print_readable()
    assert float(relevance.ledger.shares()["unexplained"].abs().max()) > 1e-3, "booked in a sink of its own"
    (node,) = [a.node for a in explainer.rewritten.applications.values() if not a.rule.exact]
    with pytest.raises(
        lrp_fx.UnsupportedOperatorError,
        match=rf"{node.name}\b(.|\n)*functions of %|{node.name}\b(.|\n)*depend on each other",
    ):
        explained(UNKNOWN[name], strict=True)


def test_a_product_with_a_term_is_looked_into() -> None:
    def dependent(h: Tensor, w: nn.Linear, u: nn.Linear) -> Tensor:
        return torch.baddbmm(torch.ones(T, T, dtype=h.dtype), torch.tanh(h), torch.exp(h).mT)

    def independent(h: Tensor, w: nn.Linear, u: nn.Linear) -> Tensor:
        return torch.baddbmm(torch.ones(T, T, dtype=h.dtype), torch.tanh(w(h)), torch.exp(u(h)).mT)

    with pytest.raises(lrp_fx.UnsupportedOperatorError, match="bmm"):
        kinds(dependent)
    kinds(independent)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in PAIRS])
def test_two_spellings_get_the_same(name: str) -> None:
    (first, one), (second, two) = (explained(f) for f in PAIRS[name])
    assert torch.allclose(one.score, two.score, rtol=1e-11)
    assert first.coverage["unexplained"] == second.coverage["unexplained"] == {}
    scale = float(one.content["x"].abs().max())
    assert float((one.content["x"] - two.content["x"]).abs().max()) <= 1e-9 * scale, (
        f"{first.rewritten.print_readable()}\n{second.rewritten.print_readable()}"
    )


def test_weights_that_are_a_part_of_a_split_depend_on_what_was_split() -> None:
    class Written(nn.Module):
        """A map whose weights another map writes."""

        def __init__(self, chunked: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.chunked, self.writer, self.bias = chunked, nn.Linear(6, 72), nn.Parameter(torch.randn(6))
            self.double().eval()

        def forward(self, x: Tensor) -> Tensor:
            written = self.writer(x.mean((0, 1)))
            weight = written.chunk(2)[0] if self.chunked else written[:36]
            return nn.functional.linear(x, weight.view(6, 6), self.bias).mean(1)

    x = torch.randn(1, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, expected = (lrp_fx.convert(Written(chunked))(x, target=1).content["x"] for chunked in (True, False))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
