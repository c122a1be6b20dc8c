"""What is zero but for one token of each example is computed for that token alone, and nothing changes by it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

import lrp_fx
from lrp_fx import targets
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.tracing import trace
from lrp_fx.optimize.push_rows import push_rows
from testing.converted import converted, parts

pytestmark = pytest.mark.usefixtures("quiet")
B, T, D, V = 3, 5, 4, 6


#: Leaves everything computed for all tokens.
WHOLE = ("push_rows", "simplify_pushed")


def test_every_kind_of_target_gives_the_same() -> None:
    goals = [targets.Class(3, position=[1, 0]), targets.Contrast(2, 5, position=-2), targets.Span([4, 7], start=1)]
    found, other = (converted("llama", "sdpa", torch.float64, conserve="site", **o) for o in ({}, {"without": WHOLE}))
    for goal in goals:
        mine, theirs = (of.explainer(**found.inputs, target=goal) for of in (found, other))
        assert torch.equal(mine.output.logits, theirs.output.logits)
        a, b = parts(mine), parts(theirs)
        assert a.keys() == b.keys()
        for part in a:
            assert torch.allclose(a[part], b[part], rtol=0, atol=1e-12 * float(theirs.ledger.magnitude.max())), part
        assert max(s.error for s in mine.ledger.sites) <= 1e-10


def test_the_head_is_transposed_for_one_token_alone() -> None:
    graph = converted("llama", "sdpa").graph.graph
    words = [
        n
        for n in graph.nodes
        if isinstance(v := value_of(n), Tensor) and v.dim() == 3 and v.shape[-1] == 96 and v.shape[1] != 1
    ]
    assert [op_name(n) for n in words] == ["aten.linear"], "tokens by words: the logits themselves, nothing else"
    backward = [n for n in graph.nodes if op_name(n) == "aten._scaled_dot_product_flash_attention_for_cpu_backward"]
    assert [str(value_of(n.args[0]).shape[2]) == "1" for n in backward] == [True, False], (
        "one query in the last block; keys and values, and all below, whole"
    )


class Chosen(nn.Module):
    """Words, some at one token of each text: written there, or read there in part."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.words, self.norm, self.weight = (
            how,
            nn.Embedding(20, 8),
            nn.LayerNorm(8),
            nn.Parameter(torch.randn(8)),
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        at = (input_ids == 3).int().argmax(-1)
        if self.how == "a part is read":
            return self.norm(x).gather(1, at.reshape(-1, 1, 1)).flatten(1)
        if self.how == "a part is read by the target":
            return self.norm(x)
        put = torch.zeros_like(x)
        put[torch.arange(x.shape[0]), at] = self.weight if self.how == "a vector is written" else 1.0
        return torch.tanh(x * put).sum(1)


@pytest.mark.parametrize(
    "how", ["a part is read", "a part is read by the target", "a vector is written", "a number is written"]
)
def test_rows_in_part(how: str) -> None:
    """What writes or reads less than a row is computed whole."""
    ids = torch.tensor([[5, 7, 3, 9, 1], [2, 3, 8, 3, 4]])
    model = Chosen(how).double().eval()
    target = (
        (lambda out: out.gather(1, out[..., :1].argmax(1, keepdim=True)).flatten())
        if how == "a part is read by the target"
        else None
    )
    ours = lrp_fx.convert(model, conserve="site")(input_ids=ids, target=target)
    theirs = lrp_fx.convert(model, conserve="site", without=WHOLE)(input_ids=ids, target=target)
    assert torch.allclose(ours.tokens, theirs.tokens, rtol=1e-12, atol=1e-14)
    assert float(ours.tokens.abs().max()) > 0.01


class Written(nn.Module):
    """The model itself writes one token of each text into zeros and multiplies what it has then by a matrix."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.words, self.weight = how, nn.Embedding(20, 64), nn.Parameter(torch.randn(64, 48))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        at = (input_ids == 3).int().argmax(-1)
        put = torch.zeros_like(x)
        if self.how == "index_put":
            put[torch.arange(x.shape[0]), at] = x[:, 0]
        else:
            put = put.scatter_add(1, at.reshape(-1, 1, 1).expand(-1, 1, x.shape[-1]), x[:, :1])
        return (put @ self.weight).sum(1)


@pytest.mark.parametrize("how", ["index_put", "scatter_add"])
def test_the_models_own_outputs_are_computed_as_the_model_does(how: str) -> None:
    """To the bit in float32, where one row times a matrix is rounded otherwise than many."""
    model = Written(how).eval()
    explain = lrp_fx.convert(model)
    ids = torch.randint(20, (2, 40), generator=torch.Generator().manual_seed(0))
    ids[:, 20] = 3
    relevance = explain(input_ids=ids)
    assert torch.equal(relevance.output, model(ids))
    alone = lrp_fx.convert(model, keep_output=False)
    assert torch.allclose(alone(input_ids=ids).tokens, relevance.tokens, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ by operation
def seeded(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., list[Tensor]]:
    def run(row: Tensor, place: Tensor, x: Tensor, w: Tensor) -> list[Tensor]:
        index = place.reshape(-1, 1, 1).expand(-1, 1, row.shape[-1])
        return [function(x.new_zeros(x.shape[0], x.shape[1], row.shape[-1]).scatter_add(1, index, row), x, w)]

    return run


#: c is zero but for a row of each example, (B, T, D); x is (B, T, D), w is (D, V). True: nothing before the end needs
#: all rows.
FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], bool]] = {
    "product": (lambda c, x, w: (c * x).sum(-1), True),
    "product from the left": (lambda c, x, w: (x * c).sum(-1), True),
    "product with what is the same for all": (lambda c, x, w: c * w[:, 0], True),
    "product with what differs by token only": (lambda c, x, w: c * x[:1], True),
    "product with what has no batch": (lambda c, x, w: c * x[0], False),
    "quotient": (lambda c, x, w: c / x, True),
    "quotient the other way": (lambda c, x, w: x / (c + 1), False),
    "with itself": (lambda c, x, w: c * c, True),
    "sum": (lambda c, x, w: (c * x) + (c * 2), True),
    "sum with others": (lambda c, x, w: c + x, False),
    "matrix": (lambda c, x, w: c @ w, True),
    "derivative of a softmax": (
        lambda c, x, w: torch.ops.aten._softmax_backward_data(c, x.softmax(-1), -1, x.dtype),
        True,
    ),
    "derivative of a softmax over tokens": (
        lambda c, x, w: torch.ops.aten._softmax_backward_data(c, x.softmax(1), 1, x.dtype),
        False,
    ),
    "matrix, flattened": (lambda c, x, w: (c.reshape(-1, D) @ w).reshape(x.shape[0], x.shape[1], V), True),
    "flattened and multiplied": (lambda c, x, w: c.reshape(-1, D) * x.reshape(-1, D), True),
    "matrix over examples": (lambda c, x, w: (c * x).sum(-1).t() @ x[:, 0], False),
    "matrix from the left": (lambda c, x, w: x.transpose(1, 2) @ c, False),
    "heads": (lambda c, x, w: c.reshape(x.shape[0], x.shape[1], 2, 2).transpose(1, 2) * 3, True),
    "heads multiplied": (
        lambda c, x, w: (c.reshape(x.shape[0], x.shape[1], 2, 2) * x.reshape(x.shape[0], x.shape[1], 2, 2)).sum(-1),
        True,
    ),
    "sum over tokens": (lambda c, x, w: (c * x).sum(1), True),
    "sum over all": (lambda c, x, w: (c * x).sum(), True),
    "sum over examples": (lambda c, x, w: (c * x).sum(0), False),
    "sum, kept": (lambda c, x, w: (c * x).sum(-1, keepdim=True) * x, True),
    "zero times infinity": (lambda c, x, w: torch.where(c == 0, torch.zeros_like(c * x), c * (x / 0)), True),
    "zero times infinity, vectorised": (
        lambda c, x, w: torch.ops.aten.threshold_backward(c * (x / 0), c.abs(), 0.0),
        True,
    ),
    "where others are positive": (lambda c, x, w: torch.ops.aten.threshold_backward(c, x, 0.0), True),
    "others where it is positive": (lambda c, x, w: torch.ops.aten.threshold_backward(x, c, 0.0), False),
    "choice between others": (lambda c, x, w: torch.where(c == 0, x, c), False),
    "pointwise helper": (lambda c, x, w: c * torch.exp(x * 2), True),
    "new axis": (lambda c, x, w: (c.unsqueeze(2) * x.unsqueeze(1)).sum(-1), True),
    "new axis in front": (lambda c, x, w: c.unsqueeze(0).sum(-1), True),
    "transposed": (lambda c, x, w: c.transpose(0, 1) * x.transpose(0, 1), True),
    "slice of features": (lambda c, x, w: c[..., 1:3] * x[..., 1:3], True),
    "slice of tokens": (lambda c, x, w: c[:, 1:], False),
    "softmax": (lambda c, x, w: c.softmax(-1), False),
}


@pytest.mark.parametrize("sizes", [(B, T), (1, 7), (4, 1)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations(name: str, sizes: tuple[int, int]) -> None:
    function, _ = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(0)
    batch, tokens = sizes
    values = [
        torch.randn(batch, 1, D, generator=generator),
        torch.randint(0, tokens, (batch,), generator=generator),
        torch.randn(batch, tokens, D, generator=generator),
        torch.randn(D, V, generator=generator),
    ]
    module = pushed(name)
    got, expected = module(*values)[0], seeded(function)(*values)[0]
    assert torch.allclose(torch.nan_to_num(got), torch.nan_to_num(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_go_as_far_as_they_can(name: str) -> None:
    """Scattered at the very end, or not at all, where every operation keeps zero rows zero."""
    nodes = list(pushed(name).graph.nodes)
    scattered = [i for i, n in enumerate(nodes) if op_name(n) in ("aten.scatter", "aten.scatter_add")]
    last = (
        all(op_name(n) == "aten.flatten" or n.op == "output" for n in nodes[scattered[-1] + 1 :]) if scattered else True
    )
    assert last is FUNCTIONS[name][1]


@cache
def pushed(name: str) -> fx.GraphModule:
    """The function traced with symbolic sizes, with its rows pushed."""
    mode = FakeTensorMode(shape_env=ShapeEnv())

    def symbolic(value: Tensor, axes: tuple[int, ...]) -> Tensor:
        return mode.from_tensor(
            value,
            symbolic_context=StatelessSymbolicContext(
                dynamic_sizes=[DimDynamic.DYNAMIC if a in axes else DimDynamic.STATIC for a in range(value.dim())]
            ),
        )

    x = symbolic(torch.randn(B, T, D), (0, 1))
    with mode:
        row, place = x.new_empty(x.shape[0], 1, D), x.new_empty(x.shape[0], dtype=torch.int64)
    module = trace(seeded(FUNCTIONS[name][0]), [row, place, x, symbolic(torch.randn(D, V), ())], mode)
    push_rows(module.graph, mode)
    module.graph.lint()
    module.recompile()
    return module
