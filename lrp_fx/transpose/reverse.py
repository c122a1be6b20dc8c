"""Reverse: the rewritten program run backwards, as one flat graph from inputs to output, relevances and books.

requires  a rewritten program and a target
ensures   a graph without autograd: its forward part is the program's own operations; then, in reverse order, the
          transpose of every surrogate; a `GraphSignature` says what its outputs are
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import prod
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lrp_fx.analysis.provenance import POSITION
from lrp_fx.analysis.segment_ids import SegmentIds, summed_by_segment
from lrp_fx.errors import RuleError, TransposeError
from lrp_fx.ir.graph import op_name, output_node, value_of
from lrp_fx.ir.layout import BatchAxis, Segmented
from lrp_fx.ir.sizes import hint
from lrp_fx.ir.source import module_path, source_line
from lrp_fx.ir.traces import Traced, Traces, known_of
from lrp_fx.ir.tracing import inline
from lrp_fx.optimize.program import RelevanceProgram
from lrp_fx.rewrite.application import Application, Rewritten
from lrp_fx.rewrite.refuse import refuse_untraced_derivative
from lrp_fx.rule import Call, missing_freeze
from lrp_fx.structure.injections import Injection
from lrp_fx.structure.structure import Structure
from lrp_fx.targets import Target
from lrp_fx.transpose.bases import Bases
from lrp_fx.transpose.batch_axes import BatchAxes
from lrp_fx.transpose.builder import RelevanceBuilder
from lrp_fx.transpose.inside import ELSEWHERE, NOTHING, Inside, InsideBooks
from lrp_fx.transpose.leaves import Arrival, LeafBooks, LeafReading
from lrp_fx.transpose.pairs import told_of
from lrp_fx.transpose.parameters import ParameterBooks
from lrp_fx.transpose.plan import Planner, holds_nan
from lrp_fx.transpose.seed import Seed, add_arguments, add_seed, mask_of_target
from lrp_fx.transpose.signature import GraphSignature, InjectionInfo, PairsInfo, PlaceInfo, SiteInfo
from lrp_fx.transpose.sites import SiteBooks, site_of
from lrp_fx.transpose.stops import StopBooks
from lrp_fx.transpose.streams import StreamBooks
from lrp_fx.transpose.vjp import Plan, Result, may_be_shared, transpose_rule, vjp_keys


def reverse(
    rewritten: Rewritten,
    structure: Structure,
    target: Target,
    *,
    audit: bool = False,
    whole: bool = True,
    recompute: bool = False,
    parameters: bool = False,
    traces: Traces | None = None,
    inside: Inside = NOTHING,
) -> tuple[RelevanceProgram, GraphSignature]:
    """The relevance graph of a rewritten program for one kind of target, and what its outputs are.

    audit: balance every site. whole: return the model's output too. recompute: keep little of the forward pass.
    parameters: return the relevance of the model's parameters, too (`lrp_fx.transpose.parameters`).
    traces: transposed rules of earlier graphs, by what they were traced for; new ones are added. inside: what is asked
    of places inside the model.
    """
    whole = whole and not inside.stops
    walk = _Walk(rewritten, structure, target, audit, traces if traces is not None else Traces(), inside)
    if parameters:
        walk.weights = ParameterBooks(walk.builder, structure)
    outputs, signature = walk.run(whole), walk.signature
    if walk.weights is not None:
        outputs, signature = walk.weights.added_to(outputs, signature, walk.contributions)
    root, own = walk.builder.root, walk.signature.outputs
    walk.builder.graph.output(outputs)
    return RelevanceProgram(walk.builder.graph, root, walk.builder.mode, own, whole, recompute), signature


class _Walk:
    """One walk against the flow of data.

    ``contributions``: (node, result) -> the coefficients that have arrived. ``marked``: coefficients that have a name.
    """

    def __init__(
        self,
        rewritten: Rewritten,
        structure: Structure,
        target: Target,
        audit: bool,
        traces: Traces,
        inside: Inside,
    ) -> None:
        self.rewritten, self.structure, self.target, self.audit = rewritten, structure, target, audit
        self.facts = rewritten.facts
        self.builder = RelevanceBuilder(rewritten, traces)
        self.inside, self.stops = InsideBooks(self.builder, inside), StopBooks(self.builder, inside.stops)
        source = inside.source
        self.source = source.node if source is not None else rewritten.program.explained_node
        self.bases = Bases(self.builder)
        self.leaves = LeafBooks(self.builder, structure, audit)
        self.streams = StreamBooks(self.builder, structure)
        self.sites = SiteBooks(self.builder, audit)
        self.contributions: dict[tuple[fx.Node, int | None], list[fx.Node]] = defaultdict(list)
        self.marked: set[fx.Node] = set()
        self.signature = GraphSignature()
        self.weights: ParameterBooks | None = None
        self.sinks: list[fx.Node] = []
        self.sink_nodes: list[fx.Node | None] = []  # where each sink is, None for the target's
        self.leaf_nodes: list[fx.Node] = []  # where each leaf enters: position with its use, others by themselves

    def run(self, whole: bool) -> tuple[Any, ...]:
        """Everything that the graph returns, in the order of the signature."""
        arguments: dict[str, fx.Node] = {}
        source = self.inside.asked.source

        def add() -> None:
            arguments.update(add_arguments(self.builder, self.target, source))
            self.signature.gates = (*self.inside.add_masks(), *self.stops.add_arguments())

        self.builder.copy_forward(self.structure, add)
        segment_ids = SegmentIds(self.facts, self.builder.env, self.builder.add)
        self.planner = Planner(
            self.facts,
            segment_ids,
            BatchAxes(self.facts, self.builder.env, self.builder.add, self.builder.batch),
            self.builder.batch,
            self.leaves.is_expanded,
            together=self.rewritten.ruleset.as_autograd,
            gaps=holds_nan(self.rewritten.program),
        )
        seed = self.stops.scaled(add_seed(self.builder, self.target, arguments, source))
        self.score = seed.score
        self._start(seed)
        for node in reversed(list(self.rewritten.program.graph.nodes)):
            self._visit(node)
        self.inside.check()
        leaves = self._leaf_relevances()
        self.signature.arguments = tuple(arguments)
        if self.inside.asked.stops:  # what starts anew is no part of one score's way along a stream
            self.streams.begin_again()
        return self._outputs(self.stops.score(seed.score), leaves, whole)

    def _start(self, seed: Seed) -> None:
        self.contributions[self.source, None].append(seed.coefficient)
        self.sites.credit(self.source, seed.total)
        if not self.target.linear:
            self._book("target", SiteInfo("target", "target", "", repr(self.target)), seed.remainder, None)

    def _outputs(self, score: fx.Node, leaves: list[fx.Node], whole: bool) -> tuple[Any, ...]:
        program, signature, streams = self.rewritten.program, self.signature, self.streams
        flat: Any = output_node(program.graph).args[0]
        own = [self.builder.env[n] if isinstance(n, fx.Node) else n for n in flat] if whole else []
        depths = streams.infos(self.leaf_nodes, self.sink_nodes)
        signature.outputs = len(own)
        signature.explained = list(flat).index(self.source) if own and self.source in flat else None
        signature.target_mask = mask_of_target(program, self.source)
        signature.dtype = self.rewritten.precision
        signature.depths = [info for info, _ in depths]
        signature.passing = len(streams.passing)
        signature.pairs = [n.name for n in streams.pairs]
        signature.sites = self.sites.infos
        signature.forms = self.structure.forms
        signature.injections = [_injection_info(i, streams.pairs_info(i)) for i in self.structure.injections]
        signature.inside = [
            PlaceInfo(p.name, p.kind, p.node.name, p.axes, p.module, p.source, p.layer, *told_of(p.pairs))
            for p in self.inside.asked.at
        ]
        signature.stops = len(self.inside.asked.stops)
        rows, passing = [r for _, r in depths], [total for total, _ in streams.passing]
        read, pairs = [*self.inside.outputs(), *self.stops.outputs()], streams.pairs.values()
        return (*own, score, *leaves, *self.sinks, *rows, *passing, *pairs, *read, *self.sites.table())

    # ------------------------------------------------------------------------------------------------ operations
    def _visit(self, node: fx.Node) -> None:
        if node in self.stops.nodes:
            self._at_stop(node)
        elif node in self.inside.nodes and not self._at_place(node):
            return
        application = self.rewritten.applications.get(node)
        if application is None or application.rule.frozen:
            return
        if op_name(node) == "getitem":
            self._hand_to_whole(node)
            return
        value = value_of(node)
        indices: list[int | None] = [None] if isinstance(value, Tensor) else list(range(len(value)))
        present = [i for i in indices if self.contributions.get((node, i))]
        if not present or not application.carriers:
            return
        coefficients = [self.builder.sum(self.contributions.pop((node, i))) for i in present]
        self.streams.note(node, coefficients[0])
        self._transpose(application, present, coefficients)

    def _at_place(self, node: fx.Node) -> bool:
        """A value that somebody asked for: is there something left to hand on?"""
        arrived = self.contributions.pop((node, None), [])
        if not arrived:
            return False
        c = self.builder.sum(arrived)
        self.inside.note(node, c)
        info = SiteInfo(node.name, "through", module_path(node), source_line(node))
        if node in self.inside.gates:
            c, rest, books = self.inside.gated(node, c, self.score)
            arrivals = self.leaves.arrivals.get(node, [])[:1]
            self.sites.note_totals(info, node, books)
            self._begin_again()
            self._book(ELSEWHERE, info, rest, None)
            self.sites.credit(node, books[0])
            self.leaves.arrivals.update({node: [replace(a, c=c) for a in arrivals]} if arrivals else {})
        self.contributions[node, None].append(c)
        return True

    def _at_stop(self, node: fx.Node) -> None:
        """What arrives is booked here, unless it is to go on; what is given starts."""
        arrived = self.contributions.pop((node, None), [])
        c, stopped = self.stops.at(node, self.builder.sum(arrived) if arrived else None)
        info = SiteInfo(node.name, "stop", module_path(node), source_line(node))
        self._book(self.stops.nodes[node].place.name, info, stopped, node)
        arrivals = self.leaves.arrivals.get(node, [])[:1]
        self.leaves.arrivals.update({node: [replace(a, c=c) for a in arrivals]} if arrivals else {})
        self.contributions[node, None].append(c)

    def _begin_again(self) -> None:
        """What was handed to others than a gate has not passed it."""
        self.contributions.clear()
        self.leaves.arrivals.clear()
        self.streams.begin_again()
        self.sites.credits.clear()
        self.signature.sinks.clear()
        self.sinks.clear()
        self.sink_nodes.clear()

    def _hand_to_whole(self, part: fx.Node) -> None:
        """What arrives at one of several results arrives at the operation."""
        whole: Any = part.args[0]
        index: Any = part.args[1]
        for c in self.contributions.pop((part, None), []):
            self.streams.note_passing(part, whole, part, c, self.planner.axes.of(part))
            self.contributions[whole, index].append(c)
        self.sites.hand_on(part, whole)

    def _transpose(self, application: Application, present: list[int | None], coefficients: list[fx.Node]) -> None:
        """The transpose of the rule's surrogate, traced once for all operations that are alike."""
        node, env, batch = application.node, self.builder.env, self.builder.batch
        rows: list[fx.Node] = []
        bases = self.bases.of_operands(application)
        plan = self.planner.plan(application, present, self.audit, rows, tuple(bases))
        flat = application.flat()
        values = [value_of(c) for c in coefficients]
        results = [value_of(node) if i is None else value_of(node)[i] for i in present]
        _require_apart(application, values, results)
        arguments = [value_of(a) if isinstance(a, fx.Node) else a for a in flat]
        size = value_of(batch) if isinstance(batch, fx.Node) else 1
        ids, begun = [value_of(o) for o in rows], [value_of(b) for b in bases.values()]
        traces, (key, plain) = self.builder.traces, vjp_keys(plan, values, results, arguments, begun, ids, [size])
        mode = self.builder.mode
        found = traces.get(plain, mode) or traces.get(key, mode)
        if found is None:
            known = known_of(mode) if may_be_shared(plan) else None
            function = transpose_rule(plan, size)
            _require_linear(application, plan, arguments)
            what = f"the rule {application.rule.name} at {application.label()}"
            module = self.builder.traced(function, [*values, *results, *arguments, *begun, *ids, size], lambda: what)
            if not function.reaches:  # type: ignore[attr-defined]
                refuse_untraced_derivative(application)
            found = Traced(module, function.sink_names)  # type: ignore[attr-defined]
            traces.keep(key if found.sinks else plain, found, mode, known, plan.rule)
        own = [self.builder.result(node, i) for i in present]
        operands = [env[a] if isinstance(a, fx.Node) else a for a in flat]
        given = [*coefficients, *own, *operands, *bases.values(), *rows, batch]
        outputs = inline(self.builder.graph, found.module, given, (node.name, "internal", 0))
        if self.weights is not None:
            self.weights.note(application, plan, given)
        result = Result.of(outputs, len(plan.carriers), found.sinks)
        self._settle(application, plan, coefficients, result, rows)

    def _settle(
        self,
        application: Application,
        plan: Plan,
        coefficients: list[fx.Node],
        result: Result,
        ids: list[fx.Node],
    ) -> None:
        """Hand the coefficients to the operands and book the sinks."""
        flat, info = application.flat(), site_of(application)
        operands = [flat[position] for position in plan.carriers]
        self.sites.note(info, application.node, operands, result.coefficients, result.checks)
        for k, (position, c) in enumerate(zip(plan.carriers, result.coefficients, strict=True)):
            if c is None:
                continue
            operand = flat[position]
            if (
                c not in coefficients and c not in self.marked
            ):  # sums hand on the coefficient they got: it stays the giver's
                c.meta["lrp"] = (application.node.name, "coefficient", k)
                self.marked.add(c)
            self.contributions[operand, None].append(c)
            place = plan.x_axes[k]
            axis = place.with_sizes(ids) if isinstance(place, BatchAxis) else None
            if isinstance(place, Segmented) and position in plan.grow:
                c, axis = self._by_example(c, plan.grow[position][0], ids[place.slot], application.node)
            self.streams.note_passing(application.node, operand, operand, c, axis)
            self.leaves.note(operand, Arrival(c, application, axis))
        for name, total in zip(result.sink_names, result.sinks, strict=True):
            self._book(name, info, total, application.node)

    def _by_example(self, c: fx.Node, axis: int, ids: fx.Node, node: fx.Node) -> tuple[fx.Node, BatchAxis]:
        """The coefficient of what belongs to no example, and each row of a result had a copy of, summed by example."""
        (total,) = self.builder.add(
            lambda t, of, b: [summed_by_segment(t, of, axis, b)],
            [c, ids, self.builder.batch],
            (node.name, "coefficient", 0),
        )
        in_front = value_of(total).dim() > value_of(c).dim()
        return total, BatchAxis(0 if in_front else axis, 1, 1)

    def _book(self, name: str, info: SiteInfo, total: fx.Node, at: fx.Node | None) -> None:
        self.signature.sinks.append((name, info))
        self.sinks.append(total)
        self.sink_nodes.append(at)

    # ------------------------------------------------------------------------------------------------ leaves
    def _leaf_relevances(self) -> list[fx.Node]:
        """[relevance, total, magnitude] of every leaf; a position leaf counts once for each use."""
        outputs: list[fx.Node] = []
        for node, kind in self.rewritten.leaves.items():
            arrivals = self.leaves.arrivals.pop(node, [])
            if kind != POSITION and arrivals:
                arrivals = [replace(arrivals[0], c=self.builder.sum([a.c for a in arrivals]))]
                self.streams.note(node, arrivals[0].c)
            for arrival in arrivals:
                outputs += self._leaf(node, self.leaves.read(node, kind, arrival))
        return outputs

    def _leaf(self, node: fx.Node, read: LeafReading) -> list[fx.Node]:
        leaf, rule = read.leaf, read.rule
        self.signature.leaves.append(leaf)
        self.leaf_nodes.append(read.at)
        if rule is not None:
            self._book(rule.sinks[0], SiteInfo(node.name, rule.name, leaf.module, leaf.source), read.values[3], read.at)
        name = f"leaf: {leaf.kind}" if rule is None else rule.name
        info = SiteInfo(node.name, name, module_path(node), source_line(node))
        self.sites.note_leaf(info, node, read.values[-3:], one_use=leaf.kind == POSITION)
        if read.constants is None:
            return list(read.values[:3])
        self.signature.leaves.append(read.constants[0])
        self.leaf_nodes.append(read.at)
        return [*read.values[:3], *read.constants[1]]


def _require_apart(application: Application, coefficients: list[Any], results: list[Any]) -> None:
    """Raise `TransposeError` where a value is one for all examples, and each example has a coefficient of its own."""
    for c, y in zip(coefficients, results, strict=True):
        if prod(map(hint, c.shape)) != prod(map(hint, y.shape)):
            raise TransposeError(
                f"{application.label()} is one value for all examples of the batch, which therefore influence each "
                "other: its relevance cannot be told apart by example\n    next: explain one example at a time"
            )


def _require_linear(application: Application, plan: Plan, arguments: list[Any]) -> None:
    """Raise `RuleError` where the rule forgot to freeze something: its books would not close."""
    args, kwargs = pytree.tree_unflatten(arguments, plan.spec)
    call = Call(plan.op, tuple(args), kwargs, frozenset(plan.carriers), plan.factors, plan.masks, plan.facts)
    if (wrong := missing_freeze(application.rule, call)) is not None:
        raise RuleError(
            f"{wrong}\n  at:   {application.label()}\n  next: wrap in `freeze` what is to be a constant in "
            f"{application.rule.surrogate.__module__}, or declare it as a `sink` (docs/adding_a_rule.md)"
        )


def _injection_info(injection: Injection, pairs: PairsInfo | None) -> InjectionInfo:
    labels = injection.planes.labels if injection.planes is not None else {}
    return InjectionInfo(
        kind=injection.kind,
        variant=injection.variant,
        layer=injection.layer,
        module=injection.module,
        source=injection.source,
        rule=injection.rule,
        uses=tuple((leaf.name, a.node.name) for leaf, a in injection.uses),
        planes=tuple(labels.get(a.node) for _, a in injection.uses),
        count=injection.planes.count if injection.planes is not None else 0,
        pairs=pairs,
        windows=injection.windows,
    )
