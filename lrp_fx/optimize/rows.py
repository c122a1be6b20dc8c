"""Rows: values that are zero, or read, at one token of each example only, and the operations that say so."""

from __future__ import annotations

import operator
import sys
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.operators import argument, axis_of, has, keeps_order, operand_of
from lrp_fx.ir.sizes import is_one, same_size

aten = torch.ops.aten


@dataclass(frozen=True)
class KeptRows:
    """A value that is zero but at ``place`` along ``axis``, ``tokens`` long: ``kept`` holds what is there, 1 long along
    that axis.

    ``place``: (B,), or a number that is the same for all examples (counted from the end if it is negative). ``batch``:
    the other known axis. ``merged``: both are one axis, the batch outside (``kept`` is then B long along it).
    """

    kept: fx.Node
    place: fx.Node | int
    tokens: Any
    batch: int
    axis: int
    merged: bool = False


def is_zero(node: fx.Node) -> bool:
    """Is a value nothing but zeros, by the look of the operation that makes it?"""
    return has(node, Fact.ZEROS) or (has(node, Fact.FILL) and argument(node, "fill_value", argument(node, "s")) == 0)


@dataclass(frozen=True)
class RowRead:
    """One row of each example along ``axis``: ``place`` is (B,), along the axis ``batch``, or one number for all."""

    axis: int
    place: fx.Node | int
    batch: int | None

    def at(self, axis: int, batch: int | None) -> RowRead:
        """The same rows in a value whose axes stand elsewhere."""
        return replace(self, axis=axis, batch=batch if self.batch is not None else None)


class RowPusher(Protocol):
    """What an operation on rows asks of the pass that carries them (`lrp_fx.optimize.push_rows`)."""

    rows: dict[fx.Node, KeptRows]
    selected: dict[tuple[fx.Node, fx.Node | int, int, int, int, bool], fx.Node | None]

    def call(self, target: Any, *args: Any, like: fx.Node | None = ..., **kwargs: Any) -> fx.Node: ...
    def size(self, node: fx.Node, axis: int) -> Any: ...
    def row(self, node: fx.Node, rank: int, rows: KeptRows) -> fx.Node | None: ...
    def again(self, node: fx.Node, args: Any, rows: KeptRows, **changes: Any) -> KeptRows: ...


class RowPuller(Protocol):
    """What an operation of which single rows are read asks of the pass that reads them
    (`lrp_fx.optimize.pull_rows`).
    """

    def call(self, target: Any, *args: Any, like: fx.Node | None = ..., **kwargs: Any) -> fx.Node: ...
    def size(self, node: fx.Node, axis: int) -> Any: ...
    def rows(self, node: fx.Node, read: RowRead) -> fx.Node: ...
    def aligned(self, node: fx.Node, rank: int, read: RowRead) -> fx.Node | None: ...


def span(place: int) -> tuple[int, int]:
    """Start and end of the slice that is one place, which is counted from the end if it is negative."""
    return (place, place + 1 if place != -1 else sys.maxsize)


def counts(node: fx.Node) -> bool:
    """Is it 0, 1, 2, ...?"""
    return op_name(node) == "aten.arange" and argument(node, "start", 0) == 0 and argument(node, "step", 1) == 1


def read_of(node: fx.Node) -> RowRead | None:
    """Which rows of its first operand a node takes, if that is all it does."""
    source = node.args[0] if node.args else None
    if node.op != "call_function" or not isinstance(source, fx.Node) or not isinstance(value_of(source), Tensor):
        return None
    rank = value_of(source).dim()
    name = op_name(node)
    if name == "aten.select" and isinstance(node.args[2], int):
        return RowRead(axis_of(node, rank), node.args[2], None)
    if (
        name == "aten.slice"
        and len(node.args) == 4
        and isinstance(node.args[2], int)
        and node.args[3] == span(node.args[2])[1]
    ):
        return RowRead(axis_of(node, rank), node.args[2], None)
    if name == "aten.gather":
        return _gathered(node, rank)
    if name == "aten.index":
        return _indexed(node)
    return None


def _gathered(node: fx.Node, rank: int) -> RowRead | None:
    """``x.gather(axis, place)`` with the place expanded over all axes but the batch."""
    axis, index = axis_of(node, rank), operand_of(node, 2)
    place = index
    while has(place, Fact.EXPANSION):
        place = operand_of(place)
    sizes = value_of(place).shape
    long = [a for a, s in enumerate(sizes) if not (isinstance(s, int) and s == 1)]
    if len(sizes) != rank or len(long) > 1 or long == [axis] or not is_one(value_of(index).shape[axis]):
        return None
    if not all(
        same_size(a, b)
        for k, (a, b) in enumerate(zip(value_of(index).shape, value_of(operand_of(node)).shape, strict=True))
        if k != axis
    ):
        return None
    root = _column(place)
    return RowRead(axis, root, long[0] if long else 0) if root is not None else None


def _indexed(node: fx.Node) -> RowRead | None:
    """``x[arange(B), place]``."""
    places = node.args[1]
    if (
        not isinstance(places, (list, tuple))
        or len(places) != 2
        or not all(isinstance(p, fx.Node) and value_of(p).dim() == 1 for p in places)
    ):
        return None
    example, place = places
    assert isinstance(example, fx.Node) and isinstance(place, fx.Node)
    if (
        not never_negative(place)
        or not counts(example)
        or not same_size(value_of(example).shape[0], value_of(operand_of(node)).shape[0])
    ):
        return None
    root = _column(place)
    return RowRead(1, root, 0) if root is not None else None


def never_negative(place: fx.Node) -> bool:
    """Is a place certainly counted from the start (`gather` and a comparison with places take it at its word, indexing
    does not)?
    """
    while has(place, Fact.MOVE | Fact.IDENTITY):
        place = operand_of(place)
    if op_name(place) == "aten.clamp":
        low = argument(place, "min")
        return isinstance(low, int) and low >= 0
    if op_name(place) == "aten.remainder":  # of a positive number it is none
        return op_name(place.args[1]) == "aten.sym_size" if isinstance(place.args[1], fx.Node) else False
    return has(place, Fact.PLACE)


def _column(place: fx.Node) -> fx.Node | None:
    """What a place was before axes of size 1 came and went: (B,), or (B, 1, ...)."""
    while keeps_order(place) and _is_column(place.args[0]):
        place = operand_of(place)
    return place if _is_column(place) else None


def _is_column(node: Any) -> bool:
    value = value_of(node) if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.dim() > 0 and all(is_one(s) for s in value.shape[1:])


def rank_of(node: fx.Node) -> int:
    return int(value_of(node).dim())


def sizes_given(node: fx.Node) -> list[Any]:
    """The sizes that a call names, as it names them."""
    return list(argument(node, "size", argument(node, "shape", argument(node, "input_sizes"))))


def causal_row(pull: Any, place: fx.Node | int, query: fx.Node, key: fx.Node) -> fx.Node:
    """(B or 1, 1, 1, keys): 0 for the keys up to a place among the queries, minus infinity for those behind it."""
    count = pull.call(aten.arange.default, pull.size(key, 2), device=value_of(key).device)
    if isinstance(place, int):
        queries = pull.size(query, 2)
        last = (
            place
            if place >= 0
            else pull.call(operator.add, queries, place)
            if isinstance(queries, fx.Node)
            else queries + place
        )
        seen = pull.call(aten.le.Scalar, count, last)
    else:
        seen = pull.call(aten.le.Tensor, count, pull.call(aten.reshape.default, place, [-1, 1, 1, 1]))
    options = {"dtype": value_of(query).dtype, "device": value_of(key).device}
    row = pull.call(
        aten.where.self,
        seen,
        pull.call(aten.scalar_tensor.default, 0.0, **options),
        pull.call(aten.scalar_tensor.default, float("-inf"), **options),
    )
    return row if not isinstance(place, int) else pull.call(aten.reshape.default, row, [1, 1, 1, -1])  # type: ignore[no-any-return]
