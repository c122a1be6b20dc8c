"""Parameters: what relevance passes through weights and biases, as further outputs of a relevance graph.

At an operation that reads a parameter ``p`` beside what carries relevance, with everything but ``p`` frozen,

    R(p) = p * d <surrogate(y), c(y)> / dp,

summed over examples and tokens: for ``y = W x``, ``R(W_ij) = W_ij sum_t c_i(t) x_j(t)``. A surrogate that is of degree
one in ``W`` hands ``sum(R(W))`` from its result to its operand (Euler), and a bias gets what the sink ``bias`` holds.
Rows of a table that relevance ends in get the relevance of the leaf. What lies between a parameter and the operation
(transposed, cut out, retyped, looked up by an index, scaled by another parameter) is differentiated as it is.

requires  a walk against the flow of data that hands on every operation it transposes
ensures   without having been asked, no operation in the graph; else one more output for each parameter, of its own
          shape, and one number for each place that reads one
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.operators import has
from lrp_fx.ir.sizes import hint
from lrp_fx.ir.source import module_path, source_line
from lrp_fx.ir.traces import Traced, known_of
from lrp_fx.ir.tracing import inline
from lrp_fx.rewrite.application import Application
from lrp_fx.rule import Call, Tape, recording
from lrp_fx.structure.parameters import made_of_parameters
from lrp_fx.structure.structure import Structure
from lrp_fx.transpose.builder import RelevanceBuilder
from lrp_fx.transpose.signature import GraphSignature, SiteInfo
from lrp_fx.transpose.vjp import Plan, gradients, may_be_shared, relevance_of, sum_by_rows, vjp_keys, with_leaves

Place = tuple[fx.Node, int | None]


@dataclass(frozen=True)
class Read:
    """A place that reads parameters: which (attributes of the program), where, in which block, None outside of all."""

    parameters: tuple[str, ...]
    site: SiteInfo
    layer: int | None


@dataclass
class ParameterSignature(GraphSignature):
    """A signature with, last, the relevance of parameters (``parameters``: attributes of the program) and then the
    total of every place that reads one (``reads``).
    """

    parameters: list[str] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)

    @property
    def count(self) -> int:
        return super().count + len(self.parameters) + len(self.reads)

    def taken(self, flat: tuple[Any, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """(relevance of parameters, totals of reads) among what a graph returned."""
        behind = len(flat) - len(self.reads)
        return list(flat[behind - len(self.parameters) : behind]), list(flat[behind:])


class ParameterBooks:
    """Collects the coefficients of what is made of parameters alone, and hands them on to these."""

    def __init__(self, builder: RelevanceBuilder, structure: Structure) -> None:
        self.builder, self.structure = builder, structure
        #: the number of what comes after the last block
        self.behind = max((len(stream.depths) - 1 for stream in structure.streams), default=0)
        self.made = made_of_parameters(builder.rewritten)
        self.coefficients: dict[Place, list[fx.Node]] = defaultdict(list)
        self.reads: list[tuple[Read, fx.Node]] = []

    def note(self, application: Application, plan: Plan, given: Sequence[Any]) -> None:
        """An operation that was transposed; ``given``: what its transpose was given in this graph."""
        flat = application.flat()
        places = [i for i, a in enumerate(flat) if i not in plan.carriers and isinstance(a, fx.Node) and a in self.made]
        if not places:
            return
        builder, values = self.builder, [value_of(v) if isinstance(v, fx.Node) else v for v in given]
        key = ("parameters", tuple(places), vjp_keys(plan, values)[0])
        found = builder.traces.get(key, builder.mode)
        if found is None:
            known = known_of(builder.mode) if may_be_shared(plan) else None
            what = f"the rule {application.rule.name} at {application.label()}, for its parameters,"
            found = Traced(builder.traced(_transposed(plan, places), values, lambda: what))
            builder.traces.keep(key, found, builder.mode, known, plan.rule)
        results = inline(builder.graph, found.module, given, (application.node.name, "internal", 0))
        site = SiteInfo(application.node.name, application.rule.name, *application.place)
        for place, c in zip(places, results, strict=True):
            if c is not None:
                self._read(flat[place], c, site, application.node)

    def _read(self, operand: fx.Node, c: fx.Node, site: SiteInfo, at: fx.Node) -> None:
        """A coefficient of a value made of parameters: book it and keep it."""
        (total,) = self.builder.add(
            lambda x, c_x: [sum_by_rows(relevance_of(x, c_x))], [self.builder.env[operand], c], _tag(operand), "total"
        )
        layer = self.structure.layers.get(at, self.behind)
        self.reads.append((Read(self.made[operand], site, layer if layer < self.behind else None), total))
        self.coefficients[operand, None].append(c)

    def added_to(
        self,
        outputs: tuple[Any, ...],
        signature: GraphSignature,
        contributions: Mapping[Place, list[fx.Node]],
    ) -> tuple[tuple[Any, ...], ParameterSignature]:
        """The outputs and the signature of the graph with those of parameters; ``contributions``: what arrived at
        leaves."""
        for leaf, kind in self.builder.rewritten.leaves.items():
            arrived = [self._narrowed(c, leaf) for c in contributions.get((leaf, None), [])]
            if leaf in self.made and arrived:
                site = SiteInfo(leaf.name, f"leaf: {kind}", module_path(leaf), source_line(leaf))
                self._read(leaf, self.builder.sum(arrived), site, leaf)
        relevances = self._handed_on()
        known = {f.name: getattr(signature, f.name) for f in fields(signature)}
        signature = ParameterSignature(**known, parameters=list(relevances), reads=[r for r, _ in self.reads])
        return (*outputs, *relevances.values(), *(total for _, total in self.reads)), signature

    def _narrowed(self, c: fx.Node, leaf: fx.Node) -> fx.Node:
        """The coefficient of a leaf, without the copies that each example had of it."""
        given, own = value_of(c).shape, value_of(leaf).shape
        ahead = len(given) - len(own)
        copied = [a for a in range(ahead, len(given)) if hint(own[a - ahead]) == 1 and hint(given[a]) != 1]
        if not copied and not ahead:
            return c

        def run(t: Tensor) -> list[Any]:
            t = t.sum(copied, keepdim=True) if copied else t
            return [t.sum(list(range(ahead))) if ahead else t]

        (narrow,) = self.builder.add(run, [c], _tag(leaf), ("narrow", tuple(copied), ahead))
        return narrow  # type: ignore[no-any-return]

    def _handed_on(self) -> dict[str, fx.Node]:
        """attribute -> relevance, of every parameter that a coefficient reaches."""
        relevances: dict[str, fx.Node] = {}
        for node in reversed(list(self.builder.program.graph.nodes)):
            if node not in self.made:
                continue
            if node.op == "get_attr":
                found = self.coefficients.pop((node, None), [])
                if found:
                    operands = [self.builder.env[node], self.builder.sum(found)]
                    (R,) = self.builder.add(lambda x, c: [relevance_of(x, c)], operands, _tag(node), "relevance")
                    relevances[str(node.target)] = R
            elif op_name(node) == "getitem":
                source: Any = node.args[0]
                self.coefficients[source, node.args[1]] += self.coefficients.pop((node, None), [])
            else:
                self._through(node)
        return dict(reversed(relevances.items()))

    def _through(self, node: fx.Node) -> None:
        """Hand the coefficients of a value to what it is made of."""
        value = value_of(node)
        indices: list[int | None] = [None] if isinstance(value, Tensor) else list(range(len(value)))
        present = [i for i in indices if self.coefficients.get((node, i))]
        if not present or (has(node, Fact.DETACHES) and self.builder.rewritten.ruleset.as_autograd):
            return
        coefficients = [self.builder.sum(self.coefficients.pop((node, i))) for i in present]
        if has(node, Fact.DETACHES):
            self.coefficients[node.all_input_nodes[0], None] += coefficients
            return
        flat, spec = pytree.tree_flatten((node.args, dict(node.kwargs)), is_leaf=lambda x: x is None)
        nodes = [i for i, a in enumerate(flat) if isinstance(a, fx.Node)]
        wanted = [i for i in nodes if flat[i] in self.made]
        fixed = tuple(None if i in nodes else a for i, a in enumerate(flat))

        def run(*given: Any) -> list[Any]:
            values = dict(zip(nodes, given[len(present) :], strict=True))
            leaves = {i: values[i].detach().requires_grad_() for i in wanted}
            args, kwargs = pytree.tree_unflatten([{**values, **leaves}.get(i, a) for i, a in enumerate(fixed)], spec)
            with torch.enable_grad():
                out = _without_padding(node)(*args, **kwargs)
            outs = [out if i is None else out[i] for i in present]
            return list(gradients(outs, list(leaves.values()), given[: len(present)]))

        own = getattr(node.target, "namespace", "") == "aten"
        same = (str(node.target), str(fixed), str(spec), tuple(nodes), tuple(wanted), tuple(present)) if own else None
        operands = [self.builder.env[flat[i]] for i in nodes]
        results = self.builder.add(run, [*coefficients, *operands], _tag(node), same)
        for i, c in zip(wanted, results, strict=True):
            if c is not None:
                self.coefficients[flat[i], None].append(c)


def _transposed(plan: Plan, places: Sequence[int]) -> Callable[..., list[Any]]:
    """The function to trace, of what `lrp_fx.transpose.vjp.transpose_rule` is given: the coefficient of each of these
    operands, or None.
    """
    count = len(plan.outputs)

    def function(*values: Any) -> list[Any]:
        coefficients, results, size = values[:count], values[count : 2 * count], values[-1]
        arguments, rest = list(values[2 * count : 2 * count + len(plan.flat)]), values[2 * count + len(plan.flat) : -1]
        if plan.gaps:  # what is no number has no coefficient, and must not spoil the sum over those that have
            arguments = [a.nan_to_num(0.0) if _is_float(a) else a for a in arguments]
        flat, _ = with_leaves(plan, arguments, results[0], size)
        weights = [flat[i].detach().requires_grad_() for i in places]
        for place, weight in zip(places, weights, strict=True):
            flat[place] = weight
        args, kwargs = pytree.tree_unflatten(flat, plan.spec)
        bases = {i: base.detach() for i, base in zip(plan.bases, rest, strict=False)}
        value = results[0] if plan.outputs == (None,) else None
        carriers = frozenset(plan.carriers)
        call = Call(plan.op, tuple(args), kwargs, carriers, plan.factors, plan.masks, plan.facts, value, bases)
        with torch.enable_grad(), recording(Tape(open=True)):
            out = plan.rule.surrogate(call)
        outs = [out if i is None else out[i] for i in plan.outputs]
        return list(gradients(outs, weights, coefficients))

    return function


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _without_padding(node: fx.Node) -> Callable[..., Any]:
    """The operation; of a table, without the row that learns nothing: it has relevance like others."""
    if op_name(node) == "aten.embedding":
        return lambda table, index, *_, **__: torch.ops.aten.embedding.default(table, index)
    target: Any = node.target
    return target  # type: ignore[no-any-return]


def _tag(node: fx.Node) -> tuple[str, str, int]:
    return node.name, "parameter", 0
