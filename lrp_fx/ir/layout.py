"""Layouts: which axes of a value run over the batch, over tokens, over features.

A layout has one entry per axis, each a tuple of factors ``(kind, size)`` from major to minor, so that merged axes
such as ``batch * heads`` stay known through reshapes. Sizes are those of the traced example; only their order and
kind matter at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import fx

from lrp_fx.ir.graph import value_of
from lrp_fx.ir.sizes import hint, is_one

BATCH, TOKEN, FEATURE, UNKNOWN = "batch", "token", "feature", "unknown"
#: Rows of all examples in an order that only the run knows (see `lrp_fx.analysis.segment_ids`).
SEGMENTED = "segmented"
_TELLING = (BATCH, SEGMENTED)
_ONE_EXAMPLE = (BATCH, 1)
Factor = tuple[str, int]
Axis = tuple[Factor, ...]
Layout = tuple[Axis, ...]


@dataclass(frozen=True)
class Given:
    """A size that is told where it is needed: the ``slot``-th of what is told there."""

    slot: int


@dataclass(frozen=True)
class BatchAxis:
    """Where the examples of a batch are: axis ``axis`` is ``outer * batch * inner`` elements long.

    A side that may change from call to call (tokens merged with the batch) is None. Where both may, one of them is what
    a graph computes (`lrp_fx.transpose.batch_axes`): a node in it, `Given` in the key of a trace, a symbol while it is
    traced.
    """

    axis: int
    outer: Any
    inner: Any

    @property
    def is_merged(self) -> bool:
        return not (is_one(self.outer) and is_one(self.inner))

    @property
    def is_told_apart(self) -> bool:
        """Is it known enough to split the axis?"""
        return self.outer is not None or self.inner is not None

    def with_sizes(self, told: Sequence[Any]) -> BatchAxis:
        """What is told for the size that is `Given`."""
        outer, inner = (told[s.slot] if isinstance(s, Given) else s for s in (self.outer, self.inner))
        return replace(self, outer=outer, inner=inner)

    def given(self, nodes: list[fx.Node]) -> BatchAxis:
        """The same without nodes of a graph: what is told in their place goes to ``nodes``."""
        sides = []
        for size in (self.outer, self.inner):
            if isinstance(size, fx.Node):
                nodes.append(size)
                size = Given(len(nodes) - 1)
            sides.append(size)
        return BatchAxis(self.axis, *sides)

    def split(self, t: torch.Tensor, batch: Any) -> torch.Tensor:
        """``t`` with the axis as three: outer, batch, inner (the batch is then axis ``axis + 1``)."""
        if not self.is_told_apart:
            raise ValueError("tokens on both sides of a batch axis: its examples cannot be told apart")
        sizes: tuple[Any, Any, Any] = (-1, batch, self.inner) if self.outer is None else (self.outer, batch, -1)
        return t.reshape(*t.shape[: self.axis], *sizes, *t.shape[self.axis + 1 :])


@dataclass(frozen=True)
class Segmented:
    """Where no axis is the batch, but the example of each row is known: it is the ``slot``-th tensor of segment ids
    that a transposed rule is given.
    """

    slot: int


def batch_axis(layout: Layout | None) -> BatchAxis | None:
    """The axis that holds the batch, None when there is none (or it is not known)."""
    for i, axis in enumerate(layout or ()):
        kinds = [k for k, _ in axis]
        if BATCH in kinds:
            j = kinds.index(BATCH)
            return BatchAxis(i, _fixed_size(axis[:j]), _fixed_size(axis[j + 1 :]))
    return None


def _fixed_size(factors: Axis) -> int | None:
    return prod(s for _, s in factors) if all(k == FEATURE for k, _ in factors) else None


def token_axes(layout: Layout | None) -> list[int]:
    """Axes that run over tokens (patches, frames, pixels)."""
    return [i for i, axis in enumerate(layout or ()) if any(k == TOKEN for k, _ in axis)]


def place_axes(layout: Layout | None) -> list[int]:
    """Axes whose index says a place: of tokens alone, where there are some; pixels that are put behind one another with
    their channels are the features of a patch.
    """
    found = token_axes(layout)
    alone = [i for i in found if layout is not None and all(k != FEATURE for k, _ in layout[i])]
    return alone or found


def single(kind: str, size: int) -> Axis:
    """An axis of one kind. Of axes of size 1 only those are kept that say whose a row is: a batch of one example, a
    single row sent to an expert.
    """
    return ((kind, size),) if size != 1 or kind in _TELLING else ()


def regroup(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """The layout after a reshape: row-major order keeps the sequence of factors, only their grouping changes.

    Where sizes do not divide (windows skewed against each other) what comes after is unknown; None if that hides the
    batch.
    """
    if 0 in shape:  # an expert that no token was sent to: there is nothing that could be whose
        return tuple(single(UNKNOWN, s) for s in shape)
    factors = [f for axis in layout for f in axis if f[1] != 1 or f == _ONE_EXAMPLE]
    result: list[Axis] = []
    for size, following in zip(shape, (*shape[1:], None), strict=True):
        group = _take(factors, size)
        if group and _goes_with_those_before(factors, following):
            group = (*group, factors.pop(0))
        if group is None:
            hidden = any(k in _TELLING for k, _ in factors)
            return None if hidden or not result else (*result, *(single(UNKNOWN, s) for s in shape[len(result) :]))
        result.append(group)
    if (
        any(f == (SEGMENTED, 1) for axis in layout for f in axis) and () in result
    ):  # a single row: any axis of size 1 may say whose it is
        result[result.index(())] = ((SEGMENTED, 1),)
    return _without_mixed_rows(tuple(result))


def _without_mixed_rows(layout: Layout) -> Layout:
    """Rows that are grouped, a group beside other elements on one axis: a group may be of several examples."""
    rows = [axis for axis in layout if any(k == SEGMENTED for k, _ in axis)]
    if len(rows) < 2 or all(len(axis) == 1 for axis in rows):
        return layout
    return tuple(tuple((UNKNOWN if k == SEGMENTED else k, s) for k, s in axis) for axis in layout)


def _goes_with_those_before(factors: list[Factor], following: int | None) -> bool:
    """Is one example, which no size shows, merged with the axis before it and not with the one that follows? So it is
    where that has all of the next factor (tokens and batch, then features), not where it has a part (batch and heads).
    """
    if factors[:1] != [_ONE_EXAMPLE] or following == 1:
        return False
    return following is None or (len(factors) > 1 and factors[1][1] == following)


def _take(factors: list[Factor], size: int) -> Axis | None:
    """The factors that make up an axis of this size, taken from the front; None (and nothing taken) if they do not
    divide.
    """
    group: list[Factor] = []
    rest = list(factors)
    if size == 1 and rest[:1] == [_ONE_EXAMPLE]:
        group.append(rest.pop(0))
    while size != 1:
        if not rest:
            return None
        kind, have = rest.pop(0)
        if size % have == 0:
            group.append((kind, have))
            size //= have
        elif have % size == 0:
            group.append((kind, size))
            rest.insert(0, (kind, have // size))
            size = 1
        else:
            return None
    factors[:] = rest
    return tuple(group)


def broadcast(layouts: Sequence[Layout], shape: Sequence[int]) -> Layout:
    """Layout of an elementwise result: every axis takes the operand that really runs along it."""
    result: list[Axis] = []
    for i, size in enumerate(shape):
        offset = len(shape) - i
        candidates = [lay[len(lay) - offset] for lay in layouts if len(lay) >= offset]
        fitting = [
            c for c in candidates if prod(s for _, s in c) == size and (size != 1 or any(k in _TELLING for k, _ in c))
        ]
        best = next((c for c in fitting if any(k == BATCH for k, _ in c)), None)
        best = best or next((c for c in fitting if all(k != UNKNOWN for k, _ in c)), None)
        result.append(best if best is not None else (fitting[0] if fitting else single(UNKNOWN, size)))
    return tuple(result)


def resize(axis: Axis, size: int) -> Axis:
    """An axis cut or grown to another size: its kind stays if it is one kind, merged axes become unknown."""
    if prod(s for _, s in axis) == size:
        return axis
    kinds = {k for k, _ in axis}
    return single(kinds.pop() if len(kinds) == 1 else UNKNOWN, size)


def from_symbols(node: fx.Node, batch: Any) -> Layout | None:
    """Layout read from symbolic sizes alone: an axis whose size is the batch symbol, or a multiple of it, holds the
    batch.
    """
    val = value_of(node)
    if not isinstance(val, torch.Tensor) or isinstance(batch, int):
        return None
    axes: list[Axis] = []
    for size in val.shape:
        expression = size.node.expr if not isinstance(size, int) else None
        if expression is not None and batch.node.expr in expression.free_symbols:
            n = hint(batch)
            axes.append(((BATCH, n), *single(UNKNOWN, hint(size) // n)))
        else:
            axes.append(single(UNKNOWN if expression is None else TOKEN, hint(size)))
    return tuple(axes)
