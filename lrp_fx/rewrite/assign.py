"""Assign: every operation on a relevance path gets its rule.

requires  a canonical program and its facts
ensures   values unchanged; each carrying node is a leaf or has exactly one `Application`, which names the rule, the
          operands that carry relevance and why; the program prints as it did, with the rules beside it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import fx
from torch._ops import OpOverload

from lrp_fx.analysis.dataflow import Dataflow
from lrp_fx.analysis.provenance import CONTENT, LEAF_KINDS, MASK, Facts
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import is_float, op_name
from lrp_fx.ir.number_terms import number_terms
from lrp_fx.ir.operators import has, operation_name
from lrp_fx.ir.program import Program
from lrp_fx.ir.source import module_path
from lrp_fx.recognize.chains import chain_roles
from lrp_fx.recognize.context import Context, Served
from lrp_fx.recognize.meaning import Meaning
from lrp_fx.recognize.recognisers import recognise
from lrp_fx.recognize.scan.coefficients import Scan, find_scans
from lrp_fx.rewrite.application import Application, Rewritten, flattened
from lrp_fx.rewrite.masks import follow_masks
from lrp_fx.rewrite.refuse import refuse_approximations, refuse_underivable
from lrp_fx.rule import Choice, Registry, Rule, Ruleset

#: Flattening product chains sees through these (moves and frozen factors).
_TRANSPARENT_KINDS = ("move", "linear")
#: Kinds that give the numbers in their operands on.
_KEEPS_NUMBERS = ("sum", "residual", "linear", "move")
#: Kinds of a product in which one operand is the signal, the other its coefficient.
ONE_FACTOR = ("elementwise", "normalise")


def rewrite(program: Program, facts: Facts, ruleset: Ruleset, registry: Registry, *, strict: bool = False) -> Rewritten:
    """Choose a rule for every node on a relevance path."""
    rules = registry.choice(ruleset)
    context, scans = look_around(program, facts, ruleset.carriers, rules)
    chooser = _Chooser(context, rules)
    for node in program.graph.nodes:
        if node.op != "output":
            chooser.visit(node)
    reached = reached_from(program.explained_node, chooser.applications)
    applications = follow_masks({n: a for n, a in chooser.applications.items() if n in reached})
    leaves = {n: kind for n, kind in chooser.leaves.items() if n in reached}
    leaf_rules = {kind: registry.rules[name] for kind, name in ruleset.leaves.items()}
    result = Rewritten(program, facts, ruleset, context.flow, context, applications, leaves, leaf_rules, scans)
    refuse_underivable(applications.values())
    if strict:
        refuse_approximations(result)
    return result


def look_around(
    program: Program, facts: Facts, carriers: frozenset[str], rules: Choice
) -> tuple[Context, tuple[Scan, ...]]:
    """What recognisers ask of the whole graph, found once: its dataflow, chains of products, and scans."""
    flow = Dataflow(program, facts, carriers)
    chains = chain_roles(program.graph, flow)
    scans = tuple(find_scans(program.graph, flow, chains))
    coefficients = {product: found for scan in scans for product, found in scan.products.items()}
    return Context(facts, flow, chains, coefficients, number_terms(program.graph), rules.kinds_of), scans


def reached_from(explained: fx.Node, applications: dict[fx.Node, Application]) -> set[fx.Node]:
    """Nodes that relevance of the explained output can reach; what only feeds frozen coefficients is not among them."""
    reached, stack = {explained}, [explained]
    while stack:
        application = applications.get(stack.pop())
        for operand in application.operands if application is not None and not application.rule.frozen else ():
            if operand not in reached:
                reached.add(operand)
                stack.append(operand)
    return reached


class _Chooser:
    def __init__(self, context: Context, rules: Choice) -> None:
        self.context, self.rules = context, rules
        self.facts, self.flow = context.facts, context.flow
        self.applications: dict[fx.Node, Application] = {}
        self.leaves: dict[fx.Node, str] = {}
        self.factors: dict[fx.Node, int] = {}
        self.numbers: dict[fx.Node, float] = {}

    def visit(self, node: fx.Node) -> None:
        if not self.flow.carries(node):
            return
        kind = self.facts.leaf_kind(node)
        if kind is None and not self.flow.operands(node):  # first floating value of a content input
            kind = CONTENT
        if kind is not None:
            self.leaves[node] = kind
            self.context.carrying.add(node)
        elif operands := self.context.operands(node):
            application = self._apply(node, operands)
            self.applications[node] = application
            self._note(application)

    def _note(self, application: Application) -> None:
        """Make known what was decided, for the nodes that read this one."""
        node, frozen = application.node, application.rule.frozen
        self.context.served[node] = Served(application.kind, () if frozen else application.operands)
        if not frozen:
            self.context.carrying.add(node)
            self.factors[node] = self._count_factors(application)
            if self._keeps_number(application):
                self.numbers[node] = self.context.numbers[node]
            if self._is_rotated(application):
                self.context.rotated.add(node)

    def _is_rotated(self, application: Application) -> bool:
        """Is the value content times position (a rotated vector), or a rearrangement, multiple or sum of such
        values?
        """
        content = [o for o in application.operands if CONTENT in self.facts.sources[o]]
        if application.kind in ("product", "gate"):
            return has(application.node, Fact.SCALING) and len(content) == 1
        keeps = application.kind in ("move", "sum", "route") or (
            application.kind == "linear" and has(application.node, Fact.SCALING | Fact.SIGN)
        )
        return keeps and len(content) == len(application.operands) and all(o in self.context.rotated for o in content)

    def _apply(self, node: fx.Node, operands: list[fx.Node]) -> Application:
        found = recognise(self.context, node)
        meaning, rule = found.meaning, self._rule(node, found.meaning)
        if rule.kind == "tangent":
            meaning = replace(meaning, signals=tuple(operands), op=None, args=None)
        op = meaning.op if meaning.op is not None else node.target
        args, kwargs = (meaning.args, {}) if meaning.args is not None else (node.args, node.kwargs)
        flat, _ = flattened(args, kwargs)
        spared = set(meaning.facts[rule.frozen_operands]) if rule.frozen_operands is not None else set()
        signals = set(meaning.signals) & self.context.carrying
        carriers = frozenset(
            i for i, a in enumerate(flat) if isinstance(a, fx.Node) and a in signals and i not in spared
        )
        one_factor = meaning.kind in ONE_FACTOR and meaning.op is None and rule.kind != "tangent"
        if one_factor:  # x * x: one of the two is the coefficient
            carriers = frozenset(i for i in carriers if flat[i] not in flat[:i])
        factors = {i: self.factors.get(flat[i], 1) for i in carriers}
        facts = {**meaning.facts, **self._numbers(node, rule, {i: flat[i] for i in sorted(carriers)})}
        masks = frozenset(
            i for i, a in enumerate(flat) if isinstance(a, fx.Node) and is_float(a) and self._only_masks(a)
        )
        return Application(
            node,
            rule,
            meaning.kind,
            op,
            tuple(args),
            dict(kwargs),
            carriers,
            factors,
            masks,
            facts,
            meaning.why,
            found.recogniser.how,
        )

    def _numbers(self, node: fx.Node, rule: Rule, carriers: Mapping[int, Any]) -> dict[str, Any]:
        """The factors of a product, element by element, that are a number and more: ``x * (1 + g)``."""
        if rule.kind not in ("product", "gate") or not rule.based or op_name(node) not in ("aten.mul", "aten.addcmul"):
            return {}
        factors = [i for i in carriers if not (i == 0 and has(node, Fact.TERM_FIRST))]
        found = tuple((i, self.numbers[carriers[i]]) for i in factors if carriers[i] in self.numbers)
        return {"numbers": found} if found and len(factors) == 2 else {}

    def _keeps_number(self, application: Application) -> bool:
        """Does its rule book the number in it apart? (That of a function written out sees nothing but the function.)"""
        numbers = self.context.numbers
        if application.node not in numbers or application.kind not in _KEEPS_NUMBERS or not application.own:
            return False
        return all(a in self.numbers for a in application.operands if a in numbers)

    def _only_masks(self, node: fx.Node) -> bool:
        sources = self.facts.sources[node]
        return MASK in sources and not sources & set(LEAF_KINDS)

    def _rule(self, node: fx.Node, meaning: Meaning) -> Rule:
        op = operation_name(meaning.op) if isinstance(meaning.op, OpOverload) else op_name(node)
        candidates = self.rules.candidates(meaning.kind, op, module_path(node))
        return (candidates or self.rules.candidates("tangent", op))[0]

    def _count_factors(self, application: Application) -> int:
        """Length of the product chain that ends here (see `lrp_fx.rule.Call`)."""
        counts = list(application.factors.values())
        if "numbers" in application.facts:  # a sum of chains, of which one has a factor less
            return 1
        if application.rule.chain is not None:
            return application.rule.chain(application.factors, application.facts)
        if application.kind == "scan" and application.rule.frozen_operands is not None:
            return counts[0] if len(counts) == 1 and has(application.node, Fact.SCALING) else 1
        if application.kind in ("product", "gate", "scan") and not application.rule.remainder:
            positions = [
                i
                for i in application.carriers
                if not (len(application.args) == 3 and i == 0 and _adds_term(application.node))
            ]
            return (
                sum(application.factors[i] for i in positions)
                if 0 not in application.carriers or len(positions) == len(application.carriers)
                else 1
            )
        if application.kind in _TRANSPARENT_KINDS and len(counts) == 1 and not _mixes(application):
            return counts[0]
        if application.kind in ("move", "route", "sum") and len(set(counts)) == 1 and not _adds_constant(application):
            return counts[0]  # each element is one operand's, a constant, or a sum of chains (as in a matrix product)
        return 1


def _adds_constant(application: Application) -> bool:
    """Does a sum add what has no factor, as a bias does? (What a number adds to a factor is told apart.)"""
    others = [a for i, a in enumerate(application.flat()) if i not in application.carriers]
    return application.kind == "sum" and any(isinstance(a, fx.Node) and is_float(a) for a in others)


def _mixes(application: Application) -> bool:
    """Does a linear operation add what has no factor (a bias), which ends a product chain? Sums of chains are
    chains.
    """
    if application.kind != "linear" or has(application.node, Fact.SCALING | Fact.SIGN):
        return False
    return bool(application.facts.get("affine")) or _adds_term(application.node) or _has_bias(application)


def _adds_term(node: fx.Node) -> bool:
    """Is it a matrix product that is added to its first operand?"""
    return has(node, Fact.TERM_FIRST) and has(node, Fact.CONTRACTION)


def _has_bias(application: Application) -> bool:
    parameters = getattr(getattr(application.node.target, "_schema", None), "arguments", ())
    return any(
        p.name == "bias" and i < len(application.args) and application.args[i] is not None
        for i, p in enumerate(parameters)
    )
