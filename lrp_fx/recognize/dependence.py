"""Products of operands that are functions of one value, without a learned map in between.

``x @ x^T``, ``softmax(x) * x`` and ``x * f(x)`` have operands that cannot vary apart. Three sorts of them are two
factors all the same, the rest is reported:

* multilinear: both operands are linear, or of some degree homogeneous, in the common value. The product is a form of
  that value, and equal shares are what Euler's theorem gives;
* weights of a softmax: an attention without learned maps is an attention, as the fused kernel computes it;
* row products of pointwise functions: written out they are a pointwise function and a sum.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import fx

from lrp_fx.analysis.dataflow import Dataflow, is_broadcast
from lrp_fx.ir.axes import element_taken
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import argument, axis_of, has
from lrp_fx.ir.sizes import shape_of
from lrp_fx.recognize.meaning import Meaning

#: Kind of a node that has its rule already, and the operands its relevance goes to; None for leaves.
Served = Callable[[fx.Node], tuple[str, Sequence[fx.Node]] | None]
_LINEAR = frozenset("move linear sum residual route normalise product homogeneous".split())
_MIXTURES = frozenset("softmax attention".split())


def joint_meaning(flow: Dataflow, served: Served, node: fx.Node, a: fx.Node, b: fx.Node, meaning: Meaning) -> Meaning:
    """The meaning of a product, with the dependence of its operands looked into; ``meaning`` is what was found
    without.
    """
    if meaning.kind not in ("product", "tangent", "normalise") or meaning.op is not None:
        return meaning
    common = flow.common(a, b)
    if common is None or flow.passes_learned_map(common, a) or flow.passes_learned_map(common, b):
        return meaning
    paths = {operand: _relevance_path(served, common, operand) for operand in (a, b)}
    if _of_other_parts(common, paths[a], paths[b]):
        return meaning
    kinds = {kind for path in paths.values() for _, kind in path}
    if meaning.kind == "normalise" and not kinds & _MIXTURES:
        return meaning
    if op_name(node) != "aten.div" and kinds & _MIXTURES:
        return replace(
            meaning,
            kind="product",
            signals=(a, b),
            why="the weights of a softmax times values: two factors, whatever the weights depend on",
        )
    statistic = _statistic(flow, node, common, a, b)
    if statistic is not None:
        return statistic
    if op_name(node) != "aten.div" and all(_is_of_a_degree(n, kind) for path in paths.values() for n, kind in path):
        return replace(meaning, kind="product", signals=(a, b), why="a form of one value: equal shares are Euler's")
    if is_row_product(a, b) and all(flow.follows_elements(common, operand) for operand in (a, b)):
        carrier = (
            a
            if all(kind in ("move", "linear") for _, kind in paths[a])
            or any(kind == "elementwise" for _, kind in paths[b])
            else b
        )
        return Meaning(
            "linear",
            (carrier,),
            "a row product of pointwise functions of one value: the other operand is a coefficient",
        )
    why = f"both operands are functions of %{common.name} without a learned map, neither pointwise, nor linear, nor as a normalisation"
    return Meaning("tangent", (a, b), why)


def _of_other_parts(common: fx.Node, a: list[tuple[fx.Node, str]], b: list[tuple[fx.Node, str]]) -> bool:
    """Does relevance of the operands go to parts of the common value that share no element (the halves of a fused
    projection)?
    """
    first, second = _parts(common, a), _parts(common, b)
    return bool(first) and bool(second) and not any(_overlap(x, y) for x in first for y in second)


def _parts(common: fx.Node, path: list[tuple[fx.Node, str]]) -> list[tuple[int, int, int, int]]:
    """(axis, start, end, step) of every part of the common value on a path; empty if the whole is on it."""
    found = [_part(common, n) for n, _ in path if common in n.all_input_nodes]
    return [p for p in found if p is not None] if all(found) else []


def _part(common: fx.Node, node: fx.Node) -> tuple[int, int, int, int] | None:
    """The part of a value that a slice, a selection or one result of a split takes."""
    if node.target is operator.getitem and isinstance(node.args[1], int):
        return (0, node.args[1], node.args[1] + 1, 1)
    sizes = shape_of(common)
    if (taken := element_taken(node)) is not None and sizes:
        _, axis, number = taken
        return (axis, number % sizes[axis], number % sizes[axis] + 1, 1)
    if op_name(node) != "aten.slice" or not sizes:
        return None
    axis, numbers = axis_of(node, len(sizes)), [argument(node, name) for name in ("start", "end", "step")]
    if any(a is not None and not isinstance(a, int) for a in numbers):
        return None
    first, last, jump = slice(*numbers).indices(sizes[axis])
    return (axis, first, last, jump)


def _overlap(x: tuple[int, int, int, int], y: tuple[int, int, int, int]) -> bool:
    return x[0] != y[0] or bool(set(range(*x[1:])) & set(range(*y[1:])))


def _relevance_path(served: Served, top: fx.Node, bottom: fx.Node) -> list[tuple[fx.Node, str]]:
    """Nodes that relevance passes on its way from ``bottom`` to ``top`` (excluded), with their kinds; frozen statistics
    are none.
    """
    found: list[tuple[fx.Node, str]] = []
    stack, seen = [bottom], {top}
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        kind, operands = served(node) or ("leaf", ())
        found.append((node, kind))
        stack.extend(operands)
    return found


def _is_of_a_degree(node: fx.Node, kind: str) -> bool:
    return kind in _LINEAR or (
        kind == "elementwise"
        and (has(node, Fact.HOMOGENEOUS) or (op_name(node) == "aten.mul" and node.args[0] is node.args[1]))
    )


def is_row_product(a: fx.Node, b: fx.Node) -> bool:
    """Is it a matrix product of single rows with single columns, a number for each pair of vectors?"""
    left, right = shape_of(a), shape_of(b)
    return (
        len(left) >= 2
        and len(right) >= 2
        and left[-2] == 1
        and right[-1] == 1
        and left[:-2] == right[:-2]
        and left[-1] == right[-2] > 1
    )


def _statistic(flow: Dataflow, node: fx.Node, common: fx.Node, a: fx.Node, b: fx.Node) -> Meaning | None:
    """A function of the common value times a broadcast statistic of it: ``relu(x) / rms(x)`` is a normalisation."""
    for signal, coefficient in ((a, b),) if op_name(node) == "aten.div" else ((a, b), (b, a)):
        region = flow.region(common, coefficient) or []
        reduces = any(has(n, Fact.STATISTIC) for n in region) and is_broadcast(flow.core(coefficient), signal)
        if has(node, Fact.SCALING) and reduces and common is not signal:
            return Meaning(
                "normalise", (signal,), "a broadcast statistic of the value that the signal is a function of"
            )
    return None
