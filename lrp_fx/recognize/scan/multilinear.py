"""Multilinear operations: sums, products and rearrangements of values that depend on content, and what they are of."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lrp_fx.analysis.dataflow import Dataflow
from lrp_fx.analysis.provenance import CONTENT, PARAMETER
from lrp_fx.ir.axes import MATRIX_PRODUCTS, factors_of, is_contraction, is_feature, is_token
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import MOVES
from lrp_fx.recognize.chains import ChainRoles
from lrp_fx.recognize.coefficient import is_one_factor
from lrp_fx.recognize.meaning import Meaning
from lrp_fx.recognize.softmax import exp_softmax, written_softmax

#: Linear rearrangements that a recurrence is made of, beside sums and products.
SELECTIONS = frozenset(
    "aten.select aten.slice aten.split aten.split_with_sizes aten.chunk aten.unbind aten.tensor_split "
    "aten.index_select getitem".split()
)
ASSEMBLIES = frozenset(
    "aten.stack aten.cat aten.select_scatter aten.slice_scatter aten.index_put aten.copy aten.scatter "
    "aten.constant_pad_nd aten.pad aten.flip "
    "aten.roll aten.where aten.masked_fill aten.tril aten.triu aten.tile".split()
)
SUMS = frozenset("aten.add aten.sub aten.rsub aten.neg aten.sum aten.mean aten.cumsum".split())
ELEMENTWISE = frozenset("aten.mul aten.div aten.addcmul".split())
LEARNED_MAPS = frozenset("aten.linear aten.conv1d aten.conv2d aten.conv3d aten.convolution aten.embedding".split())
SOFTMAXES = frozenset("aten.softmax aten._softmax aten._safe_softmax".split())
#: Act on each element alone, but carry no tag that says so.
UNTAGGED = frozenset("aten.log_sigmoid aten.softplus aten.max aten.min aten.maximum aten.minimum".split())


class Multilinear:
    """Which operations are sums, products and rearrangements of content, and what they are of."""

    def __init__(self, flow: Dataflow, chains: ChainRoles) -> None:
        self.flow, self.chains = flow, chains
        self._known: dict[fx.Node, bool] = {}

    def is_content(self, node: Any) -> bool:
        return isinstance(node, fx.Node) and self.flow.carries(node) and CONTENT in self.flow.facts.sources[node]

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """Operands that depend on content, less those that are functions of another factor of their chain (or of
        weights: their sum).
        """
        if (weights := self._shared_out(node)) is not None:
            return [weights]
        return [a for a in node.all_input_nodes if self.is_content(a) and (node, a) not in self.chains.frozen]

    def factors(self, node: fx.Node) -> list[fx.Node]:
        """The factors of a product that depend on content."""
        return [a for a in factors_of(node) if self.is_content(a) and (node, a) not in self.chains.frozen]

    def is_product(self, node: fx.Node) -> bool:
        """A product of two values that depend on content, neither a function of the other."""
        is_one = (
            (op_name(node) in ELEMENTWISE or is_contraction(node))
            and self.passes(node)
            and len(set(self.factors(node))) == 2
        )
        return is_one and self._shared_out(node) is None

    def passes(self, node: fx.Node) -> bool:
        """Is the value linear in each of its operands that depend on content, without a learned map?"""
        if node not in self._known:
            self._known[node] = (
                node.op == "call_function"
                and self.is_content(node)
                and not self.flow.is_leaf(node)
                and self._passes(node)
            )
        return self._known[node]

    def _passes(self, node: fx.Node) -> bool:
        name = op_name(node)
        if name in MOVES | SELECTIONS | ASSEMBLIES | SUMS:
            return True
        if name not in ELEMENTWISE and not is_contraction(node):
            return False
        factors = self.factors(node)
        if self._shared_out(node) is not None:
            return True
        if len(factors) == 2:
            return is_contraction(node) or name == "aten.addcmul" or not is_one_factor(self.flow, node, *factors)
        if name == "aten.div":
            return factors == [node.args[0]]
        others = [f for f in factors_of(node) if isinstance(f, fx.Node) and f not in factors]
        return not is_contraction(node) or not any(PARAMETER in self.flow.facts.sources.get(f, ()) for f in others)

    def _shared_out(self, node: fx.Node) -> fx.Node | None:
        """``w`` of ``w / sum(w)``: weights that add up to one, and no softmax's."""
        if op_name(node) != "aten.div" or not isinstance(w := node.args[0], fx.Node) or op_name(w) == "aten.exp":
            return None
        total = node.args[1]
        while isinstance(total, fx.Node) and op_name(total) in MOVES | {
            "aten.add",
            "aten.clamp",
            "aten.clamp_min",
            "aten.abs",
        }:
            total = total.args[0]
        return (
            w
            if isinstance(total, fx.Node) and op_name(total) == "aten.sum" and total.args[0] is w and self.is_content(w)
            else None
        )

    def is_softmax_over_tokens(self, node: fx.Node) -> bool:
        """A softmax, written as one operation or out, along an axis that is not known to run over features alone."""
        if op_name(node) in SOFTMAXES:
            axis = int(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1))  # type: ignore[arg-type]
            layout = self.flow.facts.layout.get(node)
            return is_token(layout, axis) or not is_feature(layout, axis)
        if op_name(node) == "aten.exp":
            return isinstance(exp_softmax(self.flow, node), Meaning)
        if op_name(node) not in ("aten.mul", "aten.div"):
            return False
        factors = self.factors(node)
        return len(factors) == 2 and isinstance(written_softmax(self.flow, node, *factors), Meaning)


def is_zero(node: Any) -> bool:
    """A constant zero, however it is shaped."""
    while isinstance(node, fx.Node) and op_name(node) in MOVES | SELECTIONS and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return isinstance(node, fx.Node) and op_name(node) in ("aten.zeros", "aten.zeros_like", "aten.new_zeros")


def vanishes(node: fx.Node) -> bool:
    """A product with zero, as in the first step of many loops."""
    return (op_name(node) == "aten.mul" or op_name(node) in MATRIX_PRODUCTS) and any(
        is_zero(f) for f in factors_of(node)
    )


def is_pointwise(node: fx.Node) -> bool:
    """An operation that acts on each element alone (of any number of operands)."""
    if op_name(node) in UNTAGGED:
        return op_name(node) not in ("aten.max", "aten.min") or (
            len(node.args) == 2 and isinstance(node.args[1], fx.Node)
        )
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
