"""Opaque maps: operations that torch cannot differentiate (kernels of quantisers, mostly) and that are learned linear
maps, as products with the matrix that they were found to apply.

requires  a functional program
ensures   an operation of constants and of one value that the inputs decide is gone if, run on drawn rows, it proved to
          be a linear map of their last axis; ``aten.linear`` computes what it computed, to rounding. Others stay

What a kernel does with codes and scales need not be known: run on the identity, it gives its matrix. That matrix is
computed once, and held as long as the program; the tensors that it was read from are noted with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from lrp_fx.errors import raise_if_out_of_memory
from lrp_fx.ir.graph import ancestors, call_like, drop_dead_code, hashable, is_random, iter_nodes, op_name, value_of
from lrp_fx.ir.operators import is_foreign, operator_of
from lrp_fx.ir.passes import is_own_fault
from lrp_fx.ir.program import Program
from lrp_fx.ir.read import Read
from lrp_fx.ir.sizes import hint, same_size
from lrp_fx.rule import registry

aten = torch.ops.aten
#: How far drawn rows may lie from what the matrix says of them, relative to the largest: rounding. An operation that
#: quantises its inputs, too, lies hundred times further away.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 2**-8, torch.bfloat16: 2**-5}
#: Rows of the identity that are run at a time, and rows that are drawn.
_ROWS, _DRAWN = 1024, 16
_AUTOGRAD = ("Autograd", "AutogradCPU", "AutogradCUDA", "CompositeImplicitAutograd")


class _Map(NamedTuple):
    """``call``: what it makes of values in the place of its ``operand``; ``read``: its constants; ``own``: torch's?"""

    call: Callable[[Tensor], Tensor]
    operand: fx.Node
    read: list[fx.Node]
    own: bool


class _Matrix(NamedTuple):
    weight: Tensor
    bias: Tensor | None


def write_opaque_maps(program: Program) -> Program:
    """Put matrix products in the place of opaque maps, on a program that nobody else holds."""
    constants = _Constants(program)
    found: dict[Any, _Matrix | None] = {}
    for node in [n for n in program.graph.nodes if _may_be_one(n)]:
        one = constants.map_of(node)
        if one is None:
            continue
        key = _key(node, one.operand)
        if key not in found:
            found[key] = _matrix(one)
            constants.note(one, found[key])
        if (matrix := found[key]) is not None:
            _put(program, node, one.operand, matrix)
    drop_dead_code(program.graph)
    program.module.recompile()
    return replace(program, read=(*program.read, *constants.noted))


def _key(node: fx.Node, operand: fx.Node) -> Any:
    """Equal for calls that apply one map to values of one type."""
    described = (value_of(operand).dtype, value_of(operand).dim())
    return (
        node.target,
        described,
        hashable(fx.map_arg((node.args, node.kwargs), lambda n: n if n is not operand else 0)),
    )


def _may_be_one(node: fx.Node) -> bool:
    """Is it an operation of which nothing is known, that gives one floating tensor and says of no derivative?"""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload) or is_random(node):
        return False
    known, value = operator_of(node), value_of(node)
    if known.facts or known.axes is not None or any(known.name in rule.ops for rule in registry.rules.values()):
        return False
    plain = isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1
    return plain and not (is_foreign(node) and _has_autograd(node.target))


def _has_autograd(target: torch._ops.OpOverload) -> bool:
    """Did somebody say what autograd is to do? (Else it follows the kernel, of which a trace sees nothing.)"""
    name = f"{target._schema.name}.{target._schema.overload_name}".rstrip(".")
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in _AUTOGRAD)


class _Constants:
    """What does not depend on inputs, computed; ``noted``: tensors of the model that matrices were read from."""

    def __init__(self, program: Program) -> None:
        self.module = program.module
        self.noted: list[Read] = []
        self._values: dict[fx.Node, Any] = {}

    def map_of(self, node: fx.Node) -> _Map | None:
        """The operation as a function of its one floating operand that is no constant; None where there are several,
        or none, or it is not mapped along its last axis.
        """
        operands = [n for n in dict.fromkeys(iter_nodes(node.args, node.kwargs)) if not _is_constant(n)]
        if len(operands) != 1 or not _maps_last_axis(operands[0], node):
            return None
        given = [n for n in dict.fromkeys(iter_nodes(node.args, node.kwargs)) if n is not operands[0]]
        target: Any = node.target

        def call(x: Tensor) -> Tensor:
            values = {operands[0]: x, **{n: self._value(n) for n in given}}
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            return target(*args, **kwargs)  # type: ignore[no-any-return]

        return _Map(call, operands[0], given, not is_foreign(node))

    def _value(self, node: fx.Node) -> Any:
        if node not in self._values:
            if node.op == "get_attr":
                self._values[node] = getattr(self.module, str(node.target))
            else:
                args, kwargs = fx.map_arg((node.args, node.kwargs), self._value)
                self._values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return self._values[node]

    def note(self, one: _Map, matrix: _Matrix | None) -> None:
        """Note which tensors of the model a matrix was read from."""
        if matrix is None:
            return
        self.noted += [Read(getattr(self.module, str(n.target))) for n in ancestors(one.read) if n.op == "get_attr"]


def _is_constant(node: fx.Node) -> bool:
    """Do neither inputs nor chance decide what it is?"""
    above = ancestors([node])
    return all(n.op == "get_attr" or (n.op == "call_function" and not is_random(n)) for n in above)


def _maps_last_axis(operand: fx.Node, node: fx.Node) -> bool:
    before, after = value_of(operand), value_of(node)
    if not isinstance(before, Tensor) or before.dim() != after.dim() or before.dtype not in _ROUNDING:
        return False
    return all(same_size(a, b) for a, b in zip(before.shape[:-1], after.shape[:-1], strict=True))


# ------------------------------------------------------------------------------------------------ the matrix
def _matrix(one: _Map) -> _Matrix | None:
    """What the operation multiplies rows with and adds to them; None where it is no such map, does not run, or is
    differentiated by torch.
    """
    try:
        with torch.no_grad():
            return None if one.own and _is_differentiated(one) else _checked(one, _measured(one))
    except Exception as error:  # of a kernel, which may not run on this machine or on other rows
        raise_if_out_of_memory(error)
        if is_own_fault(error):
            raise
        return None


def _is_differentiated(one: _Map) -> bool:
    """Does torch know the derivative of an operation of its own?"""
    with torch.enable_grad():
        x = _drawn(one, 1, 1.0).requires_grad_()
        y = _rows(one, x)
        try:
            return y.requires_grad and bool(torch.autograd.grad(y.sum(), x)[0].isfinite().all())
        except RuntimeError:
            return False


def _width(one: _Map) -> int:
    """The size of the axis that is mapped (a symbol, where the kernel says nothing of it)."""
    return int(hint(value_of(one.operand).shape[-1]))


def _drawn(one: _Map, rows: int, size: float) -> Tensor:
    """Random rows (n, in)."""
    like, width = value_of(one.operand), _width(one)
    draw = torch.randn(rows, width, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    return (draw * size).to(device=like.device, dtype=like.dtype)


def _rows(one: _Map, rows: Tensor, axis: int = -2) -> Tensor:
    """What becomes of rows (n, in), (n, out), given along one axis of as many as the operand has."""
    sizes = [1] * value_of(one.operand).dim()
    sizes[axis], sizes[-1] = rows.shape
    return one.call(rows.reshape(sizes)).reshape(len(rows), -1)


def _measured(one: _Map) -> _Matrix:
    like = value_of(one.operand)
    identity = torch.eye(_width(one), dtype=like.dtype, device=like.device)
    at_zero = _rows(one, torch.zeros_like(identity[:1]))[0]
    columns = [_rows(one, part) - at_zero for part in torch.split(identity, _ROWS)]
    return _Matrix(torch.cat(columns).mT.contiguous(), at_zero.clone() if bool(at_zero.any()) else None)


def _checked(one: _Map, matrix: _Matrix) -> _Matrix | None:
    """The matrix, if small and large rows, few and many, along any axis, are mapped by it."""
    limit = _ROUNDING[value_of(one.operand).dtype]
    for rows, size, axis in ((_DRAWN, 1.0, -2), (3, 2.0**-8, 0), (2 * _DRAWN, 2.0**8, -2)):
        x = _drawn(one, rows, size)
        wanted = _rows(one, x, axis)
        got = torch.nn.functional.linear(x, matrix.weight, matrix.bias)
        if wanted.shape != got.shape or not bool(wanted.isfinite().all()):
            return None
        if not float((got.double() - wanted.double()).abs().max()) <= limit * float(wanted.abs().max()):
            return None
    return matrix


def _put(program: Program, node: fx.Node, operand: fx.Node, matrix: _Matrix) -> None:
    """A product with the matrix in the place of the operation."""
    graph = program.graph
    with graph.inserting_before(node):
        tensors = [_tensor(program, node, name, t) for name, t in matrix._asdict().items() if t is not None]
        result = call_like(graph, node, aten.linear.default, operand, *tensors)
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _tensor(program: Program, node: fx.Node, name: str, tensor: Tensor) -> fx.Node:
    """A tensor of the program's own, shared by operations that have the same."""
    module = program.module
    held = next((n for n, t in module.named_buffers() if t is tensor), None)
    if held is None:
        held = f"{node.name}_{name}"
        module.register_buffer(held, tensor)
    new = program.graph.get_attr(held)
    new.meta = {**node.meta, "val": value_of(node).fake_mode.from_tensor(tensor, static_shapes=True)}
    new.meta |= {"origin": "parameter", "matrix_of": op_name(node)}
    return new
