"""Layouts found by running: which axis of a result runs over examples, over tokens, over features, where no row of the
table of operators says so.

The operation is run, by itself and on drawn values, and again with one example (token, feature) drawn anew: what
changes belongs to it. Examples are told apart by the digits of their numbers, so that a large batch takes few runs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from lrp_fx.analysis.drawn_calls import DrawnCall, ask_drawn
from lrp_fx.analysis.probing import Unprobed
from lrp_fx.ir.graph import hashable, iter_nodes, value_of
from lrp_fx.ir.layout import BATCH, FEATURE, SEGMENTED, TOKEN, UNKNOWN, Axis, Layout, resize, single
from lrp_fx.ir.sizes import hint, shape_of


class Found(NamedTuple):
    """What was found of a value: its layout and, where examples are not in their usual order along an axis, the example
    of each row (one number: the whole value belongs to that example).
    """

    layout: Layout
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where examples are told apart: axis ``axis`` is ``outer * batch * inner`` elements long, or (``rows``) each row
    of it, or the whole value, belongs to the example named (-1: to none).
    """

    axis: int
    outer: int = 1
    inner: int = 1
    rows: tuple[int, ...] = ()

    def along(self, batch: int) -> Axis:
        """The kinds along that axis, where nothing else is known of it."""
        if self.rows:
            return single(SEGMENTED, len(self.rows))
        return (*single(UNKNOWN, self.outer), (BATCH, batch), *single(UNKNOWN, self.inner))


class ByRunning:
    """Asks operations by running them, each kind of call once.

    ``layouts``, ``rows``: what is known of values so far; ``batch``: the batch size.
    """

    def __init__(self, layouts: dict[fx.Node, Layout], rows: Callable[[fx.Node], tuple[int, ...]], batch: Any) -> None:
        self.layouts, self.rows, self.batch = layouts, rows, hint(batch)
        self._known: dict[Any, Found | None] = {}

    def find(self, node: fx.Node) -> Found | None:
        """What is found of a value; None where the operation cannot be run on drawn values, or where nothing is known
        of its operands.
        """
        taken = node.target is operator.getitem
        call, part = node.args if taken else (node, None)
        if not isinstance(call, fx.Node) or call.op != "call_function" or not isinstance(value_of(node), Tensor):
            return None
        operands = [a for a in dict.fromkeys(iter_nodes(call.args, call.kwargs)) if a in self.layouts]
        if not operands or 0 in shape_of(node) or any(self._is_unordered(a) for a in operands):
            return None
        key = (call.target, part, hashable(fx.map_arg((call.args, call.kwargs), self._described)))
        if key not in self._known:
            self._known[key] = self._measured(node, call, part, operands)
        return self._known[key]

    def _is_unordered(self, node: fx.Node) -> bool:
        """Are its rows in an order that only the run knows?"""
        return not self.rows(node) and any(k == SEGMENTED for axis in self.layouts[node] for k, _ in axis)

    def _described(self, node: fx.Node) -> Any:
        """Equal for operands of the same shape, type and layout (indices that depend on no input: by themselves)."""
        value = value_of(node)
        if not isinstance(value, Tensor):
            return str(value)
        own = node.name if node not in self.layouts and not value.is_floating_point() else ""
        return f"{shape_of(node)} {value.dtype} {self.layouts.get(node)} {self.rows(node)} {own}"

    def _measured(self, node: fx.Node, call: fx.Node, part: Any, operands: list[fx.Node]) -> Found | None:
        known = {a: (self.layouts[a], self.rows(a)) for a in operands}
        shape = shape_of(node)

        def ask(drawn: DrawnCall) -> Found | None:
            found = _Measurement(drawn, known, self.batch).found() if drawn.is_repeatable() else None
            layout = _in_full(found.layout, drawn.shape, shape) if found is not None else None
            return Found(layout, found.rows) if found is not None and layout is not None else None

        return ask_drawn(call, part, set(operands), shape, ask)


def _in_full(layout: Layout, drawn: Sequence[int], shape: Sequence[int]) -> Layout | None:
    """The layout of a value whose axes were drawn shorter; None where a shorter axis is of several kinds."""
    triples = list(zip(layout, drawn, shape, strict=True))
    if any(a != b and len(axis) > 1 for axis, a, b in triples):
        return None
    return tuple(axis if a == b else resize(axis, b) for axis, a, b in triples)


class _Measurement:
    """What one drawn call tells. Raises `Unprobed` where operands were drawn so small that their axes do not divide."""

    def __init__(self, call: DrawnCall, known: dict[fx.Node, tuple[Layout, tuple[int, ...]]], batch: int) -> None:
        self.call = call
        self.rows = {n: rows for n, (_, rows) in known.items() if rows}
        self.layouts = {n: _drawn(layout, call.sizes(n), n in self.rows) for n, (layout, _) in known.items()}
        sizes = {s for lay in self.layouts.values() for axis in lay for k, s in axis if k == BATCH}
        if len(sizes) > 1:
            raise Unprobed("its operands have batches of their own")
        self.batch = sizes.pop() if sizes else batch

    def found(self) -> Found:
        place = self._place() if self.batch > 1 else None
        sizes = list(self.call.shape)
        if place is None or place.rows:
            axes = [single(k, n) for k, n in zip(self._kinds(sizes, None), sizes, strict=True)]
            if place is not None and len(place.rows) > 1:
                axes[place.axis] = ((SEGMENTED, sizes[place.axis]),)
            elif self.batch == 1:
                self._note_one_example(axes)
            return Found(tuple(axes), place.rows if place is not None else ())
        at = place.axis
        sizes[at : at + 1] = [place.outer, self.batch, place.inner]
        axes = [single(k, n) for k, n in zip(self._kinds(sizes, at), sizes, strict=True)]
        axes[at : at + 3] = [(*axes[at], (BATCH, self.batch), *axes[at + 2])]
        return Found(tuple(axes))

    # ------------------------------------------------------------------------------------------------ examples
    def _place(self) -> Place | None:
        """Where the examples are; None where no operand has any, or elements of the result depend on several."""
        numbers = {n: found for n in self.layouts if (found := self._numbers(n)) is not None}
        if not numbers:
            return None
        owner = torch.zeros(self.call.shape, dtype=torch.long)
        unseen = torch.zeros(self.call.shape, dtype=torch.bool)
        for digit in range((self.batch - 1).bit_length()):
            ones, zeros = (
                self.call.changed({n: (at >= 0) & ((at >> digit) & 1 == bit) for n, at in numbers.items()})
                for bit in (1, 0)
            )
            if bool((ones & zeros).any()):
                return None
            unseen |= ~(ones | zeros)
            owner += ones.long() << digit
        owner[unseen] = -1
        return regular(owner, self.batch) or (irregular(owner) if self.call.knows_indices else None)

    def _numbers(self, node: fx.Node) -> Tensor | None:
        """The example of each row of an operand, along the axis that holds the batch."""
        rows, layout = self.rows.get(node, ()), self.layouts[node]
        if len(rows) == 1:
            return torch.full((1,) * len(layout), rows[0])
        for i, axis in enumerate(layout):
            kinds = [k for k, _ in axis]
            kind = BATCH if BATCH in kinds else SEGMENTED
            if kind in kinds:
                at = kinds.index(kind)
                along = numbers_along(axis, at)
                along = along if kind == BATCH else torch.tensor(rows)[along]
                return along.reshape([-1 if a == i else 1 for a in range(len(layout))])
        return None

    def _note_one_example(self, axes: list[Axis]) -> None:
        """A batch of one is where it was, else the first axis of one element."""
        before = [i for lay in self.layouts.values() for i, a in enumerate(lay) if (BATCH, 1) in a]
        free = [i for i, n in enumerate(self.call.shape) if n == 1]
        if before and free:
            axes[before[0] if before[0] in free else free[0]] = ((BATCH, 1),)

    # ------------------------------------------------------------------------------------------------ tokens, features
    def _kinds(self, sizes: list[int], divided: int | None) -> list[str]:
        """What each axis runs over, the batch aside (of three axes, from ``divided`` on, it is the middle one)."""
        changes = {
            kind: [c.reshape(sizes) for node in self.layouts for c in self._changes(node, kind)]
            for kind in (TOKEN, FEATURE)
        }
        read = self.call.changed({n: torch.ones((), dtype=torch.bool) for n in self.layouts}).reshape(sizes)
        kinds = []
        for i, size in enumerate(sizes):
            varied = [k for k, found in changes.items() if size > 1 and any(_varies(c, read, i) for c in found)]
            part = divided is not None and divided <= i < divided + 3
            own = i if divided is None or i < divided else i - 2
            kinds.append(varied[0] if len(varied) == 1 else UNKNOWN if varied or part else self._kind_kept(own))
        return kinds

    def _kind_kept(self, axis: int) -> str:
        """Of an axis along which nothing stays apart: what it was, if axes stayed in place; where weights may run along
        it, features.
        """
        for lay in self.layouts.values():
            if len(lay) == len(self.call.shape) and len(kinds := {k for k, _ in lay[axis]}) == 1:
                return next((k for k in kinds if k in (TOKEN, FEATURE)), UNKNOWN)
        return FEATURE if self.call.has_weights else UNKNOWN

    def _changes(self, node: fx.Node, kind: str) -> list[Tensor]:
        """What changes with one token (feature) of an operand, for a few of them."""
        found = []
        for i, axis in enumerate(self.layouts[node]):
            stride, length = 1, prod(s for _, s in axis)
            for k, n in reversed(axis):
                if k == kind and n > 1:
                    along = (torch.arange(length) // stride % n).reshape(
                        [-1 if a == i else 1 for a in range(len(self.layouts[node]))]
                    )
                    found += [self.call.changed({node: along == at}) for at in {0, 1, n // 2, n - 1}]
                stride *= n
        return found


def numbers_along(axis: Axis, at: int) -> Tensor:
    """For each element along an axis, where it is along one of the kinds that the axis holds."""
    return torch.arange(prod(s for _, s in axis)) // prod(s for _, s in axis[at + 1 :]) % axis[at][1]


def _drawn(layout: Layout, sizes: Sequence[int], ordered: bool) -> Layout:
    """The layout of an operand drawn smaller."""
    axes = []
    for axis, size in zip(layout, sizes, strict=True):
        changed = prod(s for _, s in axis) != size
        if changed and (len(axis) > 1 or (ordered and axis and axis[0][0] == SEGMENTED)):
            raise Unprobed("an axis of several kinds is cut")
        axes.append(resize(axis, size) if changed else axis)
    return tuple(axes)


def _varies(changed: Tensor, read: Tensor, axis: int) -> bool:
    """Along an axis, does some of what was ``read`` from operands change, and some not? (Padding never does.)"""
    return bool(((changed & read).any(axis) & (~changed & read).any(axis)).any())


def _along(owners: Tensor, axis: int) -> Tensor | None:
    """The example of each row along an axis (-1 for none); None where a row holds several."""
    rows = owners.movedim(axis, 0).reshape(owners.shape[axis], -1)
    highest = rows.max(1).values
    return None if bool(((rows >= 0) & (rows != highest[:, None])).any()) else highest


def regular(owners: Tensor, batch: int) -> Place | None:
    """Where the batch is in its usual order along an axis."""
    for axis, size in enumerate(owners.shape):
        along = _along(owners, axis) if size % batch == 0 else None
        if along is None or len(set(along.tolist()) - {-1}) != batch:
            continue
        for outer in (n for n in range(1, size // batch + 1) if size // batch % n == 0):
            inner = size // batch // outer
            if bool(((along < 0) | (along == torch.arange(size) // inner % batch)).all()):
                return Place(axis, outer, inner)
    return None


def irregular(owners: Tensor) -> Place | None:
    """The example of each row, where rows are in an order of their own; one example where all is its."""
    if len(set(owners.flatten().tolist()) - {-1}) == 1:
        return Place(0, rows=(int(owners.max()),))
    for axis in range(owners.dim()):
        along = _along(owners, axis)
        if along is not None and len(set(along.tolist()) - {-1}) > 1:
            return Place(axis, rows=tuple(along.tolist()))
    return None
