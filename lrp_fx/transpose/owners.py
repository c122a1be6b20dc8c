"""Owners: the tokens of which input the rows of a value stand for.

Lengths tell it where they differ; where several inputs are as long, the way that rows have come tells it: elementwise
they keep their places, a matrix product has the rows of its left factor and the columns of its right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import fx

from lrp_fx.analysis.provenance import CONTENT, Facts
from lrp_fx.ir.axes import axis_order
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import is_float, op_name, value_of
from lrp_fx.ir.layout import token_axes
from lrp_fx.ir.operators import argument, axis_of, has, operator_of
from lrp_fx.ir.program import Program
from lrp_fx.ir.sizes import same_size
from lrp_fx.transpose.origins import index_of, input_looked_up, may_be_turned, shift_of

_TURNS = Fact.SHUFFLE | Fact.LOOKUP | Fact.SORTED | Fact.SCATTER
_Ways = frozenset[fx.Node]
_NOWHERE: _Ways = frozenset()


class Owners:
    """Asked by size and node: which input's tokens are there, and at which row they begin."""

    def __init__(self, program: Program, facts: Facts) -> None:
        self.program, self.facts = program, facts

    def owned(self, size: Any, node: fx.Node, *, keys: bool = False) -> tuple[str, int] | None:
        """The index input whose tokens are among rows of this (symbolic) number, and at which row they begin; None
        where they stand in another order. keys: the axis is the last of scores.
        """
        found = [(name, start) for known, name, start in self._rows_of_inputs if same_size(known, size)]
        return self._likeliest(found, node, keys)

    def owner(self, size: Any, node: fx.Node) -> str | None:
        """The index input whose length is this (symbolic) size, and whose tokens stand there in their order."""
        found = [(name, 0) for known, name in self._texts if same_size(known, size)]
        likeliest = self._likeliest(found, node, False)
        return likeliest[0] if likeliest is not None and likeliest[1] == 0 else None

    def _likeliest(self, found: list[tuple[str, int]], node: fx.Node, keys: bool) -> tuple[str, int] | None:
        if not found or (len({name for name, _ in found}) == 1 and not self._shifts):
            return found[0] if found else None
        rows, columns = self._ways
        ways = ((columns.get(node) or rows.get(node)) if keys else rows.get(node)) or _NOWHERE
        of_way = {way: self._name(way) for way in ways}
        name, start = next((entry for entry in found if entry[0] in of_way.values()), found[0])
        shifts = {self._shifts.get(way, 0) for way, known in of_way.items() if known == name} or {0}
        shift = shifts.pop()
        # a lookup of a text that had others put ahead knows by itself where the text begins
        return (name, shift or start) if not shifts and shift is not None else None

    def _name(self, way: fx.Node) -> str | None:
        """The input that a lookup (or a placeholder of vectors) has its rows from."""
        names = self.facts.inputs.get(way, frozenset())
        return next(iter(names)) if len(names) == 1 else None

    @cached_property
    def _shifts(self) -> dict[fx.Node, int | None]:
        """Lookups of texts that were turned before, and at which row these begin; None where they lost their order."""
        lookups = [n for n in self.program.graph.nodes if is_float(n) and index_of(n) is not None]
        of_content = [n for n in lookups if self.facts.inputs.get(n) and input_looked_up(n) is None]
        found = {n: shift_of(n, self.facts) for n in of_content if may_be_turned(n, self.facts)}
        for node in self.program.graph.nodes:
            if op_name(node) == "aten.cat" and (ahead := self._put_ahead(node)):
                found[node] = ahead
        return found

    def _put_ahead(self, node: fx.Node) -> int | None:
        """How many rows are put ahead of the first rows of a text, whose last are left out."""
        dim = axis_of(node, value_of(node).dim())
        given: Any = node.args[0]
        *others, part = given
        if dim not in token_axes(self.facts.layout.get(node)) or op_name(part) != "aten.slice":
            return None
        if not self.facts.inputs.get(part) or argument(part, "dim") != dim:
            return None
        sizes = [value_of(o).shape[dim] for o in others if value_of(o).dim() == value_of(node).dim()]
        ours = any(self.facts.inputs.get(o) for o in others)
        known = all(isinstance(size, int) for size in sizes) and argument(part, "start") in (None, 0)
        return None if ours or not known else sum(sizes)

    @cached_property
    def _texts(self) -> list[tuple[Any, str]]:
        """(length, input) of each text; several of an example, answers to choose from, stand along an axis between."""
        inputs = zip(self.program.inputs, self.program.input_nodes().values(), strict=True)
        looked_up = {input_looked_up(n) for n in self.program.graph.nodes if has(n, Fact.LOOKUP)}
        return [
            (value_of(n).shape[-1], i.name)
            for i, n in inputs
            if i.role == CONTENT and i.is_index and (len(i.shape) == 2 or (len(i.shape) > 2 and n in looked_up))
        ]

    @cached_property
    def _rows_of_inputs(self) -> list[tuple[Any, str, int]]:
        """(number of rows, input, its first row): each text, and what other rows are put beside it."""
        found: list[tuple[Any, str, int]] = [(size, name, 0) for size, name in self._texts]
        for node in self.program.graph.nodes:
            if op_name(node) == "aten.cat" and CONTENT in self.facts.sources.get(node, ()):
                found += self._rows_joined(node, found)
        return found

    def _rows_joined(self, node: fx.Node, known: list[tuple[Any, str, int]]) -> list[tuple[Any, str, int]]:
        """The rows of inputs in a concatenation of a text with other rows."""
        rank = value_of(node).dim()
        given: Any = node.args[0]
        parts = [p for p in given if value_of(p).dim() == rank]  # `torch.tensor([])`, which a cache begins with, is not
        dim = axis_of(node, rank)
        sizes = [value_of(p).shape[dim] for p in parts]
        for number, part in enumerate(parts):
            is_text = CONTENT in self.facts.sources.get(part, ()) and dim in token_axes(self.facts.layout.get(part))
            ahead = sizes[:number]
            if is_text and all(isinstance(s, int) for s in ahead):
                whole = value_of(node).shape[dim]
                own = [(name, start) for size, name, start in known if same_size(size, sizes[number])]
                if own:  # others may be made of an input, too: the prompt of a task
                    return [(whole, name, start + sum(ahead)) for name, start in own]
        return []

    def _along_tokens(self, node: fx.Node, ways: _Ways) -> bool:
        """Does it put tokens in another order, and not features or heads side by side?"""
        if has(node, Fact.LOOKUP | Fact.SORTED | Fact.SCATTER):
            return True
        dims = argument(node, "dims", argument(node, "dim"))
        rank, tokens = value_of(node).dim(), token_axes(self.facts.layout.get(node))
        named = {int(d) % rank for d in (dims if isinstance(dims, (list, tuple)) else [dims])}
        if op_name(node) == "aten.stack":  # a new axis: what it becomes is seen behind it
            return any(self._shifts.get(way, 0) is None for way in ways)
        return not named.isdisjoint(tokens)

    @cached_property
    def _ways(self) -> tuple[Mapping[fx.Node, _Ways], Mapping[fx.Node, _Ways]]:
        """The lookups (or placeholders) that rows of a value come from, and columns of scores. Rows that were put in
        another order after the lookup are said to come from the placeholder: by now they may stand as its elements do.
        """
        rows: dict[fx.Node, _Ways] = {}
        placeholders = self.program.input_nodes()
        columns: dict[fx.Node, _Ways] = {}
        for node in self.program.graph.nodes:
            if not is_float(node) or CONTENT not in self.facts.sources.get(node, ()):
                continue
            given = [a for a in node.all_input_nodes if a in rows]
            if len(given) > 1 and (has(node, Fact.PRODUCT) or operator_of(node).axes is Axes.ATTENTION):
                given, columns[node] = given[:1], rows[given[1]]
            elif across := [columns[a] for a in given if a in columns]:
                columns[node] = _NOWHERE.union(*across)
            rows[node] = _NOWHERE.union(*(rows[a] for a in given)) if given else frozenset({node})
            if given and _swaps(node) and given[0] in columns:
                rows[node], columns[node] = columns[given[0]], rows[given[0]]
            elif node in self._shifts:
                rows[node] = frozenset({node})
            elif given and has(node, _TURNS) and self._along_tokens(node, rows[node]):
                rows[node] = frozenset(placeholders[name] for name in self.facts.inputs[node])
        return rows, columns


def _swaps(node: fx.Node) -> bool:
    """Does it exchange the last two axes?"""
    if operator_of(node).axes is not Axes.PERMUTED:
        return False
    order = axis_order(node)
    return len(order) > 1 and list(order[-2:]) == [len(order) - 1, len(order) - 2]
