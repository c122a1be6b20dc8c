"""The books of leaves, while a relevance graph is drawn: what arrived at each, and how it is read."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from lrp_fx.alignment import counted_size, token_axes_of
from lrp_fx.bill import Leaf
from lrp_fx.canvas import Canvas
from lrp_fx.errors import LrpError, module_path, source_line
from lrp_fx.layout import BatchAxis
from lrp_fx.leaves import Reading, axes_batch_first, reader
from lrp_fx.program import op_name, value_of
from lrp_fx.provenance import CONTENT, POSITION
from lrp_fx.recognize.anatomy import Anatomy
from lrp_fx.recognize.dataflow import MOVES
from lrp_fx.recognize.injections import softmax_after
from lrp_fx.rewrite import Application
from lrp_fx.rule import Call, Rule

#: Rows of a table, moved about (a cast to a narrower type may overflow).
_KEPT_FINITE = (MOVES - {"aten._to_copy"}) | {"aten.embedding", "aten.index_select"}


@dataclass(frozen=True)
class Arrival:
    """A coefficient that reached a leaf from one application; ``axis``: where the batch is in it."""

    c: fx.Node
    application: Application
    axis: BatchAxis | None


@dataclass(frozen=True)
class Read:
    """A leaf as it is read: ``values`` are [relevance, total, magnitude], then the leaf rule's sink, then site totals."""

    leaf: Leaf
    at: fx.Node
    rule: Rule | None
    values: list[Any]


class LeafBooks:
    """Collects what arrives at leaves and draws how it is read; a position leaf counts once for each use."""

    def __init__(self, canvas: Canvas, anatomy: Anatomy, audit: bool) -> None:
        self.canvas, self.anatomy, self.audit = canvas, anatomy, audit
        self.arrivals: dict[fx.Node, list[Arrival]] = defaultdict(list)

    def note(self, leaf: fx.Node, arrival: Arrival) -> None:
        if leaf in self.canvas.rewritten.leaves:
            self.arrivals[leaf].append(arrival)

    def rule_of(self, node: fx.Node, application: Application) -> Rule | None:
        """The rule that reads a position leaf's relevance at one use; None where it is simply ``x c``."""
        rewritten = self.canvas.rewritten
        if not rewritten.leaf_rules or rewritten.leaves.get(node) != POSITION:
            return None
        injection = self.anatomy.injection_of(node, application)
        return rewritten.leaf_rules.get(injection.kind) if injection is not None else None

    def read(self, node: fx.Node, kind: str, arrival: Arrival) -> Read:
        """Draw the reading of one leaf (of one use, for position)."""
        canvas, application = self.canvas, arrival.application
        names = tuple(sorted(canvas.facts.inputs[node])) if kind == CONTENT else ()
        by_token = kind == CONTENT and any(i.is_index for i in canvas.program.inputs if i.name in names)
        rule = self.rule_of(node, application)
        nodes = [canvas.env[node], arrival.c, canvas.batch]
        if rule is not None:
            nodes.append(self._attention_weights(application, rule))
        reading = Reading(arrival.axis, by_token, kind == POSITION, rule, self.audit, _is_finite(node))
        values = canvas.draw(reader(reading), nodes, (node.name, "leaf", 0))
        tokens, owners = self._token_axes(node, kind, arrival, rule)
        where, user = module_path(application.node) or module_path(node), application.node.name if kind == POSITION else None
        leaf = Leaf(node.name, kind, names, where, source_line(application.node), tokens, owners, user)
        return Read(leaf, application.node if kind == POSITION else node, rule, values)

    def _token_axes(self, node: fx.Node, kind: str, arrival: Arrival, rule: Rule | None) -> tuple[tuple[int, ...], tuple[str | None, ...]]:
        """Axes of the leaf's relevance that run over tokens, and the input whose tokens each counts."""
        canvas, application, rank = self.canvas, arrival.application, value_of(arrival.c).dim()
        if rule is not None:  # expanded to the scores: queries by keys
            axes, sizes = [rank - 2, rank - 1], value_of(arrival.c).shape[-2:]
        else:
            own = token_axes_of(node, application, canvas.facts.layout.get(node), canvas.facts.layout.get(application.node))
            sizes = [counted_size(node, application, a) for a in own]
            axes = [a + rank - value_of(node).dim() for a in own]  # growing over the batch put axes in front
        pairs = [(a, canvas.owner(s)) for a, s in zip(axes, sizes, strict=True)]
        if kind != POSITION:
            return tuple(a for a, _ in pairs), tuple(o for _, o in pairs)
        kept = [(a, o) for a, o in pairs if arrival.axis is None or a != arrival.axis.axis]  # windows merged with the batch are no tokens
        return axes_batch_first(tuple(a for a, _ in kept), arrival.axis), tuple(o for _, o in kept)

    def _attention_weights(self, application: Application, rule: Rule) -> fx.Node:
        """The attention weights that a score bias leads to: the softmax's own, or those of a fused kernel written out."""
        softmax = softmax_after(self.canvas.rewritten, application.node)
        if softmax is not None:
            return self.canvas.env[softmax]
        written = application.rule.weights
        if written is None:
            raise LrpError(f"{rule.name} needs the attention weights at {application.label()}, and its rule does not say how to write them out")
        flat = application.flat()
        positions = [i for i, a in enumerate(flat) if isinstance(a, fx.Node)]
        call = Call(application.op, application.args, application.kwargs)

        def run(*values: Any) -> list[Any]:
            return [written(call.with_flat([values[positions.index(i)] if i in positions else a for i, a in enumerate(flat)]))]

        (node,) = self.canvas.draw(run, [self.canvas.env[flat[i]] for i in positions], (application.node.name, "weights", 0))
        return node  # type: ignore[no-any-return]


def _is_finite(node: fx.Node) -> bool:
    """Are these rows of a parameter, moved about? Parameters are checked to be finite; masks in constants are not."""
    while op_name(node) in _KEPT_FINITE and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    owner = node.graph.owning_module
    return node.op == "get_attr" and owner is not None and isinstance(getattr(owner, str(node.target), None), nn.Parameter)
