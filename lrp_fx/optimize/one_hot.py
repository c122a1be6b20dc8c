"""One hot: rows that are zero but at one class pick a row of a matrix, where a product would read all of it.

Most targets read one class. The coefficient of the logits is zero at all others, and the head's transpose reads one row
of a matrix as large as the vocabulary; the logits themselves are needed for that class, unless the largest is asked
for, or all.

requires  a simplified relevance graph whose nodes have their abstract values, ``own_outputs``: how many of its outputs
are the model's own
ensures   the model's own outputs bit by bit; the rest but for rounding, and for zeros that no longer meet infinite
weights
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import GraphBuilder, drop_dead_code, made_for, op_name, value_of
from lrp_fx.ir.operators import argument, axis_of, factors_of, has, keeps_order, operand_of
from lrp_fx.ir.sizes import same_shape, same_size
from lrp_fx.optimize.rows import is_zero

aten = torch.ops.aten
#: (classes, numbers): each row holds a number at its class, and zeros. Shapes (rows,) and (rows, 1).
OneHot = tuple[fx.Node, fx.Node]


def pick_classes(graph: fx.Graph, mode: Any, own_outputs: int = 0) -> None:
    """Replace products of such rows with a matrix, and products of which no more than one class is read."""
    forward = made_for(graph, own_outputs)
    picker = _Picker(graph, mode)
    for node in list(graph.nodes):
        if node.op == "call_function" and node not in forward:
            with graph.inserting_before(node):
                picked = picker.product(node) or picker.read(node)
            if picked is not None:
                node.replace_all_uses_with(picked)
    drop_dead_code(graph)


class _Picker(GraphBuilder):
    """``others``: values that were found to be no sum of such rows; every product of a deep model asks of the same."""

    def __init__(self, graph: fx.Graph, mode: Any) -> None:
        super().__init__(graph, mode)
        self.others: set[fx.Node] = set()

    def read(self, node: fx.Node) -> fx.Node | None:
        """``linear(x, weight).gather(-1, classes)``, one class for each row, where nobody reads another."""
        if node.target is not aten.gather.default:
            return None
        head, classes = operand_of(node), node.args[2]
        choices = []
        while _counts_rows(head) or _reshapes_rows(head):
            choices += [head] if _counts_rows(head) else []
            head = operand_of(head, 1 if _counts_rows(head) else 0)
        parts = _product(head)
        if parts is None or not _reads_a_class(node) or not all(map(_reads_a_class, head.users)):
            return None
        x, matrix, axis, bias = parts
        width = value_of(matrix).shape[1 - axis]
        index = self.call(aten.reshape.default, classes, [-1], like=node)
        chosen = self.call(aten.index_select.default, matrix, axis, index, like=node)
        chosen = chosen if axis == 0 else self.call(aten.t.default, chosen, like=node)
        rows, columns = (
            self.call(aten.reshape.default, a, shape, like=node)
            for a, shape in ((x, [-1, 1, width]), (chosen, [-1, width, 1]))
        )
        logits = self.call(
            aten.reshape.default, self.call(aten.bmm.default, rows, columns, like=node), [-1, 1], like=node
        )
        if bias is not None:
            own = self.call(aten.index_select.default, bias, 0, index, like=node)
            logits = self.call(
                aten.add.Tensor, logits, self.call(aten.reshape.default, own, [-1, 1], like=node), like=node
            )
        for choice in reversed(choices):
            counts = self.call(aten.reshape.default, choice.args[0], [-1, 1], like=node)
            logits = self.call(aten.where.self, counts, logits, choice.args[2], like=node)
        return logits

    def product(self, node: fx.Node) -> fx.Node | None:
        if node.target is not aten.mm.default:
            return None
        rows, matrix = node.args
        terms = self.terms(rows)
        if not terms:
            return None
        picked = None
        for classes, numbers in terms:
            term = self.step(
                aten.mul.Tensor, self.step(aten.index_select.default, matrix, 0, classes, of=node), numbers, of=node
            )
            picked = term if picked is None else self.step(aten.add.Tensor, picked, term, of=node)
        assert picked is not None
        if "lrp" in node.meta:
            picked.meta["lrp"] = node.meta["lrp"]  # it is what the product was: a coefficient, perhaps
        return picked

    def step(self, target: Any, *args: Any, of: fx.Node) -> fx.Node:
        """A call on the way to what takes a node's place."""
        made = self.call(target, *args)
        if "lrp" in of.meta:
            made.meta["lrp"] = (of.meta["lrp"][0], "internal", 0)
        return made

    def terms(self, rows: Any) -> list[OneHot]:
        """What adds up to ``rows``, each part with one number in a row; none if there is another part."""
        if not isinstance(rows, fx.Node) or rows in self.others:
            return []
        found = self._terms(rows)
        if not found:
            self.others.add(rows)
        return found

    def _terms(self, rows: fx.Node) -> list[OneHot]:
        if _reshapes_rows(rows):
            return self.terms(rows.args[0])
        if _counts_rows(rows):
            counts, chosen, zero = rows.args
            column = self.step(aten.reshape.default, counts, [-1, 1], of=rows)
            return [
                (classes, self.step(aten.where.self, column, numbers, zero, of=rows))
                for classes, numbers in self.terms(chosen)
            ]
        if (
            rows.target is aten.add.Tensor
            and not rows.kwargs
            and all(isinstance(a, fx.Node) and same_shape(value_of(a), value_of(rows)) for a in rows.args)
        ):
            first = self.terms(rows.args[0])
            second = self.terms(rows.args[1]) if first else []
            return [*first, *second] if second else []
        if _is_one_in_zeros(rows):
            classes, numbers = (
                self.step(aten.reshape.default, a, shape, of=rows)
                for a, shape in ((rows.args[2], [-1]), (rows.args[3], [-1, 1]))
            )
            return [(classes, numbers)]
        return []


def _counts_rows(node: fx.Node) -> bool:
    """Rows that count or not: ``where(counts, rows, 0)``."""
    if node.target is not aten.where.self or not all(isinstance(a, fx.Node) for a in node.args):
        return False
    counts, rows, other = (operand_of(node, i) for i in range(3))
    if not is_zero(other) or value_of(other).dim():
        return False
    return _is_column_for(value_of(counts), value_of(node)) and same_shape(value_of(rows), value_of(node))


def _product(node: Any) -> tuple[fx.Node, fx.Node, int, fx.Node | None] | None:
    """(rows, matrix, its axis of classes, a bias for each class or None) of a product with a matrix of a known
    width.
    """
    is_map = op_name(node) == "aten.linear"
    if not (is_map or has(node, Fact.CONTRACTION)) or node.kwargs:
        return None
    rows, weights = factors_of(node)
    axis, bias = (0, argument(node, "bias")) if is_map else (1, node.args[0] if has(node, Fact.TERM_FIRST) else None)
    sizes = value_of(weights).shape
    if len(sizes) != 2 or not isinstance(sizes[1 - axis], int):
        return None
    if bias is None:
        return rows, weights, axis, None
    assert isinstance(bias, fx.Node)
    own = value_of(bias).shape
    return (rows, weights, axis, bias) if len(own) == 1 and same_size(own[0], sizes[axis]) else None


def _reads_a_class(node: fx.Node) -> bool:
    """Is it ``gather`` of one class of each row, or a look at rows that such ones read?"""
    if _reshapes_rows(node) or _counts_rows(node):
        return all(map(_reads_a_class, node.users))
    if node.target is not aten.gather.default:
        return False
    whole, classes = value_of(operand_of(node)), value_of(operand_of(node, 2))
    return whole.dim() == 2 and axis_of(node, 2) == 1 and _is_column_for(classes, whole)


def _reshapes_rows(node: fx.Node) -> bool:
    """Another shape of the rows, in which each has the classes that it had?"""
    if not keeps_order(node):
        return False
    before, after = value_of(operand_of(node)), value_of(node)
    return bool(before.dim() and after.dim()) and same_size(before.shape[-1], after.shape[-1])


def _is_column_for(value: Any, rows: Tensor) -> bool:
    """One number for each row?"""
    if (
        not isinstance(value, Tensor)
        or value.dim() != rows.dim()
        or not isinstance(value.shape[-1], int)
        or value.shape[-1] != 1
    ):
        return False
    return all(same_size(a, b) for a, b in zip(value.shape[:-1], rows.shape[:-1], strict=True))


def _is_one_in_zeros(node: fx.Node) -> bool:
    """Is it ``zeros.scatter_add(last axis, classes, numbers)`` with one class for each row?"""
    if not has(node, Fact.SCATTER) or node.kwargs or len(node.args) != 4 or not has(node.args[0], Fact.ZEROS):
        return False
    whole, last = value_of(node), axis_of(node, value_of(node).dim()) == value_of(node).dim() - 1
    return last and all(isinstance(a, fx.Node) and _is_column_for(value_of(a), whole) for a in node.args[2:])
