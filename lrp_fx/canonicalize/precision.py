"""Precision: islands of float32 in a float64 program become float64, so that books can close to 1e-10.

requires  a functional graph with one name for each operation
ensures   in a program whose weights are mostly float64, nothing is computed in float32: types that the model names, its
          constants, and what torch makes float32 by default (a number times integers)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from lrp_fx.ir.graph import (
    AbstractResults,
    call_like,
    described,
    is_float,
    is_scalar,
    is_tensor,
    op_name,
    tensor_args,
    value_of,
)
from lrp_fx.ir.operators import is_pointwise
from lrp_fx.ir.program import Program
from lrp_fx.ir.read import Read

aten = torch.ops.aten
_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}


def promote_precision(program: Program) -> Program:
    """In a float64 program (most weights are) compute forced float32 islands in float64."""
    if not _is_wide(program):
        return program
    module, read = program.module, list[Read]()
    changed: set[fx.Node] = set()
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            before = (node.args, node.kwargs)
            node.args, node.kwargs = fx.node.map_aggregate(
                before, lambda a: _WIDER.get(a, a) if isinstance(a, torch.dtype) else a
            )
            changed |= {node} if (node.args, node.kwargs) != before else _widen_integers(module.graph, node)
        elif node.op == "get_attr":
            changed |= _widen_constant(module, node, read)
    _recompute_values(module.graph, changed)
    module.recompile()
    return replace(program, read=(*program.read, *read))


def _is_wide(program: Program) -> bool:
    parameters = [p for p in program.module.parameters() if p.is_floating_point()]
    wide = sum(p.numel() for p in parameters if p.dtype == torch.float64)
    known = {p.dtype for p in parameters} <= {torch.float32, torch.float64}
    return known and 2 * wide > sum(p.numel() for p in parameters)


def _widen_constant(module: fx.GraphModule, node: fx.Node, read: list[Read]) -> set[fx.Node]:
    tensor = getattr(module, str(node.target))
    if tensor.dtype not in _WIDER:
        return set()
    wide = tensor.to(_WIDER[tensor.dtype])
    made = nn.Parameter(wide, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else wide
    setattr(module, str(node.target), made)
    read.append(Read(tensor))
    node.meta["val"] = node.meta["val"].to(_WIDER[tensor.dtype])
    return {node}


def _widen_integers(graph: fx.Graph, node: fx.Node) -> set[fx.Node]:
    """Where a call makes integers float32 because torch's default says so (``0.1 * distance``), let it read float64."""
    if not is_tensor(node) or value_of(node).dtype != torch.float32 or not is_pointwise(node):
        return set()
    operands = dict.fromkeys(tensor_args(node)[1:] if op_name(node) == "aten.where" else tensor_args(node))
    if any(map(is_float, operands)):
        return set()
    for operand in operands:
        with graph.inserting_before(node):
            wide = call_like(graph, node, aten._to_copy.default, operand, dtype=torch.float64)
        node.replace_input_with(operand, wide)
    return {node} if operands else set()


def _recompute_values(graph: fx.Graph, changed: set[fx.Node]) -> None:
    """Recompute the abstract value of every call whose types have changed, and of what is computed of those that came
    out otherwise: behind an island all is as it was.
    """
    stale, results = set(changed), dict[Any, AbstractResults]()
    for node in graph.nodes:
        if node.op != "call_function" or not (node in stale or any(n in stale for n in node.all_input_nodes)):
            continue
        if is_scalar(node):  # it stands for a symbol of its own
            continue
        values = [value_of(n) for n in (*node.all_input_nodes, node)]
        mode = next((v.fake_mode for v in pytree.tree_leaves(values) if hasattr(v, "fake_mode")), None)
        if mode is None:
            continue
        new = results.setdefault(mode, AbstractResults(mode)).of(node.target, node.args, node.kwargs)
        if node in changed or described(new) != described(node.meta["val"]):
            stale.add(node)
            node.meta["val"] = new
