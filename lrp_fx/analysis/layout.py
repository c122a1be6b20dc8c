"""Layout of a result from the layouts of its arguments, one function for each sort of operation.

Every such function is given (node, layout of the first argument, shape of the result, all known layouts) and returns
the result's layout, or None where the operation hides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import fx

from lrp_fx.analysis.inverse_scatter import inverse_scatter
from lrp_fx.ir.factor_rules import factors_of_axes
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.layout import BATCH, FEATURE, SEGMENTED, TOKEN, UNKNOWN, Layout, broadcast, regroup, resize, single
from lrp_fx.ir.operators import argument, axis_of, has, operand_of, operator_of
from lrp_fx.ir.sizes import hint, shape_of


def propagate(node: fx.Node, known: dict[fx.Node, Layout]) -> Layout | None:
    """Layout of a node's value from its arguments' layouts; None where the operation hides it."""
    shape = shape_of(node)
    operands = [a for a in _args(node) if a in known]
    if not operands:
        return _result_of_unknown(node, known, shape)
    x = operands[0]
    if isinstance(value_of(node), (list, tuple)) and has(node, Fact.SORTED | Fact.SPLIT):
        return _sorted(node, known[x])  # that of the whole: each part is resized where it is taken out
    axes = operator_of(node).axes
    rule = _BY_AXES.get(axes) if axes is not None else None
    if has(node, Fact.EXPANSION):
        rule = _by_factors
    layout: Layout | None
    try:
        fits = node.args and (node.args[0] is x or rule in (_contracted, _scattered, _rows_added))
        layout = rule(node, known[x], shape, known) if rule is not None and fits else None
    except (IndexError, TypeError, ValueError):
        layout = None
    if layout is None and axes in (Axes.JOINED, Axes.STACKED):
        layout = _cat(node, known, shape)
    if layout is None and rule is None:
        layouts = [known[a] for a in operands]
        same = [lay for lay in layouts if _sizes(lay) == shape]
        layout = broadcast(layouts, shape) if _broadcasts(layouts, shape) else (same[0] if same else None)
    if op_name(node) == "aten.argsort":
        layout = _sorted(node, known[x])
    if layout is None:
        layout = _rows_kept([known[a] for a in operands], shape)
    return _told_once(layout) if layout is not None and _sizes(layout) == shape else None


def _told_once(layout: Layout) -> Layout:
    """Where one axis holds the batch, rows along the others need no segment ids."""
    if not any(k == BATCH for axis in layout for k, _ in axis):
        return layout
    return tuple(
        tuple((UNKNOWN if k == SEGMENTED else k, s) for k, s in axis if k != SEGMENTED or s != 1) for axis in layout
    )


def _sorted(node: fx.Node, lay: Layout) -> Layout:
    """Rows that are sorted or selected along the axis of the batch are in no fixed order any more."""
    if not has(node, Fact.SORTED):
        return lay
    dim = argument(node, "dim", -1)
    axis = int(dim) % len(lay) if isinstance(dim, int) and lay else None
    return tuple(
        single(SEGMENTED, prod(s for _, s in a)) if i == axis and any(k in (BATCH, SEGMENTED) for k, _ in a) else a
        for i, a in enumerate(lay)
    )


def _result_of_unknown(node: fx.Node, known: dict[fx.Node, Layout], shape: tuple[int, ...]) -> Layout | None:
    """One of several results of an operation that nothing is known of: the leading axes that are as long as an
    operand's are the operand's.
    """
    source = node.args[0] if node.args and op_name(node).endswith("getitem") else None
    layouts = [known[a] for a in source.all_input_nodes if a in known] if isinstance(source, fx.Node) else []
    if not layouts or not shape:
        return None
    kept = [i for i, (a, b) in enumerate(zip(_sizes(layouts[0]), shape, strict=False)) if a == b]
    return (
        tuple(layouts[0][i] if kept[: i + 1] == list(range(i + 1)) else single(UNKNOWN, s) for i, s in enumerate(shape))
        if kept and kept[0] == 0
        else None
    )


def _rows_kept(layouts: Sequence[Layout], shape: tuple[int, ...]) -> Layout | None:
    """Layout after an operation that nothing is known of, on rows in no fixed order: those that are as many as before
    are still there.

    (A guess from sizes would call them a batch in its usual order.)
    """
    for lay in layouts:
        segmented = [i for i, axis in enumerate(lay) if any(k == SEGMENTED for k, _ in axis)]
        if segmented and len(lay) == len(shape) and all(_sizes(lay)[i] == shape[i] for i in segmented):
            return tuple(
                axis if i in segmented else single(UNKNOWN, size)
                for i, (axis, size) in enumerate(zip(lay, shape, strict=True))
            )
    return None


def _args(node: fx.Node) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), lambda n: found.append(n))
    return found


def _sizes(layout: Layout) -> tuple[int, ...]:
    return tuple(prod(s for _, s in axis) for axis in layout)


def _broadcasts(layouts: Sequence[Layout], shape: Sequence[int]) -> bool:
    return all(
        len(lay) <= len(shape) and all(a in (1, b) for a, b in zip(_sizes(lay)[::-1], shape[::-1], strict=False))
        for lay in layouts
    )


def _reshape(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    return regroup(lay, shape)


def _units(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    """A new axis of size one; an axis that goes may have said whose a single row is."""
    return _by_factors(node, lay, shape, known) if len(shape) > len(lay) else regroup(lay, shape)


def _by_factors(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any, fresh: str = UNKNOWN) -> Layout | None:
    """Axes that the first operand has as well are what they are there; the others are ``fresh``."""
    table = factors_of_axes(node)
    if table is None:
        return None
    own = dict(zip(table.operands[0][1], lay, strict=True))
    pairs = zip(table.result, shape, strict=True)
    return tuple(own[axis] if axis and axis in own else single(fresh, s) for axis, s in pairs)


def _with_features(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    return _by_factors(node, lay, shape, known, FEATURE)


def _resized(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    return tuple(resize(a, s) for a, s in zip(lay, shape, strict=True)) if len(lay) == len(shape) else None


def _conv(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    return (lay[0], single(FEATURE, shape[1]), *(single(TOKEN, s) for s in shape[2:]))


def _contracted(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: dict[fx.Node, Layout]) -> Layout | None:
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
        return (*lay[:-2], single(FEATURE, shape[-2]), lay[-1]) if len(lay) == rank > 1 else None
    last = right[-1] if right is not None and len(right) > 1 else single(FEATURE, shape[-1])
    batch = broadcast([a[:-2] for a in (lay, right) if a is not None], shape[:-2]) if rank > 2 else ()
    return (*batch, lay[-2], last) if len(lay) > 1 else None


def _added_product(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: dict[fx.Node, Layout]) -> Layout | None:
    """``term + left @ right``."""
    left, right = (known.get(a) if isinstance(a, fx.Node) else None for a in node.args[1:3])
    if left is not None and len(left) == len(shape) + 1 and len(shape_of(operand_of(node, 2))) == 1:
        return left[:-1]  # times a vector
    if left is None or len(left) != len(shape):
        return None
    return (*left[:-1], right[-1] if right is not None and len(right) == len(shape) else single(FEATURE, shape[-1]))


def _getitem(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    return _resized(node, lay, shape, known) if len(lay) == len(shape) else _by_factors(node, lay, shape, known)


def _cat(node: fx.Node, known: dict[fx.Node, Layout], shape: tuple[int, ...]) -> Layout | None:
    layouts = [known[a] for a in _args(node) if a in known]
    if op_name(node) == "aten.stack":
        dim = axis_of(node, len(shape))
        return (*layouts[0][:dim], single(UNKNOWN, shape[dim]), *layouts[0][dim:])
    best = max(layouts, key=lambda lay: sum(k != UNKNOWN for axis in lay for k, _ in axis))
    return tuple(resize(a, s) for a, s in zip(best, shape, strict=True))


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
    source, strides = _sizes(lay), [hint(s) for s in value_of(operand_of(node)).stride()]
    kept = {(size, stride): axis for size, stride, axis in zip(source, strides, lay, strict=True)}
    same_step = {stride: axis for stride, axis in zip(strides, lay, strict=True) if {k for k, _ in axis} <= {TOKEN}}
    asked = [hint(s) for s in argument(node, "stride")]
    return tuple(
        kept.get((n, s)) or (single(TOKEN, n) if s in same_step else single(UNKNOWN, n))
        for n, s in zip(shape, asked, strict=True)
    )


def _scattered(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: dict[fx.Node, Layout]) -> Layout | None:
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


def _rows_added(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: dict[fx.Node, Layout]) -> Layout | None:
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


_BY_AXES: dict[Axes, Any] = {
    **dict.fromkeys((Axes.PERMUTED, Axes.SELECTED, Axes.REDUCED, Axes.ALONG, Axes.LAST_ALONG), _by_factors),
    **dict.fromkeys((Axes.MAPPED, Axes.ATTENTION), _with_features),
    **dict.fromkeys((Axes.CUT, Axes.STAYING), _resized),
    Axes.REGROUPED: _reshape,
    Axes.UNITS: _units,
    Axes.REPEATED: _repeat,
    Axes.CONTRACTED: _contracted,
    Axes.CONVOLVED: _conv,
    Axes.PART: _getitem,
    Axes.WRITTEN: _scattered,
    Axes.ADDED_ROWS: _rows_added,
    Axes.INDEXED: _index,
    Axes.STRIDED: _as_strided,
}
