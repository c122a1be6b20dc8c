"""Places: values inside a program that can be asked for, gated or explained, by names that people know.

A name is a kind (``"heads"``: all of them, ``"heads.3"``: the fourth), a module's path (its result; ``*`` stands for
one part of a path, ``**`` for any), or a node of `Explainer.graph`. Kinds are found by the flow of data:

========= ===========================================================================================
residual  the residual stream before each block and after the last
attention what attention adds to the stream, after its output map
mixer     what another mixing of tokens adds to it (a convolution, a recurrence)
mlp       what a block without mixing adds to it
neurons   what the last learned map of such a block reads: its activated features
heads     the values weighed by attention, before heads are merged
scores    attention's scores before the softmax, each query with each key
latents   what a dictionary (``convert(dictionaries=...)``) makes of a place, named after it: ``mlp.1.latents``
========= ===========================================================================================
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property

import torch
from torch import fx

from lrp_fx.analysis.provenance import POSITION
from lrp_fx.errors import InputError
from lrp_fx.ir.axis_names import BATCHES, axis_names, head_names
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import is_float, value_of
from lrp_fx.ir.layout import Layout, batch_axis
from lrp_fx.ir.operators import has, is_pointwise
from lrp_fx.ir.source import module_path, modules_of, source_line
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.structure.branches import find_branches
from lrp_fx.structure.heads import Attention, find_attention
from lrp_fx.structure.pairs import Pairs, find_pairs
from lrp_fx.structure.structure import Structure

RESIDUAL, ATTENTION, MIXER, MLP, NEURONS, HEADS, SCORES, LATENTS = KINDS = (
    "residual",
    "attention",
    "mixer",
    "mlp",
    "neurons",
    "heads",
    "scores",
    "latents",
)


@dataclass(frozen=True)
class Place:
    """A value in the graph. ``kind``: one of `KINDS`, ``module`` or ``node``; ``axes``: what its axes stand for as it
    is reported, examples first; ``layer``: the block it belongs to; ``layout``: where examples and tokens are in it;
    ``pairs``: of scores, what position has to do with them.
    """

    name: str
    node: fx.Node = field(compare=False)
    kind: str
    layout: Layout | None
    axes: tuple[str, ...]
    module: str
    source: str
    layer: int | None
    pairs: Pairs | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.name:<14}%{self.node.name:<24}({', '.join(self.axes)})  {self.module}  {self.source}"


class Places:
    """All places of one rewritten program."""

    def __init__(self, rewritten: Rewritten, structure: Structure) -> None:
        self.rewritten, self.structure = rewritten, structure

    def __iter__(self) -> Iterator[Place]:
        return iter([place for places in self.by_kind.values() for place in places])

    def find(self, names: str | Sequence[str]) -> list[Place]:
        """The places of these names, each once, in the order in which they were asked for.

        Raises `InputError` for a name that is none, with the nearest, and for a value that carries no relevance.
        """
        if not isinstance(names, (str, list, tuple)) or not all(isinstance(n, str) for n in names):
            raise InputError(f"places are asked for by a name or a list of names, got {names!r}")
        found = [p for name in ([names] if isinstance(names, str) else names) for p in self._find(name)]
        return list({place.name: place for place in found}.values())

    def one(self, name: str) -> Place:
        """The only place of a name; raises `InputError` where there are several."""
        found = self.find(name)
        if len(found) > 1:
            raise InputError(f"{name!r} is {len(found)} places: {', '.join(p.name for p in found[:6])}; name one")
        return found[0]

    def _find(self, name: str) -> list[Place]:
        if name in self.by_kind:
            return self.by_kind[name] or self._none_of_kind(name)
        named = [p for places in self.by_kind.values() for p in places if _matches(name, p.name)]
        if named:
            return named
        self._require_one_call(name)
        modules = [path for path in self.modules if _matches(name, path)]
        results = {path: self._result_of(path) for path in modules}
        if kept := {path: node for path, node in results.items() if node is not None}:
            return [self._place(path, node, "module") for path, node in kept.items()]
        if modules:
            raise InputError(
                f"{name!r}: nothing that carries relevance comes out of {', '.join(modules[:3])} (a coefficient, a "
                f"mask, position by itself, or several modules written as one)\n    next: {self._near(name)}"
            )
        node = self.nodes.get(name.removeprefix("%"))
        node = node if node is None else _as_read(node)
        if node is None:
            raise InputError(f"no place {name!r} in this model{self._removed(name)}\n    next: {self._near(name)}")
        if not self._carries(node):
            raise InputError(f"%{node.name} carries no relevance that could be read\n    next: {self._near(name)}")
        return [self._place(name.removeprefix("%"), node, "node")]

    def _none_of_kind(self, kind: str) -> list[Place]:
        known = [k for k, places in self.by_kind.items() if places]
        fused = kind == SCORES and self.by_kind[HEADS]
        why = "attention is computed by fused kernels, which make no scores" if fused else "none was found"
        raise InputError(f"no {kind} in this model: {why}; kinds found are {', '.join(known) or 'none'}")

    def _removed(self, name: str) -> str:
        return (
            ": a module that only passes its input on (an identity, dropout in evaluation) leaves nothing in the graph"
            if re.fullmatch(r"[\w.*@]+", name) and "." in name
            else ""
        )

    def _near(self, name: str) -> str:
        names = [*KINDS, *(p.name for p in self), *self.modules, *self.nodes]
        close = get_close_matches(name.removeprefix("%"), names, 5, 0.4)
        return (
            f"close names are {', '.join(close)}" if close else f"kinds are {', '.join(KINDS)}; str(explainer.places)"
        )

    # ------------------------------------------------------------------------------------------------ what there is
    @cached_property
    def by_kind(self) -> dict[str, list[Place]]:
        """The places of each kind, in graph order, numbered from 0."""
        attention = find_attention(self.rewritten)
        branches = find_branches(self.rewritten, self.structure.streams, {a.weighted for a in attention})
        found: dict[str, list[Place]] = {kind: [] for kind in KINDS}
        found[RESIDUAL] = self._numbered(RESIDUAL, (n for s in self.structure.streams for n in s.depths))
        for kind in (ATTENTION, MIXER, MLP):
            found[kind] = self._numbered(kind, (b.node for b in branches if b.kind == kind))
        found[NEURONS] = self._numbered(NEURONS, (n for b in branches for n in b.neurons))
        found[HEADS] = self._numbered(HEADS, (a.weighted for a in attention))
        known = {_as_read(a.scores): a for a in attention if a.scores is not None}
        found[SCORES] = [self._with_pairs(p, known[p.node]) for p in self._numbered(SCORES, known)]
        named = {n.meta[LATENTS]: n for n in self.nodes.values() if LATENTS in n.meta and self._carries(n)}
        found[LATENTS] = [self._place(name, node, LATENTS) for name, node in named.items()]
        return found

    def _with_pairs(self, place: Place, attention: Attention) -> Place:
        return replace(place, pairs=find_pairs(self.rewritten, self.structure, attention))

    def _numbered(self, kind: str, nodes: Iterable[fx.Node]) -> list[Place]:
        carrying = dict.fromkeys(n for n in map(_as_read, nodes) if self._carries(n))
        return [self._place(f"{kind}.{number}", node, kind) for number, node in enumerate(carrying)]

    def _place(self, name: str, node: fx.Node, kind: str) -> Place:
        layout = self._layout(node)
        names = axis_names(layout, value_of(node).dim())
        if kind in (HEADS, SCORES):
            names = head_names(names, scores=kind == SCORES)
        layer = self.structure.layers.get(node)
        return Place(name, node, kind, layout, names, module_path(node), source_line(node), layer)

    def _layout(self, node: fx.Node) -> Layout | None:
        """Where examples and tokens are: as found or, where that was lost (rows that came back from experts), as in a
        value of the same shape that is made of it element by element.
        """
        layouts, shape = self.rewritten.facts.layout, value_of(node).shape
        own = layouts.get(node)
        if batch_axis(own) is not None:
            return own
        like = [u for u in node.users if is_pointwise(u) and getattr(value_of(u), "shape", None) == shape]
        return next((found for u in like if batch_axis(found := layouts.get(u)) is not None), own)

    def _carries(self, node: fx.Node) -> bool:
        """Has a value relevance of its own that a walk meets once?"""
        if not isinstance(value_of(node), torch.Tensor) or not is_float(node):
            return False
        return node in self.rewritten.applications or self.rewritten.leaves.get(node, POSITION) != POSITION

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """Nodes of the graph by name."""
        return {n.name: n for n in self.rewritten.program.graph.nodes if n.op != "output"}

    @cached_property
    def modules(self) -> dict[str, list[fx.Node]]:
        """The nodes inside each module, by its path; of one that is called several times by ``path@0``, ``path@1``."""
        found: dict[tuple[str, int], list[fx.Node]] = {}
        for node in self.rewritten.program.graph.nodes:
            for call in _calls(node):
                found.setdefault(call, []).append(node)
        times = Counter(path for path, _ in found)
        numbers: Counter[str] = Counter()
        named = {}
        for path, number in sorted(found, key=lambda key: key[1]):
            named[path if times[path] == 1 else f"{path}@{numbers[path]}"] = found[path, number]
            numbers[path] += 1
        return named

    def _require_one_call(self, name: str) -> None:
        """Refuse the name of a module that is called several times, without the number of a call."""
        several = [path for path in self.modules if "@" in path and _matches(name, path.rsplit("@", 1)[0])]
        if several and "@" not in name:
            raise InputError(
                f"{name!r}: the module is called several times: {', '.join(several[:6])}\n    next: name one call, or "
                f"{name}@* for all"
            )

    def _result_of(self, path: str) -> fx.Node | None:
        """A module's result: the value that somebody outside reads (of those that only the model's output reads, where
        there is no other).

        Raises `InputError` where there are several.
        """
        inside = set(self.modules[path])
        outside = {n: [u for u in n.users if u not in inside] for n in self.modules[path] if self._carries(n)}
        read = [n for n, users in outside.items() if any(u.op != "output" for u in users)]
        read = read or [n for n, users in outside.items() if users]
        if len(read) > 1:
            values = ", ".join(f"%{n.name} ({', '.join(map(str, value_of(n).shape))})" for n in read[:6])
            raise InputError(
                f"{path!r}: several values of the module are read outside: {values}\n    next: name one of these nodes"
            )
        return read[0] if read else None


def _as_read(node: fx.Node) -> fx.Node:
    """The value as all that comes after reads it: where a dictionary was put at it, with its reconstruction."""
    return next((u for u in node.users if has(u, Fact.RECONSTRUCTION) and u.args[0] is node), node)


def _calls(node: fx.Node) -> list[tuple[str, int]]:
    """The modules that a node was issued in: path, and which call of it."""
    found: dict[tuple[str, int], None] = {}
    for key, path in modules_of(node):
        if path:
            number = key.rpartition("@")[2]
            found[path, int(number) if "@" in key and number.isdigit() else 0] = None
    return list(found)


def _matches(pattern: str, name: str) -> bool:
    """Does a name fit a pattern, in which ``*`` stands for one part between dots (or a piece of it), ``**`` for any?"""
    if "*" not in pattern:
        return pattern == name
    parts = [re.escape(part).replace(r"\*", r"[^.]*") for part in pattern.split("**")]
    return re.fullmatch(".*".join(parts), name) is not None


def require_examples(place: Place) -> None:
    if place.axes[0] != BATCHES:
        raise InputError(
            f"{place.name} (%{place.node.name}) holds rows of all examples in an order of its own: it can be read with "
            "at=, and nothing else\n    next: name the module around it"
        )
