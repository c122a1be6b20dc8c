"""A graph as a row of things that can be compared: what each node does, and where what it reads stands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Any

import torch
from torch import fx

from lrp_fx.ir.graph import hashable, is_scalar, value_of

#: What a read does from one period to the next, where it is no number of places that it moves by.
OWN_LEAF, OTHER = "a leaf of its own", "another value"

_READ = object()


class Sequence:
    """The calls of a graph in order, without those in ``apart`` and without sizes.

    Weights, inputs and sizes stand wherever the tracer put them, so they have no place in the row. ``keys``: a number
    for what a node does; two nodes with the same number differ in what they read at most. ``reads``: the values that a
    node reads, as often as it reads them.
    """

    def __init__(self, graph: fx.Graph, note: Callable[[fx.Node], str], apart: Collection[fx.Node] = ()) -> None:
        self.nodes = [n for n in graph.nodes if n.op == "call_function" and not is_scalar(n) and n not in apart]
        self.place = {n: i for i, n in enumerate(self.nodes)}
        self.keys: list[int] = []
        self.reads: list[list[fx.Node]] = []
        self._before: list[list[int]] = []
        numbers: dict[Hashable, int] = {}
        last: dict[fx.Node, int] = {}
        for i, node in enumerate(self.nodes):
            key, reads = _compared(node, note(node))
            self.keys.append(numbers.setdefault(key, len(numbers)))
            self.reads.append(reads)
            self._before.append([last.get(r, -1) for r in reads])
            last.update(dict.fromkeys(reads, i))

    def steps(self, i: int, j: int) -> tuple[int | str, ...] | None:
        """How each read of the node at place ``j`` lies to that of the node at ``i``; None if they do different things.

        A number: so many places further on, 0 if both read the same value. Weights and inputs differ consistently where
        each was last read as many places ago as the other; elsewhere the number is between these earlier readers.
        """
        return tuple(self._step(i, j, k) for k in range(len(self.reads[i]))) if self.keys[i] == self.keys[j] else None

    def _step(self, i: int, j: int, k: int) -> int | str:
        a, b = self.reads[i][k], self.reads[j][k]
        if a is b:
            return 0
        x, y = self.anchor(i, k), self.anchor(j, k)
        if x is None or y is None or is_leaf(a) is not is_leaf(b):
            return OTHER
        if is_leaf(a):
            return OWN_LEAF if y - x == j - i or x == y == -1 else y - x if x != y and -1 not in (x, y) else OTHER
        return y - x

    def anchor(self, i: int, read: int) -> int | None:
        """The place of a value that the node at place ``i`` reads, or of the last node before that read the same leaf;
        -1 for a leaf that nobody read before, None for what has no place.
        """
        value = self.reads[i][read]
        return self._before[i][read] if is_leaf(value) else self.place.get(value)


def is_leaf(node: fx.Node) -> bool:
    """Is the node a weight, a constant or an input?"""
    return node.op in ("get_attr", "placeholder")


def _compared(node: fx.Node, note: str) -> tuple[Hashable, list[fx.Node]]:
    """What a node does, whatever it reads, and what it reads; a size is what it is equal to."""
    reads: list[fx.Node] = []

    def read(argument: fx.Node) -> Any:
        if is_scalar(argument):
            return ("size", _description(value_of(argument)))
        reads.append(argument)
        return (_READ, _description(value_of(argument)))

    arguments = fx.node.map_aggregate((node.args, node.kwargs), lambda a: read(a) if isinstance(a, fx.Node) else a)
    return (node.target, note, _description(value_of(node)), hashable(arguments)), reads


def _description(value: Any) -> Hashable:
    """Type and sizes of a value; symbols are equal if they are the same expression."""
    if isinstance(value, torch.Tensor):
        return (value.dtype, *map(_description, value.shape))
    if isinstance(value, (tuple, list)):
        return tuple(map(_description, value))
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        expression = value.node.expr
        number: Hashable = int(expression) if expression.is_Integer else expression  # a symbol may stand for a number
        return number
    return value if isinstance(value, (int, float, bool, str)) else repr(type(value))
