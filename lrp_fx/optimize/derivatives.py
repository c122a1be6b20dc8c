"""Derivatives: a relevance graph that is to run under autograd, with a derivative for all that it computes.

What a rule freezes is a constant of the transpose, not of relevance: it moves with the weights. Two kinds of results
would lose that. The statistics beside the result of a layer, group or batch norm have no derivative in torch, and say
nothing of it (findings/statistics_of_norms_are_differentiated_in_three_ways.sh); some kernels of first derivatives have
none, and say so.

requires  a finished relevance graph without fused attention
ensures   the same values but for rounding; every operation that depends on parameters or floating inputs has a
          derivative, and what it gives is that of the number it computes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import decomposition_table
from torch.utils import _pytree as pytree

from lrp_fx.errors import Problem, UnsupportedOperatorError
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import GraphBuilder, drop_dead_code, is_float, op_name, value_of
from lrp_fx.ir.operators import argument, has
from lrp_fx.ir.sizes import hint
from lrp_fx.ir.source import module_path, source_line
from lrp_fx.ir.tracing import inline, trace
from lrp_fx.optimize.program import RelevanceProgram

aten = torch.ops.aten
#: What torch says of an operation without a derivative, and of one of somebody's own.
_MISSING = ("derivative for", "does not have a derivative", "no autograd formula", "not implemented for")
_HALVES = (torch.float16, torch.bfloat16)
#: Operations whose result holds numbers of their operands.
_HANDS_ON = Fact.MOVE | Fact.SUM | Fact.CHOICE | Fact.EXPANSION | Fact.INTERVAL | Fact.CAST | Fact.COPY
#: What an operation is made of may be made of others in turn.
_ROUNDS = 3


def write_out_derivatives(program: RelevanceProgram) -> None:
    """Detours of differentiation go, and what has no derivative is written as what has one.

    Raises `UnsupportedOperatorError` for operations that cannot be, by name.
    """
    _follow_frozen(program)
    build = GraphBuilder(program.graph, program.mode)
    for node in program.graph.find_nodes(op="call_function", target=aten.native_layer_norm.default):
        _write_statistics(build, node)
    _multiply_numbers(build)
    lacking = _Lacking(program)
    for last in (False,) * _ROUNDS + (True,):
        for node in lacking.find():
            _decompose(program, node, last=last)
    _follow_frozen(program)
    for node in program.graph.find_nodes(op="call_function", target=aten.detach_copy.default):
        node.target = aten.detach.default  # what the model itself detached, for rules that ask: autograd stops there
    drop_dead_code(program.graph)


def _follow_frozen(program: RelevanceProgram) -> None:
    """What rules froze is a number like any other."""
    for node in program.graph.find_nodes(op="call_function", target=aten.detach.default):
        node.replace_all_uses_with(node.args[0])
        program.graph.erase_node(node)


# ------------------------------------------------------------------------------------------------ hidden values
def _multiply_numbers(build: GraphBuilder) -> None:
    """Products ``x * c`` of a hidden ``x`` (minus infinity, the lowest number) and a coefficient of 0, without the x.

    Chosen afterwards, the product would hand ``0 * inf`` to c; and where c is 0 by chance it moves R all the same.
    """
    for node in build.graph.find_nodes(op="call_function", target=aten.threshold_backward.default):
        product, size = node.args[:2]
        c = size.args[0] if isinstance(size, fx.Node) and op_name(size) == "aten.abs" else None
        multiplies = isinstance(product, fx.Node) and op_name(product) == "aten.mul" and c in product.args
        if multiplies and isinstance(c, fx.Node):
            _multiply(build, node, c, product.args[1] if product.args[0] is c else product.args[0])
    hiding = _hiding(build.graph)
    for node in build.graph.find_nodes(op="call_function", target=aten.mul.Tensor):
        x, c = node.args[:2] if node.args[0] in hiding else node.args[1::-1]
        if x in hiding and isinstance(c, fx.Node) and c not in hiding and node.meta.get("lrp"):  # not the model's own
            _multiply(build, node, c, x)


def _multiply(build: GraphBuilder, node: fx.Node, c: fx.Node, x: Any) -> None:
    """``c * x`` in the place of a node."""
    with build.graph.inserting_before(node):
        if isinstance(x, fx.Node) and value_of(x).is_floating_point():
            small = build.call(aten.le.Scalar, build.call(aten.abs.default, x), _largest(x))
            hidden = build.call(aten.logical_not.default, small)
            unread = build.call(aten.logical_and.default, hidden, build.call(aten.eq.Scalar, c, 0))
            x = build.call(aten.where.ScalarSelf, unread, 0.0, x)
        node.replace_all_uses_with(build.call(aten.mul.Tensor, c, x, like=node))
    build.graph.erase_node(node)


def _largest(x: fx.Node) -> float:
    """What is larger hides: no number that a model computes with, for its square has none."""
    return math.sqrt(torch.finfo(value_of(x).dtype).max)


def _hiding(graph: fx.Graph) -> set[fx.Node]:
    """Values that hold such numbers where something is hidden: masks, scores with a mask, and these moved."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        value = value_of(node)
        if node.op != "call_function" or not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        numbers = [a for a in pytree.tree_leaves((node.args, dict(node.kwargs))) if isinstance(a, float)]
        hides = any(not abs(a) <= _largest(node) for a in numbers) and not has(node, Fact.GUARD)
        if hides or (has(node, _HANDS_ON) and any(a in found for a in node.all_input_nodes)):
            found.add(node)
    return found


# ------------------------------------------------------------------------------------------------ statistics
def _write_statistics(build: GraphBuilder, node: fx.Node) -> None:
    """Mean and inverse deviation that are read beside a layer norm's result, computed from its operand."""
    made: dict[int, fx.Node] = {}
    for user in [u for u in node.users if op_name(u) == "getitem" and u.args[1] in (1, 2)]:
        which: Any = user.args[1]
        if which not in made:
            with build.graph.inserting_before(min(u for u in node.users if op_name(u) == "getitem")):
                made[which] = _statistic(build, node, which)
        user.replace_all_uses_with(made[which])
        build.graph.erase_node(user)


def _statistic(build: GraphBuilder, node: fx.Node, which: int) -> fx.Node:
    x: Any = node.args[0]
    rank = value_of(x).dim()
    dims = list(range(rank - len(argument(node, "normalized_shape")), rank))
    if value_of(x).dtype in _HALVES:
        x = build.call(aten._to_copy.default, x, dtype=torch.float32)
    if which == 1:
        return build.call(aten.mean.dim, x, dims, True)
    spread = build.call(aten.var.correction, x, dims, correction=0, keepdim=True)
    return build.call(aten.rsqrt.default, build.call(aten.add.Tensor, spread, argument(node, "eps")))


# ------------------------------------------------------------------------------------------------ kernels
class _Lacking:
    """Finds operations without a derivative. ``known``: of an operation with operands of these types and ranks."""

    def __init__(self, program: RelevanceProgram) -> None:
        self.program = program
        self.known: dict[Any, bool] = {}

    def find(self) -> list[fx.Node]:
        """Those whose operands have one."""
        followed: set[fx.Node] = set()
        found = []
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                starts = is_float(node)
            elif node.op == "get_attr":
                starts = isinstance(_attribute(self.program.root, str(node.target)), nn.Parameter)
            else:
                starts = node.op == "call_function" and any(a in followed for a in node.all_input_nodes)
            if starts and (is_float(node) or isinstance(value_of(node), (tuple, list))):
                followed.add(node)
                if node.op == "call_function" and self._lacks(node):
                    found.append(node)
        return found

    def _lacks(self, node: fx.Node) -> bool:
        operands = tuple((v.dtype, v.dim()) if isinstance(v, Tensor) else None for v in _values(node))
        key = (node.target, operands, results_read(node))
        if key not in self.known:
            self.known[key] = isinstance(node.target, torch._ops.OpOverload) and lacks_derivative(node)
        return self.known[key]


def results_read(node: fx.Node) -> tuple[int, ...]:
    """Which of an operation's several results somebody reads."""
    if not isinstance(value_of(node), (tuple, list)):
        return ()
    return tuple(sorted({int(u.args[1]) for u in node.users if op_name(u) == "getitem"}))  # type: ignore[arg-type]


def lacks_derivative(node: fx.Node) -> bool:
    """Has an operation no derivative, or one of the results that are read? Asked of tensors without numbers, of the
    traced sizes: what torch says and, of several results, which of them hang on an operand.
    """
    leaves: list[Tensor] = []

    def stand_in(a: fx.Node) -> Any:
        value = value_of(a)
        if isinstance(value, Tensor):
            made = torch.empty([hint(s) for s in value.shape], dtype=value.dtype, device="meta")
            if made.is_floating_point() or made.is_complex():
                leaves.append(made.requires_grad_())
            return made
        return value if isinstance(value, (int, float, bool)) else hint(value)

    args, kwargs = fx.map_arg((node.args, {**node.kwargs}), stand_in)
    target: Any = node.target
    try:
        with torch.enable_grad():
            given = target(*args, **{**kwargs, **_on_meta(kwargs)})
            active = [r for r in pytree.tree_leaves(given) if isinstance(r, Tensor) and r.requires_grad]
            read = [given[i] for i in results_read(node)]
            if any(_hangs_on_nothing(r, leaves) for r in read):
                return True
            if active:
                torch.autograd.grad(active, leaves, [torch.empty_like(r) for r in active], allow_unused=True)
    except Exception as error:  # others than these are of the stand-ins, which hold no numbers
        return any(text in str(error) for text in _MISSING)
    return False


def _hangs_on_nothing(result: Any, leaves: list[Tensor]) -> bool:
    """Is a number computed from operands, and has it no derivative by any of them?"""
    if not isinstance(result, Tensor) or not result.is_floating_point() or not leaves:
        return False
    if not result.requires_grad:
        return True
    found = torch.autograd.grad([result], leaves, [torch.empty_like(result)], allow_unused=True, retain_graph=True)
    return all(slope is None for slope in found)


def _on_meta(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"device": torch.device("meta")} if kwargs.get("device") is not None else {}


def _values(node: fx.Node) -> Iterator[Any]:
    return (value_of(a) for a in node.all_input_nodes)


def _attribute(root: nn.Module, path: str) -> Any:
    found: Any = root
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _copied(destination: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """``copy``, as a write into a view is when made functional."""
    return source.to(destination.dtype).expand(destination.shape)


#: What torch has no decomposition of.
_OWN: dict[Any, Callable[..., Any]] = {aten.copy.default: _copied}


def _decompose(program: RelevanceProgram, node: fx.Node, *, last: bool) -> None:
    """A kernel as the operations that torch says it is made of; raises `UnsupportedOperatorError` where it does not."""
    made_of: Callable[..., Any] | None = _OWN.get(node.target) or decomposition_table.get(node.target)  # type: ignore[call-overload]
    if made_of is None or last:
        raise UnsupportedOperatorError(str(_problem(program, node)))
    flat, spec = pytree.tree_flatten((node.args, dict(node.kwargs)), is_leaf=lambda x: x is None)
    places = [i for i, a in enumerate(flat) if isinstance(a, fx.Node)]
    several = isinstance(value_of(node), (tuple, list))

    def run(*values: Any) -> list[Any]:
        full = list(flat)
        for i, v in zip(places, values, strict=True):
            full[i] = v
        args, kwargs = pytree.tree_unflatten(full, spec)
        result = made_of(*args, **kwargs)
        return list(result) if several else [result]

    operands = [flat[i] for i in places]
    module = trace(run, [value_of(a) for a in operands], program.mode)
    with program.graph.inserting_before(node):
        parts = inline(program.graph, module, operands, node.meta.get("lrp"))
    if not several:
        node.replace_all_uses_with(parts[0])
    for user in list(node.users) if several else ():
        user.replace_all_uses_with(parts[user.args[1]])  # type: ignore[index]
        program.graph.erase_node(user)
    program.graph.erase_node(node)


def _problem(program: RelevanceProgram, node: fx.Node) -> Problem:
    of = (node.meta.get("lrp") or (node.name,))[0]
    at = next((n for n in program.graph.nodes if n.name == of), node)
    return Problem(
        f"%{node.name} = {op_name(node)}, which differentiable=True needs the derivative of (for %{of})",
        f"{module_path(at) or 'model'}, {source_line(at)}",
        "torch has no derivative for this operation, so relevance cannot hand gradients through it",
        "write the operation of the model as simpler ones, choose rules that do not differentiate it, or explain "
        "without differentiable=True",
    )
