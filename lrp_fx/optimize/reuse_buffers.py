"""Reuse buffers: an operation whose operand nobody reads again writes its result where that operand was.

Fresh memory costs more than arithmetic: the operating system hands it over page by page. The graph that is read, saved
and batched computes without writing to anything; this says what its code calls instead when it is run.

requires  a finished relevance graph, to be run without autograd; nodes without an example value (`meta["val"]`) are
left as they are
ensures   the same values, bit by bit: the same kernels over the same elements; the graph is left as it is
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.operator_table import OPERATORS
from lrp_fx.ir.operators import has, keeps_all_elements
from lrp_fx.ir.sizes import same_shape

aten = torch.ops.aten
#: Elementwise operations of a first operand, and what puts the result in its place.
IN_PLACE: dict[Any, Any] = {
    getattr(getattr(aten, name), overload): getattr(getattr(aten, f"{name}_"), overload)
    for name, overload in (
        (row.name.removeprefix("aten."), "Tensor" if row.facts & (Fact.SUM | Fact.SCALING) else "default")
        for row in OPERATORS.values()
        if row.facts & Fact.IN_PLACE
    )
}
#: Others, which are told where to write.
_OUT: dict[Any, tuple[Any, str]] = {aten.threshold_backward.default: (aten.threshold_backward.grad_input, "grad_input")}
_ELEMENTWISE = frozenset((*IN_PLACE, *_OUT))


def _is_fresh(node: fx.Node) -> bool:
    """Is the result memory of its own, whatever its operands are?"""
    return has(node, Fact.FRESH) or node.target in _ELEMENTWISE


def reuse_buffers(graph: fx.Graph) -> dict[fx.Node, tuple[Any, dict[str, Any]]]:
    """The calls of a relevance graph whose results take the place of operands that are read for the last time: what is
    called instead, and further keyword arguments.
    """
    instead: dict[fx.Node, tuple[Any, dict[str, Any]]] = {}
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if (
            node.op != "call_function"
            or not (node.target in IN_PLACE or node.target in _OUT)
            or not _fits_in_first(node)
            or not _is_spent(node.args[0], node, node, order)
        ):
            continue
        if node.target in IN_PLACE:
            instead[node] = (IN_PLACE[node.target], {})
        elif (
            _orders_memory(node.args[0]) is _orders_memory(node.args[1]) is not None
        ):  # the second operand orders the result
            target, name = _OUT[node.target]
            instead[node] = (target, {name: node.args[0]})
    return instead


def _fits_in_first(node: fx.Node) -> bool:
    """Has the result the sizes and the type of the first operand? Its order in memory it takes from there in any case.

    The second operand's place is never taken: kernels order results by the first, and round numbers of other types by
    their side.
    """
    operand, result = (value_of(a) if isinstance(a, fx.Node) else None for a in (node.args[0], node))
    if not (isinstance(operand, Tensor) and isinstance(result, Tensor)):
        return False
    return same_shape(operand, result) and operand.dtype == result.dtype and operand.device == result.device


def _orders_memory(value: Any) -> fx.Node | None:
    """The value, by way of first operands, that elements of this one are in order of; None if it may repeat
    elements.
    """
    if not isinstance(value, fx.Node):
        return None
    if value.target not in IN_PLACE:
        return value if _is_dense(value) else None
    return _orders_memory(value.args[0]) if _fits_in_first(value) else None


def _is_dense(value: Any) -> bool:
    return isinstance(value, fx.Node) and (_is_fresh(value) or (keeps_all_elements(value) and _is_dense(value.args[0])))


def _is_spent(value: Any, via: fx.Node, reader: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Does the memory belong to the value alone, and is this, by way of ``via``, the last look at it?"""
    if not all(user is via or _has_read(user, reader, order) for user in value.users):
        return False
    if keeps_all_elements(value):
        source = value.args[0]
        return isinstance(source, fx.Node) and _is_spent(source, value, reader, order)
    return _is_fresh(value)


def _has_read(user: fx.Node, reader: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Has a reader, and have those who read what it looks at, done so before?"""
    if order[user] >= order[reader]:
        return False
    return all(_has_read(u, reader, order) for u in user.users) if keeps_all_elements(user) else _only_reads(user)


def _only_reads(user: fx.Node) -> bool:
    """Does an operation keep no look at what it is given? Of a composite one its declaration does not say."""
    if _is_fresh(user):
        return True
    if (
        not isinstance(user.target, torch._ops.OpOverload)
        or not op_name(user).startswith("aten.")
        or "unsafe" in op_name(user)
    ):
        return False
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(user.target.name(), "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]
    return not composite and all(r.alias_info is None for r in user.target._schema.returns)
