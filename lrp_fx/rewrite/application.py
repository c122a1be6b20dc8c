"""Applications: a program whose nodes have rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.immutable_collections import immutable_list
from torch.utils import _pytree as pytree

from lrp_fx.analysis.dataflow import Dataflow
from lrp_fx.analysis.provenance import Facts
from lrp_fx.errors import InputError
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.listing import listing
from lrp_fx.ir.program import Program
from lrp_fx.ir.source import module_path, source_line
from lrp_fx.recognize.context import Context
from lrp_fx.recognize.scan.coefficients import Scan
from lrp_fx.rewrite.explanation import Explanation, explain_node
from lrp_fx.rule import Rule, Ruleset

#: Types that values are rounded to, the finest first.
_PRECISIONS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_PARTS = {torch.complex128: torch.float64, torch.complex64: torch.float32}


_LISTS = (list, tuple, immutable_list)
#: Structures of arguments, by their number, their names, and the lengths of lists: a few for all operations.
_SPECS: dict[Any, pytree.TreeSpec] = {}


def flattened(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[Any], pytree.TreeSpec]:
    """``pytree.tree_flatten((args, kwargs))`` with None as a value; quick where lists hold no lists."""

    def whole() -> tuple[list[Any], pytree.TreeSpec]:
        return pytree.tree_flatten((tuple(args), dict(kwargs)), is_leaf=lambda x: x is None)

    leaves: list[Any] = []
    lengths: list[Any] = []
    for value in (*args, *kwargs.values()):
        if not isinstance(value, (list, tuple, dict)):
            leaves.append(value)
            lengths.append(None)
        elif type(value) in _LISTS and not any(isinstance(v, (list, tuple, dict)) for v in value):
            leaves.extend(value)
            lengths.append((type(value), len(value)))
        else:
            return whole()
    key = (len(args), tuple(kwargs), tuple(lengths))
    if key not in _SPECS:
        _SPECS[key] = whole()[1]
    return leaves, _SPECS[key]


@dataclass(frozen=True)
class Application:
    """A rule at a node: ``op(*args, **kwargs)`` with the operands at ``carriers`` carrying relevance."""

    node: fx.Node
    rule: Rule
    kind: str
    op: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    carriers: frozenset[int]
    factors: Mapping[int, int]
    masks: frozenset[int]
    facts: Mapping[str, Any]
    why: str
    how: str = "rule"

    def flat(self) -> list[Any]:
        return list(self._flattened[0])

    @property
    def spec(self) -> pytree.TreeSpec:
        """How the flat arguments make up ``(args, kwargs)``."""
        return self._flattened[1]

    @cached_property
    def _flattened(self) -> tuple[list[Any], pytree.TreeSpec]:
        return flattened(self.args, self.kwargs)

    @property
    def operands(self) -> list[fx.Node]:
        return list(self._operands)

    @cached_property
    def _operands(self) -> tuple[fx.Node, ...]:
        flat = self._flattened[0]
        return tuple(flat[i] for i in sorted(self.carriers))

    @property
    def own(self) -> bool:
        """Is the rule applied to the graph's own operation (not to a group written out)?"""
        return self.op is self.node.target

    @cached_property
    def place(self) -> tuple[str, str]:
        """The module and the line of the user's code."""
        return module_path(self.node), source_line(self.node)

    def label(self) -> str:
        what = f"%{self.node.name} = {op_name(self.node)} [{self.rule.name}]"
        return f"{module_path(self.node) or 'model'}: {what} at {source_line(self.node)}"


@dataclass(frozen=True)
class Rewritten:
    """A program whose carrying nodes have rules; ``context`` is what their meanings were found with."""

    program: Program
    facts: Facts
    ruleset: Ruleset
    flow: Dataflow
    context: Context
    applications: dict[fx.Node, Application] = field(default_factory=dict)
    leaves: dict[fx.Node, str] = field(default_factory=dict)
    leaf_rules: Mapping[str, Rule] = field(default_factory=dict)
    scans: tuple[Scan, ...] = ()

    @cached_property
    def readers(self) -> dict[fx.Node, list[fx.Node]]:
        """Value -> the nodes that hand relevance to it: what is written out in several operations passes some by."""
        found: dict[fx.Node, list[fx.Node]] = {}
        for node, application in self.applications.items():
            for operand in dict.fromkeys(application.operands):
                found.setdefault(operand, []).append(node)
        return found

    def coverage(self) -> dict[str, dict[str, int]]:
        """How many nodes each rule serves, under ``rule``, ``inferred`` and ``unexplained``."""
        result: dict[str, Counter[str]] = {"rule": Counter(), "inferred": Counter(), "unexplained": Counter()}
        for a in self.applications.values():
            result["unexplained" if not a.rule.exact else a.how][a.rule.name] += 1
        return {k: dict(v) for k, v in result.items()}

    @property
    def precision(self) -> torch.dtype:
        """The coarsest type that a value with relevance is rounded to, between the leaves and the explained output:
        books close to no more than that. (Frozen factors may be of any type: they are numbers like others.)
        """
        carrying = (n for n, a in self.applications.items() if not a.rule.frozen)
        values = pytree.tree_leaves([value_of(n) for n in (*carrying, *self.leaves, self.program.explained_node)])
        types = {_PARTS.get(v.dtype, v.dtype) for v in values if isinstance(v, Tensor)}
        return max((t for t in types if t in _PRECISIONS), key=_PRECISIONS.index, default=torch.float32)

    def why(self, node: fx.Node | str) -> Explanation:
        """What a node means, under which rule, and why the recognisers asked before refused, the nearest first."""
        node = self._node(node) if isinstance(node, str) else node
        leaf, application = self.leaves.get(node), self.applications.get(node)
        return explain_node(self.context, node, rule=application.rule.name if application else None, leaf=leaf)

    def _node(self, name: str) -> fx.Node:
        names: dict[str, fx.Node] = {n.name: n for n in self.program.graph.nodes if n.op != "output"}
        if (found := names.get(name.removeprefix("%"))) is not None:
            return found
        close = get_close_matches(name, names, 5, 0.3)
        raise InputError(
            f"the graph has no node {name!r}; names are those of explainer.graph, close ones are {', '.join(close)}"
            if close
            else f"the graph has no node {name!r}; names are those of explainer.graph"
        )

    def print_readable(self, blocks: str = "all") -> str:
        """The graph, one line a node, with the rule that serves it; ``blocks="once"`` prints the first of each run of
        equal blocks, and how often it comes.

        Raises `InputError` for other ``blocks``.
        """

        def line(node: fx.Node) -> str:
            text, note = node.format_node() or "", self._note(node)
            return f"{text:<110}  # {note}" if note else text

        return listing(self.program.graph, line, blocks, note=self._note)

    def _note(self, node: fx.Node) -> str:
        """The leaf that a node is, or its rule."""
        if leaf := self.leaves.get(node):
            return f"leaf: {leaf}"
        application = self.applications.get(node)
        return application.rule.name if application is not None else ""
