"""How the layout of a result follows from those of its operands: one rule for each kind of axes.

Every rule is given (node, layout of the first argument, shape of the result, all known layouts) and returns the
result's layout, or None where the operation hides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import fx

from lrp_fx.analysis.inverse_scatter import inverse_scatter
from lrp_fx.analysis.sources import PARAMETER
from lrp_fx.ir.factor_rules import factors_of_axes
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import ancestors, op_name, value_of
from lrp_fx.ir.layout import BATCH, FEATURE, SEGMENTED, TOKEN, UNKNOWN, Axis, Layout, broadcast, regroup, resize, single
from lrp_fx.ir.operators import argument, axis_of, has, operand_of
from lrp_fx.ir.sizes import hint, shape_of


def args_of(node: fx.Node) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), lambda n: found.append(n))
    return found


def sizes_of(layout: Layout) -> tuple[int, ...]:
    return tuple(prod(s for _, s in axis) for axis in layout)


def broadcasts(layouts: Sequence[Layout], shape: Sequence[int]) -> bool:
    return all(
        len(lay) <= len(shape) and all(a in (1, b) for a, b in zip(sizes_of(lay)[::-1], shape[::-1], strict=False))
        for lay in layouts
    )


def _reshape(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    return regroup(lay, shape)


def _units(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    """A new axis of size one; an axis that goes may have said whose a single row is."""
    return by_factors(node, lay, shape, known) if len(shape) > len(lay) else regroup(lay, shape)


def by_factors(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any, fresh: str = UNKNOWN) -> Layout | None:
    """Axes that the first operand has as well are what they are there; the others are ``fresh``."""
    table = factors_of_axes(node)
    if table is None:
        return None
    own = dict(zip(table.operands[0][1], lay, strict=True))
    pairs = zip(table.result, shape, strict=True)
    return tuple(own[axis] if axis and axis in own else single(fresh, s) for axis, s in pairs)


def _with_features(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    return by_factors(node, lay, shape, known, FEATURE)


def _resized(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    if has(node, Fact.INDEXING) and any(k in (BATCH, SEGMENTED) for k, _ in lay[axis_of(node, len(lay))]):
        dim = axis_of(node, len(lay))
        return (*lay[:dim], ((SEGMENTED, shape[dim]),), *lay[dim + 1 :])  # in the order that an index names
    return tuple(resize(a, s) for a, s in zip(lay, shape, strict=True)) if len(lay) == len(shape) else None


def _conv(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    return (lay[0], single(FEATURE, shape[1]), *(single(TOKEN, s) for s in shape[2:]))


def contracted(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: dict[fx.Node, Layout]) -> Layout | None:
    return (_added_product if has(node, Fact.TERM_FIRST) else _matmul)(node, lay, shape, known)


def _matmul(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: dict[fx.Node, Layout]) -> Layout | None:
    other = node.args[1]
    right = known.get(other) if isinstance(other, fx.Node) else None
    rank = len(shape)
    ranks = [len(shape_of(a)) for a in node.args[:2] if isinstance(a, fx.Node)]
    if 1 in ranks:  # a vector: what is summed is the last axis of the one, or the last but one of the other
        left = known.get(operand_of(node))
        rows = left[:-1] if left is not None else ()
        return (*rows, *((*right[:-2], right[-1]) if right is not None and ranks[1] > 1 else ()))
    if lay is right and node.args[0] not in known:  # a matrix of weights from the left
        return (*lay[:-2], _mixed(lay[-2], shape[-2], node.args[0]), lay[-1]) if len(lay) == rank > 1 else None
    last = right[-1] if right is not None and len(right) > 1 else _mixed(lay[-1], shape[-1], other)
    batch = broadcast([a[:-2] for a in (lay, right) if a is not None], shape[:-2]) if rank > 2 else ()
    return (*batch, lay[-2], last) if len(lay) > 1 else None


def _added_product(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: dict[fx.Node, Layout]) -> Layout | None:
    """``term + left @ right``."""
    left, right = (known.get(a) if isinstance(a, fx.Node) else None for a in node.args[1:3])
    if left is not None and len(left) == len(shape) + 1 and len(shape_of(operand_of(node, 2))) == 1:
        return left[:-1]  # times a vector
    if left is None or len(left) != len(shape):
        return None
    return (
        *left[:-1],
        right[-1] if right is not None and len(right) == len(shape) else _mixed(left[-1], shape[-1], node.args[2]),
    )


def _mixed(axis: Axis, size: int, matrix: Any) -> Axis:
    """An axis after a matrix of weights: features; but as many tokens as before are still the tokens, where the matrix
    holds no parameters (sums over those before, say, or a Fourier transform).
    """
    if axis != single(TOKEN, size) or axis == () or not isinstance(matrix, fx.Node):
        return single(FEATURE, size)
    learned = any(n.op == "get_attr" and n.meta.get("origin") == PARAMETER for n in ancestors([matrix]))
    return single(FEATURE, size) if learned else axis


def _getitem(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    return _resized(node, lay, shape, known) if len(lay) == len(shape) else by_factors(node, lay, shape, known)


def joined(node: fx.Node, known: dict[fx.Node, Layout], shape: tuple[int, ...]) -> Layout | None:
    layouts = [known[a] for a in args_of(node) if a in known]
    if op_name(node) == "aten.stack":
        dim = axis_of(node, len(shape))
        axes = [
            next((a for a in axis if all(k != UNKNOWN for k, _ in a)), axis[0]) for axis in zip(*layouts, strict=True)
        ]
        return (*axes[:dim], single(UNKNOWN, shape[dim]), *axes[dim:])
    best = max(_of_tokens(layouts, axis_of(node, len(shape)), len(shape)) or layouts, key=_known)
    return tuple(resize(a, s) for a, s in zip(best, shape, strict=True))


def _of_tokens(layouts: list[Layout], dim: int, rank: int) -> list[Layout]:
    """Those that say that tokens are along the axis, where the others call it features: what is put beside tokens (the
    rows of a table that a task chose) is tokens.
    """
    kinds = [{k for k, _ in lay[dim]} if len(lay) == rank else set() for lay in layouts]
    if not all(k in ({TOKEN}, {FEATURE}) for k in kinds):
        return []
    return [lay for lay, k in zip(layouts, kinds, strict=True) if k == {TOKEN}]


def _known(layout: Layout) -> int:
    return sum(k != UNKNOWN for axis in layout for k, _ in axis)


def _index(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    indices: Any = node.args[1]
    used = [i for i, index in enumerate(indices) if index is not None]
    if any(k in (BATCH, SEGMENTED) for i in used for k, _ in lay[i]):
        rows = used == list(range(used[0], used[0] + len(used))) and all(
            isinstance(indices[i], fx.Node) and len(shape_of(indices[i])) == 1 for i in used
        )
        return (*lay[: used[0]], ((SEGMENTED, shape[used[0]]),), *lay[used[-1] + 1 :]) if rows else None
    if any(_is_mask(indices[i]) for i in used):
        return None
    rank = max(len(shape_of(indices[i])) for i in used)
    kinds = {k for i in used for k, _ in lay[i]} or {UNKNOWN}
    kind = kinds.pop() if len(kinds) == 1 else UNKNOWN
    kept = [axis for i, axis in enumerate(lay) if i not in used]
    at = used[0] if used == list(range(used[0], used[-1] + 1)) else 0  # axes apart from each other come first
    return (*kept[:at], *(single(kind, s) for s in shape[at : at + rank]), *kept[at:])


def _is_mask(index: fx.Node) -> bool:
    return bool(value_of(index).dtype in (torch.bool, torch.uint8))


def _as_strided(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    """Axes walked through as in the source keep their layout; windows over tokens are tokens."""
    source, strides = sizes_of(lay), [hint(s) for s in value_of(operand_of(node)).stride()]
    kept = {(size, stride): axis for size, stride, axis in zip(source, strides, lay, strict=True)}
    same_step = {stride: axis for stride, axis in zip(strides, lay, strict=True) if {k for k, _ in axis} <= {TOKEN}}
    asked = [hint(value_of(s) if isinstance(s, fx.Node) else s) for s in argument(node, "stride")]
    return tuple(
        kept.get((n, s)) or (single(TOKEN, n) if s in same_step else single(UNKNOWN, n))
        for n, s in zip(shape, asked, strict=True)
    )


def scattered(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: dict[fx.Node, Layout]) -> Layout | None:
    """What is written into says what the axes are; where it does not (fresh zeros), what is written."""
    into, written = (known.get(a) if isinstance(a, fx.Node) else None for a in (node.args[0], argument(node, "src")))
    if written is not None and op_name(node) == "aten.select_scatter":
        dim = axis_of(node, len(shape))
        written = (*written[:dim], (), *written[dim:])
    both = [lay for lay in (into, written) if lay is not None and len(lay) == len(shape)]
    if not both:
        return None
    return tuple(
        next((resize(a, s) for a in axes if any(k != UNKNOWN for k, _ in a)), single(UNKNOWN, s))
        for axes, s in zip(zip(*both, strict=True), shape, strict=True)
    )


def stayed(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: dict[fx.Node, Layout]) -> Layout | None:
    """Laid out as before; what is picked out of a table of which nothing is known, as what picks it, whose copies along
    other axes pick the same row of each feature.
    """
    if operand_of(node) in known:
        return _resized(node, lay, shape, known)
    index = argument(node, "index") if has(node, Fact.PICK) else None
    if not isinstance(index, fx.Node) or len(known.get(index, ())) != len(shape):
        return None
    dim, axes = axis_of(node, len(shape)), zip(known[index], shape, strict=True)
    return tuple(
        single(FEATURE, s) if i != dim and all(k == UNKNOWN for k, _ in a) else a for i, (a, s) in enumerate(axes)
    )


def rows_added(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: dict[fx.Node, Layout]) -> Layout | None:
    """Rows added at places that an index names: as what they are added to; in fresh zeros as what they were taken from,
    or they keep their segment ids.
    """
    into, written = known.get(operand_of(node)), known.get(operand_of(node, 3))
    if into is not None or written is None:
        return into
    dim = axis_of(node, len(shape))
    back = inverse_scatter(operand_of(node, 3), operand_of(node, 2), shape[0], known) if dim == 0 else None
    segmented = any(k in (BATCH, SEGMENTED) for k, _ in written[dim])
    rows = back if back is not None else single(SEGMENTED if segmented else UNKNOWN, shape[dim])
    return tuple(rows if i == dim else a for i, a in enumerate(written))


def _repeat(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    """Copies of a whole axis stand in front of what it holds."""
    lay = ((),) * (len(shape) - len(lay)) + lay
    return tuple(
        a if prod(s for _, s in a) == size else (*single(UNKNOWN, size // max(prod(s for _, s in a), 1)), *a)
        for a, size in zip(lay, shape, strict=True)
    )


BY_AXES: dict[Axes, Any] = {
    **dict.fromkeys((Axes.PERMUTED, Axes.SELECTED, Axes.REDUCED, Axes.ALONG, Axes.LAST_ALONG), by_factors),
    **dict.fromkeys((Axes.MAPPED, Axes.ATTENTION), _with_features),
    Axes.CUT: _resized,
    Axes.REGROUPED: _reshape,
    Axes.UNITS: _units,
    Axes.REPEATED: _repeat,
    Axes.CONTRACTED: contracted,
    Axes.CONVOLVED: _conv,
    Axes.STAYING: stayed,
    Axes.PART: _getitem,
    Axes.WRITTEN: scattered,
    Axes.ADDED_ROWS: rows_added,
    Axes.INDEXED: _index,
    Axes.STRIDED: _as_strided,
}
