"""Chains of products: factors that are functions of one another, in whatever order they are multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import fx

from lrp_fx.analysis.dataflow import Dataflow
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import is_pointwise
from lrp_fx.ir.product_chains import chain_places, is_inner


# ------------------------------------------------------------------------------------------------ chains of products
@dataclass(frozen=True)
class ChainRoles:
    """What the factors of product chains are.

    ``frozen``: (product, operand) pairs in which the operand is a pointwise function of another factor of its chain.
    ``activated``: (product, operand) pairs in which the operand is that other factor, so that both together are an
    activated branch. ``apart``: products that hold such a function, but not the factor it is a function of.
    """

    frozen: frozenset[tuple[fx.Node, fx.Node]]
    activated: frozenset[tuple[fx.Node, fx.Node]]
    apart: frozenset[fx.Node]


def chain_roles(graph: fx.Graph, flow: Dataflow) -> ChainRoles:
    """``(u * g) * f(g)`` has two factors, u and ``g f(g)``, in whatever order it is multiplied: f(g) is a
    coefficient.
    """
    is_link = partial(_is_link, flow)
    frozen: set[tuple[fx.Node, fx.Node]] = set()
    activated: set[tuple[fx.Node, fx.Node]] = set()
    apart: set[fx.Node] = set()
    for top in graph.nodes:
        if not is_link(top) or is_inner(top, is_link):
            continue
        places = list(chain_places(top, is_link))
        factors = [f for _, f in places]
        if len(factors) < 3:
            continue
        sources = {f: _function_of_another(f, factors) for f in factors}
        frozen |= {(product, f) for product, f in places if sources[f] is not None}
        activated |= {(product, f) for product, f in places if f in sources.values()}
        apart |= {
            product
            for product, f in places
            if sources[f] is not None and sources[f] not in {g for _, g in chain_places(product, is_link)}
        }
    return ChainRoles(frozenset(frozen), frozenset(activated), frozenset(apart))


def _is_link(flow: Dataflow, node: fx.Node) -> bool:
    return op_name(node) == "aten.mul" and len(flow.operands(node)) == 2


def _function_of_another(factor: fx.Node, factors: list[fx.Node]) -> fx.Node | None:
    """The other factor that ``factor`` is a function of, element by element, through operations of one tensor."""
    others = {f for f in factors if f is not factor}
    node = factor
    for _ in range(12):
        inputs = [a for a in node.all_input_nodes if isinstance(a.meta.get("val"), torch.Tensor)]
        if len(inputs) != 1 or not is_pointwise(node):
            return None
        node = inputs[0]
        if node in others:
            return node
    return None
