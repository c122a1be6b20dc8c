"""In place: an operation whose operand nobody reads again writes its result where that operand was.

Fresh memory costs more than arithmetic: the operating system hands it over page by page. The graph that is read, saved and
batched computes without writing to anything; this is a copy of it, for running.

requires  a finished relevance graph, to be run without autograd; nodes without an example value (`meta["val"]`) are left as they are
ensures   the same values, bit by bit: the same kernels over the same elements; the given module is left as it is
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.program import op_name

aten = torch.ops.aten
#: Elementwise operations of a first operand, and what puts the result in its place.
IN_PLACE: dict[Any, Any] = {
    **{getattr(aten, name).Tensor: getattr(aten, f"{name}_").Tensor for name in "add sub mul div".split()},
    **{getattr(aten, name).default: getattr(aten, f"{name}_").default for name in "abs neg log exp sqrt rsqrt reciprocal clamp_min relu".split()},
}
#: Those whose two operands may change places.
_SYMMETRIC = frozenset((aten.mul.Tensor,))
#: Operations whose result is memory of its own, whatever their operands are.
_FRESH = frozenset(
    (*IN_PLACE, *IN_PLACE.values(), aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.matmul.default, aten.linear.default)
    + (aten.softmax.int, aten._softmax_backward_data.default, aten.threshold_backward.default)
)
#: Another look at the same memory, or a copy where there is no such look.
_LOOKS = frozenset(f"aten.{name}" for name in "reshape view transpose permute unsqueeze squeeze t".split())


class Running:
    """A relevance graph as it is run. It follows the graph: changed and recompiled, as `torch.fx` allows, that is what runs."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self._made: tuple[str, fx.GraphModule] | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        return self.copy(*inputs)

    @property
    def copy(self) -> fx.GraphModule:
        """The copy that writes in place, of the graph's present code."""
        made = self._made
        if made is None or made[0] is not self.module.code:
            made = self._made = (self.module.code, write_in_place(self.module))
        return made[1]


def write_in_place(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of a relevance graph in which results take the place of operands that are read for the last time."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        place = _place(node, order)
        if place is not None:
            node.args = (node.args[place], *(a for i, a in enumerate(node.args) if i != place))
            node.target = IN_PLACE[node.target]
    return fx.GraphModule(module, graph, "RelevanceGraph")


def _place(node: fx.Node, order: dict[fx.Node, int]) -> int | None:
    """Which operand's memory the result may take, None if no one's."""
    if node.op != "call_function" or node.target not in IN_PLACE:
        return None
    for i, operand in enumerate(node.args[: 2 if node.target in _SYMMETRIC else 1]):
        if isinstance(operand, fx.Node) and _is_alike(operand.meta.get("val"), node.meta.get("val")) and _is_spent(operand, node, order):
            return i
    return None


def _is_spent(value: fx.Node, reader: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Is this the last look at memory that belongs to the value alone?"""
    if any(order[user] > order[reader] or not _only_reads(user) for user in value.users if user is not reader):
        return False
    if op_name(value) in _LOOKS:
        source = value.args[0]
        return isinstance(source, fx.Node) and _is_spent(source, value, order)
    return value.target in _FRESH


def _only_reads(user: fx.Node) -> bool:
    """Does an operation keep no look at what it is given? Of a composite one its declaration does not say."""
    if user.target in _FRESH:
        return True
    if not isinstance(user.target, torch._ops.OpOverload) or not op_name(user).startswith("aten.") or "unsafe" in op_name(user):
        return False
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(user.target.name(), "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]
    return not composite and all(r.alias_info is None for r in user.target._schema.returns)


def _is_alike(operand: Any, result: Any) -> bool:
    """Same sizes, strides, type and device: what is read after it sees what it would have seen."""
    if not (isinstance(operand, Tensor) and isinstance(result, Tensor)) or operand.dim() != result.dim():
        return False
    before, after = (*operand.shape, *operand.stride()), (*result.shape, *result.stride())
    return operand.dtype == result.dtype and operand.device == result.device and all(str(a) == str(b) for a, b in zip(before, after, strict=True))
