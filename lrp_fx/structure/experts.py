"""Experts: which slices of stacked parameters belong to which expert behind a router.

A router picks a few of ``n`` (the axis that its top-k runs along). A parameter whose first axis has ``n`` places, and
that is read behind the router cut or looked up along that axis, or expert by expert in one product, holds one slice for
each. Experts that are modules of their own, each with parameters of its own, are told apart by these.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import argument
from lrp_fx.ir.sizes import shape_of
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.structure.divisions import EXPERT, Division
from lrp_fx.structure.parameters import made_of_parameters


def find_experts(rewritten: Rewritten) -> tuple[Division, ...]:
    """The slices of every stacked parameter behind a router; parameters are attributes of the program."""
    made, found = made_of_parameters(rewritten), dict[str, Division]()
    behind: dict[fx.Node, fx.Node] = {}  # each value with the router that it was computed behind last
    for node in rewritten.program.graph.nodes:
        above = [behind[a] for a in node.all_input_nodes if a in behind]
        if op_name(node) == "aten.topk":
            behind[node] = node
        elif above:
            behind[node] = max(above)
    for node, application in rewritten.applications.items():
        router = behind.get(node)
        if router is None:
            continue
        for operand in node.all_input_nodes:
            for parameter in made.get(operand, ()) if operand not in application.operands else ():
                shape = _held(rewritten, parameter).shape
                if len(shape) > 1 and shape[0] == _choices(router) and _is_by_expert(operand, len(shape)):
                    site = application.place[0] or router.name
                    found.setdefault(parameter, Division(EXPERT, site, parameter, 0, _slices(shape[0])))
    return tuple(found.values())


def _choices(router: fx.Node) -> int:
    """Among how many a router picks."""
    source = router.args[0]
    assert isinstance(source, fx.Node)
    sizes = shape_of(source)
    return sizes[int(argument(router, "dim", -1))]


def _is_by_expert(operand: fx.Node, rank: int) -> bool:
    """Is the parameter read with an axis for experts still there (a product for each), or was it cut or looked up on
    the way?
    """
    chain, stack = {operand}, [operand]
    while stack:
        for a in stack.pop().all_input_nodes:
            if a not in chain:
                chain.add(a)
                stack.append(a)
    cut = any(op_name(n) in ("aten.select", "aten.index", "aten.embedding", "aten.index_select") for n in chain)
    return cut or rank > 2


def _held(rewritten: Rewritten, attribute: str) -> Tensor:
    held: Tensor = getattr(rewritten.program.module, attribute)
    return held


def _slices(count: int) -> Tensor:
    return torch.eye(count, dtype=torch.float64)
