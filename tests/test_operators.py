"""The tables of operators: every row says the truth of the operation that runs.

One element of an operand after another is changed: what changes in the result must lie at the same place along every
factor that both share and that is not mixed.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, fx

import lrp_fx.kernels.reconstructed  # noqa: F401  (makes the operation)
from lrp_fx.ir.axes import axis_order, element_taken, operand_axes, origins, whole
from lrp_fx.ir.factor_rules import factors_of_axes
from lrp_fx.ir.factors import AxisFactors
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import tensor_args
from lrp_fx.ir.operator_table import OPERATORS
from lrp_fx.ir.operators import argument, axes_of, has, operator_of, same_operation

aten = torch.ops.aten
Sample = tuple[Any, tuple[Any, ...], dict[str, Any]]
#: The table says only how layouts pass these.
WITHOUT_FACTORS = {Axes.WRITTEN, Axes.ADDED_ROWS, Axes.INDEXED, Axes.STRIDED}
#: One of several results, groups of rows on a GPU (both below), and memory that holds anything.
BY_HAND = {"getitem", "aten._grouped_mm", "aten.empty_like"}
ROWS = [
    row
    for row in OPERATORS.values()
    if row.axes is not None and row.axes not in WITHOUT_FACTORS and not row.same_as and row.name not in BY_HAND
]
TRUTH_VALUES = {f"aten.{n}" for n in "__and__ __or__ __xor__ bitwise_and bitwise_not".split()}
#: They take whole numbers only.
SHIFTS = {f"aten.{n}" for n in "__lshift__ __rshift__ bitwise_left_shift bitwise_right_shift".split()}


def draw(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(prod(shape)), dtype=torch.float64) + 0.5


def flags(*shape: int) -> Tensor:
    return draw(*shape) > 1.0


def counts(*shape: int) -> Tensor:
    return (2 * draw(*shape)).to(torch.int64)


def places(limit: int, *shape: int) -> Tensor:
    return (draw(*shape) * 1000).long() % limit


def _by_name() -> dict[str, list[Sample]]:
    x, y = draw(2, 3, 4), draw(4, 6)
    heads = draw(2, 4, 3, 2), draw(2, 4, 5, 2), draw(2, 4, 5, 3)
    grouped = draw(2, 4, 3, 2), draw(2, 2, 5, 2), draw(2, 2, 5, 3)
    found: dict[str, list[tuple[Any, ...]]] = {
        "reshape": [(x, [6, 4]), (x, [2, 12]), (x, [2, 3, 2, 2]), (y, [8, 3]), (x, [2, 1, 3, 4]),
                    (draw(6, 4), [2, 3, 4])],
        "flatten": [(aten.flatten.using_ints, x, 1, 2)],
        "unflatten": [(aten.unflatten.int, x, 2, [2, 2])],
        "squeeze": [(aten.squeeze.default, draw(2, 1, 3)), (aten.squeeze.dim, draw(2, 1, 3), 1),
                    (aten.squeeze.dim, x, 1)],
        "unsqueeze": [(x, 0), (x, 2), (x, -1)],
        "view_as_real": [(torch.view_as_complex(draw(2, 3, 2)),)],
        "view_as_complex": [(draw(2, 3, 2),)],
        "permute": [(x, [2, 0, 1]), (x, [0, -1, 1])],
        "transpose": [(aten.transpose.int, x, 0, 2), (aten.transpose.int, x, -1, -2)],
        "t": [(y,), (draw(3),)],
        "expand": [(draw(2, 1, 4), [2, 3, 4]), (draw(3, 1), [2, 3, 4]), (draw(4), [3, -1])],
        "expand_as": [(draw(3, 1), x)],
        "repeat": [(draw(2, 3), [2, 2]), (draw(3), [2, 1]), (draw(1, 3), [4, 1])],
        "tile": [(draw(2, 3), [2])],
        "repeat_interleave": [(aten.repeat_interleave.self_int, x, 2, 1)],
        "tril": [(x,)],
        "triu": [(x,)],
        "select": [(aten.select.int, x, 1, 2), (aten.select.int, x, -1, 0)],
        "slice": [(aten.slice.Tensor, x, 1, 1, 3), (aten.slice.Tensor, x), (aten.slice.Tensor, x, -1, 0, 4, 2)],
        "index_select": [(x, 1, places(3, 5))],
        "split": [(aten.split.Tensor, x, 2, 2), (aten.split.Tensor, x, 1)],
        "split_with_sizes": [(x, [1, 2], 1)],
        "chunk": [(x, 2, -1)],
        "tensor_split": [(aten.tensor_split.sections, x, 2, 1)],
        "unbind": [(aten.unbind.int, x, 1)],
        "topk": [(x, 2, 1)],
        "sort": [(aten.sort.default, x, 1)],
        "argsort": [(aten.argsort.default, x, 0)],
        "max": [(aten.max.dim, x, 1), (aten.max.default, x), (aten.max.other, x, draw(3, 1))],
        "min": [(aten.min.dim, x, -1, True)],
        "cat": [([x, draw(2, 5, 4)], 1), ([x, x], -1)],
        "stack": [([x, draw(2, 3, 4) * 2], 1), ([x, x * 2], -1)],
        "flip": [(x, [0, 2])],
        "roll": [(x, [1], [1]), (x, [2])],
        "constant_pad_nd": [(x, [1, 1])],
        "pad": [(x, [1, 1, 0, 2])],
        "reflection_pad1d": [(x, [1, 1])],
        "gather": [(x, 1, places(3, 2, 2, 4))],
        "_weight_norm": [(y, draw(4, 1), 0)],
        "batch_norm": [(x, draw(3), draw(3), draw(3), draw(3), False, 0.1, 1e-5, False)],
        "group_norm": [(draw(2, 4, 3), 2, draw(4), draw(4))],
        "matmul": [(x, draw(2, 4, 5)), (x, draw(4, 5)), (draw(3, 4), draw(2, 4, 5)), (draw(4), y), (y, draw(6)),
                   (draw(1, 2, 3, 4), draw(5, 1, 4, 2)), (draw(3), draw(3)), (draw(2, 3, 4), draw(4))],
        "mm": [(y, draw(6, 3))],
        "bmm": [(x, draw(2, 4, 5))],
        "addmm": [(draw(3), y, draw(6, 3)), (draw(4, 1), y, draw(6, 3))],
        "addmv": [(draw(4), y, draw(6))],
        "baddbmm": [(draw(1, 3, 5), x, draw(2, 4, 5))],
        "linear": [(x, draw(5, 4), draw(5)), (draw(4), draw(5, 4)), (x, draw(4))],
        "conv1d": [(x, draw(5, 3, 2), draw(5))],
        "conv2d": [(draw(2, 3, 4, 4), draw(2, 3, 2, 2))],
        "conv3d": [(draw(2, 1, 2, 3, 3), draw(2, 1, 2, 2, 2))],
        "convolution": [(x, draw(5, 3, 2), None, [1], [0], [1], False, [0], 1)],
        "avg_pool1d": [(x, [2])], "avg_pool2d": [(x, [2, 2])], "max_pool1d": [(x, [2])], "max_pool2d": [(x, [2, 2])],
        "adaptive_avg_pool1d": [(x, [2])], "adaptive_avg_pool2d": [(x, [1, 2])],
        "linalg_vector_norm": [(x, 2, [1], True), (x, 2, [-1]), (x,)],
        "norm": [(aten.norm.ScalarOpt_dim, x, 2, [1])],
        "logsumexp": [(x, [1]), (x, [0, 2], True)],
        "cumsum": [(x, 1)], "cumprod": [(x, -1)], "logcumsumexp": [(x, 0)],
        "softmax": [(aten.softmax.int, x, 1)], "_softmax": [(x, -1, False)], "_safe_softmax": [(x, 1)],
        "log_softmax": [(aten.log_softmax.int, x, 1)], "_log_softmax": [(x, 0, False)],
        "layer_norm": [(x, [4], draw(4), draw(4)), (x, [3, 4])],
        "native_layer_norm": [(x, [4], draw(4), None, 1e-5)],
        "rms_norm": [(x, [4], draw(4))],
        "scaled_dot_product_attention": [heads, (*heads, draw(3, 5)), (*heads, draw(2, 1, 1, 5)), grouped],
        "_scaled_dot_product_flash_attention_for_cpu": [tuple(t.float() for t in (*heads[:2], draw(2, 4, 5, 2)))],
        "clamp": [(aten.clamp.default, x, 0.8, 1.2), (aten.clamp.Tensor, x, draw(3, 1))],
        "embedding": [(draw(6, 4), places(6, 2, 3))],
        "where": [(aten.where.self, flags(2, 3, 4), x, draw(3, 1)), (aten.where.ScalarOther, flags(3, 1), x, 0.0)],
        "masked_fill": [(aten.masked_fill.Scalar, x, flags(3, 1), 0.0), (aten.masked_fill.Tensor, x, flags(4), draw())],
        "addcmul": [(draw(3, 1), x, draw(4))],
        "conj": [(torch.view_as_complex(draw(2, 3, 2)),)],
        "_conj": [(torch.view_as_complex(draw(2, 3, 2)),)],
    }  # fmt: skip
    ours: list[Sample] = [(torch.ops.lrp_fx.reconstructed.default, (x, draw(2, 3, 4) * 2), {})]
    aten_ones = {f"aten.{name}": [_sample(name, given) for given in samples] for name, samples in found.items()}
    return {**aten_ones, "lrp_fx.reconstructed": ours}


def _sample(name: str, given: tuple[Any, ...]) -> Sample:
    own = isinstance(given[0], torch._ops.OpOverload)
    target = given[0] if own else getattr(getattr(aten, name), getattr(aten, name).overloads()[0])
    args = given[1:] if own else given
    grouped = name == "scaled_dot_product_attention" and args[0].shape[1] != args[1].shape[1]
    return target, args, {"enable_gqa": True} if grouped else {}


def _drawn(name: str) -> Iterator[Sample]:
    """Calls of an elementwise operation or a reduction, by what its overloads declare."""
    packet = getattr(aten, name.removeprefix("aten."))
    shapes = [(2, 3, 4), (3, 1), (1, 4), (4,)]
    for overload in packet.overloads():
        target = getattr(packet, overload)
        declared = [a for a in target._schema.arguments if not a.kwarg_only]
        if overload.endswith("out") or any(a.is_out for a in target._schema.arguments):
            continue
        args: list[Any] = []
        for a in declared:
            kind = str(a.type)
            if kind == "Tensor":
                make = flags if name in TRUTH_VALUES else counts if name in SHIFTS else draw
                args.append(make(*shapes[sum(isinstance(x, Tensor) for x in args)]))
            elif a.name in ("dim", "dims") and "int" in kind:
                args.append(1 if kind in ("int", "Optional[int]") else [1])
            elif not a.has_default_value():
                args.append({"number": 2, "float": 2.0, "int": 2, "bool": True}.get(kind))
        if args and isinstance(args[0], Tensor):
            yield target, tuple(args), {}


SAMPLES = _by_name()


def samples_of(name: str) -> list[Sample]:
    known = SAMPLES.get(name)
    return known if known is not None else list(_drawn(name))


def call_of(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
    """The call as a node, its operands as inputs with their values."""
    graph = fx.Graph()

    def lifted(tree: Any) -> Any:
        if isinstance(tree, Tensor):
            node = graph.placeholder(f"x{len(graph.nodes)}")
            node.meta["val"] = tree
            return node
        return [lifted(t) for t in tree] if isinstance(tree, list) else tree

    given = tuple(lifted(a) for a in args)
    node = graph.call_function(target, given, kwargs)
    node.meta["val"] = evaluate(node, {})
    return node


def evaluate(node: fx.Node, changed: dict[fx.Node, Tensor]) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda a: changed[a] if a in changed else a.meta["val"])
    target: Any = node.target
    return target(*args, **kwargs)


def changes(value: Tensor, place: tuple[int, ...], limit: int) -> Iterator[Tensor]:
    """The value with another element at one place."""
    deltas: tuple[Any, ...] = (7.0, -7.0) if value.is_floating_point() or value.is_complex() else (1,)
    for delta in deltas:
        other = value.clone()
        if value.dtype == torch.bool:
            other[place] = ~other[place]
        elif value.is_floating_point() or value.is_complex():
            other[place] += delta
        else:
            other[place] = (other[place] + 1) % limit
        yield other


def coordinates(place: tuple[int, ...], axes: tuple[tuple[int, ...], ...], table: AxisFactors) -> dict[int, int]:
    """Where a place is along each factor that is not mixed."""
    found: dict[int, int] = {}
    for at, axis in zip(place, axes, strict=True):
        for factor in reversed(axis):
            found[factor] = at % table.sizes[factor]
            at //= table.sizes[factor]
    return {f: at for f, at in found.items() if f not in table.mixed}


def check(node: fx.Node) -> None:
    """Every element of every operand is changed."""
    table = factors_of_axes(node)
    if table is None:
        return
    results = node.meta["val"] if isinstance(node.meta["val"], (tuple, list)) else [node.meta["val"]]
    for given, axes in table.operands:
        value = given.meta["val"]
        assert len(axes) == value.dim()
        for place in itertools.product(*(range(n) for n in value.shape)):
            at = coordinates(place, axes, table)
            for other in changes(value, place, 3):
                after = evaluate(node, {given: other})
                for before, now in zip(results, after if isinstance(after, (tuple, list)) else [after], strict=True):
                    if isinstance(before, Tensor) and before.dim() == len(table.result):
                        _compare(before, now, at, table)


def _compare(before: Tensor, now: Tensor, at: dict[int, int], table: AxisFactors) -> None:
    differs = (before != now) & ~((before != before) & (now != now))
    for place in differs.nonzero().tolist():
        there = coordinates(tuple(place), table.result, table)
        assert all(at[f] == there[f] for f in at.keys() & there.keys()), (at, there, table)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_axes_are_what_runs(row: Any) -> None:
    ran = 0
    for target, args, kwargs in samples_of(row.name):
        try:
            node = call_of(target, args, kwargs)
        except (RuntimeError, TypeError, NotImplementedError):
            if row.name in SAMPLES:
                raise
            continue  # an overload that does not take these types
        check(node)
        ran += 1
    assert ran, f"no sample of {row.name} runs"


LETTERS = {
    "reshape": ["abc->(ab)c", "abc->a(bc)", "ab(cd)->abcd", "a(bc)->(ab)c", "abc->a bc", "(ab)c->abc"],
    "transpose": ["abc->cba", "abc->acb"],
    "unsqueeze": ["abc-> abc", "abc->ab c", "abc->abc "],
    "select": ["abc->ac", "abc->ab"],
    "repeat": ["ab->(ca)(db)", "a->b(ca)", "ab->(ca)(db)"],
    "linear": ["abc,dc,d->abd", "a,ba->b", "abc,c->ab"],
    "matmul": ["abc,acd->abd", "abc,cd->abd", "bc,acd->abd"],
    "addmm": ["c,ab,bc->ac"],
    "baddbmm": [" bd,abc,acd->abd"],
    "embedding": ["da,bc->bca"],
    "stack": ["abc,abc->a bc"],
    "linalg_vector_norm": ["abc->a c", "abc->ab", "abc->"],
}


@pytest.mark.parametrize("name", LETTERS)
def test_shared_factors(name: str) -> None:
    """The table says enough, too: where operands and result share an axis, it says so."""
    for (target, args, kwargs), letters in zip(SAMPLES[f"aten.{name}"], LETTERS[name], strict=False):
        node = call_of(target, args, kwargs)
        table = factors_of_axes(node)
        assert table is not None
        operands, result = letters.split("->")
        spelled: dict[str, int] = {}
        for text, axes in zip(
            [*operands.split(","), result], [*(a for _, a in table.operands), table.result], strict=True
        ):
            for part, axis in zip(_axes(text), axes, strict=True):
                for letter, factor in zip(part, axis, strict=True) if part.strip() else ():
                    assert spelled.setdefault(letter, factor) == factor, (letters, table)
        assert len(set(spelled.values())) == len(spelled), (letters, table)


def _axes(text: str) -> list[str]:
    found: list[str] = []
    depth = False
    for c in text:
        if depth and c != ")":
            found[-1] += c
        elif c not in "()":
            found.append(c)
        elif c == "(":
            found.append("")
        depth = c == "(" or (depth and c != ")")
    return found


def test_parts_of_one_value() -> None:
    """What `getitem` takes from a split, an unbinding, a sorting."""
    x = draw(2, 3, 4)
    for target, args, number, expected in (
        (aten.split.Tensor, (x, 2, 2), 1, [0, 1, None]),
        (aten.unbind.int, (x, 1), 2, [0, 2]),
        (aten.topk.default, (x, 2, 1), 0, [0, None, 2]),
        (aten.native_layer_norm.default, (x, [4], None, None, 1e-5), 0, [0, 1, None]),
        (aten.native_layer_norm.default, (x, [4], None, None, 1e-5), 1, [0, 1, None]),
    ):
        whole_ = call_of(target, args, {})
        node = whole_.graph.call_function(operator.getitem, (whole_, number))
        node.meta["val"] = whole_.meta["val"][number]
        assert origins(node) == expected, target
    assert element_taken(call_of(aten.select.int, (x, -1, 2), {}))[1:] == (2, 2)  # type: ignore[index]


def test_rows_of_experts() -> None:
    """A weight for each group of rows: rows stay apart."""
    graph = fx.Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    x.meta["val"], w.meta["val"] = draw(6, 4), draw(2, 4, 5)
    node = graph.call_function(aten._grouped_mm.default, (x, w))
    node.meta["val"] = draw(6, 5)
    assert origins(node) == [0, None]


def test_questions() -> None:
    x = draw(2, 3, 4)
    assert axis_order(call_of(aten.permute.default, (x, [2, 0, -2]), {})) == [2, 0, 1]
    merged = call_of(aten.reshape.default, (x, [2, 12]), {})
    given = tensor_args(merged)[0]
    assert operand_axes(merged, given, whole(merged, [1])) == whole(given, [1, 2])
    assert operand_axes(merged, given, frozenset({(1, 4, 12)})) == frozenset({(1, 1, 3)})
    softmax = call_of(aten.softmax.int, (x, -1), {})
    assert origins(softmax) == [0, 1, None]
    total = call_of(aten.sum.dim_IntList, (x, [-1]), {})
    assert argument(total, "keepdim") is False and axes_of(total, 3) == [2]
    assert axes_of(call_of(aten.sum.default, (x,), {}), 3) == [0, 1, 2]


def test_facts_of_overloads() -> None:
    """torch's tag says of an overload that it is pointwise; the row says it of the others."""
    x = draw(2, 3)
    assert has(call_of(aten.max.other, (x, x), {}), Fact.POINTWISE)
    assert not has(call_of(aten.max.dim, (x, 0), {}), Fact.POINTWISE)
    assert operator_of(call_of(aten.max.other, (x, x), {})).axes is Axes.ALIGNED
    assert has(call_of(aten.masked_fill.Tensor, (x, flags(2, 3), draw(1)[0]), {}), Fact.POINTWISE)


def test_other_names_are_the_same_operation() -> None:
    for row in OPERATORS.values():
        if row.same_as is not None:
            packet = getattr(aten, row.name.removeprefix("aten."))
            node = fx.Graph().call_function(getattr(packet, packet.overloads()[0]))
            plain = same_operation(node)
            assert isinstance(plain, torch._ops.OpOverload)
            assert row.axes in (None, OPERATORS[plain._schema.name.replace("::", ".")].axes)


def test_rows_name_operations_of_torch() -> None:
    for name in OPERATORS:
        namespace, _, operation = name.removeprefix("aten.").rpartition(".")
        assert name == "getitem" or hasattr(getattr(torch.ops, namespace or "aten"), operation), name
