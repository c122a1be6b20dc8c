"""Layout of a result from the layouts of its arguments, one function for each sort of operation.

Every such function is given (node, layout of the first argument, shape of the result, all known layouts) and returns
the result's layout, or None where the operation hides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import fx

from lrp_fx.analysis.inverse_scatter import inverse_scatter
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.layout import BATCH, FEATURE, SEGMENTED, TOKEN, UNKNOWN, Layout, broadcast, regroup, resize, single
from lrp_fx.ir.sizes import hint, shape_of


def propagate(node: fx.Node, known: dict[fx.Node, Layout]) -> Layout | None:
    """Layout of a node's value from its arguments' layouts; None where the operation hides it."""
    shape = shape_of(node)
    operands = [a for a in _args(node) if a in known]
    if not operands:
        return _result_of_unknown(node, known, shape)
    x = operands[0]
    name = op_name(node).split(".")[-1]
    rule = _RULES.get(name)
    layout: Layout | None
    try:
        fits = node.args and (node.args[0] is x or rule in (_matmul, _scattered, _rows_added, _added_product))
        layout = rule(node, known[x], shape, known) if rule is not None and fits else None
    except (IndexError, TypeError, ValueError):
        layout = None
    if layout is None and name in ("cat", "stack"):
        layout = _cat(node, known, shape)
    if layout is None and rule is None:
        layouts = [known[a] for a in operands]
        same = [lay for lay in layouts if _sizes(lay) == shape]
        layout = broadcast(layouts, shape) if _broadcasts(layouts, shape) else (same[0] if same else None)
    if isinstance(value_of(node), (list, tuple)) and (name in SELECTIONS or (layout is not None and name in SPLITS)):
        return _sorted(node, known[x])  # that of the whole: each part is resized where it is taken out
    if name == "argsort":
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
    if op_name(node).split(".")[-1] not in SELECTIONS | {"argsort"}:
        return lay
    place = {"topk": 2, "kthvalue": 2}.get(op_name(node).split(".")[-1], 1)
    dim = node.args[place] if len(node.args) > place else node.kwargs.get("dim", -1)
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


def _dims(argument: Any, rank: int) -> list[int]:
    dims = [argument] if isinstance(argument, int) else list(argument if argument is not None else range(rank))
    return [d % rank for d in dims]


def _reshape(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    return regroup(lay, shape)


def _permute(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    return tuple(lay[d] for d in _dims(node.args[1], len(lay)))


def _transpose(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    i, j = _dims(list(node.args[1:3]), len(lay)) if len(node.args) > 2 else (0, 1)
    axes = list(lay)
    axes[i], axes[j] = axes[j], axes[i]
    return tuple(axes)


def _t(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    return lay[::-1]


def _expand(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    new = len(shape) - len(lay)
    axes = [()] * new + list(lay)
    return tuple(
        axis if prod(s for _, s in axis) == size else single(UNKNOWN, size)
        for axis, size in zip(axes, shape, strict=True)
    )


def _select(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    dim = int(node.args[1]) % len(lay)  # type: ignore[arg-type]
    return lay[:dim] + lay[dim + 1 :]


def _resized(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    return tuple(resize(a, s) for a, s in zip(lay, shape, strict=True)) if len(lay) == len(shape) else None


def _reduce(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    dims = _dims(node.args[1] if len(node.args) > 1 and node.args[1] != [] else None, len(lay))
    if len(shape) == len(lay):
        return tuple(() if i in dims else axis for i, axis in enumerate(lay))
    return tuple(axis for i, axis in enumerate(lay) if i not in dims)


def _linear(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    return lay[:-1] + (single(FEATURE, shape[-1]),)


def _conv(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    return (lay[0], single(FEATURE, shape[1]), *(single(TOKEN, s) for s in shape[2:]))


def _matmul(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: dict[fx.Node, Layout]) -> Layout | None:
    other = node.args[1]
    right = known.get(other) if isinstance(other, fx.Node) else None
    rank = len(shape)
    if lay is right and node.args[0] not in known:  # a matrix of weights from the left
        return (*lay[:-2], single(FEATURE, shape[-2]), lay[-1]) if len(lay) == rank > 1 else None
    last = right[-1] if right is not None and len(right) > 1 else single(FEATURE, shape[-1])
    batch = broadcast([a[:-2] for a in (lay, right) if a is not None], shape[:-2]) if rank > 2 else ()
    return (*batch, lay[-2], last) if len(lay) > 1 else None


def _added_product(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: dict[fx.Node, Layout]) -> Layout | None:
    """``term + left @ right``."""
    left, right = (known.get(a) if isinstance(a, fx.Node) else None for a in node.args[1:3])
    if left is None or len(left) != len(shape):
        return None
    return (*left[:-1], right[-1] if right is not None and len(right) == len(shape) else single(FEATURE, shape[-1]))


def _attention(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    return (*lay[:-1], single(FEATURE, shape[-1]))


def _getitem(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    if len(lay) == len(shape):
        return _resized(node, lay, shape, known)
    source = node.args[0]
    if isinstance(source, fx.Node) and op_name(source).endswith("unbind"):
        dim = int(source.args[1] if len(source.args) > 1 else 0) % len(lay)  # type: ignore[arg-type]
        return lay[:dim] + lay[dim + 1 :]
    return None


def _unsqueeze(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    dim = int(node.args[1]) % len(shape)  # type: ignore[arg-type]
    return (*lay[:dim], (), *lay[dim:])


def _same(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    return lay


def _cat(node: fx.Node, known: dict[fx.Node, Layout], shape: tuple[int, ...]) -> Layout | None:
    layouts = [known[a] for a in _args(node) if a in known]
    if op_name(node).endswith("stack"):
        dim = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(shape)  # type: ignore[arg-type]
        return (*layouts[0][:dim], single(UNKNOWN, shape[dim]), *layouts[0][dim:])
    best = max(layouts, key=lambda lay: sum(k != UNKNOWN for axis in lay for k, _ in axis))
    return tuple(resize(a, s) for a, s in zip(best, shape, strict=True))


def _index(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout | None:
    indices = node.args[1]
    assert isinstance(indices, (list, tuple))
    used = [i for i, index in enumerate(indices) if index is not None]
    if any(k in (BATCH, SEGMENTED) for i in used for k, _ in lay[i]):
        rows = used == list(range(used[0], used[0] + len(used))) and all(
            isinstance(indices[i], fx.Node) and len(shape_of(indices[i])) == 1  # type: ignore[arg-type]
            for i in used
        )
        return (*lay[: used[0]], ((SEGMENTED, shape[used[0]]),), *lay[used[-1] + 1 :]) if rows else None
    if len(used) != 1:
        return None
    rank = len(shape_of(indices[used[0]]))  # type: ignore[arg-type]
    kinds = {k for k, _ in lay[used[0]]} or {UNKNOWN}
    kind = kinds.pop() if len(kinds) == 1 else UNKNOWN
    new = tuple(single(kind, s) for s in shape[used[0] : used[0] + rank])
    return (*lay[: used[0]], *new, *lay[used[0] + 1 :])


def _as_strided(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: Any) -> Layout:
    """Axes walked through as in the source keep their layout; windows over tokens are tokens."""
    source, strides = _sizes(lay), [hint(s) for s in value_of(node.args[0]).stride()]  # type: ignore[arg-type]
    kept = {(size, stride): axis for size, stride, axis in zip(source, strides, lay, strict=True)}
    same_step = {stride: axis for stride, axis in zip(strides, lay, strict=True) if {k for k, _ in axis} <= {TOKEN}}
    asked = [hint(s) for s in node.args[2]]  # type: ignore[union-attr]
    return tuple(
        kept.get((n, s)) or (single(TOKEN, n) if s in same_step else single(UNKNOWN, n))
        for n, s in zip(shape, asked, strict=True)
    )


def _scattered(node: fx.Node, lay: Layout, shape: tuple[int, ...], known: dict[fx.Node, Layout]) -> Layout | None:
    """What is written into says what the axes are; where it does not (fresh zeros), what is written."""
    name = op_name(node).split(".")[-1]
    into, written = (
        known.get(a) if isinstance(a, fx.Node) else None
        for a in (node.args[0], node.args[3 if name.startswith("scatter") and len(node.args) > 3 else 1])
    )
    if written is not None and name == "select_scatter":
        dim = int(node.args[2]) % len(shape)  # type: ignore[arg-type]
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
    into, written = (known.get(node.args[i]) for i in (0, 3))  # type: ignore[arg-type]
    if into is not None or written is None:
        return into
    dim, index = int(node.args[1]) % len(shape), node.args[2]  # type: ignore[arg-type]
    back = inverse_scatter(node.args[3], index, shape[0], known) if dim == 0 and isinstance(index, fx.Node) else None  # type: ignore[arg-type]
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


#: Operations that give values and where they were found.
SELECTIONS = frozenset("topk sort max min kthvalue mode median".split())
#: Operations that give several parts of one value.
SPLITS = frozenset("split split_with_sizes chunk unbind tensor_split".split())
_RULES: dict[str, Any] = {
    **dict.fromkeys("reshape squeeze flatten unflatten view_as_real view_as_complex".split(), _reshape),
    **dict.fromkeys(
        "slice pad constant_pad_nd index_select roll flip gather topk sort _weight_norm reflection_pad1d".split(),
        _resized,
    ),
    **dict.fromkeys(
        "split split_with_sizes chunk unbind tensor_split cumsum softmax _softmax log_softmax layer_norm rms_norm "
        "batch_norm group_norm".split(),
        _same,
    ),
    **dict.fromkeys(
        "mean sum amax amin max min prod any all logsumexp linalg_vector_norm norm var std argmax argmin".split(),
        _reduce,
    ),
    **dict.fromkeys(
        "conv1d conv2d conv3d convolution avg_pool1d avg_pool2d max_pool1d max_pool2d adaptive_avg_pool1d "
        "adaptive_avg_pool2d".split(),
        _conv,
    ),
    **dict.fromkeys("matmul mm bmm".split(), _matmul),
    **dict.fromkeys("baddbmm addmm".split(), _added_product),
    "permute": _permute,
    "transpose": _transpose,
    "t": _t,
    "expand": _expand,
    "select": _select,
    "unsqueeze": _unsqueeze,
    "linear": _linear,
    "scaled_dot_product_attention": _attention,
    "getitem": _getitem,
    **dict.fromkeys("slice_scatter select_scatter scatter scatter_reduce".split(), _scattered),
    "as_strided": _as_strided,
    "index_add": _rows_added,
    **dict.fromkeys(("repeat", "tile"), _repeat),
    "index": _index,
    "cat": None,
    "stack": None,
}
