"""Assign: every operation on a relevance path gets its rule.

requires  a canonical program and its facts
ensures   values unchanged; each carrying node is a leaf or has exactly one `Application`, which names the rule, the
          operands that carry relevance and why; the program prints as it did, with the rules beside it
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatch

from torch import fx
from torch.utils import _pytree as pytree

from lrp_fx.analysis.classify import infer
from lrp_fx.analysis.dataflow import Dataflow
from lrp_fx.analysis.provenance import CONTENT, LEAF_KINDS, MASK, Facts
from lrp_fx.ir.graph import is_float, op_name
from lrp_fx.ir.operators import WEIGHTED
from lrp_fx.ir.program import Program
from lrp_fx.ir.source import module_path
from lrp_fx.recognize.chains import chain_roles
from lrp_fx.recognize.dependence import joint_meaning
from lrp_fx.recognize.functions import function_meaning, renormalised_meaning
from lrp_fx.recognize.meaning import Meaning
from lrp_fx.recognize.products import matrix_meaning, product_meaning
from lrp_fx.recognize.residual import residual_meaning
from lrp_fx.recognize.scan.coefficients import find_scans
from lrp_fx.recognize.scan.multilinear import vanishes
from lrp_fx.recognize.softmax import exp_meaning
from lrp_fx.rewrite.application import Application, Rewritten
from lrp_fx.rewrite.refuse import refuse_approximations, refuse_underivable
from lrp_fx.rule import Registry, Rule, Ruleset

#: Flattening product chains sees through these (moves and frozen factors).
_TRANSPARENT_KINDS = ("move", "linear")
#: Linear operations whose first operand is a term.
_ADDS = frozenset("aten.addmm aten.baddbmm aten.addbmm aten.addmv".split())
#: Kinds of a product in which one operand is the signal, the other its coefficient.
ONE_FACTOR = ("elementwise", "normalise")


def rewrite(program: Program, facts: Facts, ruleset: Ruleset, registry: Registry, *, strict: bool = False) -> Rewritten:
    """Choose a rule for every node on a relevance path."""
    flow = Dataflow(program, facts, ruleset.carriers)
    chooser = _Chooser(program, facts, ruleset, registry, flow)
    for node in program.graph.nodes:
        if node.op != "output":
            chooser.visit(node)
    reached = reached_from(program.explained_node, chooser.applications)
    applications = {n: a for n, a in chooser.applications.items() if n in reached}
    leaves = {n: kind for n, kind in chooser.leaves.items() if n in reached}
    leaf_rules = {kind: registry.rules[name] for kind, name in ruleset.leaves.items()}
    result = Rewritten(program, facts, ruleset, flow, applications, leaves, leaf_rules, chooser.scans)
    refuse_underivable(applications.values())
    if strict:
        refuse_approximations(applications.values())
    return result


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
    def __init__(self, program: Program, facts: Facts, ruleset: Ruleset, registry: Registry, flow: Dataflow) -> None:
        self.program, self.facts, self.ruleset, self.registry, self.flow = program, facts, ruleset, registry, flow
        self.applications: dict[fx.Node, Application] = {}
        self.leaves: dict[fx.Node, str] = {}
        self.carrying: set[fx.Node] = set()
        self.factors: dict[fx.Node, int] = {}
        self.rotated: set[fx.Node] = set()  # content that a position factor has multiplied already
        self.chains = chain_roles(program.graph, flow)
        self.scans = tuple(find_scans(program.graph, flow, self.chains))
        self.coefficients = {product: found for scan in self.scans for product, found in scan.products.items()}

    def visit(self, node: fx.Node) -> None:
        if not self.flow.carries(node):
            return
        kind = self.facts.leaf_kind(node)
        if kind is not None:
            self.leaves[node] = kind
            self.carrying.add(node)
            return
        operands = [a for a in self.flow.operands(node) if a in self.carrying]
        if not operands:
            if not self.flow.operands(node):  # first floating value of a content input
                self.leaves[node] = CONTENT
                self.carrying.add(node)
            return
        application = self._apply(node, operands)
        self.applications[node] = application
        if not application.rule.frozen:
            self.carrying.add(node)
            self.factors[node] = self._count_factors(application)
            if self._is_rotated(application):
                self.rotated.add(node)

    def _is_rotated(self, application: Application) -> bool:
        """Is the value content times position (a rotated vector), or a rearrangement, multiple or sum of such
        values?
        """
        content = [o for o in application.operands if CONTENT in self.facts.sources[o]]
        if application.kind in ("product", "gate"):
            return op_name(application.node) in ("aten.mul", "aten.div") and len(content) == 1
        keeps = application.kind in ("move", "sum", "route") or (
            application.kind == "linear" and op_name(application.node) in ("aten.mul", "aten.div", "aten.neg")
        )
        return keeps and len(content) == len(application.operands) and all(o in self.rotated for o in content)

    def _apply(self, node: fx.Node, operands: list[fx.Node]) -> Application:
        meaning, how = self._meaning(node, operands)
        rule = self._rule(node, meaning)
        if rule.kind == "tangent":
            meaning = Meaning(meaning.kind, tuple(operands), meaning.why, facts=meaning.facts)
        op = meaning.op if meaning.op is not None else node.target
        args, kwargs = (meaning.args, {}) if meaning.args is not None else (node.args, node.kwargs)
        flat = pytree.tree_leaves((tuple(args), dict(kwargs)), is_leaf=lambda x: x is None)
        spared = meaning.facts[rule.frozen_operands] if rule.frozen_operands is not None else ()
        carriers = frozenset(
            i
            for i, a in enumerate(flat)
            if isinstance(a, fx.Node) and a in meaning.signals and a in self.carrying and i not in spared  # type: ignore[operator]
        )
        if meaning.kind in ONE_FACTOR and meaning.op is None:  # x * x: one of the two is the coefficient
            carriers = frozenset(i for i in carriers if flat[i] not in flat[:i])
        factors = {i: self.factors.get(flat[i], 1) for i in carriers}
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
            meaning.facts,
            meaning.why,
            how,
        )

    def _only_masks(self, node: fx.Node) -> bool:
        sources = self.facts.sources[node]
        return MASK in sources and not sources & set(LEAF_KINDS)

    def _meaning(self, node: fx.Node, operands: list[fx.Node]) -> tuple[Meaning, str]:
        """The structural role of a node, and whether a rule lists its operation or it had to be inferred."""
        name = op_name(node)
        kinds = self.registry.kinds_of(name)
        if (written := function_meaning(self.flow, node) or renormalised_meaning(self.flow, node)) is not None and set(
            written.signals
        ) <= self.carrying:
            return written, "rule"
        if "product" in kinds:
            return self._product(node, operands), "rule"
        if (name in WEIGHTED or kinds[:1] == ["attention"]) and (
            joint := self._by_weights(node, operands, kinds)
        ) is not None:
            return joint, "rule"
        if (
            "residual" in kinds
            and (residual := residual_meaning(self.flow, node)) is not None
            and set(residual.signals) <= self.carrying
        ):
            return residual, "rule"
        if name == "aten.exp" and (softmax := exp_meaning(self.flow, node)) is not None:
            return softmax, "rule"
        if kinds and (kinds[0] != "elementwise" or len(operands) == 1):
            return Meaning(kinds[0], tuple(operands), f"{name} is {kinds[0]}"), "rule"
        if kinds:  # maximum and minimum of two carriers choose
            return Meaning("route", tuple(operands), f"{name} of two operands that carry relevance chooses"), "rule"
        inferred = infer(node, operands)
        return Meaning(inferred.kind, tuple(operands), inferred.why, facts=inferred.facts), "inferred"

    def _product(self, node: fx.Node, operands: list[fx.Node]) -> Meaning:
        if (scan := self._scan(node, operands)) is not None:
            return scan
        name = op_name(node)
        factors = [
            a
            for a in (node.args[1:3] if name in ("aten.baddbmm", "aten.addmm", "aten.addcmul") else node.args[:2])
            if isinstance(a, fx.Node) and a in operands
        ]
        free = [a for a in factors if (node, a) not in self.chains.frozen]
        if len(factors) == 2 and len(free) == 1:
            return Meaning(
                "elementwise", tuple(free), "the other operand is a pointwise function of a factor of the same chain"
            )
        if len(factors) == 2:
            again = [a for a in factors if a in self.rotated]
            if name in ("aten.mul", "aten.div") and again == factors[:1] and self.facts.is_position_only(factors[1]):
                return Meaning(
                    "linear", tuple(again), "position factors of one product are one: the first has taken their half"
                )
            if name == "aten.mul" and again == factors[1:] and self.facts.is_position_only(factors[0]):
                return Meaning(
                    "linear", tuple(again), "position factors of one product are one: the first has taken their half"
                )
            if name in ("aten.mul", "aten.div"):
                alone = product_meaning(self.flow, node, factors[0], factors[1])
                return self._gate(node, joint_meaning(self.flow, self._served, node, factors[0], factors[1], alone))
            if name in ("aten.matmul", "aten.bmm", "aten.mm"):
                return joint_meaning(
                    self.flow,
                    self._served,
                    node,
                    factors[0],
                    factors[1],
                    matrix_meaning(self.facts, node, factors[0], factors[1]),
                )
            with_term = Meaning("product", tuple(operands), "matrix product of two operands that carry relevance")
            joint = joint_meaning(self.flow, self._served, node, factors[0], factors[1], with_term)
            return replace(joint, signals=tuple(operands)) if joint.kind in ("product", "tangent") else joint
        if name == "aten.div" and node.args[1] in operands:
            return Meaning("product", tuple(operands), "relevance is in the denominator")
        return Meaning("linear", tuple(operands), "the other operand is a coefficient")

    def _by_weights(self, node: fx.Node, operands: list[fx.Node], kinds: list[str]) -> Meaning | None:
        """A map whose weights carry relevance is a product; an attention is one unless its queries and keys depend on
        each other.
        """
        x, weight = node.args[:2]
        if (
            not (isinstance(x, fx.Node) and isinstance(weight, fx.Node))
            or x is weight
            or not {x, weight} <= set(operands)
        ):
            return None
        joint = joint_meaning(
            self.flow,
            self._served,
            node,
            x,
            weight,
            Meaning("product", (x, weight), "a map whose weights carry relevance is a product"),
        )
        if joint.kind == "tangent":
            return replace(joint, signals=tuple(operands))
        return (
            None if kinds[:1] == ["attention"] else replace(joint, kind="homogeneous", facts={"degrees": ((1.0, 1.0),)})
        )

    def _scan(self, node: fx.Node, operands: list[fx.Node]) -> Meaning | None:
        """A product of a scan in which both value and coefficient carry, or of a value with the zeros that a loop
        starts from.
        """
        if vanishes(node):
            return Meaning("stop", tuple(operands), "a multiple of zero")
        found = self.coefficients.get(node, ())
        if not found or any(c not in operands for c in found) or len(operands) == len(found):
            return None
        positions = tuple(
            i
            for i, a in enumerate(pytree.tree_leaves((node.args, dict(node.kwargs)), is_leaf=lambda x: x is None))
            if a in found
        )
        return Meaning(
            "scan", tuple(operands), "value and coefficient of a recurrence", facts={"coefficients": positions}
        )

    def _served(self, node: fx.Node) -> tuple[str, list[fx.Node]] | None:
        """Kind of a node's rule, and the operands its relevance goes to."""
        application = self.applications.get(node)
        return (
            None if application is None else (application.kind, [] if application.rule.frozen else application.operands)
        )

    def _gate(self, node: fx.Node, meaning: Meaning) -> Meaning:
        """A product with exactly one activated branch is a gate: ``up * act(gate)``."""
        if meaning.kind != "product" or op_name(node) != "aten.mul":
            return meaning
        activated = [a for a in meaning.signals if (node, a) in self.chains.activated or self._is_activated(a)]
        return (
            replace(meaning, kind="gate", facts={"activated": meaning.signals.index(activated[0])})
            if len(activated) == 1
            else meaning
        )

    def _is_activated(self, node: fx.Node) -> bool:
        while (inner := self.flow.coefficient_of(node)) is not None:
            node = inner
        application = self.applications.get(node)
        return application is not None and application.kind == "elementwise" and node not in self.chains.apart

    def _rule(self, node: fx.Node, meaning: Meaning) -> Rule:
        op = (
            str(meaning.op._schema.name).replace("::", ".")
            if meaning.op is not None and hasattr(meaning.op, "_schema")
            else op_name(node)
        )
        wanted = [
            rules[meaning.kind]
            for pattern, rules in self.ruleset.sites.items()
            if meaning.kind in rules and fnmatch(module_path(node), pattern)
        ]
        wanted += [self.ruleset.kinds[meaning.kind]] if meaning.kind in self.ruleset.kinds else []
        for name in wanted:
            rule = self.registry.rules[name]
            if rule.serves(op):
                return rule
        candidates = self.registry.candidates(meaning.kind, op) if meaning.kind != "tangent" else []
        last_resort = [r for r in self.registry.rules.values() if r.kind == "tangent" and not r.exact]
        return (candidates or last_resort)[0]

    def _count_factors(self, application: Application) -> int:
        """Length of the product chain that ends here (see `lrp_fx.rule.Call`)."""
        counts = list(application.factors.values())
        if application.kind == "scan" and application.rule.frozen_operands is not None:
            return counts[0] if len(counts) == 1 and op_name(application.node) in ("aten.mul", "aten.div") else 1
        if application.kind in ("product", "gate", "scan") and not application.rule.remainder:
            positions = [
                i
                for i in application.carriers
                if not (
                    len(application.args) == 3
                    and i == 0
                    and op_name(application.node) in ("aten.baddbmm", "aten.addmm")
                )
            ]
            return (
                sum(application.factors[i] for i in positions)
                if 0 not in application.carriers or len(positions) == len(application.carriers)
                else 1
            )
        if application.kind in _TRANSPARENT_KINDS and len(counts) == 1 and not _mixes(application):
            return counts[0]
        return 1


def _mixes(application: Application) -> bool:
    """Does a linear operation add what has no factor (a bias), which ends a product chain? Sums of chains are
    chains.
    """
    if application.kind != "linear" or op_name(application.node) in ("aten.mul", "aten.div", "aten.neg"):
        return False
    return bool(application.facts.get("affine")) or op_name(application.node) in _ADDS or _has_bias(application)


def _has_bias(application: Application) -> bool:
    parameters = getattr(getattr(application.node.target, "_schema", None), "arguments", ())
    return any(
        p.name == "bias" and i < len(application.args) and application.args[i] is not None
        for i, p in enumerate(parameters)
    )
