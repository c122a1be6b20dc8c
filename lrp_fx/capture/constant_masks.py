"""Masks that are constants: ``x[:, keep]`` with a Boolean buffer picks the same elements in every call.

Export cannot know how many these are, for it does not look at values. What depends on no input is evaluated here, and
masks become the indices of their true elements; the graph is then exported again.

requires  an exported program, not yet functional
ensures   None where no size depends on a constant; else a module of the same operations without such sizes
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import ancestors, op_name, value_of
from lrp_fx.ir.operators import has, operand_of
from lrp_fx.ir.program import Program
from lrp_fx.ir.read import Read

aten = torch.ops.aten
_BY_VALUE = ("aten.masked_select", "aten.nonzero", "aten.nonzero_numpy", "aten.argwhere")


def fix_constant_masks(program: Program) -> tuple[fx.GraphModule, tuple[Read, ...]] | None:
    """The program's module with constant masks as indices, in place, and the tensors that they were made of; None where
    it has none.
    """
    fixer = _Fixer(program)
    for node in list(program.graph.nodes):
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            fixer.visit(node)
    if not fixer.found:
        return None
    for node in reversed(list(program.graph.nodes)):
        if has(node, Fact.ASSERTION) and not node.users:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.module.recompile()
    return program.module, tuple(fixer.read.values())


class _Fixer:
    def __init__(self, program: Program) -> None:
        self.module, self.graph = program.module, program.graph
        self.order = {node: i for i, node in enumerate(self.graph.nodes)}
        self.numbers = itertools.count()
        self.found = False
        self.read: dict[str, Read] = {}

    def visit(self, node: fx.Node) -> None:
        target: Any = node.target
        if has(node, Fact.MASKABLE):
            self._fix_indices(node)
        elif op_name(node) == "aten.masked_select":
            self._select_by_index(node)
        elif torch.Tag.dynamic_output_shape in target.tags or _is_where(node):
            self._fix_result(node)

    def _fix_indices(self, node: fx.Node) -> None:
        """``x[mask]`` as ``x[indices of mask]``; a write by a single mask needs none."""
        indices: Any = node.args[1]
        if op_name(node) != "aten.index" and len(indices) == 1:
            return
        fixed: list[Any] = []
        for index in indices:
            value = self._constant(index) if _is_mask(index) else None
            fixed += [index] if value is None else [self._put(node, i) for i in value.nonzero(as_tuple=True)]
        node.args = (node.args[0], fixed, *node.args[2:])

    def _select_by_index(self, node: fx.Node) -> None:
        """``masked_select`` as an index along the axes that the mask tells apart: the others may be of any size."""
        x, mask = operand_of(node), node.args[1]
        value = self._constant(mask)
        if value is None:
            return
        rank = max(value.dim(), value_of(x).dim())
        value = value.reshape((1,) * (rank - value.dim()) + tuple(value.shape))
        apart = next((d for d in range(rank) if value.shape[d] != 1), rank - 1)
        missing = rank - value_of(x).dim()
        sizes = [1] * missing + list(value_of(x).shape)
        inner = [m if n == 1 else n for n, m in zip(sizes, value.shape, strict=True)][apart:]
        if missing > apart or not all(isinstance(n, int) for n in inner):
            return
        (index,) = value[(0,) * apart].expand(inner).flatten().nonzero(as_tuple=True)
        places = self._put(node, index)
        with self.graph.inserting_before(node):
            whole = self._call(node, aten.expand.default, x, [-1] * (apart - missing) + inner)
            flat = self._call(node, aten.flatten.using_ints, whole, apart, -1)
            picked = self._call(node, aten.index.Tensor, flat, [None] * apart + [places])
        node.target, node.args = aten.flatten.using_ints, (picked, 0, -1)

    def _call(self, like: fx.Node, target: Any, *args: Any) -> fx.Node:
        return _like(like, self.graph.call_function(target, args))

    def _fix_result(self, node: fx.Node) -> None:
        """The indices of a constant mask."""
        result = self._constant(node)
        if isinstance(result, Tensor):
            node.replace_all_uses_with(self._put(node, result))
        elif result is not None:
            for part in list(node.users):
                part.replace_all_uses_with(self._put(part, result[part.args[1]]))

    def _constant(self, node: Any) -> Any:
        """The value of what depends on no input, None for what does."""
        if not isinstance(node, fx.Node):
            return None
        needed = sorted(ancestors([node]), key=lambda n: self.order.get(n, -1))
        if any(n.op == "placeholder" for n in needed):
            return None
        env: dict[fx.Node, Any] = {}
        with torch.no_grad():
            for n in needed:
                if n.op == "get_attr":
                    held = getattr(self.module, str(n.target))
                    self.read.setdefault(str(n.target), Read(held))
                    env[n] = held.clone()  # an operation may write into it
                else:
                    args, kwargs = fx.map_arg((n.args, n.kwargs), lambda a: env[a])
                    env[n] = n.target(*args, **kwargs)  # type: ignore[operator]
        return env[node]

    def _put(self, node: fx.Node, value: Tensor) -> fx.Node:
        """A constant before a node, at its place in the user's source."""
        name = f"fixed_{next(self.numbers)}"
        self.module.register_buffer(name, value.detach().clone())
        with self.graph.inserting_before(node):
            new = _like(node, self.graph.get_attr(name))
        self.found = True
        return new


def _is_where(node: fx.Node) -> bool:
    """``where(mask)``, which gives the indices of its true elements."""
    return op_name(node) == "aten.where" and len(node.args) == 1


def _is_mask(index: Any) -> bool:
    value = value_of(index) if isinstance(index, fx.Node) else None
    return isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8)


def _like(node: fx.Node, new: fx.Node) -> fx.Node:
    new.meta = {k: v for k, v in node.meta.items() if k in ("nn_module_stack", "stack_trace")}
    return new


def size_is_by_value(node: fx.Node) -> bool:
    """Does the size of a result depend on the values of a mask, whether or not tracing could tell it?"""
    if op_name(node) in ("aten.index", "aten._unsafe_index"):
        return any(_is_mask(i) for i in pytree.tree_leaves(node.args[1]))
    return _is_where(node) or op_name(node) in (
        "aten.masked_select",
        "aten.nonzero",
        "aten.nonzero_numpy",
        "aten.argwhere",
    )
