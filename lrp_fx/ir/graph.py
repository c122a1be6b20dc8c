"""Graphs: walks over the nodes of an `fx.Graph`, what is recorded of a node, and a builder that records it for new
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses import FakeTensorMode

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.operators import argument, has, operation_name, operator_of
from lrp_fx.ir.sparse import strides_of


def output_node(graph: fx.Graph) -> fx.Node:
    node: fx.Node = next(n for n in reversed(graph.nodes) if n.op == "output")
    return node


def value_of(node: fx.Node) -> Any:
    """The abstract value (fake tensor, symbolic integer, or tuple of them) recorded for a node."""
    return node.meta.get("val")


def is_tensor(node: fx.Node) -> bool:
    return isinstance(value_of(node), torch.Tensor)


def is_float(node: fx.Node) -> bool:
    """Does the node hold values that can carry relevance (floating point or complex, or a tuple with some)?"""
    val = value_of(node)
    values = val if isinstance(val, (tuple, list)) else (val,)
    return any(isinstance(v, torch.Tensor) and (v.is_floating_point() or v.is_complex()) for v in values)


def op_name(node: fx.Node) -> str:
    """``aten.mul`` for any overload of multiplication; the function's own name for what is no ATen operation."""
    return operator_of(node).name if node.op == "call_function" else operation_name(node.target)


def tensor_args(node: fx.Node) -> list[fx.Node]:
    """All tensor-valued argument nodes in order, lists flattened, repeats kept."""
    return [n for n in iter_nodes(node.args, node.kwargs) if value_of(n) is not None and not is_scalar(n)]


def is_scalar(node: fx.Node) -> bool:
    return isinstance(value_of(node), (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool))


def iter_nodes(*trees: Any) -> Iterator[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(trees, lambda n: found.append(n))
    return iter(found)


def ancestors(nodes: Iterable[fx.Node], until: Callable[[fx.Node], bool] = lambda node: False) -> list[fx.Node]:
    """Everything that nodes are computed from, with themselves, once each; not what lies behind those that ``until``
    holds for.
    """
    found: dict[fx.Node, None] = {}
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found[node] = None
            stack.extend(() if until(node) else node.all_input_nodes)
    return list(found)


def made_for(graph: fx.Graph, outputs: int) -> set[fx.Node]:
    """All that the first so many outputs are computed from."""
    returned: Any = output_node(graph).args[0]
    return set(ancestors(iter_nodes(returned[:outputs])))


class AbstractResults:
    """What operations give on the abstract values of one mode: computed once where sizes, strides and types are the
    same, as in the blocks of a model. (Kept with the mode they would keep it: the collector does not see the circle.)
    """

    def __init__(self, mode: Any) -> None:
        self.mode = mode
        self._known: dict[Any, Any] = {}

    def of(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The abstract result of a call, its arguments as those of a node are."""
        key = (target, hashable(fx.map_arg((args, kwargs), lambda n: described(value_of(n)))))
        if key in self._known:
            return self._known[key]
        read = fx.map_arg((args, kwargs), value_of)
        with self.mode, enable_python_dispatcher(), torch.no_grad():
            result = target(*read[0], **read[1])
        # numbers, and sizes that are made, are each call's own
        if isinstance(self.mode, FakeTensorMode) and not _makes_sizes(target):
            self._known[key] = result
        return result


def described(value: Any) -> Any:
    """All that an operation's abstract result depends on; no container that `fx.map_arg` would open."""
    if isinstance(value, torch.Tensor):
        sizes = [s if isinstance(s, int) else s.node.expr for s in (*value.shape, *strides_of(value))]
        return frozenset(enumerate((*sizes, value.dtype, value.device, value.layout, value.is_conj(), value.is_neg())))
    if isinstance(value, (list, tuple)):
        return frozenset(enumerate(map(described, value)))
    return value.node.expr if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)) else value


def _makes_sizes(target: Any) -> bool:
    made = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
    return not isinstance(target, torch._ops.OpOverload) or not made.isdisjoint(target.tags)


class GraphBuilder:
    """``mode``: the fake mode that the graph's abstract values belong to."""

    def __init__(self, graph: fx.Graph, mode: Any) -> None:
        self.graph, self.mode = graph, mode
        self._results = AbstractResults(mode)

    def call(self, target: Any, *args: Any, like: fx.Node | None = None, **kwargs: Any) -> fx.Node:
        """A new call at the graph's insertion point; ``like``: the node whose rule it takes over."""
        node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = self._results.of(target, args, kwargs)
        if like is not None and "lrp" in like.meta:
            node.meta["lrp"] = like.meta["lrp"]
        return node


def copy_node(graph: fx.Graph, node: fx.Node, of: Callable[[fx.Node], Any]) -> fx.Node:
    """A copy at the graph's insertion point; ``of``: what stands there for what the node reads.

    As `fx.Graph.node_copy`, which in torch 2.13 looks through all arguments for sizes to warn of, and files the node
    anew when its arguments and its values are set: half its time.
    """
    new = graph.create_node(node.op, node.target, name=node.name, type_expr=node.type)
    object.__setattr__(new, "args", fx.map_arg(node.args, of))
    if node.kwargs:
        object.__setattr__(new, "kwargs", fx.map_arg(node.kwargs, of))
    new.meta.update(node.meta)
    return new


def drop_dead_code(graph: fx.Graph) -> None:
    """Erase what nobody reads and what changes nothing. (fx's own also checks the graph, and asks every node for its
    effects, read or not: a tenth of a conversion.)
    """
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op in ("call_function", "get_attr") and not node.is_impure():
            graph.erase_node(node)


def deduplicate(graph: fx.Graph) -> None:
    """Common-subexpression elimination and dead-code removal, in place (for graphs just copied or built)."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op not in ("call_function", "get_attr") or is_random(node):
            continue
        key: Any = (node.op, node.target, hashable(node.args), hashable(node.kwargs))
        if node.target is torch.ops.aten.sym_size.int:
            key = ("size", described(value_of(node)))  # the same symbol, whatever it is read from
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)
    drop_dead_code(graph)


def sets_strides(node: fx.Node) -> bool:
    """Is the copy made for an operation that looks at strides?"""
    return any(
        has(user, Fact.LOOKS_AT_STRIDES) or (op_name(user) == "aten.reshape" and sets_strides(user))
        for user in node.users
    )


def is_random(node: fx.Node) -> bool:
    """Does the operation draw random numbers? (Attention kernels carry the tag but draw only for dropout.)"""
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    return bool(argument(node, "dropout_p", 1.0) != 0.0)


def hashable(tree: Any) -> Any:
    """The arguments of a node as something that can be compared and looked up; 0.0 and -0.0 differ, 1 and True too."""
    kind = type(tree)
    if kind is fx.Node or kind is str or tree is None:  # equal to nothing of another type
        return tree
    if isinstance(tree, (list, tuple)):
        return tuple(map(hashable, tree))
    if isinstance(tree, dict):
        return tuple(sorted((k, hashable(v)) for k, v in tree.items()))
    if isinstance(tree, slice):
        return ("slice", tree.start, tree.stop, tree.step)
    if isinstance(tree, float) and tree == 0.0:
        return (kind, str(tree))  # -0.0 is not 0.0
    return (kind, tree)


def call_like(graph: fx.Graph, like: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A new call at the insertion point, with its abstract value; it stands where ``like`` stood in the model's
    code.
    """
    new = graph.call_function(target, args, kwargs)
    with value_of(like).fake_mode, enable_python_dispatcher():
        new.meta = {**like.meta, "val": target(*fx.map_arg(args, value_of), **fx.map_arg(kwargs, value_of))}
    return new
