"""Forms: what the axes of an input of numbers stand for, told by how the model reads it.

requires  a rewritten program
ensures   one `Form` for each input of sound, of vectors, or of patches in one list; names play no part

A convolution along one axis has that axis for time and the other for channels (the frequencies of a spectrogram); a
linear map has its last axis for features. Patches of all images in one list stand at the places that the model computes
for them, row and column of each, whatever their order in the list is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.sizes import hint
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.structure.planes import NotFollowed, followed

_KEEP = {
    "aten._to_copy",
    "aten.clone",
    "aten.mul",
    "aten.add",
    "aten.sub",
    "aten.div",
    "aten.where",
    "aten.masked_fill",
}
_CONVOLUTIONS = {"aten.convolution", "aten.conv1d", "aten.conv2d"}
_PRODUCTS = {"aten.linear", "aten.matmul", "aten.mm", "aten.addmm", "aten.bmm"}


@dataclass(frozen=True)
class Form:
    """What the axes of an input stand for.

    ``time``: the axis that runs over time, steps or tokens, None where the input has none. ``sound``: does a
    convolution read it, so that the other axis is one of frequencies? ``places``: (row, column) of each patch of a
    list, empty where the model computes none.
    """

    input: str
    time: int | None = None
    sound: bool = False
    places: tuple[tuple[int, int], ...] = ()


def find_forms(rewritten: Rewritten) -> tuple[Form, ...]:
    """The forms of all content inputs of floating numbers that have one."""
    program = rewritten.program
    found = []
    for given, node in zip(program.inputs, program.input_nodes().values(), strict=True):
        value = value_of(node)
        if given.role != "content" or not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if value.dim() == 3:
            found += [Form(given.name, *read) for read in [_read(node)] if read is not None]
        places = _places(rewritten, hint(value.shape[0])) if value.dim() in (2, 4) else ()
        if places:
            found.append(Form(given.name, places=places))
    return tuple(found)


def _read(start: fx.Node) -> tuple[int, bool] | None:
    """(axis of time, is it sound?) of an input of three axes, by the first operation that sums over one of them."""
    waiting: list[tuple[fx.Node, tuple[int | None, ...]]] = [(start, (0, 1, 2))]
    seen = {start}
    while waiting:
        node, axes = waiting.pop(0)
        for user in node.users:
            found = _summed(user, node, axes)
            if found is not None:
                return found
            after = _after(user, axes)
            if after is not None and user not in seen:
                seen.add(user)
                waiting.append((user, after))
    return None


def _summed(user: fx.Node, node: fx.Node, axes: tuple[int | None, ...]) -> tuple[int, bool] | None:
    """The same of one reader: ``axes`` says which axis of the input each axis of its operand is."""
    if not user.args or user.args[0] is not node or {1, 2} - set(axes):
        return None
    if op_name(user) in _CONVOLUTIONS and isinstance(user.args[1], fx.Node):
        if value_of(user.args[1]).dim() == 3:
            return (1 if axes[1] == 2 else 2), True
        sizes = [hint(s) for s in value_of(node).shape]  # both are slid over: sound is longer than it is high
        longer = max((a for a in axes if a), key=lambda a: sizes[axes.index(a)])
        return longer, True
    if op_name(user) in _PRODUCTS and axes[-1] in (1, 2):
        return (1 if axes[-1] == 2 else 2), False
    return None


def _after(user: fx.Node, axes: tuple[int | None, ...]) -> tuple[int | None, ...] | None:
    """Which axis of the input each axis of a reader's result is; None where that is not followed."""
    name, value, count = op_name(user), value_of(user), len(axes)
    if not isinstance(value, Tensor) or user.op != "call_function":
        return None
    if name in ("aten.transpose", "aten.permute", "aten.unsqueeze"):
        order = torch.zeros(()).expand(*range(2, 2 + count))  # each axis known by its size
        moved: Tensor = user.target(order, *user.args[1:])  # type: ignore[operator]
        sizes = [s - 2 if s > 1 else None for s in moved.shape]
        return tuple(axes[s] if s is not None else None for s in sizes)
    return axes if name in _KEEP and value.dim() == count else None


def _places(rewritten: Rewritten, count: int) -> tuple[tuple[int, int], ...]:
    """(row, column) of each of ``count`` patches: what the model computes of no input, two or three whole numbers each
    (frame, row, column)."""
    for node in _pairs(rewritten.program.graph, count):
        try:
            found = followed(rewritten.program, node, {})
        except NotFollowed:
            continue
        rows = found if found.shape[0] == count else found.T
        cells = [(int(r), int(c)) for r, c in rows[:, -2:].tolist()]
        if len(set(cells)) > 1 and all(0 <= n < count for cell in cells for n in cell):
            return tuple(cells)
    return ()


def _pairs(graph: fx.Graph, count: int) -> Iterator[fx.Node]:
    """Whole numbers, two or three for each patch, in the order of the graph."""
    for node in graph.nodes:
        value = value_of(node)
        if count > 3 and isinstance(value, Tensor) and value.dim() == 2 and value.dtype in (torch.int64, torch.int32):
            sizes = tuple(hint(s) for s in value.shape)
            if node.op != "placeholder" and sizes in {(count, 2), (count, 3), (2, count), (3, count)}:
                yield node
