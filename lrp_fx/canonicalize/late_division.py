"""Weights that are divided by their sum only after they met the values: ``(w @ v) / w.sum(-1)``.

It is ``(w / w.sum(-1)) @ v``: what relevance goes where is a matter of the weights that sum to one, wherever a model
divides.

requires  explicit arguments, equal expressions computed once
ensures   such weights are divided where they are summed; the same values but for rounding
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.ir.examples import example
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import ancestors, call_like, is_float, op_name, value_of
from lrp_fx.ir.operators import argument, axes_of, has, operand_of
from lrp_fx.ir.sizes import shape_of

aten = torch.ops.aten
#: What may stand between a sum and the division: terms beside it, and numbers that keep it from being zero.
_ON_SUMS = Fact.GUARD | Fact.SUM


@dataclass(frozen=True)
class Late:
    """``product``: what is divided, behind moves: of matrices, or the sum of ``terms``, a product element by element;
    ``side``: which of the factors the ``weights`` are, behind moves, too; ``divisor``: of the weights, one for each sum
    along ``axis`` of them, which is kept as one of size one or not.
    """

    product: fx.Node
    terms: fx.Node
    side: int
    weights: fx.Node
    axis: int
    divisor: fx.Node

    @property
    def factor(self) -> fx.Node:
        found = self.terms.args[self.side]
        assert isinstance(found, fx.Node)
        return found

    def of_result(self, of_factor: Tensor) -> Tensor | None:
        """What is the same for all weights of a row, laid out as the product is; None where it is not the same."""
        if self.terms is self.product:
            summed: Sequence[int] = [of_factor.dim() - 1 if self.side == 0 else max(of_factor.dim() - 2, 0)]
        else:
            of_factor = of_factor.expand(shape_of(self.terms))
            summed = axes_of(self.product, of_factor.dim())
        rows = of_factor
        for axis in summed:
            rows = rows.narrow(axis, 0, 1)
        if not torch.equal(rows.expand_as(of_factor), of_factor):
            return None
        if len(shape_of(self.product)) < rows.dim():  # a sum that keeps no axis, a product with a vector
            rows = rows.squeeze([*summed])
        return rows.expand(shape_of(self.product))


def divide_first(graph: fx.Graph, node: fx.Node) -> None:
    """The division on the weights, and what follows from it up to this node. (Where exponentials are moved before they
    are summed, their exponents are: a softmax has these.)
    """
    if _is_move(node) and op_name(operand_of(node)) == "aten.exp" and _is_summed(node):
        exponential = operand_of(node)
        with graph.inserting_before(node):
            args, kwargs = fx.map_arg(
                (node.args, dict(node.kwargs)), lambda n: operand_of(n) if n is exponential else n
            )
            moved = call_like(graph, node, node.target, *args, **kwargs)
            result = call_like(graph, exponential, aten.exp.default, moved)
        node.replace_all_uses_with(result)
        graph.erase_node(node)
        return
    for numerator, divisor in _divisions(node):
        found = _late(numerator, divisor)
        if found is not None:
            result = _written(graph, node, numerator, found)
            node.replace_all_uses_with(result)
            graph.erase_node(node)
            return


def _divisions(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """What is divided by what, with a reciprocal as well."""
    if not has(node, Fact.SCALING) or node.kwargs or len(node.args) != 2 or not is_float(node):
        return
    a, b = node.args
    if not isinstance(a, fx.Node) or not isinstance(b, fx.Node):
        return
    if op_name(node) == "aten.div":
        yield a, b
        return
    for numerator, inverse in ((a, b), (b, a)):
        inner = _before_moves(inverse)
        if op_name(inner) == "aten.reciprocal":
            yield numerator, inverse


def _late(numerator: fx.Node, divisor: fx.Node) -> Late | None:
    product = _before_moves(numerator)
    terms = _terms(product)
    if terms is None or not _is_as_large(numerator, divisor):
        return None
    plain = _before_moves(divisor)
    plain = _before_moves(operand_of(plain)) if op_name(plain) == "aten.reciprocal" else plain
    for weights, axis in _summed(plain):
        for side in (0, 1):
            found = Late(product, terms, side, weights, axis, plain)
            if isinstance(terms.args[side], fx.Node) and weights in _chain(found.factor):
                return found if _meets_its_rows(found, numerator, divisor) else None
    return None


def _terms(product: fx.Node) -> fx.Node | None:
    """Whose two factors meet in a product: its own, or those of what it sums."""
    if has(product, Fact.PRODUCT):
        return product
    summed = operand_of(product) if op_name(product) == "aten.sum" and argument(product, "dim") is not None else None
    return summed if summed is not None and op_name(summed) == "aten.mul" else None


def _is_as_large(numerator: fx.Node, divisor: fx.Node) -> bool:
    """Is nothing of the numerator repeated by the division?"""
    large, small = shape_of(numerator), shape_of(divisor)
    from_right = zip(reversed(large), reversed(small), strict=False)
    return len(small) <= len(large) and all(b in (a, 1) for a, b in from_right)


def _before_moves(node: fx.Node) -> fx.Node:
    return _chain(node)[-1]


def _chain(node: fx.Node) -> list[fx.Node]:
    """A value, and those that it is a rearrangement of, back to the first that is none."""
    found = [node]
    while _is_move(found[-1]):
        found.append(operand_of(found[-1]))
    return found


def _is_move(node: fx.Node) -> bool:
    return has(node, Fact.MOVE) and not has(node, Fact.CAST)


def _is_summed(node: fx.Node) -> bool:
    """Is it summed, as it is or moved on?"""
    return any(op_name(user) == "aten.sum" or (_is_move(user) and _is_summed(user)) for user in node.users)


def _summed(divisor: fx.Node) -> Iterator[tuple[fx.Node, int]]:
    """The values whose sum along one axis it is, but for terms beside them."""
    node, shape = divisor, tuple(shape_of(divisor))
    if op_name(node) == "aten.sum":
        dims: Any = argument(node, "dim")
        if isinstance(dims, (list, tuple)) and len(dims) == 1 and argument(node, "dtype") is None:
            weights = operand_of(node)
            if not is_float(weights) or not _are_learned(weights):
                return
            yield weights, int(dims[0]) % value_of(weights).dim()
    elif has(node, _ON_SUMS):
        for inner in node.all_input_nodes:
            if is_float(inner) and tuple(shape_of(inner)) == shape:
                yield from _summed(inner)


def _are_learned(weights: fx.Node) -> bool:
    """Are they made with the model's weights, and not masks?"""
    return any(n.op == "get_attr" or op_name(n) == "aten.exp" for n in ancestors([weights]))


# ------------------------------------------------------------------------------------------------ which row is whose
def _meets_its_rows(late: Late, numerator: fx.Node, divisor: fx.Node) -> bool:
    """Is every row of the product divided by the sum of its own weights? Rows are numbered, and the numbers take both
    ways.
    """
    weights_shape, divisors = shape_of(late.weights), shape_of(late.divisor)
    rows = [1 if d == late.axis else n for d, n in enumerate(weights_shape)]
    count = torch.Size(rows).numel()
    if torch.Size(divisors).numel() != count:
        return False
    numbers = torch.arange(count, dtype=torch.float64)
    of_factor = example(late.factor, {late.weights: numbers.reshape(rows).expand(weights_shape)})
    of_product = late.of_result(of_factor) if isinstance(of_factor, Tensor) else None
    if of_product is None:
        return False
    above = example(numerator, {late.product: of_product})
    below = example(divisor, _with_inverse(divisor, late.divisor, numbers.reshape(divisors)))
    if not isinstance(above, Tensor) or not isinstance(below, Tensor):
        return False
    return torch.equal(above, below.expand_as(above))


def _with_inverse(divisor: fx.Node, plain: fx.Node, numbers: Tensor) -> dict[fx.Node, Any]:
    """The divisors' numbers, and those of their reciprocals."""
    inverse = _before_moves(divisor)
    known: dict[fx.Node, Any] = {plain: numbers}
    if inverse is not plain:
        known[inverse] = example(operand_of(inverse), dict(known))
    return known


# ------------------------------------------------------------------------------------------------ written
def _written(graph: fx.Graph, node: fx.Node, numerator: fx.Node, late: Late) -> fx.Node:
    with graph.inserting_before(node):
        divisor = late.divisor
        if value_of(divisor).dim() < value_of(late.weights).dim():
            divisor = call_like(graph, node, aten.unsqueeze.default, divisor, late.axis)
        divided = call_like(graph, late.product, aten.div.Tensor, late.weights, divisor)
        new = {late.weights: divided}
        summed = () if late.terms is late.product else (late.product,)
        behind = (*reversed(_upto(numerator, late.product)),)
        for old in (*reversed(_upto(late.factor, late.weights)), late.terms, *summed, *behind):
            args, kwargs = fx.map_arg((old.args, dict(old.kwargs)), lambda n: new.get(n, n))
            new[old] = call_like(graph, old, old.target, *args, **kwargs)
    return new[numerator]


def _upto(node: fx.Node, until: fx.Node) -> list[fx.Node]:
    chain = _chain(node)
    return chain[: chain.index(until)]
