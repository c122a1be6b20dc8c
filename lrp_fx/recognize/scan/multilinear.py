"""Multilinear operations: sums, products and rearrangements of values that depend on content, and what they are of."""

from __future__ import annotations

from typing import Any

from torch import fx

from lrp_fx.analysis.dataflow import Dataflow
from lrp_fx.analysis.provenance import CONTENT, PARAMETER
from lrp_fx.ir.axes import is_feature, is_token
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.operators import argument, factors_of, has
from lrp_fx.recognize.chains import ChainRoles
from lrp_fx.recognize.coefficient import is_one_factor
from lrp_fx.recognize.meaning import Meaning, Refusal
from lrp_fx.recognize.softmax import exp_softmax, written_softmax

#: Linear in every operand, beside products: rearrangements and sums.
_LINEAR = Fact.MOVE | Fact.SELECTION | Fact.ASSEMBLY | Fact.SUM | Fact.AVERAGE | Fact.SIGN
#: Maps whose weights are the model's.
LEARNED = Fact.MAP | Fact.TABLE


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
            (_is_elementwise_product(node) or is_contraction(node))
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
        if has(node, _LINEAR) or name == "aten.cumsum":
            return True
        if not _is_elementwise_product(node) and not is_contraction(node):
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
        while isinstance(total, fx.Node) and has(total, Fact.MOVE | Fact.GUARD):
            total = total.args[0]
        return (
            w
            if isinstance(total, fx.Node) and op_name(total) == "aten.sum" and total.args[0] is w and self.is_content(w)
            else None
        )

    def is_softmax_over_tokens(self, node: fx.Node) -> bool:
        """A softmax, written as one operation or out, along an axis that is not known to run over features alone."""
        axis = self._softmax_axis(node)
        layout = self.flow.facts.layout.get(node)
        return axis is not None and (is_token(layout, axis) or not is_feature(layout, axis))

    def _softmax_axis(self, node: fx.Node) -> int | None:
        """The axis of a softmax, however it is written; None for what is none."""
        if has(node, Fact.SOFTMAX):
            return int(argument(node, "dim"))
        found: Meaning | Refusal | None = None
        if op_name(node) == "aten.exp":
            found = exp_softmax(self.flow, node)
        elif has(node, Fact.SCALING) and len(factors := self.factors(node)) == 2:
            found = written_softmax(self.flow, node, *factors)
        if not isinstance(found, Meaning) or found.args is None:
            return None
        _, axis = found.args
        assert isinstance(axis, int)
        return axis


def is_contraction(node: fx.Node) -> bool:
    """Is it a matrix product?"""
    return has(node, Fact.CONTRACTION)


def _is_elementwise_product(node: fx.Node) -> bool:
    return has(node, Fact.SCALING) or op_name(node) == "aten.addcmul"


def is_zero(node: Any) -> bool:
    """A constant zero, however it is shaped."""
    while isinstance(node, fx.Node) and has(node, Fact.MOVE | Fact.SELECTION) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return has(node, Fact.ZEROS)


def vanishes(node: fx.Node) -> bool:
    """A product with zero, as in the first step of many loops."""
    return (op_name(node) == "aten.mul" or has(node, Fact.PRODUCT)) and any(is_zero(f) for f in factors_of(node))
