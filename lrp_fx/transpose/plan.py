"""Plans: what is to be transposed at an operation, and where its operands have the batch."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from typing import Any

from torch import Tensor, fx

from lrp_fx.analysis.provenance import CONTENT, MASK, Facts
from lrp_fx.analysis.segment_ids import SegmentIds, segmented_axes
from lrp_fx.analysis.sources import may_be_infinite
from lrp_fx.ir.facts import Axes
from lrp_fx.ir.graph import is_float, value_of
from lrp_fx.ir.layout import BatchAxis, Segmented
from lrp_fx.ir.operators import argument, axis_of, operator_of
from lrp_fx.ir.program import Program
from lrp_fx.ir.sizes import hint
from lrp_fx.ir.sparse import numbers_held
from lrp_fx.recognize.weights import rows_by_example
from lrp_fx.rewrite.application import Application
from lrp_fx.transpose.alignment import aligned_batch
from lrp_fx.transpose.batch_axes import BatchAxes
from lrp_fx.transpose.builder import part_of
from lrp_fx.transpose.vjp import Plan

Place = BatchAxis | Segmented | None


class Planner:
    """Makes the plan of one application after the other.

    ``expands``: is an operand of an application read pair by pair (or place by place of a grid), expanded to the whole
    result? ``together``: has what
    is made of all examples one coefficient, of all their scores, or one for each? ``gaps``: may values hold NaN that a
    mask hides?
    """

    def __init__(
        self,
        facts: Facts,
        segment_ids: SegmentIds,
        axes: BatchAxes,
        batch: Any,
        expands: Callable[[fx.Node, Application], bool],
        *,
        together: bool = False,
        gaps: bool = False,
    ) -> None:
        self.facts, self.segment_ids, self.axes, self.batch, self.expands = facts, segment_ids, axes, batch, expands
        self.together, self.gaps = together, gaps

    def plan(
        self,
        application: Application,
        present: list[int | None],
        audit: bool,
        rows: list[fx.Node],
        bases: tuple[int, ...],
    ) -> Plan:
        """What is to be transposed, given which results have coefficients and which operands a base; segment ids and
        sizes that it needs go to ``rows``.
        """
        flat = application.flat()
        y_axis = self.axes.of(application.node if present[0] is None else part_of(application.node, present[0]))
        y_axis = y_axis.given(rows) if y_axis is not None else None
        y_place: Place = y_axis or self._segmented(application.node, rows)
        carriers = tuple(sorted(application.carriers))
        grow: dict[int, tuple[int, int]] = {}
        expand = frozenset(p for p in carriers if self.expands(flat[p], application))
        x_axes: list[Place] = []
        for position in carriers:
            axis, growth = self._batch_of(flat[position], application, y_axis)
            place: Place = axis.given(rows) if axis is not None else self._segmented(flat[position], rows)
            if place is None and isinstance(y_place, Segmented) and position not in expand:
                growth = self._grown_by_rows(flat[position], application.node)
                place = y_place if growth is not None else None
            if growth is not None:
                grow[position] = growth
            x_axes.append(y_axis if position in expand else place)
        return Plan(
            rule=application.rule,
            op=application.op,
            flat=tuple(flat),
            spec=application.spec,
            carriers=carriers,
            factors=dict(application.factors),
            masks=application.masks,
            facts=dict(application.facts),
            grow=grow,
            expand=expand,
            outputs=tuple(present),
            y_axis=y_place,
            x_axes=tuple(x_axes),
            audit=audit,
            safe=self._is_masked(application, carriers),
            bases=bases,
            gaps=self.gaps and application.rule.remainder is not None,
        )

    def _batch_of(
        self, operand: fx.Node, application: Application, y_axis: BatchAxis | None
    ) -> tuple[BatchAxis | None, tuple[int, int] | None]:
        """Where the batch is in an operand, and the (axis, rank) along which it has to be grown to have it."""
        axis = self.axes.of(operand)
        if axis is not None:
            return axis, None
        node = application.node
        if application.op is rows_by_example:  # a copy of the table for each example, in front
            return BatchAxis(0, 1, 1), (0, value_of(node).dim() + 1)
        belongs = segmented_axes(self.facts.layout.get(operand)) or operand in self.facts.example
        if y_axis is None or belongs:
            return None, None
        found = aligned_batch(operand, node, y_axis)
        if found is None:
            return None, None
        at, rank, present = found
        if not present and self.together and CONTENT in self.facts.sources[operand]:
            return None, None  # made of all examples
        return BatchAxis(at, y_axis.outer, y_axis.inner), None if present else (at, rank)

    def _grown_by_rows(self, operand: fx.Node, node: fx.Node) -> tuple[int, int] | None:
        """The (axis, rank) along which an operand that belongs to no example is expanded, where rows of the result
        belong to examples in an order of their own; None where it has rows there itself.
        """
        x, y = value_of(operand), value_of(node)
        if not (isinstance(x, Tensor) and isinstance(y, Tensor)) or x.dim() > y.dim() or not y.dim():
            return None
        axis = next(iter(segmented_axes(self.facts.layout.get(node))), 0)
        own = axis - (y.dim() - x.dim())
        if operator_of(node).axes is Axes.JOINED and axis_of(node, y.dim()) == axis:
            return None  # it is rows of the result, not copied to them
        lacks_rows = own < 0 or hint(x.shape[own]) == 1 or node in self.facts.example
        return (axis, y.dim()) if lacks_rows else None

    def _is_masked(self, application: Application, carriers: tuple[int, ...]) -> bool:
        """May an operand be minus infinity where no relevance arrives: a mask, a route, the bias of an attention?

        Where a sink is what is left of the result by the operands' relevance, any operand may be (scores behind a mask
        made of content), and 0 * inf must not become NaN.
        """
        if application.rule.remainder is not None and application.kind != "attention":  # whose scores are inside
            return True
        sources = (self.facts.sources.get(a, frozenset()) for a in application.flat() if isinstance(a, fx.Node))
        added = argument(application.node, "attn_mask") if application.kind == "attention" else None
        bias = (3 in carriers and added is not None) or (isinstance(added, fx.Node) and is_float(added))
        passed = application.facts.get("masked", False) and (
            application.kind != "softmax" or application.rule.remainder is not None  # else no score is read
        )
        masked = application.kind == "route" or bias or passed or any(MASK in s for s in sources)
        return masked or (application.kind in ("sum", "residual") and self._adds_a_pole(application))

    def _adds_a_pole(self, application: Application) -> bool:
        """May a term be minus infinity by what computes or holds it: the logarithm of a mask?"""
        terms = [a for a in application.flat() if isinstance(a, fx.Node)]
        return any(CONTENT not in self.facts.sources.get(a, (CONTENT,)) and may_be_infinite(a) for a in terms)

    def _segmented(self, node: fx.Node, rows: list[fx.Node]) -> Segmented | None:
        """The example of each row of a value, where rows are in no fixed order."""
        found = self.segment_ids.of(node, self.batch)
        if found is None:
            return None
        rows.append(found)
        return Segmented(len(rows) - 1)


def holds_nan(program: Program) -> bool:
    """Is NaN among the numbers that operations are given, or the constants? (Weights are finite.)"""
    numbers = [a for n in program.graph.nodes for a in (*n.args, *n.kwargs.values()) if isinstance(a, float)]
    constants = [n for n in program.graph.find_nodes(op="get_attr") if n.meta.get("origin") == "constant"]
    held = [getattr(program.module, str(n.target)) for n in constants]
    few = [t for t in held if t.is_floating_point() and t.numel() <= 4096]  # a table that is no weight is not so large
    return any(map(isnan, numbers)) or any(bool(numbers_held(t).isnan().any()) for t in few)
