"""Indicators: integers of an input, or places, compared with each of several codes: one-hot vectors however written.

What an indicator meets says what it is: with a table it chooses rows, as a lookup by these integers does; with
activations it is a mask, which says where to look.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from lrp_fx.analysis.sources import CONSTANT, CONTENT, FIXED, POSITION, SEGMENT
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import is_float, op_name, tensor_args, value_of
from lrp_fx.ir.layout import FEATURE, Layout, single
from lrp_fx.ir.operators import has
from lrp_fx.ir.sizes import same_size, shape_of

_MORE = frozenset({CONTENT})
_MULTIPLIES = Fact.CONTRACTION | Fact.SCALING | Fact.PRODUCT


@dataclass(frozen=True)
class Indicators:
    """What the walk knows when a node is noted: the facts it has found so far, which grow.

    ``integers``: values that hold an index input's numbers, or a counter's, as they are, and the source of these;
    ``kinds``: indicators of them; ``axes``: those along which an indicator's codes are; ``inputs``: whose they are.
    """

    sources: dict[fx.Node, frozenset[str]]
    uniform: set[fx.Node]
    integers: dict[fx.Node, str] = field(default_factory=dict)
    kinds: dict[fx.Node, str] = field(default_factory=dict)
    axes: dict[fx.Node, list[int]] = field(default_factory=dict)
    inputs: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def note_input(self, node: fx.Node, role: str, is_index: bool) -> None:
        """An input of the program."""
        if is_index and role in (CONTENT, POSITION, SEGMENT):
            self.integers[node] = role
            self.inputs[node] = node

    def note(self, node: fx.Node) -> None:
        """A call whose operands have been noted."""
        tensors = tensor_args(node)
        if has(node, Fact.COUNTER) and not is_float(node):
            self.integers[node] = POSITION
        elif has(node, Fact.MOVE) and len(tensors) == 1:
            for known in (self.integers, self.kinds):
                if tensors[0] in known and (known is self.kinds or not is_float(node)):
                    known[node] = known[tensors[0]]
                    self._pass_on(tensors[0], node)
        elif op_name(node) == "aten.eq" and len(tensors) == 2:
            for integers, codes in (tensors, tensors[::-1]):
                axes = self._told_apart(integers, codes)
                if axes and node not in self.kinds:
                    self.kinds[node], self.axes[node] = self.integers[integers], axes
                    self._pass_on(integers, node)
        elif has(node, Fact.CHOICE) and tensors and tensors[0] in self.kinds and self._of_numbers(node, tensors[1:]):
            self.kinds[node] = self.kinds[tensors[0]]
            self._pass_on(tensors[0], node)

    def _pass_on(self, before: fx.Node, node: fx.Node) -> None:
        if before in self.inputs:
            self.inputs[node] = self.inputs[before]

    def speaks(self, node: fx.Node, tensors: list[fx.Node]) -> bool:
        """Does the result depend on an indicator as on content: is it one, or rows that one chooses?"""
        return node in self.kinds or self.chosen(node, tensors) is not None

    def laid_out(self, node: fx.Node, layout: Layout) -> Layout:
        """The layout of a value: codes are features."""
        axes, sizes = self.axes.get(node, ()), shape_of(node)
        last = len(layout)
        return tuple(single(FEATURE, sizes[d]) if d - last in axes else kinds for d, kinds in enumerate(layout))

    def chosen(self, node: fx.Node, tensors: list[fx.Node]) -> str | None:
        """The source of the integers whose indicator chooses rows of a table in this product; None if none does."""
        told = [a for a in tensors if a in self.kinds]
        tables = [a for a in tensors if a not in self.kinds]
        if not has(node, _MULTIPLIES) or len(told) != 1 or not is_float(node):
            return None
        fixed = all(self.sources.get(t, _MORE) <= FIXED for t in tables) and any(t not in self.uniform for t in tables)
        given = self.inputs.get(told[0])
        return self.kinds[told[0]] if fixed and (given is None or _is_row_by_row(node, given)) else None

    def _told_apart(self, integers: fx.Node, codes: fx.Node) -> list[int]:
        """The axes, counted from the last, along which each of the integers is compared with each of the codes."""
        fixed = self.sources.get(codes, frozenset()) <= FIXED | {POSITION}
        if integers not in self.integers or codes in self.uniform or not fixed:
            return []
        ours, theirs = shape_of(integers), shape_of(codes)
        along = [d for d in range(-len(theirs), 0) if theirs[d] != 1]
        return along if all(-d > len(ours) or ours[d] == 1 for d in along) else []

    def _of_numbers(self, node: fx.Node, tensors: list[fx.Node]) -> bool:
        """Has a choice a number for yes and a number for no?"""
        return op_name(node) == "aten.where" and all(
            t in self.uniform and self.sources[t] <= {CONSTANT} for t in tensors
        )


def _is_row_by_row(product: fx.Node, given: fx.Node) -> bool:
    """Has it a row for each of the input's integers, laid out as they are?"""
    rows, sizes = value_of(product).shape, value_of(given).shape
    return len(rows) == len(sizes) + 1 and all(same_size(a, b) for a, b in zip(rows, sizes, strict=False))
