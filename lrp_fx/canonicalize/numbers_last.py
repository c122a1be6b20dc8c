"""Factors that are a number and more (``1 + g``) stand last in their chain of products: ``c (a (1 + g))`` as
``(c a) (1 + g)``.

It is ``c a + c a g``, a chain of two factors and one of three: what each factor gets is then a matter of one product.

requires  arguments in one form (`lrp_fx.canonicalize.explicit`)
ensures   the same values but for rounding
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import fx

from lrp_fx.ir.examples import depends_on_values
from lrp_fx.ir.graph import call_like, is_float, op_name
from lrp_fx.ir.number_terms import number_terms
from lrp_fx.ir.operators import is_pointwise
from lrp_fx.ir.product_chains import chain_places, is_inner

aten = torch.ops.aten


def put_numbers_last(graph: fx.Graph) -> None:
    """Orders every chain of three factors or more, one of which has a number as a term, if it is a chain of values that
    depend on inputs, and no factor is a function of what that one is made of (as in an activation that is written out).
    """
    numbers = number_terms(graph)
    for top in list(graph.nodes):
        if not _is_link(top) or is_inner(top, _is_link):
            continue
        factors = [factor for _, factor in chain_places(top, _is_link)]
        last = [f for f in factors if f in numbers]
        others = [f for f in factors if f not in numbers]
        if not last or len(factors) < 3 or (len(last) == 1 and last[0] in top.args):
            continue
        made_of = [_made_of(f) for f in factors]
        if len(set().union(*made_of)) < sum(map(len, made_of)) or not all(map(depends_on_values, factors)):
            continue
        _order(graph, top, others, last)


def _order(graph: fx.Graph, top: fx.Node, others: list[fx.Node], last: list[fx.Node]) -> None:
    def product(a: fx.Node, b: fx.Node) -> fx.Node:
        return call_like(graph, top, aten.mul.Tensor, a, b)

    with graph.inserting_before(top):
        whole = reduce(product, [reduce(product, part) for part in (others, last) if part])
    top.replace_all_uses_with(whole)
    graph.erase_node(top)


def _is_link(node: fx.Node) -> bool:
    return op_name(node) == "aten.mul" and all(isinstance(a, fx.Node) and is_float(a) for a in node.args)


def _made_of(node: fx.Node) -> set[fx.Node]:
    """A value and those that it is a function of, element by element."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes if is_pointwise(node) else []
    return found
