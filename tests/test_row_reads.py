"""What is only read at one token of each example is computed for that token alone, and nothing changes by it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

import lrp_fx
from lrp_fx import targets
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.tracing import trace
from lrp_fx.optimize.pull_rows import pull_rows
from lrp_fx.optimize.simplify import simplify
from testing.converted import converted, parts

pytestmark = pytest.mark.usefixtures("quiet")
B, T, D, V = 3, 5, 4, 6


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("bert", True),
        ("llama", True),
        ("llama", False),
        *(pytest.param(n, m, marks=SLOW) for n in ("bert", "gpt2", "t5", "gemma3", "vit") for m in (True, False)),
    ],
)
def test_relevance_is_the_same_without_the_output(name: str, mask: bool) -> None:
    """With a mask, and without one, where attention is causal by itself."""
    whole, part = converted(name, dtype=torch.float64), converted(name, dtype=torch.float64, keep_output=False)
    with_output, without = whole.explainer, part.explainer
    inputs = {n: v for n, v in whole.inputs.items() if mask or n != "attention_mask"}
    for goal in [
        None,
        *([targets.Class(2, position=[1, 0]), targets.Span([4, 7], start=1)] if name == "llama" and mask else []),
    ]:
        theirs, ours = with_output(**inputs, target=goal), without(**inputs, target=goal)
        assert ours.output is None
        assert torch.allclose(ours.score, theirs.score, rtol=1e-12)
        a, b = parts(ours), parts(theirs)
        assert a.keys() == b.keys()
        for part in a:
            assert torch.allclose(a[part], b[part], rtol=0, atol=1e-12 * float(theirs.ledger.magnitude.max())), part


def test_what_the_target_does_not_read_is_not_computed() -> None:
    """Neither logits at other tokens nor the last block's maps for them; the block before is computed whole."""
    graph = converted("llama", "sdpa", keep_output=False).graph.graph
    products = [n for n in graph.nodes if op_name(n) == "aten.linear"]
    rows = [n for n in products if value_of(n).shape[1] == 1]
    assert {value_of(n).shape[-1] for n in rows} >= {96, 48, 32}, "head, MLP, query and output projection"
    assert len(rows) == 6 and len(products) - len(rows) == 9, "all of the first block, key and value of the second"


def test_a_saved_graph_without_output(tmp_path: Path) -> None:
    found = converted("llama", "sdpa", keep_output=False)
    inputs, explain, ours = found.inputs, found.explainer, found.relevance
    explain.save(tmp_path / "graph.lrp")
    theirs = lrp_fx.load(tmp_path / "graph.lrp")(**inputs)
    assert theirs.output is None
    assert torch.equal(ours.per_token(), theirs.per_token())  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ operation by
# operation
def gathered(y: Tensor, place: Tensor) -> Tensor:
    return y.gather(1, place.reshape(-1, *(1,) * (y.dim() - 1)).expand(-1, 1, *y.shape[2:]))


READERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gather": gathered,
    "index": lambda y, place: y[torch.arange(y.shape[0]), place.clamp(min=0)],
    "first": lambda y, place: y[:, 0],
    "last": lambda y, place: y[:, -1],
    "slice": lambda y, place: y[:, 1:2],
}
#: x is (B, T, D), w is (D, V). True: nothing but rows of x is read.
FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "pointwise": (lambda x, w: torch.exp(x * 2) + x, True),
    "product with what is the same for all": (lambda x, w: x * w[:, 0], True),
    "product with what differs by token": (lambda x, w: x * x[:1].cumsum(1)[0, :, :1], True),
    "linear": (lambda x, w: torch.nn.functional.linear(x, w.t(), w[0]), True),
    "matrix": (lambda x, w: x @ w, True),
    "matrix, flattened": (lambda x, w: torch.addmm(w[0], x.reshape(-1, D), w).reshape(x.shape[0], x.shape[1], V), True),
    "layer norm": (lambda x, w: torch.native_layer_norm(x, [D], w[:, 0], w[:, 1], 1e-5)[0], True),
    "softmax over features": (lambda x, w: x.softmax(-1), True),
    "softmax over tokens": (lambda x, w: x.softmax(1), False),
    "mean": (lambda x, w: x * x.square().mean(-1, keepdim=True), True),
    "sum over tokens": (lambda x, w: x * x.sum(1, keepdim=True), False),
    "heads": (
        lambda x, w: (
            (x.reshape(x.shape[0], x.shape[1], 2, 2).transpose(1, 2) * 3)
            .transpose(1, 2)
            .reshape(x.shape[0], x.shape[1], 4)
        ),
        True,
    ),
    "rotated": (lambda x, w: torch.cat([-x[..., 2:], x[..., :2]], -1) * 2, True),
    "in parts": (lambda x, w: x.split(2, -1)[1] * x.split(2, -1)[0], True),
    "new axis": (lambda x, w: (x.unsqueeze(2) * 2).sum(2), True),
    "shifted": (lambda x, w: torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1] * 2, False),
    "backwards": (lambda x, w: x.flip(1) * 2, False),
    "attention": (lambda x, w: attention(x, x.cumsum(1)), True),
    "causal attention": (lambda x, w: attention(x, x.cumsum(1), True), True),
}


def attention(x: Tensor, y: Tensor, causal: bool = False) -> Tensor:
    q, k = (t.reshape(t.shape[0], t.shape[1], 2, 2).transpose(1, 2) for t in (x * 2, y))
    out = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, k, 0.0, causal)[0]
    return out.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("sizes", [(B, T), (1, 7)])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations(name: str, reader: str, sizes: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    batch, tokens = sizes
    values = [
        torch.randint(0, tokens, (batch,), generator=generator),
        torch.randn(batch, tokens, D, generator=generator),
        torch.randn(D, V, generator=generator),
    ]
    assert torch.allclose(
        pulled(name, reader)(*values)[0],
        READERS[reader](FUNCTIONS[name][0](*values[1:]), values[0]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_places_counted_from_the_end() -> None:
    """An index may be negative where nothing says that it is not."""
    from_the_end = trace_reader(lambda y, place: y[torch.arange(y.shape[0]), place], FUNCTIONS["pointwise"][0])
    x, w, place = torch.randn(B, T, D), torch.randn(D, V), torch.tensor([-1, 2, -5])
    assert torch.allclose(from_the_end(place, x, w)[0], (torch.exp(x * 2) + x)[torch.arange(B), place], rtol=1e-6)


MIXING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "square matrix": lambda x, w: x @ w[:, :D],
    "linear": lambda x, w: torch.nn.functional.linear(x, w[:, :D]),
    **{name: FUNCTIONS[name][0] for name in ("softmax over features", "layer norm")},
}


@pytest.mark.parametrize("mixing", MIXING.values(), ids=MIXING)
def test_places_of_features(mixing: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Each feature at its own token, after what mixes features: nothing can be computed for rows alone."""
    read = lambda y, place: y.gather(1, place.reshape(1, 1, -1).expand(y.shape[0], 1, -1)).squeeze(1)  # noqa: E731
    x, w, place = torch.randn(D, T, D), torch.randn(D, V), torch.tensor([1, 0, 4, 2])
    module = trace_reader(read, mixing, batch=D)
    assert torch.allclose(module(place, x, w)[0], read(mixing(x, w), place), rtol=1e-5, atol=1e-6)


def test_columns_of_a_matrix_have_no_examples() -> None:
    """One column for each example, of a matrix that contracts as many features as there are examples."""
    read = lambda y, place: y.gather(1, place.reshape(-1, 1))  # noqa: E731
    function = lambda x, w: torch.mm(x[:, 0], w)  # noqa: E731
    x, w, place = torch.randn(D, T, D), torch.randn(D, V), torch.tensor([1, 0, 2, 1])
    module = trace_reader(read, function, batch=D)
    assert torch.allclose(module(place, x, w)[0], read(function(x, w), place), rtol=1e-5, atol=1e-6)


def test_softmax_over_examples() -> None:
    x, w, place = torch.randn(B, T, D), torch.randn(D, V), torch.tensor([1, 0, 4])
    module = trace_reader(gathered, lambda x, w: x.softmax(0))
    assert torch.allclose(module(place, x, w)[0], gathered(x.softmax(0), place), rtol=1e-5)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_are_pulled_as_far_as_they_can(name: str, reader: str) -> None:
    """Only rows of x are read, or what mixes them is computed whole."""
    module = pulled(name, reader)
    x = module.graph.find_nodes(op="placeholder")[1]
    mixing = {"aten.sym_size", "aten.cumsum", "aten.slice", "aten.gather", "aten.select", "aten.index_select"}
    readers = [user for user in x.users if op_name(user) not in mixing]
    assert (not readers) is FUNCTIONS[name][1]


@cache
def pulled(name: str, reader: str) -> fx.GraphModule:
    return trace_reader(READERS[reader], FUNCTIONS[name][0])


def trace_reader(
    read: Callable[[Tensor, Tensor], Tensor], function: Callable[[Tensor, Tensor], Tensor], batch: int | None = None
) -> fx.GraphModule:
    """The function traced with symbolic sizes, only one row of each example read, with its rows pulled."""
    mode = FakeTensorMode(shape_env=ShapeEnv())

    def symbolic(value: Tensor, axes: tuple[int, ...]) -> Tensor:
        return mode.from_tensor(
            value,
            symbolic_context=StatelessSymbolicContext(
                dynamic_sizes=[DimDynamic.DYNAMIC if a in axes else DimDynamic.STATIC for a in range(value.dim())]
            ),
        )

    x = symbolic(torch.randn(batch or B, T, D), (0, 1) if batch is None else (1,))
    with mode:
        place = x.new_empty(x.shape[0], dtype=torch.int64)
    module = trace(lambda place, x, w: [read(function(x, w), place)], [place, x, symbolic(torch.randn(D, V), ())], mode)
    simplify(module.graph)
    pull_rows(module.graph, mode)
    module.graph.lint()
    module.recompile()
    return module
