"""Transpose: the rewritten program run backwards, as one flat graph from inputs to output, relevances and books.

requires  a rewritten program and a target
ensures   a `torch.fx.GraphModule` without autograd: its forward part is the program's own operations; then, in reverse
          order, the transpose of every surrogate; its outputs are described by a `Layout of outputs` (`GraphSignature`)
"""

from __future__ import annotations

import operator
from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch.utils import _pytree as pytree

from lrp_fx.analysis.mask_sense import keeps_where_true
from lrp_fx.analysis.provenance import MASK, POSITION
from lrp_fx.analysis.segment_ids import SegmentIds, segmented_axes
from lrp_fx.errors import LrpError, TargetError
from lrp_fx.ir.graph import op_name, output_node, value_of
from lrp_fx.ir.layout import BatchAxis, Layout, Segmented, batch_axis
from lrp_fx.ir.sizes import hint, same_size
from lrp_fx.ir.source import module_path, source_line
from lrp_fx.ir.tracing import abstract_key, inline, trace
from lrp_fx.optimize.contiguous import make_contiguous
from lrp_fx.optimize.one_hot import pick_classes
from lrp_fx.optimize.pull_rows import pull_rows
from lrp_fx.optimize.push_rows import push_rows
from lrp_fx.optimize.rematerialize import rematerialize_blocks, rematerialize_moves
from lrp_fx.optimize.schedule import schedule_late
from lrp_fx.optimize.simplify import simplify
from lrp_fx.recognize.weights import rows_by_example
from lrp_fx.rewrite.application import Application, Rewritten
from lrp_fx.structure.injections import Injection
from lrp_fx.structure.structure import Structure
from lrp_fx.transpose.alignment import aligned_batch
from lrp_fx.transpose.builder import RelevanceBuilder
from lrp_fx.transpose.leaves import Arrival, LeafBooks, LeafReading
from lrp_fx.transpose.signature import GraphSignature, InjectionInfo, PairsInfo, RelevanceGraph, SiteInfo
from lrp_fx.transpose.streams import StreamBooks
from lrp_fx.transpose.vjp import Plan, Result, per_example, relevance_of, sum_by_rows, transpose_rule, vjp_key

aten = torch.ops.aten
#: Operations of one kernel whose other results (statistics) the transpose shares.
_COMPOSITE = frozenset(("aten.scaled_dot_product_attention", "aten.layer_norm"))


def transpose(
    rewritten: Rewritten,
    structure: Structure,
    target: Any,
    *,
    conserve: str = "total",
    whole: bool = True,
    recompute: bool = False,
    cache: dict[Any, Any] | None = None,
) -> RelevanceGraph:
    """Build the relevance graph of a rewritten program for one kind of target.

    ``whole``: it returns the model's output too. ``recompute``: it keeps little of the forward pass
    (`lrp_fx.optimize.rematerialize`).
    """
    return _Transposer(rewritten, structure, target, conserve, cache if cache is not None else {}).build(
        whole, recompute
    )


class _Transposer:
    def __init__(
        self, rewritten: Rewritten, structure: Structure, target: Any, conserve: str, cache: dict[Any, Any]
    ) -> None:
        self.rewritten, self.structure, self.target, self.audit, self.cache = (
            rewritten,
            structure,
            target,
            conserve == "site",
            cache,
        )
        self.program, self.facts = rewritten.program, rewritten.facts
        self.builder = RelevanceBuilder(rewritten)
        self.graph, self.env, self.mode = self.builder.graph, self.builder.env, self.builder.mode
        self.leaves, self.streams = LeafBooks(self.builder, structure, self.audit), StreamBooks(self.builder, structure)
        self.segment_ids = SegmentIds(self.facts, self.env, self.builder.add)
        self.contributions: dict[tuple[fx.Node, int | None], list[fx.Node]] = defaultdict(list)
        self.credits: dict[fx.Node, list[fx.Node]] = defaultdict(list)  # consumer-side site totals
        self.marked: set[fx.Node] = set()
        self.signature = GraphSignature()
        self.sinks: list[fx.Node] = []
        self.sink_nodes: list[fx.Node | None] = []  # where each sink is, None for the target's
        self.leaf_nodes: list[
            fx.Node
        ] = []  # for each leaf where it enters: position with its use, others by themselves
        self.site_rows: list[tuple[SiteInfo, list[fx.Node], list[fx.Node]]] = []

    def build(self, whole: bool, recompute: bool) -> RelevanceGraph:
        self._copy_forward()
        score = self._seed()
        for node in reversed(list(self.program.graph.nodes)):
            self._visit(node)
        leaves = self._leaf_relevances()
        flat = output_node(self.program.graph).args[0]
        outputs = [self.env[n] if isinstance(n, fx.Node) else n for n in flat] if whole else []  # type: ignore[union-attr]
        self.signature.outputs = len(outputs)
        self.signature.dtype = value_of(self.program.explained_node).dtype
        depths = self.streams.infos(self.leaf_nodes, self.sink_nodes)
        self.signature.depths = [info for info, _ in depths]
        self.signature.passing = len(self.streams.passing)
        self.signature.pairs = [n.name for n in self.streams.pairs]
        self.signature.injections = [_injection_info(i, self.streams.pairs_info(i)) for i in self.structure.injections]
        passing = [total for total, _ in self.streams.passing]
        self.graph.output(
            (
                *outputs,
                score,
                *leaves,
                *self.sinks,
                *(rows for _, rows in depths),
                *passing,
                *self.streams.pairs.values(),
                *self._site_table(),
            )
        )
        simplify(self.graph)
        push_rows(self.graph, self.mode, self.signature.outputs)
        simplify(self.graph)
        if not whole:
            pull_rows(self.graph, self.mode)
            simplify(self.graph)
        pick_classes(self.graph, self.mode, self.signature.outputs)
        make_contiguous(self.graph, self.mode, self.signature.outputs)
        if recompute:
            rematerialize_blocks(
                self.graph, {n for n in self.graph.nodes if n.meta.get("residual")}, self.signature.outputs + 1
            )
        rematerialize_moves(self.graph, self.signature.outputs + 1)
        schedule_late(self.graph)
        module = fx.GraphModule(self.program.module, self.graph, "RelevanceGraph")
        module.graph.lint()
        return RelevanceGraph(module, self.signature)

    # ------------------------------------------------------------------------------------------------ forward
    def _copy_forward(self) -> None:
        last = None
        sums = {node for stream in self.structure.streams for node in stream.sums}
        for node in self.program.graph.nodes:
            if node.op == "output":
                continue
            if node.op != "placeholder" and last is not None and last.op == "placeholder":
                self._add_target_arguments()
            last = node
            self.env[node] = self._copy(node)
            if node in sums:
                self.env[node].meta["residual"] = True
        batched = self.program.batch_input
        if batched is not None:
            self.builder.batch = self.graph.call_function(aten.sym_size.int, (self.env[batched[1]], 0))
            self.builder.batch.meta["val"] = value_of(batched[1]).shape[0]

    def _copy(self, node: fx.Node) -> fx.Node:
        if op_name(node) in _COMPOSITE:
            return self._lower(node)
        return self.graph.node_copy(node, lambda n: self.env[n])

    def _lower(self, node: fx.Node) -> fx.Node:
        """A composite kernel as the kernels it calls, so that its transpose can share their saved results."""
        flat, spec = pytree.tree_flatten((node.args, dict(node.kwargs)), is_leaf=lambda x: x is None)
        positions = [i for i, a in enumerate(flat) if isinstance(a, fx.Node)]

        def run(*values: Any) -> list[Any]:
            full = list(flat)
            for i, v in zip(positions, values, strict=True):
                full[i] = v
            args, kwargs = pytree.tree_unflatten(full, spec)
            with torch.no_grad():
                return [node.target(*args, **kwargs)]  # type: ignore[operator]

        key = (
            "lower",
            str(node.target),
            str(spec),
            tuple(abstract_key(value_of(a)) if isinstance(a, fx.Node) else repr(a) for a in flat),
        )
        if key not in self.cache:
            self.cache[key] = trace(run, [value_of(flat[i]) for i in positions], self.mode)
        (result,) = inline(self.graph, self.cache[key], [self.env[flat[i]] for i in positions])
        result.meta = {**node.meta, "val": value_of(node)}
        return result  # type: ignore[no-any-return]

    def _add_target_arguments(self) -> None:
        self.arguments: dict[str, fx.Node] = {}
        for name, example in self.target.example_arguments().items():
            placeholder = self.graph.placeholder(f"target_{name}")
            batched = self.program.batch_input
            batch = value_of(batched[1]).shape[0] if batched is not None else 1
            with self.mode:
                placeholder.meta["val"] = torch.empty(
                    batch, *example.shape[1:], dtype=example.dtype, device=example.device
                )
            self.arguments[name] = placeholder
        self.signature.arguments = tuple(self.arguments)

    # ------------------------------------------------------------------------------------------------ target
    def _seed(self) -> fx.Node:
        explained = self.program.explained_node
        if explained not in self.rewritten.applications and explained not in self.rewritten.leaves:
            raise TargetError(
                f"the explained output %{explained.name} does not depend on any input that carries relevance"
            )
        mask = self._target_mask(explained)
        names = list(self.arguments)

        def run(output: Tensor, *rest: Any) -> list[Any]:
            mask_value = rest[0] if mask is not None else None
            if mask_value is not None:  # targets see 1 where a token counts, whatever the model's convention
                mask_value = mask_value != 0 if self.mask_keeps else mask_value == 0
            arguments = dict(zip(names, rest[1:] if mask is not None else rest, strict=True))
            leaf = output.detach().requires_grad_()
            with torch.enable_grad():
                score = self.target.score(leaf, mask_value, **arguments)
                if score.dim() != 1:
                    raise TargetError(
                        f"a target must give one number per example, shape (B,); got shape {tuple(score.shape)}"
                    )
                if hint(score.shape[0]) != hint(self.facts.batch):
                    found = f"{hint(score.shape[0])} scores for a batch of {hint(self.facts.batch)}"
                    raise TargetError(
                        f"the target gives {found}: the first axis of every content input must be the batch"
                    )
                (seed,) = torch.autograd.grad(score.sum(), leaf, allow_unused=True)
            if seed is None:
                raise TargetError("the target does not depend on the model's output")
            booked = per_example(
                relevance_of(output, seed, safe=True), batch_axis_of_output, output.shape[batch_axis_of_output.axis]
            )
            return [score.detach(), seed, score.detach() - booked, sum_by_rows(relevance_of(output, seed, safe=True))]

        batch_axis_of_output = batch_axis(self.facts.layout.get(explained)) or BatchAxis(0, 1, 1)
        inputs = [explained] + ([mask] if mask is not None else [])
        nodes = [self.env[n] for n in inputs] + list(self.arguments.values())
        module = trace(run, [value_of(n) for n in inputs] + [value_of(n) for n in self.arguments.values()], self.mode)
        score, seed, remainder, total = inline(self.graph, module, nodes, ("target", "seed", 0))
        self.contributions[explained, None].append(seed)
        if self.audit:
            self.credits[explained].append(total)
        if not self.target.linear:
            self._book("target", SiteInfo("target", "target", "", repr(self.target)), remainder, None)
        return score  # type: ignore[no-any-return]

    def _target_mask(self, explained: fx.Node) -> fx.Node | None:
        """The mask input that speaks of the output's positions: same batch, same length."""
        shape = value_of(explained).shape
        if len(shape) < 3:
            return None
        for info, node in zip(self.program.inputs, self.program.input_nodes().values(), strict=True):
            sizes = value_of(node).shape
            square = (
                len(info.shape) == 2 and same_size(sizes[0], sizes[1]) and not same_size(sizes[0], shape[0])
            )  # between pairs of tokens
            if (
                info.role == MASK
                and info.is_index
                and len(info.shape) == 2
                and not square
                and same_size(sizes[1], shape[1])
            ):
                self.mask_keeps = keeps_where_true(node)
                return node
        return None

    # ------------------------------------------------------------------------------------------------ reverse walk
    def _visit(self, node: fx.Node) -> None:
        application = self.rewritten.applications.get(node)
        if application is None or application.rule.frozen:
            return
        if node.target is operator.getitem:
            parent, index = node.args
            for c in self.contributions.pop((node, None), []):
                self.streams.note_passing(node, parent, node, c, batch_axis(self.facts.layout.get(node)))  # type: ignore[arg-type]
                self.contributions[parent, index].append(c)  # type: ignore[index]
            self.credits[parent].extend(self.credits.pop(node, []))  # type: ignore[index]
            return
        value = value_of(node)
        indices: list[int | None] = [None] if isinstance(value, Tensor) else list(range(len(value)))
        present = [i for i in indices if self.contributions.get((node, i))]
        if not present or not application.carriers:
            return
        coefficients = [self._accumulate(self.contributions.pop((node, i))) for i in present]
        self.streams.note(node, coefficients[0])
        self._transpose(application, present, coefficients)

    def _accumulate(self, parts: list[fx.Node]) -> fx.Node:
        total = parts[0]
        for part in parts[1:]:
            a, b = value_of(total), value_of(part)
            total = self.graph.call_function(aten.add.Tensor, (total, part))
            with self.mode, enable_python_dispatcher():
                total.meta["val"] = a + b
            total.meta["lrp"] = ("sum", "coefficient", 0)
        return total

    def _transpose(self, application: Application, present: list[int | None], coefficients: list[fx.Node]) -> None:
        node = application.node
        row_ids: list[fx.Node] = []
        plan = self._plan(application, present, row_ids)
        flat = application.flat()
        values = [value_of(c) for c in coefficients]
        results = [value_of(node) if i is None else value_of(node)[i] for i in present]
        arguments = [value_of(a) if isinstance(a, fx.Node) else a for a in flat]
        batch = value_of(self.builder.batch) if isinstance(self.builder.batch, fx.Node) else 1
        rows = [value_of(o) for o in row_ids]
        key = vjp_key(plan, values, results, arguments, rows, [batch])
        if key not in self.cache:
            function = transpose_rule(plan, batch)
            try:
                module = trace(function, [*values, *results, *arguments, *rows, batch], self.mode)
            except Exception as error:
                raise LrpError(
                    f"the rule {application.rule.name} could not be transposed at {application.label()}: "
                    f"{type(error).__name__}: {error}"
                ) from error
            self.cache[key] = (module, function.sink_names)  # type: ignore[attr-defined]
        module, sink_names = self.cache[key]
        own = [self.env[node] if i is None else self._result(node, i) for i in present]
        inputs = [
            *coefficients,
            *own,
            *(self.env[a] if isinstance(a, fx.Node) else a for a in flat),
            *row_ids,
            self.builder.batch,
        ]
        outputs = inline(self.graph, module, inputs, (application.node.name, "internal", 0))
        n, m = len(plan.carriers), len(sink_names)
        self._settle(
            application, plan, coefficients, Result(outputs[:n], outputs[n : n + m], outputs[n + m :], sink_names)
        )

    def _result(self, node: fx.Node, index: int) -> fx.Node:
        for user in node.users:
            if user.target is operator.getitem and user.args[1] == index:
                return self.env[user]
        raise LrpError(f"result {index} of %{node.name} is not in the graph")

    def _settle(self, application: Application, plan: Plan, coefficients: list[fx.Node], result: Result) -> None:
        """Hand the coefficients to the operands and book the sinks."""
        flat = application.flat()
        info = SiteInfo(
            application.node.name, application.rule.name, module_path(application.node), source_line(application.node)
        )
        for k, (position, c) in enumerate(zip(plan.carriers, result.coefficients, strict=True)):
            if c is None:
                continue
            operand = flat[position]
            if c not in (*coefficients, *self.marked):  # sums hand on the coefficient they got: it stays the giver's
                c.meta["lrp"] = (application.node.name, "coefficient", k)
                self.marked.add(c)
            self.contributions[operand, None].append(c)
            place = plan.x_axes[k]
            axis = place if isinstance(place, BatchAxis) else None
            self.streams.note_passing(application.node, operand, operand, c, axis)
            self.leaves.note(operand, Arrival(c, application, axis))
            if self.audit:
                self.credits[operand].append(result.totals[k])
        for name, total in zip(result.sink_names, result.sinks, strict=True):
            self._book(name, info, total, application.node)
        if self.audit:
            self.signature.sites.append(info)
            self.site_rows.append((info, self.credits.pop(application.node, []), result.totals))

    def _book(self, name: str, info: SiteInfo, total: fx.Node, at: fx.Node | None) -> None:
        self.signature.sinks.append((name, info))
        self.sinks.append(total)
        self.sink_nodes.append(at)

    def _plan(self, application: Application, present: list[int | None], ids: list[fx.Node]) -> Plan:
        """What is to be transposed; segment ids that it needs are appended to ``ids``."""
        node = application.node
        flat = application.flat()
        _, spec = pytree.tree_flatten((application.args, dict(application.kwargs)), is_leaf=lambda x: x is None)
        y_layout = self._layout_of_result(node, present[0])
        y_axis = batch_axis(y_layout)
        y_place = y_axis or self._segmented(node, ids)
        carriers = tuple(sorted(application.carriers))
        grow: dict[int, tuple[int, int]] = {}
        expand: set[int] = set()
        x_axes: list[BatchAxis | Segmented | None] = []
        for position in carriers:
            axis: BatchAxis | Segmented | None = batch_axis(self.facts.layout.get(flat[position]))
            if axis is None and application.op is rows_by_example:  # a copy of the table for each example, in front
                axis, grow[position] = BatchAxis(0, 1, 1), (0, value_of(node).dim() + 1)
            elif (
                axis is None
                and y_axis is not None
                and (found := self._aligned(flat[position], node, y_axis)) is not None
            ):
                at, rank, present_there = found
                axis = BatchAxis(at, y_axis.outer, y_axis.inner)
                if not present_there:
                    grow[position] = (at, rank)
            x_axes.append(axis or self._segmented(flat[position], ids))
            if self.leaves.rule_of(flat[position], application) is not None:
                expand.add(position)
                x_axes[-1] = y_axis
        masked = any(isinstance(a, fx.Node) and a in self.facts.sources and MASK in self.facts.sources[a] for a in flat)
        safe = (
            masked or application.kind == "route" or (application.kind == "attention" and 3 in carriers)
        )  # a bias may be minus infinity
        return Plan(
            rule=application.rule,
            op=application.op,
            flat=tuple(flat),
            spec=spec,
            carriers=carriers,
            factors=dict(application.factors),
            masks=application.masks,
            facts=dict(application.facts),
            grow=grow,
            expand=frozenset(expand),
            outputs=tuple(present),
            y_axis=y_place,
            x_axes=tuple(x_axes),
            audit=self.audit,
            safe=safe,
        )

    def _aligned(self, operand: fx.Node, node: fx.Node, y_axis: BatchAxis) -> tuple[int, int, bool] | None:
        """Where the batch is, or has to be grown, in an operand without it; not in one that belongs to examples all the
        same.
        """
        belongs = segmented_axes(self.facts.layout.get(operand)) or operand in self.facts.example
        return None if belongs else aligned_batch(value_of(operand), value_of(node), y_axis)

    def _segmented(self, node: fx.Node, ids: list[fx.Node]) -> Segmented | None:
        """The example of each row of a value, where rows are in no fixed order."""
        found = self.segment_ids.of(node, self.builder.batch)
        if found is None:
            return None
        ids.append(found)
        return Segmented(len(ids) - 1)

    def _layout_of_result(self, node: fx.Node, index: int | None) -> Layout | None:
        if index is None:
            return self.facts.layout.get(node)
        for user in node.users:
            if user.target is operator.getitem and user.args[1] == index:
                return self.facts.layout.get(user)
        return None

    # ------------------------------------------------------------------------------------------------ leaves
    def _leaf_relevances(self) -> list[fx.Node]:
        """[relevance, total, magnitude] of every leaf; a position leaf counts once for each use."""
        outputs: list[fx.Node] = []
        for node, kind in self.rewritten.leaves.items():
            arrivals = self.leaves.arrivals.pop(node, [])
            if kind != POSITION and arrivals:
                arrivals = [replace(arrivals[0], c=self._accumulate([a.c for a in arrivals]))]
                self.streams.note(node, arrivals[0].c)
            for arrival in arrivals:
                read = self.leaves.read(node, kind, arrival)
                self.signature.leaves.append(read.leaf)
                self.leaf_nodes.append(read.at)
                if read.rule is not None:
                    self._book(
                        read.rule.sinks[0],
                        SiteInfo(node.name, read.rule.name, read.leaf.module, read.leaf.source),
                        read.values[3],
                        read.at,
                    )
                if self.audit:
                    self._audit_leaf(node, read)
                outputs += read.values[:3]
        return outputs

    def _audit_leaf(self, node: fx.Node, read: LeafReading) -> None:
        info = SiteInfo(
            node.name,
            f"leaf: {read.leaf.kind}" if read.rule is None else read.rule.name,
            module_path(node),
            source_line(node),
        )
        self.signature.sites.append(info)
        credits = self.credits.pop(node, [])
        if read.leaf.kind == POSITION:  # one row for each use: pair it with that use's credit, in the order of arrival
            self.credits[node], credits = credits[1:], credits[:1]
        self.site_rows.append((info, credits, read.values[-3:]))

    def _site_table(self) -> list[fx.Node]:
        """One tensor (sites, 4): out, in, sinks, scale."""
        if not self.audit:
            return []
        rows: list[fx.Node] = []
        for _, credits, totals in self.site_rows:
            out = self._sum_scalars(credits)
            rows += [out, self._sum_scalars(totals[:-2]), totals[-2], totals[-1]]
        stacked = self.graph.call_function(aten.stack.default, (rows,))
        return [self.graph.call_function(aten.reshape.default, (stacked, [-1, 4]))]

    def _sum_scalars(self, nodes: list[fx.Node]) -> fx.Node:
        if len(nodes) == 1:
            return nodes[0]
        stacked = self.graph.call_function(aten.stack.default, (list(nodes),))
        return self.graph.call_function(aten.sum.default, (stacked,))


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
