"""Bases: what values are where all that carries relevance in them is nothing.

The weights of attention begin with what a mask shows, and scores with the mask itself. A rule that is ``based`` is told
this part of its operands (`lrp_fx.rule.Call.bases`): softmax, to measure its weights from there, and products of
weights with other values, to hand what does not depend on the scores to these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lrp_fx.analysis.provenance import CONSTANT, CONTENT, MASK, POSITION, VERY_LOW
from lrp_fx.analysis.sources import is_very_low, may_be_infinite
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import is_float, op_name, value_of
from lrp_fx.ir.operators import has
from lrp_fx.rewrite.application import Application
from lrp_fx.rule import Call
from lrp_fx.transpose.builder import RelevanceBuilder

#: What is lower hides what it is added to (`VERY_LOW`, and a bias beside it).
_LOW = VERY_LOW / 2
#: Operations whose result is made of the bases of their operands and of what carries nothing.
_KEEPING = ("move", "sum", "residual", "route", "linear")


class Bases:
    """Adds bases to a relevance graph where they are asked for; None stands for zeros.

    ``started``: values in which an operation with a start has a part; the bases of others are constants.
    """

    def __init__(self, builder: RelevanceBuilder) -> None:
        self.builder = builder
        self.applications = builder.rewritten.applications
        self.known: dict[fx.Node, fx.Node | None] = {}
        self.started: set[fx.Node] = set()
        for node, application in self.applications.items():  # in their order
            passes = application.kind in _KEEPING and any(o in self.started for o in application.operands)
            if application.rule.start is not None or passes:
                self.started.add(node)

    def of_operands(self, application: Application) -> dict[int, fx.Node]:
        """The bases of an application's carriers, by position."""
        if not application.rule.based:
            return {}
        flat, constants = application.flat(), application.rule.based == "constants"
        asked = [i for i in sorted(application.carriers) if constants or flat[i] in self.started]
        return {i: base for i in asked if (base := self.of(flat[i])) is not None}

    def of(self, node: fx.Node) -> fx.Node | None:
        """The base of a value that carries relevance."""
        if node not in self.known:
            self.known[node] = None  # nothing, for whoever asks meanwhile
            application = self.applications.get(node)
            self.known[node] = self._of_leaf(node) if application is None else self._made(application)
        return self.known[node]

    def _of_leaf(self, node: fx.Node) -> fx.Node | None:
        """What masks have put into a position leaf: a table of biases with the lowest number where they hide."""
        sources = self.builder.facts.sources
        operands = node.all_input_nodes if has(node, Fact.MOVE | Fact.SUM | Fact.CHOICE) else []
        position = [a for a in operands if POSITION in sources.get(a, ())]
        bases = {a: base for a in position if (base := self._of_leaf(a)) is not None}
        if not bases and (not position or not any(MASK in sources.get(a, ()) for a in operands)):
            return self._lowest(node)
        flat, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
        places = [i for i, a in enumerate(flat) if isinstance(a, fx.Node)]

        def run(*values: Any) -> list[Any]:
            given = dict(zip(places, values, strict=True))
            args, kwargs = pytree.tree_unflatten([given.get(i, a) for i, a in enumerate(flat)], spec)
            return [node.target(*args, **kwargs)]  # type: ignore[operator]

        (base,) = self.builder.add(run, [self._at_base(flat[i], position, bases) for i in places], _tag(node))
        return base  # type: ignore[no-any-return]

    def _lowest(self, node: fx.Node) -> fx.Node | None:
        """Of numbers that depend on no input, those that are so low that they hide; None where there can be none."""
        if not is_float(node) or CONTENT in self.builder.facts.sources.get(node, (CONTENT,)):
            return None
        if CONSTANT not in self.builder.facts.sources[node] and not is_very_low(node) and not may_be_infinite(node):
            return None
        (base,) = self.builder.add(lambda x: [x.masked_fill(x > _LOW, 0.0)], [self.builder.env[node]], _tag(node))
        return base  # type: ignore[no-any-return]

    def _at_base(self, node: fx.Node, position: list[fx.Node], bases: dict[fx.Node, fx.Node]) -> fx.Node:
        """A node's base, zeros or, if it is not made of positions, itself."""
        own = self.builder.env[node]
        if node not in position:
            return own
        if node in bases:
            return bases[node]
        (zeros,) = self.builder.add(lambda x: [torch.zeros_like(x)], [own], _tag(node))
        return zeros  # type: ignore[no-any-return]

    def _made(self, application: Application) -> fx.Node | None:
        if application.rule.frozen:
            return self.builder.env[application.node]
        if application.rule.start is not None:
            return self._added(application, self.of_operands(application), application.rule.start)
        if op_name(application.node) == "getitem":
            return self._part(application.node)
        if not isinstance(value_of(application.node), Tensor):
            return None
        flat = application.flat()
        bases = {i: self.of(flat[i]) for i in self._keeping(application)}
        given = {i: base for i, base in bases.items() if base is not None}
        return self._added(application, given, _at_bases) if given or _adds_constants(application) else None

    def _part(self, node: fx.Node) -> fx.Node | None:
        """One of several results."""
        source = node.args[0]
        whole = self.applications.get(source) if isinstance(source, fx.Node) else None
        if whole is None or whole.kind not in _KEEPING:
            return None
        bases = {i: base for i in self._keeping(whole) if (base := self.of(whole.flat()[i])) is not None}
        return self._added(whole, bases, lambda call: _at_bases(call)[node.args[1]]) if bases else None

    def _keeping(self, application: Application) -> list[int]:
        """Carriers whose bases are in the result as they are: terms of it, or the one factor that carries."""
        node = application.node
        if application.kind == "linear" and node not in self.started and not has(node, Fact.SCALING | Fact.SIGN):
            return []  # a learned map of constants is no part of scores that somebody put there
        if application.kind in (*_KEEPING, "elementwise"):  # scores that are bounded or bent behind their mask
            return sorted(application.carriers)
        return [0] if _adds_term(application) and 0 in application.carriers else []

    def _added(
        self, application: Application, bases: dict[int, fx.Node], function: Callable[[Call], Tensor]
    ) -> fx.Node:
        """The operation with bases in the place of operands, by ``function``."""
        flat, env, node = application.flat(), self.builder.env, application.node
        places = [i for i, a in enumerate(flat) if isinstance(a, fx.Node)]
        call = Call(application.op, application.args, application.kwargs, application.carriers, facts=application.facts)

        def run(*values: Any) -> list[Any]:
            given = call.put(dict(zip(places, values, strict=False)))
            at = dict(zip(bases, values[len(places) :], strict=False))
            return [function(replace(given, value=values[-1] if own else None, bases=at))]

        own = [env[node]] if isinstance(value_of(node), Tensor) else []
        operands = [*(env[flat[i]] for i in places), *bases.values(), *own]
        (base,) = self.builder.add(run, operands, _tag(node))
        return base  # type: ignore[no-any-return]


def _tag(node: fx.Node) -> tuple[str, str, int]:
    return node.name, "base", 0


def _at_bases(call: Call) -> Any:
    """The operation where all that carries relevance is nothing."""
    nothing = {i: torch.zeros_like(x) for i, x in zip(sorted(call.carriers), call.operands(), strict=True)}
    return call.put({**nothing, **call.bases}).run()


def _adds_term(application: Application) -> bool:
    """Is it a product that is added to its first operand?"""
    node = application.node
    return application.kind == "product" and has(node, Fact.TERM_FIRST) and has(node, Fact.CONTRACTION)


def _adds_constants(application: Application) -> bool:
    """Does it add to its carriers, or put into their places, what carries nothing: a mask, a fixed bias?

    Biases of learned maps do not count.
    """
    if application.kind not in ("sum", "residual", "route") and not _adds_term(application):
        return False
    flat = application.flat()
    others = [a for i, a in enumerate(flat) if i not in application.carriers]
    put = [a for a in others if isinstance(a, (int, float)) and not isinstance(a, bool)]
    fills = application.kind == "route" and bool(put)
    return fills or any(isinstance(a, fx.Node) and is_float(a) for a in others)
