"""Context: what a recogniser may ask; recogniser: one way to find out what an operation means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import fx

from lrp_fx.analysis.dataflow import Dataflow
from lrp_fx.analysis.provenance import Facts
from lrp_fx.ir.graph import op_name
from lrp_fx.recognize.chains import ChainRoles
from lrp_fx.recognize.meaning import Meaning, Refusal


class Served(NamedTuple):
    """A node that has its rule: the kind it is, and the operands its relevance goes to."""

    kind: str
    operands: Sequence[fx.Node]


@dataclass(frozen=True, eq=False)
class Context:
    """What is known when a node is asked about.

    ``chains``, ``coefficients`` (product of a recurrence -> its coefficients) and ``numbers`` (value -> the number that
                  is a term of it) are found once for the whole graph.
    ``listed``    operation -> kinds under which some rule lists it by name.
    ``carrying``, ``rotated``, ``served``  what was decided so far; they grow in graph order, so that a node finds its
                  operands there. ``rotated``: content that a position factor has multiplied already.
    ``memo``      (question, node) -> answer, where several recognisers ask the same; forgotten with the next node.
    """

    facts: Facts
    flow: Dataflow
    chains: ChainRoles
    coefficients: Mapping[fx.Node, tuple[fx.Node, ...]]
    numbers: Mapping[fx.Node, float]
    listed: Callable[[str], Sequence[str]]
    carrying: set[fx.Node] = field(default_factory=set)
    rotated: set[fx.Node] = field(default_factory=set)
    served: dict[fx.Node, Served] = field(default_factory=dict)
    memo: dict[tuple[str, fx.Node], Any] = field(default_factory=dict)

    def kinds(self, node: fx.Node) -> Sequence[str]:
        """The kinds under which some rule lists the node's operation, in the order of `KINDS`."""
        kinds: Sequence[str] | None = self.memo.get(("kinds", node))
        if kinds is None:
            kinds = self.memo["kinds", node] = self.listed(op_name(node))
        return kinds

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """The operands through which relevance can flow: they depend on a carrier, and nothing above froze them."""
        return [a for a in self.flow.operands(node) if a in self.carrying]


Recognise = Callable[[Context, fx.Node], Meaning | Refusal]


@dataclass(frozen=True)
class Recogniser:
    """One way to find out what an operation means.

    ``purpose``   what it recognises, one line.
    ``kinds``     the kinds it can give.
    ``recognise``  a pure function: the meaning of a node, or why it is none of these.
    ``before``/``after``  names of recognisers asked later / earlier than this one.
    ``how``       the column of `Rewritten.coverage` that its nodes are counted in.
    """

    name: str
    purpose: str
    kinds: tuple[str, ...]
    recognise: Recognise
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    how: str = "rule"
