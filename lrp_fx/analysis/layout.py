"""Layout of a result from its arguments' layouts: by the rule for its axes, by running the operation, by sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from torch import fx

from lrp_fx.analysis.layout_rules import (
    BY_AXES,
    args_of,
    broadcasts,
    by_factors,
    contracted,
    joined,
    rows_added,
    scattered,
    sizes_of,
    stayed,
)
from lrp_fx.analysis.one_by_one import with_tokens
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.layout import BATCH, SEGMENTED, UNKNOWN, Layout, broadcast, single
from lrp_fx.ir.operators import argument, axes_of, has, operand_of, operator_of
from lrp_fx.ir.sizes import same_shape, shape_of

#: How else the layout of a value may be found.
Ask = Callable[[fx.Node], Layout | None]


def propagate(node: fx.Node, known: dict[fx.Node, Layout], ask: Ask) -> Layout | None:
    """Layout of a node's value from its arguments' layouts; None where the operation hides it.

    ``ask``: for operations that no rule here serves.
    """
    shape = shape_of(node)
    operands = [a for a in args_of(node) if a in known]
    if not operands:
        return _result_of_unknown(node, known, shape, ask)
    x = operands[0]
    if isinstance(value_of(node), (list, tuple)) and has(node, Fact.SORTED | Fact.SPLIT):
        return _sorted(node, known[x])  # that of the whole: each part is resized where it is taken out
    layout = ask(node) if _meets_examples(node, known) else None
    if layout is None:
        layout = _by_rule(node, x, known, shape)
    if layout is None and operator_of(node).axes is None:
        layout = ask(node) or _as_broadcast([known[a] for a in operands], shape)
        layout = _as_what_is_written_into(node, layout, known) if layout is not None else None
    if op_name(node) == "aten.argsort":
        layout = _sorted(node, known[x])
    if layout is None:
        layout = _rows_kept([known[a] for a in operands], shape)
    if layout is None or sizes_of(layout) != shape:
        layout = ask(node)
    return with_tokens(node, _told_once(layout), known) if layout is not None and sizes_of(layout) == shape else None


def _by_rule(node: fx.Node, x: fx.Node, known: dict[fx.Node, Layout], shape: tuple[int, ...]) -> Layout | None:
    """What the rule for such axes says."""
    axes = operator_of(node).axes
    rule = by_factors if has(node, Fact.EXPANSION) else None if axes is None else BY_AXES.get(axes)
    layout: Layout | None = None
    if rule is not None and node.args and (node.args[0] is x or rule in (contracted, rows_added, scattered, stayed)):
        try:
            layout = rule(node, known[x], shape, known)
        except (IndexError, TypeError, ValueError):
            layout = None
    if layout is None and axes in (Axes.JOINED, Axes.STACKED):
        layout = joined(node, known, shape)
    if layout is None and rule is None and axes is not None:
        layout = _as_broadcast([known[a] for a in args_of(node) if a in known], shape)
    return layout


def _as_broadcast(layouts: Sequence[Layout], shape: tuple[int, ...]) -> Layout | None:
    """The layout of a result that is as large as operands broadcast against each other are, or as one of them is."""
    if broadcasts(layouts, shape):
        return broadcast(layouts, shape)
    return next((lay for lay in layouts if sizes_of(lay) == shape), None)


def _as_what_is_written_into(node: fx.Node, found: Layout, known: dict[fx.Node, Layout]) -> Layout:
    """Running tells the examples. The other axes of a value that some places were written to are what they were."""
    into = known.get(operand_of(node)) if has(node, Fact.ASSEMBLY) else None
    if into is None or sizes_of(into) != sizes_of(found):
        return found
    return tuple(
        before if {k for k, _ in axis} == {UNKNOWN} and BATCH not in {k for k, _ in before} else axis
        for axis, before in zip(found, into, strict=True)
    )


def _meets_examples(node: fx.Node, known: dict[fx.Node, Layout]) -> bool:
    """Is it cut or put together along the axis that examples lie along?"""
    part = operator_of(node).axes is Axes.PART and isinstance(node.args[0], fx.Node)
    call = operand_of(node) if part else node
    cut = operator_of(call).axes is Axes.CUT and not has(call, Fact.SORTED | Fact.INDEXING)
    if not cut and operator_of(call).axes is not Axes.JOINED:
        return False
    if has(call, Fact.INTERVAL) and same_shape(value_of(call), value_of(operand_of(call))):
        return False  # all of it
    whole = known.get(operand_of(call)) if cut else None
    name = "dim" if argument(call, "dims") is None else "dims"
    return any(
        k in (BATCH, SEGMENTED)
        for lay in ([whole] if cut else [known.get(a) for a in args_of(call)])
        if lay
        for axis in axes_of(call, len(lay), name)
        for k, _ in lay[axis]
    )


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


def _result_of_unknown(node: fx.Node, known: dict[fx.Node, Layout], shape: tuple[int, ...], ask: Ask) -> Layout | None:
    """One of several results of an operation that nothing is known of; where it cannot be asked, the leading axes that
    are as long as an operand's are the operand's.
    """
    source = node.args[0] if node.args and op_name(node).endswith("getitem") else None
    if isinstance(source, fx.Node) and (found := ask(node)) is not None:
        return found
    layouts = [known[a] for a in source.all_input_nodes if a in known] if isinstance(source, fx.Node) else []
    if not layouts or not shape:
        return None
    kept = [i for i, (a, b) in enumerate(zip(sizes_of(layouts[0]), shape, strict=False)) if a == b]
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
        if segmented and len(lay) == len(shape) and all(sizes_of(lay)[i] == shape[i] for i in segmented):
            return tuple(
                axis if i in segmented else single(UNKNOWN, size)
                for i, (axis, size) in enumerate(zip(lay, shape, strict=True))
            )
    return None
