"""Operators: what is asked of ATen's operations; what is known of each is a row of `lrp_fx.ir.operator_table`."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import fx

from lrp_fx.ir.facts import Axes, Fact, Operator
from lrp_fx.ir.operator_table import OPERATORS

#: Rows by the identity of an operation, each with the operation: torch's hash of one takes longer than the rest.
_ROWS: dict[int, tuple[Any, Operator]] = {}
_NO_CALL = Operator("")


def operator_of(node: Any) -> Operator:
    """The row of a node's operation; an empty one for what is no call or not in the table."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return _NO_CALL
    target = node.target
    found = _ROWS.get(id(target))
    if found is None:
        found = _ROWS[id(target)] = (target, _row(target))
    return found[1]


def _row(target: Any) -> Operator:
    name = operation_name(target)
    known = OPERATORS.get(name, Operator(name))
    tagged = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
    return replace(known, facts=known.facts | Fact.POINTWISE, axes=Axes.ALIGNED) if tagged else known


def operation_name(target: Any) -> str:
    """``aten.mul`` for any overload of multiplication; the function's own name for what is no ATen operation."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name).replace("::", ".")
    return getattr(target, "__name__", str(target))


def same_operation(node: fx.Node) -> Any:
    """The operation that this call's is another name of; None where it is none (or reads memory as another type)."""
    known = operator_of(node)
    if known.same_as is None or isinstance(argument(node, "dtype"), torch.dtype):
        return None
    name, overload = known.same_as.split(".")
    return getattr(getattr(torch.ops.aten, name), overload)


def has(node: Any, facts: Fact) -> bool:
    """Is one of these facts true of a node's operation?"""
    return operator_of(node).facts._value_ & facts._value_ != 0  # (``value`` is a property, and slow)


def may_be_view(node: fx.Node) -> bool:
    """Is it a composite operation whose result may share memory with an operand?"""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not _is_composite(target):
        return False
    aliased = any(a.alias_info is not None for a in target._schema.arguments)
    return aliased or torch.Tag.maybe_aliasing_or_mutating in target.tags


def is_foreign(node: fx.Node) -> bool:
    """Is it an operation of another library than torch?"""
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace not in ("aten", "prims", "prim")


def is_foreign_composite(node: fx.Node) -> bool:
    """Is it an operation of another library that calls torch's?"""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and is_foreign(node) and _is_composite(target)


@cache
def _is_composite(target: torch._ops.OpOverload) -> bool:
    name = f"{target._schema.name}.{target._schema.overload_name}".rstrip(".")
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"))


def is_pointwise(node: Any) -> bool:
    """Does each element of the result come from the elements of the operands at its place?"""
    return has(node, Fact.POINTWISE)


def is_matrix_product(node: Any) -> bool:
    """Does it contract features: a matrix product, a linear map, a convolution?"""
    return has(node, Fact.CONTRACTION | Fact.MAP)


def keeps_order(node: Any) -> bool:
    """Is it the same sequence of elements in another shape?"""
    return operator_of(node).axes in (Axes.REGROUPED, Axes.UNITS)


def keeps_all_elements(node: Any) -> bool:
    """Is each element of the operand once in the result, whatever the axes?"""
    return keeps_order(node) or operator_of(node).axes is Axes.PERMUTED


# ---------------------------------------------------------------------------------------------------- arguments
def argument(node: fx.Node, name: str, default: Any = None) -> Any:
    """An argument of a call by the name that the operation's schema gives it, however it was written.

    Positional, by keyword, or left to its default; ``default`` where the operation has no argument of that name.
    """
    if name in node.kwargs:
        return node.kwargs[name]
    for place, declared in enumerate(declared_arguments(node.target)):
        if declared.name == name:
            given = place < len(node.args)
            return node.args[place] if given else declared.default_value if declared.has_default_value() else default
    return default


def declared_arguments(target: Any) -> list[Any]:
    """The arguments of an operation as its schema declares them; none for what has no schema."""
    schema = getattr(target, "_schema", None)
    return list(schema.arguments) if schema is not None else []


def operand_of(node: fx.Node, place: int = 0) -> fx.Node:
    """An argument that has to be a node."""
    found = node.args[place]
    assert isinstance(found, fx.Node), f"%{node.name}: argument {place} is {found!r}"
    return found


def run_call(node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """A call's operation on other arguments."""
    target: Any = node.target
    return target(*args, **kwargs)


def axis_of(node: fx.Node, rank: int, name: str = "dim") -> int:
    """The axis that a call names, counted from the left; ``rank``: of the value that it counts axes of."""
    return int(argument(node, name, 0)) % rank


def axes_of(node: fx.Node, rank: int, name: str = "dim") -> list[int]:
    """The axes that a call names, counted from the left: all of them where it names none."""
    given = argument(node, name)
    named = [given] if isinstance(given, int) else list(given or range(rank))
    return [int(d) % rank for d in named]


def factors_of(node: fx.Node) -> tuple[Any, ...]:
    """The two factors of a product (behind the term of ``term + a b``)."""
    return tuple(node.args[1:3] if has(node, Fact.TERM_FIRST) else node.args[:2])
