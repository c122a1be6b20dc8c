"""Parts of what was just joined: ``cat([a, b])[: len(a)]`` is a, ``stack([a, b])[1]`` is b.

requires  arguments in one form (`lrp_fx.canonicalize.explicit`)
ensures   the same values, and the way of each from where it was made to where it is read without the others
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from lrp_fx.ir.graph import call_like, op_name, value_of
from lrp_fx.ir.operators import argument
from lrp_fx.ir.sizes import END

aten = torch.ops.aten


@dataclass(frozen=True)
class _Part:
    """What a node takes of a joined value along the axis that it was joined on: from ``start`` up to ``end`` (None: all
    that is left). ``drops``: is the axis gone?
    """

    joined: fx.Node
    start: int
    end: int | None
    drops: bool = False


def take_parts(graph: fx.Graph, node: fx.Node) -> None:
    """Reads a part of what was joined where it was made, if it lies in one of the values that were, or is several."""
    part = _part(node)
    found = None if part is None else _values(part)
    if part is None or not found:
        return
    (value, start, end), *more = found
    axis = part.joined.args[1]
    with graph.inserting_before(node):
        if more:
            value = call_like(graph, node, aten.cat.default, [v for v, _, _ in found], axis)
        elif part.drops and op_name(part.joined) == "aten.cat":
            value = call_like(graph, node, aten.select.int, value, axis, start)
        elif not part.drops and (start != 0 or end not in (END, value_of(value).shape[axis])):
            value = call_like(graph, node, aten.slice.Tensor, value, axis, start, end, 1)
    node.replace_all_uses_with(value)
    graph.erase_node(node)


def _part(node: fx.Node) -> _Part | None:
    """The part of a joined value that a node is."""
    if node.target is operator.getitem:
        return _split_part(node)
    name = op_name(node)
    joined = node.args[0] if node.args else None
    if name not in ("aten.slice", "aten.select") or not isinstance(joined, fx.Node) or not _is_joined(joined):
        return None
    if node.args[1] != joined.args[1]:
        return None
    if name == "aten.select":
        index = node.args[2]
        return _Part(joined, index, index + 1, drops=True) if isinstance(index, int) and index >= 0 else None
    start, end, step = (argument(node, name) for name in ("start", "end", "step"))
    if step not in (None, 1) or not isinstance(start, int) or start < 0 or op_name(joined) != "aten.cat":
        return None
    if end is None or (isinstance(end, int) and end == END):
        return _Part(joined, start, None)
    return _Part(joined, start, end) if isinstance(end, int) and end >= start else None


def _split_part(node: fx.Node) -> _Part | None:
    """One result of a split, or of an unbinding."""
    split, number = node.args
    if not isinstance(split, fx.Node) or not isinstance(number, int) or not split.args:
        return None
    joined = split.args[0]
    if not isinstance(joined, fx.Node) or not _is_joined(joined):
        return None
    name = op_name(split)
    if name not in ("aten.split_with_sizes", "aten.split", "aten.unbind") or argument(split, "dim") != joined.args[1]:
        return None
    axis, parts = int(argument(split, "dim")), value_of(split)
    if name == "aten.unbind":
        return _Part(joined, number, number + 1, drops=True)
    sizes = [p.shape[axis] for p in parts[: number + 1]]
    if op_name(joined) != "aten.cat" or not all(isinstance(s, int) for s in sizes):
        return None
    return _Part(joined, sum(sizes[:-1]), sum(sizes))


def _is_joined(node: fx.Node) -> bool:
    """Is it a cat or a stack of tensors of one rank?"""
    if op_name(node) not in ("aten.cat", "aten.stack") or not isinstance(node.args[0], (list, tuple)):
        return False
    values = [value_of(part) if isinstance(part, fx.Node) else None for part in node.args[0]]
    result = value_of(node)
    same = all(isinstance(v, Tensor) and v.dim() == values[0].dim() and v.dtype == result.dtype for v in values)  # type: ignore[union-attr]
    return len(node.args) == 2 and isinstance(node.args[1], int) and bool(values) and same


def _values(part: _Part) -> list[tuple[fx.Node, int, int]]:
    """The values that a part consists of, from where to where: several are whole, of one it may be a piece. Empty where
    it has pieces of several, or sizes are not known.
    """
    values: list[fx.Node] = list(part.joined.args[0])  # type: ignore[arg-type]
    if op_name(part.joined) == "aten.stack":
        return [(values[part.start], 0, 1)] if part.start < len(values) else []
    axis, before, found = int(part.joined.args[1]), 0, []  # type: ignore[arg-type]
    for number, value in enumerate(values):
        size = value_of(value).shape[axis]
        if part.end is None and number == len(values) - 1 and before <= part.start:
            return [(value, part.start - before, END)]
        if not isinstance(size, int):
            return []
        if part.end is not None and part.start < before + size and part.end > before:
            found.append((value, max(part.start - before, 0), min(part.end - before, size)))
        before += size
    whole = all((start, end) == (0, value_of(v).shape[axis]) for v, start, end in found)
    return found if whole or len(found) == 1 else []
