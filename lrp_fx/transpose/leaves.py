"""Leaves: what relevance arrives where it ends, and how it is read, summed and laid out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from lrp_fx.analysis.provenance import CACHED, CONTENT, LEARNED, POSITION
from lrp_fx.errors import LrpError
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.layout import BatchAxis
from lrp_fx.ir.operators import has
from lrp_fx.ir.source import module_path, source_line
from lrp_fx.rewrite.application import Application
from lrp_fx.rule import Call, Rule, identity, where_positive
from lrp_fx.structure.injections import ABSOLUTE
from lrp_fx.structure.scores import softmax_after
from lrp_fx.structure.structure import Structure
from lrp_fx.structure.windows import Windows
from lrp_fx.transpose.alignment import counted_size, token_axes_of
from lrp_fx.transpose.builder import RelevanceBuilder
from lrp_fx.transpose.grids import Grids
from lrp_fx.transpose.origins import Origins, input_looked_up, may_be_turned, origins_of
from lrp_fx.transpose.signature import Leaf, Owned
from lrp_fx.transpose.standing import axes_batch_first, batch_first, tokens_met
from lrp_fx.transpose.vjp import per_example, relevance_of, sum_by_rows


@dataclass(frozen=True)
class Reading:
    """How one leaf is read.

    ``axis``: where its batch is, None if it has none. ``by_token``: sum features away (index inputs). ``reshaped``: and
    lay out what is left as the index input is. ``sent``: to the elements of the index input that rows were looked up
    for; what was looked up for ``constants``, if there are such, is read apart. ``rows``: put the batch first, keeping
    what was merged with it as an axis of its own. ``rule``: a leaf rule, or None for ``x c``.
    ``finite``: is the value known to be finite?
    """

    axis: BatchAxis | None
    by_token: bool = False
    reshaped: bool = False
    sent: bool = False
    constants: bool = False
    rows: bool = False
    rule: Rule | None = None
    audit: bool = False
    finite: bool = False


def reader(reading: Reading) -> Callable[..., list[Any]]:
    """The function to trace: ``(x, c, batch[, weights or index input][, origins]) -> [relevance, total, magnitude per
    example (, sink)(, relevance, total, magnitude of constants)(, site totals)]``.
    """

    def read(x: Tensor, c: Tensor, batch: Any, extra: Tensor | None = None) -> list[Any]:
        R, sunk = _relevance(reading, x, c, extra)
        results = [_laid_out(reading, R, batch, extra), *_amounts(R, reading.axis, batch)]
        if sunk is not None:
            results.append(per_example(sunk, reading.axis, batch))
        if reading.audit:
            booked = sum_by_rows(sunk) if sunk is not None else torch.zeros((), dtype=torch.float64, device=R.device)
            results += [sum_by_rows(R), booked, sum_by_rows(R.abs())]
        return results

    # The tracer counts arguments: a leaf without a rule of its own is read without weights.
    if reading.sent:
        return lambda x, c, batch, given, origins: _sent(reading, relevance_of(x, c, safe=True), batch, given, origins)
    return read if reading.rule is not None or reading.reshaped else lambda x, c, batch: read(x, c, batch)


def _sent(reading: Reading, R: Tensor, batch: Any, given: Tensor, origins: Tensor) -> list[Any]:
    """[relevance, total, magnitude] of the elements of ``given``(, the same of constants)(, site totals)."""
    of_element = _gathered(R, given, origins)
    if reading.axis is None:  # one example's, in a loop over the batch
        amounts = (of_element, _gathered(R.abs(), given, origins))
        results = [of_element, *(per_example(a, BatchAxis(0, 1, 1), batch) for a in amounts)]
    else:
        of_constants = torch.where(origins == 0, R, 0)
        results = [of_element, *_amounts(R - of_constants, reading.axis, batch)]
        if reading.constants:
            rows = _unmerged(of_constants.sum(-1), reading.axis, batch)
            results += [rows, *_amounts(of_constants, reading.axis, batch)]
    if reading.audit:
        nothing = torch.zeros((), dtype=torch.float64, device=R.device)
        results += [sum_by_rows(R), nothing, sum_by_rows(R.abs())]
    return results


def _gathered(R: Tensor, given: Tensor, origins: Tensor) -> Tensor:
    """Summed by the element that each row was looked up for, as ``given`` is laid out."""
    features = [d for d, size in enumerate(origins.shape) if isinstance(size, int) and size == 1]
    of_row = (R.sum(features, keepdim=True) if features else R).flatten()
    sums = of_row.new_zeros(given.numel() + 1).index_add(0, origins.flatten(), of_row)
    return sums[1:].reshape(given.shape)


def _amounts(R: Tensor, axis: BatchAxis | None, batch: Any) -> list[Tensor]:
    """[total, magnitude] of each example."""
    return [per_example(R, axis, batch), per_example(R.abs(), axis, batch)]


def _laid_out(reading: Reading, R: Tensor, batch: Any, given: Tensor | None) -> Tensor:
    """Relevance in the form that is reported."""
    if reading.rows:
        return batch_first(R, reading.axis, batch)
    if reading.reshaped:
        assert given is not None
        return R.sum(-1).reshape(batch, *given.shape[1:])
    return _unmerged(R.sum(-1) if reading.by_token and R.dim() > 2 else R, reading.axis, batch)


def _relevance(reading: Reading, x: Tensor, c: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Relevance of a leaf and what its rule does not hand to it."""
    if reading.rule is None:
        return relevance_of(x, c, safe=not reading.finite, last=True), None
    x = x.expand_as(c)
    substitute = reading.rule.surrogate(
        Call(identity, (x, None if weights is None else weights.reshape(c.shape).to(c.dtype)))
    )
    # Where nothing arrives the value may be minus infinity: a masked pair.
    finite, replaced = where_positive(c.abs(), x), where_positive(c.abs(), substitute)
    return relevance_of(substitute, c, safe=True), relevance_of(finite - replaced, c, safe=True)


def _unmerged(R: Tensor, axis: BatchAxis | None, batch: Any) -> Tensor:
    """Summed over windows or heads that were merged with the batch; the batch first where tokens stood before it."""
    if axis is None or axis.axis >= R.dim():
        return R
    return axis.split(R, batch).sum([axis.axis, axis.axis + 2]) if axis.is_merged else R.movedim(axis.axis, 0)


#: Rows of a table, moved about (a cast to a narrower type may overflow).
_KEPT_FINITE = Fact.MOVE | Fact.LOOKUP


@dataclass(frozen=True)
class Arrival:
    """A coefficient that reached a leaf from one application; ``axis``: where the batch is in it."""

    c: fx.Node
    application: Application
    axis: BatchAxis | None


@dataclass(frozen=True)
class LeafReading:
    """A leaf as it is read: ``values`` are [relevance, total, magnitude], then the leaf rule's sink, then site
    totals. ``constants``: that what was looked up for constants got, with its three values.
    """

    leaf: Leaf
    at: fx.Node
    rule: Rule | None
    values: list[Any]
    constants: tuple[Leaf, list[Any]] | None = None


class LeafBooks:
    """Collects what arrives at leaves and adds how it is read; a position leaf counts once for each use."""

    def __init__(self, builder: RelevanceBuilder, structure: Structure, audit: bool) -> None:
        self.builder, self.structure, self.audit = builder, structure, audit
        self.grids = Grids(builder, structure)
        self.arrivals: dict[fx.Node, list[Arrival]] = defaultdict(list)

    def note(self, leaf: fx.Node, arrival: Arrival) -> None:
        if leaf in self.builder.rewritten.leaves:
            self.arrivals[leaf].append(arrival)

    def rule_of(self, node: fx.Node, application: Application) -> Rule | None:
        """The rule that reads a position leaf's relevance at one use; None where it is simply ``x c``."""
        rewritten = self.builder.rewritten
        if not rewritten.leaf_rules or rewritten.leaves.get(node) != POSITION:
            return None
        injection = self.structure.injection_of(node, application)
        return rewritten.leaf_rules.get(injection.kind) if injection is not None else None

    def is_expanded(self, operand: fx.Node, application: Application) -> bool:
        """Is an operand read in the shape of the whole result: pair by pair, or place by place of a grid?"""
        if self.rule_of(operand, application) is not None:
            return True
        is_position = self.builder.rewritten.leaves.get(operand) == POSITION
        return is_position and self.grids.is_one_way_only(operand, application)

    def read(self, node: fx.Node, kind: str, arrival: Arrival) -> LeafReading:
        """Add the reading of one leaf (of one use, for position)."""
        builder, application = self.builder, arrival.application
        names = tuple(sorted(builder.facts.inputs[node])) if kind == CONTENT else ()
        by_token = kind == CONTENT and any(i.is_index for i in builder.program.inputs if i.name in names)
        rule = self.rule_of(node, application)
        nodes = [builder.env[node], arrival.c, builder.batch]
        if rule is not None:
            nodes.append(self._attention_weights(application, rule))
        reading = Reading(
            arrival.axis, by_token, False, False, False, kind == POSITION, rule, self.audit, _is_finite(node)
        )
        given, origins = _looked_up(node) if by_token else None, None
        if given is not None and arrival.axis is not None and arrival.axis.is_merged:
            nodes.append(builder.env[given])
            reading = replace(reading, reshaped=True)
        elif by_token and given is None and (origins := self._origins(node, arrival)) is not None:
            nodes += [builder.env[origins.input], self._numbers(node, origins)]
            reading = replace(reading, sent=True, constants=origins.constants)
        same = (replace(reading, axis=None, rule=None), id(rule))
        values = builder.add_by_example(
            lambda axis: reader(replace(reading, axis=axis)), arrival.axis, nodes, (node.name, "leaf", 0), same, rule
        )
        tokens, owners, grid = self._token_axes(node, kind, arrival, rule)
        tokens, owners, windows = self._standing(node, kind, arrival, rule, tokens, owners)
        where, user = (
            module_path(application.node) or module_path(node),
            application.node.name if kind == POSITION else None,
        )
        apart = by_token and given is None and origins is None and may_be_turned(node, builder.facts)
        reported, source = self._reported(kind, names), source_line(application.node)
        leaf = Leaf(node.name, reported, names, where, source, tokens, owners, user, apart, grid, windows)
        constants = None
        if reading.constants:
            constants = replace(leaf, kind=LEARNED, inputs=()), values[3:6]
        return LeafReading(leaf, application.node if kind == POSITION else node, rule, values, constants)

    def _origins(self, node: fx.Node, arrival: Arrival) -> Origins | None:
        """Of which elements its rows are, where each row is an example's own."""
        if value_of(arrival.c).dim() != value_of(node).dim():
            return None
        found = origins_of(node, self.builder.facts)
        return None if arrival.axis is None and found is not None and found.constants else found

    def _numbers(self, node: fx.Node, origins: Origins) -> fx.Node:
        env = self.builder.env
        given = [env[origins.input], *(env[a] for a in origins.given)]
        (numbers,) = self.builder.add(lambda *values: [origins.numbers(*values)], given, (node.name, "origins", 0))
        return numbers  # type: ignore[no-any-return]

    def _reported(self, kind: str, names: tuple[str, ...]) -> str:
        """The kind that the books name: content of earlier tokens, given in a cache, by itself."""
        roles = {i.role for i in self.builder.program.inputs if i.name in names}
        return CACHED if roles == {CACHED} else kind

    def _token_axes(
        self, node: fx.Node, kind: str, arrival: Arrival, rule: Rule | None
    ) -> tuple[tuple[int, ...], tuple[Owned | None, ...], bool]:
        """Axes of the leaf's relevance that run over tokens, the input whose tokens each counts, is it a grid?"""
        builder, application, rank = self.builder, arrival.application, value_of(arrival.c).dim()
        if rule is not None:  # expanded to the scores: queries by keys
            axes, sizes = [rank - 2, rank - 1], value_of(arrival.c).shape[-2:]
        elif kind == POSITION and self.grids.is_one_way_only(node, application):  # expanded to the grid
            axes = self.grids.axes(node, application)
            sizes = [value_of(arrival.c).shape[a] for a in axes]
        else:
            own = token_axes_of(
                node, application, builder.facts.layout.get(node), builder.facts.layout.get(application.node)
            )
            sizes = [counted_size(node, application, a) for a in own]
            axes = [a + rank - value_of(node).dim() for a in own]  # growing over the batch put axes in front
        if kind == POSITION and len(axes) > 1 and self.grids.axes(node, application):
            return self._on_grid(axes, sizes, arrival)
        owned, at = builder.owners.owned, application.node
        pairs = [(a, owned(s, at, keys=a == rank - 1)) for a, s in zip(axes, sizes, strict=True)]
        if kind != POSITION:
            return tuple(a for a, _ in pairs), tuple(o for _, o in pairs), False
        # windows merged with the batch are no tokens
        kept = [(a, o) for a, o in pairs if arrival.axis is None or a != arrival.axis.axis]
        return axes_batch_first(tuple(a for a, _ in kept), arrival.axis), tuple(o for _, o in kept), False

    def _standing(
        self,
        node: fx.Node,
        kind: str,
        arrival: Arrival,
        rule: Rule | None,
        axes: tuple[int, ...],
        owners: tuple[Owned | None, ...],
    ) -> tuple[tuple[int, ...], tuple[Owned | None, ...], Windows | None]:
        """The axis of rows that were added to some tokens of a text, or to all in another order, whose tokens these
        are, and which.
        """
        application = arrival.application
        if kind != POSITION or rule is not None or len(axes) > 1 or arrival.axis is None:
            return axes, owners, None
        injection = self.structure.injection_of(node, application)
        if (
            injection is None
            or injection.kind != ABSOLUTE
            or value_of(arrival.c).dim() != value_of(application.node).dim()
        ):
            return axes, owners, None
        found = tokens_met(self.builder, node, application, axes)
        if found is None or (any(owners) and not found.are_turned):
            return axes, owners, None
        return found.axes, ((found.text, 0),), found.windows

    def _on_grid(
        self, axes: Sequence[int], sizes: Sequence[Any], arrival: Arrival
    ) -> tuple[tuple[int, ...], tuple[Owned | None, ...], bool]:
        """The same of rows and columns: together they count the tokens of a text, or patches."""
        if self.grids.in_windows(arrival.application):
            return (), (), False  # of which window a place is, is not known
        kept = [(a, s) for a, s in zip(axes, sizes, strict=True) if arrival.axis is None or a != arrival.axis.axis]
        owner = self.builder.owners.owned(prod(s for _, s in kept), arrival.application.node)
        return axes_batch_first(tuple(a for a, _ in kept), arrival.axis), (owner,) * len(kept), True

    def _attention_weights(self, application: Application, rule: Rule) -> fx.Node:
        """The attention weights that a score bias leads to: the softmax's own, or those of a fused kernel written
        out.
        """
        softmax = softmax_after(self.builder.rewritten, application.node)
        if softmax is not None:
            return self.builder.env[softmax]
        written = application.rule.weights
        if written is None:
            raise LrpError(
                f"{rule.name} needs the attention weights at {application.label()}, and its rule does not say how to "
                "write them out"
            )
        flat = application.flat()
        positions = [i for i, a in enumerate(flat) if isinstance(a, fx.Node)]
        call = Call(application.op, application.args, application.kwargs)

        def run(*values: Any) -> list[Any]:
            return [
                written(
                    call.with_flat([values[positions.index(i)] if i in positions else a for i, a in enumerate(flat)])
                )
            ]

        (node,) = self.builder.add(
            run, [self.builder.env[flat[i]] for i in positions], (application.node.name, "weights", 0)
        )
        return node  # type: ignore[no-any-return]


def _looked_up(node: fx.Node) -> fx.Node | None:
    """The input whose elements chose the rows: a text's, of one axis of features each."""
    given = input_looked_up(node)
    if given is None or value_of(given).dim() == 1:
        return None
    return given if value_of(node).dim() - value_of(given).dim() <= 1 else None


def _is_finite(node: fx.Node) -> bool:
    """Are these rows of a parameter, moved about? Parameters are checked to be finite; masks in constants are not."""
    while has(node, _KEPT_FINITE) and not has(node, Fact.CAST | Fact.AVERAGE) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    owner = node.graph.owning_module
    return (
        node.op == "get_attr" and owner is not None and isinstance(getattr(owner, str(node.target), None), nn.Parameter)
    )
