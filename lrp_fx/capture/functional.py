"""Functional form: an exported graph without writes, and without tracing it a second time where that can be helped.

Export keeps the operations that the model's code calls, some of which write into what they are given.
``run_decompositions`` makes such a graph functional by running it again, which takes as long as the export did. Most
models write nothing, or only into values of their own that nobody looks at any more (``scores += bias``): these writes
become the operations without them, one by one.

requires  the graph of an exported program
ensures   no operation writes into an operand; the same values
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.operators import argument, has, operand_of

aten = torch.ops.aten
#: Views of a part of a value, and what puts a part back into the whole.
_PARTS: dict[str, Any] = {"aten.select": aten.select_scatter.default, "aten.slice": aten.slice_scatter.default}
#: Of a part of a value: the whole, what puts the part back, and where.
_Part = tuple[fx.Node, Any, tuple[Any, ...]]


class NeedsRetracing(Exception):
    """The graph has to be run again to become functional; says why."""


def check_flat(graph: fx.Graph) -> None:
    """Raise `NeedsRetracing` where a part of a graph is a graph of its own (a region with a mode of its own)."""
    for node in graph.nodes:
        if node.op in ("call_module", "call_method") or isinstance(node.target, torch._ops.HigherOrderOperator):
            raise NeedsRetracing(f"%{node.name}: {node.target}")


def check_no_autocast(values: dict[str, Any]) -> None:
    """Raise `NeedsRetracing` inside a region of autocast: its casts are no operations before the graph is run again."""
    devices = {"cpu", *(v.device.type for v in values.values() if isinstance(v, torch.Tensor))}
    if any(torch.is_autocast_enabled(device) for device in devices):
        raise NeedsRetracing("autocast is on")


def write_functionally(graph: fx.Graph) -> None:
    """Replace every write by the operation that returns what it would have written, in place.

    Raises `NeedsRetracing`, with the graph partly rewritten, where that is not so simple: a value that others see, an
    input, a weight.
    """
    for node in list(graph.nodes):
        _see_through(graph, node)
    place = {node: i for i, node in enumerate(graph.nodes)}
    roots, parts = roots_of(graph), dict[fx.Node, _Part]()
    for node in list(graph.nodes):
        if op_name(node) in _PARTS and isinstance(node.args[0], fx.Node) and not node.kwargs:
            parts[node] = (node.args[0], _PARTS[op_name(node)], node.args[1:])
        if not writes(node):
            continue
        operation = _without_write(node)
        views = _views(node, parts)
        _check_owned(node, views, roots, place)
        _replace(graph, node, operation, place)
        _put_back(graph, node, views, parts, roots, place)


def _see_through(graph: fx.Graph, node: fx.Node) -> None:
    """Let what returns its operand as it is, such as dropout that drops nothing, be this operand: a write into one is a
    write into the other (which torch's own retracing misses).
    """
    if not isinstance(node.target, torch._ops.OpOverload) or not has(node, Fact.IDENTITY):
        return
    if has(node, Fact.COPY | Fact.DETACHES):
        return
    if argument(node, "train"):
        raise NeedsRetracing(f"%{node.name} = {node.target} drops elements")
    if isinstance(value_of(node), torch.Tensor):
        node.replace_all_uses_with(operand_of(node))
        graph.erase_node(node)


def writes(node: fx.Node) -> bool:
    """Does a call write into one of its operands?"""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    of_the_batch = torch.Tag.maybe_aliasing_or_mutating in target.tags and argument(node, "training", False)
    return bool(target._schema.is_mutable or of_the_batch)  # the schema of a batch norm that counts says otherwise


def written_operand(node: fx.Node) -> fx.Node | None:
    """The operand that a call writes into, by its schema (the first, or ``out=``); None where it writes into none."""
    target = node.target
    if not writes(node) or not isinstance(target, torch._ops.OpOverload):
        return None
    for place, declared in enumerate(target._schema.arguments):
        if declared.alias_info is not None and declared.alias_info.is_write:
            value = node.args[place] if place < len(node.args) else node.kwargs.get(declared.name)
            return value if isinstance(value, fx.Node) else None
    return None


def roots_of(graph: fx.Graph) -> dict[fx.Node, frozenset[fx.Node]]:
    """For each value those whose memory a value may share: itself, if it has its own."""
    roots: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in graph.nodes:
        sources = [a for a in _aliased(node) if roots[a] != {a} or not isinstance(value_of(a), (list, tuple))]
        shared: frozenset[fx.Node] = frozenset().union(*(roots[a] for a in sources))
        roots[node] = shared or frozenset((node,))  # each of several results that are no views has its own
    return roots


def _aliased(node: fx.Node) -> list[fx.Node]:
    """The operands that a result may be a view of."""
    target = node.target
    if node.op != "call_function":
        return []
    if not isinstance(target, torch._ops.OpOverload):  # one of several results; arithmetic on sizes
        return list(node.all_input_nodes)
    if torch.Tag.maybe_aliasing_or_mutating in target.tags:
        return list(node.all_input_nodes)  # of which the schema says otherwise
    given = [*zip(target._schema.arguments, node.args, strict=False)]
    given += [(a, node.kwargs[a.name]) for a in target._schema.arguments if a.name in node.kwargs]
    found: list[fx.Node] = []
    fx.map_arg([value for declared, value in given if declared.alias_info is not None], found.append)
    return found


def _without_write(node: fx.Node) -> Any:
    """The operation that returns what a call would have written."""
    target: Any = node.target
    written = [a.name for a in target._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    name, overload = op_name(node).removeprefix("aten."), target._overloadname
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") and not name.endswith("__") else None
    found = getattr(packet, overload, None)
    if found is None or found._schema.is_mutable or written != [target._schema.arguments[0].name]:
        raise NeedsRetracing(f"%{node.name} = {target} writes")
    return found


def _views(node: fx.Node, parts: dict[fx.Node, _Part]) -> list[fx.Node]:
    """What is written into; if that is a part of another value this, and so on up to the whole."""
    found = [node.args[0]]
    while isinstance(last := found[-1], fx.Node) and last in parts:
        found.append(parts[last][0])
    return [n for n in found if isinstance(n, fx.Node)]


def _check_owned(
    node: fx.Node, views: list[fx.Node], roots: dict[fx.Node, frozenset[fx.Node]], place: dict[fx.Node, int]
) -> None:
    """Raise unless nobody but the value itself, and what it is a part of, is asked for what was written."""
    written = views[0]
    if any(root.op != "call_function" for root in roots[written]):
        raise NeedsRetracing(f"%{node.name} = {node.target} writes into an input or a weight")
    for other, theirs in roots.items():
        late = [u for u in other.users if place.get(u, -1) > place[node]]
        if other not in (*views, node) and theirs & roots[written] and place[other] < place[node] and late:
            raise NeedsRetracing(f"%{node.name} = {node.target} writes into what %{other.name} sees")


def _replace(graph: fx.Graph, node: fx.Node, operation: Any, place: dict[fx.Node, int]) -> None:
    written = node.args[0]
    assert isinstance(written, fx.Node)
    before = value_of(written)
    if not hasattr(before, "fake_mode"):
        raise NeedsRetracing(f"%{node.name} = {node.target} writes into a constant that the model's code made")
    args, kwargs = fx.map_arg((node.args, node.kwargs), value_of)
    with before.fake_mode, enable_python_dispatcher(), torch.no_grad():
        value = operation(*args, **kwargs)
    if value.dtype != before.dtype or value.shape != before.shape:
        raise NeedsRetracing(f"%{node.name} = {node.target} writes what is cast")
    node.target = operation
    node.meta = {**node.meta, "val": value}
    _read_later(written, node, node, place)


def _put_back(
    graph: fx.Graph,
    node: fx.Node,
    views: list[fx.Node],
    parts: dict[fx.Node, _Part],
    roots: dict[fx.Node, frozenset[fx.Node]],
    place: dict[fx.Node, int],
) -> None:
    """What was written into a part stands in the whole, for all that read it later."""
    last = node
    for part in views[:-1]:
        whole, operation, at = parts[part]
        with value_of(whole).fake_mode, enable_python_dispatcher(), torch.no_grad():
            value = operation(value_of(whole), value_of(last), *fx.map_arg(at, value_of))
        with graph.inserting_after(last):
            new = graph.call_function(operation, (whole, last, *at))
        new.meta = {**node.meta, "val": value}
        roots[new], place[new] = roots[whole], place[node]
        _read_later(whole, new, node, place)
        parts[last], last = (new, operation, at), new


def _read_later(before: fx.Node, after: fx.Node, write: fx.Node, place: dict[fx.Node, int]) -> None:
    """Let all that comes after a write read the value after it."""
    before.replace_all_uses_with(after, delete_user_cb=lambda user: place.get(user, -1) > place[write])
