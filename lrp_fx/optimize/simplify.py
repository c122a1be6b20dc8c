"""Simplify: a relevance graph without detours."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

from lrp_fx.ir.facts import Axes, Fact, Operator
from lrp_fx.ir.graph import deduplicate, op_name, sets_strides, value_of
from lrp_fx.ir.operators import argument, has, keeps_order, operator_of, same_operation
from lrp_fx.ir.sizes import same_shape, size_key

aten = torch.ops.aten
_PART_OR_MORE = Fact.EXPANSION | Fact.INTERVAL
_DETOURS = Fact.IDENTITY | Fact.RECONSTRUCTION | Fact.COPY | _PART_OR_MORE


def simplify(graph: fx.Graph) -> None:
    """Detaches, copies and no-op views go, sizes are read once, equal expressions are computed once."""
    sizes = sizes_of_inputs(graph)
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        value = value_of(node)
        if not isinstance(value, torch.SymInt) and not _may_go(operator_of(node)):
            continue
        name = op_name(node)
        if isinstance(value, torch.SymInt) and name != "aten.sym_size":
            sizes.setdefault(size_key(value), node)  # a size read from a tensor would keep the tensor
        if name == "aten.sym_size" and not isinstance(value, int) and value is not None:
            first = sizes.setdefault(size_key(value), node)
            if first is not node:
                node.replace_all_uses_with(first)
                graph.erase_node(node)
        elif _is_identity(node) or _is_mere_copy(node) or _is_no_op(node):
            kept = node.meta.get("lrp")
            source = node.args[0]
            assert isinstance(source, fx.Node)
            if (
                kept is not None
                and kept[1] == "coefficient"
                and (source.meta.get("lrp") or ("", ""))[1] != "coefficient"
            ):
                source.meta["lrp"] = kept
            node.replace_all_uses_with(source)
            graph.erase_node(node)
        elif name == "aten.t" and op_name(node.args[0]) == "aten.t":
            node.replace_all_uses_with(node.args[0].args[0])
            graph.erase_node(node)
        elif (plain := same_operation(node)) is not None:
            node.target = plain
    _negate_last(graph)
    deduplicate(graph)
    _take_parts_at_once(graph)


def simplify_part(graph: fx.Graph) -> None:
    """What can be said of a graph that is going to be copied into others, whatever they are: identities and no-op views
    go, equal expressions are computed once.
    """
    for node in list(graph.nodes):
        if node.op == "call_function" and (_is_identity(node) or _is_no_op(node)):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    deduplicate(graph)


def _negate_last(graph: fx.Graph) -> None:
    """A sum is negated instead of its terms, and instead of one factor of them: it has fewer elements."""
    for node in list(graph.nodes):
        name = op_name(node) if node.op == "call_function" else ""
        if name != "aten.sum" and not (
            name == "aten.mul" and node.users and all(op_name(user) == "aten.sum" for user in node.users)
        ):
            continue
        value = value_of(node)
        whole_numbers = isinstance(value, Tensor) and not value.is_floating_point()  # may wrap around
        if whole_numbers or (name == "aten.mul" and node.args[0] is node.args[1]):  # a square has no sign
            continue
        for negative in [a for a in node.args[:2] if isinstance(a, fx.Node) and op_name(a) == "aten.neg"][:1]:
            node.args = tuple(negative.args[0] if a is negative else a for a in node.args)
            with graph.inserting_after(node):
                negated = graph.call_function(aten.neg.default, (node,))
            negated.meta = dict(node.meta)
            node.replace_all_uses_with(negated, delete_user_cb=lambda user, new=negated: user is not new)


def _take_parts_at_once(graph: fx.Graph) -> None:
    """Read an operation's several results as soon as there are any: read later, the one would keep the others."""
    for node in list(graph.nodes):
        if node.op == "call_function" and isinstance(value_of(node), (tuple, list)):
            for user in reversed(list(node.users)):
                if user.target is operator.getitem:
                    node.append(user)


def sizes_of_inputs(graph: fx.Graph) -> dict[str, fx.Node]:
    """Symbolic sizes by name, read from the inputs: read from anything else, they would keep it."""
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    found: dict[str, fx.Node] = {}
    if not inputs:
        return found
    with graph.inserting_after(inputs[-1]):
        for node in inputs:
            value = value_of(node)
            for axis, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
                if isinstance(size, torch.SymInt) and size_key(size) not in found:
                    made = found[size_key(size)] = graph.call_function(aten.sym_size.int, (node, axis))
                    made.meta["val"] = size
    return found


def _may_go(known: Operator) -> bool:
    """May an operation be a detour, or another name of one?"""
    return (
        known.facts._value_ & _DETOURS._value_ != 0
        or known.axes in (Axes.REGROUPED, Axes.UNITS)
        or known.same_as is not None
        or known.name in ("aten.sym_size", "aten.t")
    )


def _is_identity(node: fx.Node) -> bool:
    if not has(node, Fact.IDENTITY | Fact.RECONSTRUCTION) or has(node, Fact.COPY):
        return False
    return not argument(node, "train")  # dropout that drops, which a target may ask for


def _is_mere_copy(node: fx.Node) -> bool:
    """A copy that nobody asks for its strides: nothing is written to in this graph, and ``reshape`` copies by itself
    where it must.
    """
    return has(node, Fact.COPY) and not sets_strides(node)


def _is_no_op(node: fx.Node) -> bool:
    source = node.args[0] if node.args else None
    may_be_none = keeps_order(node) or has(node, _PART_OR_MORE)
    if not isinstance(source, fx.Node) or not may_be_none:
        return False
    before, after = value_of(source), value_of(node)
    return (
        isinstance(before, Tensor)
        and isinstance(after, Tensor)
        and before.dtype == after.dtype
        and same_shape(before, after)
    )
