"""Origins: of which element of an index input each row of a lookup is.

Integers may be turned, shifted, cut, padded or put together before a table is read by them: a decoder reads the text
one place later, a backward pass from its end. Relevance goes to the element that a row was looked up for. Numbers that
take the way of the integers tell it; 0 where a constant stands in the place of any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.analysis.provenance import CONTENT, Facts
from lrp_fx.ir.examples import FAILS, depends_on_values, example
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import ancestors, is_float, op_name, value_of
from lrp_fx.ir.operators import argument, has, is_pointwise, keeps_order, operand_of, operator_of
from lrp_fx.ir.sizes import same_size, shape_of

_MOVED = Fact.MOVE | Fact.SELECTION | Fact.PADDING
_TURNS = _MOVED | Fact.ASSEMBLY | Fact.SORTED | Fact.LOOKUP | Fact.SCATTER


@dataclass(frozen=True)
class Origins:
    """``input``: the placeholder; ``given``: what numbers are made of beside it; ``constants``: may others than its
    elements be looked up? ``numbers(input, *given)``: as the looked-up rows, or with an axis of one for their features.
    """

    input: fx.Node
    given: tuple[fx.Node, ...]
    constants: bool
    numbers: Callable[..., Tensor]


def origins_of(leaf: fx.Node, facts: Facts) -> Origins | None:
    """Of a leaf that is looked up by one index input; None where that is not known."""
    index = index_of(leaf)
    if index is None:
        return None
    way = _Way(facts)
    if not way.holds(index):
        return None
    (found,) = way.inputs
    axes = 0 if op_name(leaf) == "aten.gather" else value_of(leaf).dim() - value_of(index).dim()
    classes = op_name(index) == "aten.one_hot"  # all of one element

    def numbers(given: Tensor, *values: Tensor) -> Tensor:
        told = way.run(index, given, values)
        told = told[..., :1] if classes else told
        return told.reshape(*told.shape, *[1] * axes)

    return Origins(found, tuple(way.given), way.constants, numbers)


def numbers_at_hand(lookup: fx.Node, facts: Facts) -> Tensor | None:
    """The same numbers at the traced sizes, as the index of a lookup is laid out; None where they depend on values."""
    given, index = input_looked_up(lookup), index_of(lookup)
    if given is not None and index is not None:
        return torch.arange(1, prod(shape_of(index)) + 1).reshape(shape_of(index))
    found = _run_at_hand(index, facts) if index is not None else None
    return found[0] if found is not None else None


def _run_at_hand(index: fx.Node, facts: Facts) -> tuple[Tensor, int] | None:
    """The numbers of an index's elements, and the length of the texts that they count."""
    way = _Way(facts)
    if not way.holds(index):
        return None
    (found,) = way.inputs
    known: dict[fx.Node, Any] = {}
    values = [None if depends_on_values(node) else example(node, known) for node in way.given]
    try:
        return way.run(index, torch.zeros(shape_of(found), dtype=torch.int64), values), shape_of(found)[-1]
    except FAILS:  # a step needs what is None
        return None


def shift_of(lookup: fx.Node, facts: Facts) -> int | None:
    """At which row the tokens of the index input begin, where they stand in their order; None where they do not, or
    where that depends on values.
    """
    index = index_of(lookup)
    if input_looked_up(lookup) is not None:
        return 0
    found = _run_at_hand(index, facts) if index is not None else None
    return _begin(*found) if found is not None and found[0].dim() > 1 else None


def _begin(numbers: Tensor, length: int) -> int | None:
    """Where the tokens of the first text begin along the axis that they lie on, in their order."""
    for axis in range(1, numbers.dim()):  # all features of a row are of one token
        row = numbers.narrow(axis, 0, 1)
        numbers = row if bool((numbers == row).all()) else numbers
    places = ((numbers > 0) & (numbers <= length)).nonzero()
    along = [a for a in range(numbers.dim()) if len(set(places[:, a].tolist())) > 1]
    if not len(places) or len(along) > 1:
        return None
    at = places[:, along[0] if along else -1]
    begins = set((at + 1 - numbers[tuple(places.T)]).tolist())
    return begins.pop() if len(begins) == 1 and min(begins) >= 0 else None


def index_of(leaf: fx.Node) -> fx.Node | None:
    """What says of each row (or element) of a leaf which one it is, axis by axis as the leaf's first axes are."""
    name = op_name(leaf)
    index: Any = None
    if name == "aten.index":
        indices = leaf.args[1]
        index = indices[0] if isinstance(indices, (list, tuple)) and len(indices) == 1 else None
    elif name == "aten.embedding":
        index = argument(leaf, "indices")
    elif name == "aten.gather" or (name == "aten.index_select" and argument(leaf, "dim") == 0):
        index = argument(leaf, "index")
    elif has(leaf, Fact.CAST):
        index = leaf.args[0]
    return index if isinstance(index, fx.Node) and value_of(index).dtype != torch.bool else None


def input_looked_up(lookup: fx.Node) -> fx.Node | None:
    """The input whose elements, all of them and in their order, a lookup takes as indices, its batch first."""
    index: Any = index_of(lookup)
    while isinstance(index, fx.Node) and _changes_nothing(index):
        index = index.args[0]
    return index if isinstance(index, fx.Node) and index.op == "placeholder" else None


def may_be_turned(leaf: fx.Node, facts: Facts) -> bool:
    """May its rows stand in another order than the elements of the index input, or some of them be left out?"""
    behind = (n for n in ancestors([leaf]) if n is not leaf and CONTENT in facts.sources.get(n, ()))
    return any(has(n, _TURNS) and not is_float(n) and not _changes_nothing(n) for n in behind)


def _changes_nothing(node: fx.Node) -> bool:
    """Does it leave all elements in their order?"""
    return keeps_order(node) or has(node, Fact.CAST | Fact.IDENTITY) or _is_whole(node)


def _is_whole(node: fx.Node) -> bool:
    """Is it a slice that leaves nothing out?"""
    if op_name(node) != "aten.slice":
        return False
    x, part = value_of(operand_of(node)), value_of(node)
    return x.dim() == part.dim() and all(same_size(a, b) for a, b in zip(x.shape, part.shape, strict=True))


@dataclass
class _Way:
    """From an index back to an input; ``steps``: the nodes on it, in order."""

    facts: Facts
    steps: list[fx.Node] = field(default_factory=list)
    inputs: set[fx.Node] = field(default_factory=set)
    given: list[fx.Node] = field(default_factory=list)
    constants: bool = False

    def holds(self, node: fx.Node) -> bool:
        """Does it hold elements of one input, all the way along?"""
        return self._visit(node) and len(self.inputs) == 1

    def _visit(self, node: fx.Node) -> bool:
        if node in self.steps or node in self.inputs:
            return True
        if node.op == "placeholder":
            self.inputs.add(node)
            return not is_float(node) and CONTENT in self.facts.sources[node]
        if is_float(node) or not isinstance(value_of(node), Tensor):
            return False
        held = self._held(node)
        ours = [h for h in held if isinstance(h, fx.Node) and self._depends(h)]
        if not ours or not all(self._visit(h) for h in ours):
            return False
        self.constants |= len(ours) < len(held) or has(node, Fact.PADDING)
        self.given += [a for a in _call(node).all_input_nodes if a not in ours and a not in self.given]
        self.steps.append(node)
        return True

    def _depends(self, node: fx.Node) -> bool:
        return CONTENT in self.facts.sources.get(node, ())

    def _held(self, node: fx.Node) -> list[Any]:
        """Operands that hold what the result is made of, element by element; numbers among them are constants."""
        call = _call(node)
        if call is not node:
            return [call.args[0]]
        if (index := self._names_rows(node)) is not None:
            return [index]
        if names := operator_of(node).holds:
            found = [argument(node, name) for name in names]
            flat = [a for f in found for a in (f if isinstance(f, (list, tuple)) else [f])]
            return [a for a in flat if a is not None]
        if has(node, _MOVED) and isinstance(node.args[0], fx.Node):
            return [node.args[0]] if isinstance(value_of(node.args[0]), Tensor) else []
        if op_name(node) == "aten.one_hot":
            return [node.args[0]]
        if is_pointwise(node) and value_of(node).dtype != torch.bool:
            ours = list(dict.fromkeys(a for a in node.all_input_nodes if self._depends(a)))
            return ours if len(ours) == 1 else []
        return []

    def _names_rows(self, node: fx.Node) -> fx.Node | None:
        """The index by which rows of a table of whole numbers (codes of weights, other words) are looked up."""
        index = index_of(node) if has(node, Fact.LOOKUP) and not has(node, Fact.PICK) else None
        if index is None or self._depends(operand_of(node)):
            return None
        features = shape_of(node)[len(shape_of(index)) :]
        return index if all(isinstance(size, int) for size in features) else None

    def run(self, index: fx.Node, given: Tensor, values: Sequence[Any]) -> Tensor:
        """The numbers of an index's elements."""
        (source,) = self.inputs
        known: dict[fx.Node, Any] = dict(zip(self.given, values, strict=True))
        told = {source: torch.arange(1, given.numel() + 1, device=given.device).reshape(given.shape)}
        for step in self.steps:
            told[step] = self._step(step, told, known)
        return told[index]

    def _step(self, node: fx.Node, told: dict[fx.Node, Tensor], known: dict[fx.Node, Any]) -> Tensor:
        held, call = self._held(node), _call(node)
        if (index := self._names_rows(node)) is not None:
            row = told[index]
            features = shape_of(node)[row.dim() :]
            return row.reshape(*row.shape, *[1] * len(features)).expand(*row.shape, *features)
        if op_name(node) == "aten.one_hot":
            return told[held[0]].unsqueeze(-1).expand(*[-1] * (value_of(node).dim() - 1), argument(node, "num_classes"))
        if has(node, Fact.CAST) or (call is node and not operator_of(node).holds and not has(node, _MOVED)):
            others = [v for a in node.all_input_nodes if isinstance(v := known.get(a), Tensor)]
            return torch.broadcast_tensors(told[held[0]], *others)[0]  # type: ignore[no-any-return, no-untyped-call]
        if op_name(node) == "aten.where":
            yes, no = (_number(a, told) for a in node.args[1:3])
            return _chosen(known[node.args[0]], yes, no)  # type: ignore[index]
        if op_name(node) == "aten.masked_fill":
            return _chosen(known[node.args[1]], 0, _number(node.args[0], told))  # type: ignore[index]

        def value(argument: fx.Node) -> Any:
            if argument in told:
                return told[argument]
            return torch.zeros_like(known[argument], dtype=torch.int64) if argument in held else known[argument]

        args, kwargs = fx.map_arg((call.args, dict(call.kwargs)), value)
        target: Any = call.target
        if call is not node:
            return target(*args, **kwargs)[node.args[1]]  # type: ignore[no-any-return]
        if op_name(node) == "aten.scatter" and not isinstance(node.args[3], fx.Node):
            args = (*args[:3], 0)
        if has(node, Fact.PADDING):
            args, kwargs = (*args[:2], 0), {}
            target = torch.ops.aten.constant_pad_nd.default
        return target(*args, **kwargs)  # type: ignore[no-any-return]


def _call(node: fx.Node) -> fx.Node:
    """The operation whose result it is: of one part, what gives all of them."""
    whole = node.args[0] if op_name(node) == "getitem" else None
    return whole if isinstance(whole, fx.Node) and has(whole, Fact.SPLIT) else node


def _chosen(mask: Tensor | None, yes: Any, no: Any) -> Tensor:
    """A mask that is not known, in an example, puts nothing in the place of any element."""
    if mask is not None:
        return torch.where(mask, yes, no)
    elements = [side for side in (yes, no) if isinstance(side, Tensor)]
    if len(elements) != 1:
        raise TypeError("which of two texts is read depends on values")
    return elements[0]


def _number(argument: Any, told: dict[fx.Node, Tensor]) -> Any:
    """Of an operand of a choice: 0 for a constant."""
    return told.get(argument, 0) if isinstance(argument, fx.Node) else 0
