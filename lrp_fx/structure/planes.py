"""Rotation planes: which features of a vector are turned together.

Found by asking: the vector is replaced by the numbers of its own elements and sent through the moves that lead to the
products of a rotation; elements that meet in one sum lie in one plane. Half-split, interleaved, written with two or
with four products: the question is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.errors import raise_if_out_of_memory
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.operators import has
from lrp_fx.ir.program import Program
from lrp_fx.ir.sizes import hint, shape_of

#: All that only says where elements go (and with which sign).
ROUTES = Fact.MOVE | Fact.SELECTION | Fact.SHUFFLE | Fact.INDEXING | Fact.SIGN


class NotFollowed(Exception):
    """The moves that lead to a value cannot be carried out on the numbers of its elements."""


@dataclass(frozen=True)
class Planes:
    """``labels[product]``: for every feature of the product's last axis the number of its plane; ``count``: how many
    there are.
    """

    labels: dict[fx.Node, tuple[int, ...]]
    count: int
    pairing: str


def find_planes(
    program: Program, products: Sequence[fx.Node], sums: Sequence[Sequence[tuple[fx.Node, fx.Node]]]
) -> Planes | None:
    """Planes of a rotation given as sums of (product, content operand); None where the moves cannot be followed."""
    contents = {product: content for terms in sums for product, content in terms}
    if set(contents) != set(products):
        return None
    root = _common_root(list(contents.values()))
    if root is None:
        return None
    elements = {product: _elements(program, root, content) for product, content in contents.items()}
    union = _Union()
    for terms in sums:
        rows = [elements[product] for product, _ in terms]
        if any(r is None or len(r) != len(rows[0] or ()) for r in rows):
            return None
        for meeting in zip(*(r for r in rows if r is not None), strict=True):
            union.join(meeting)
    names: dict[int, int] = {}
    labels = {
        product: tuple(names.setdefault(union.find(e), len(names)) for e in found)
        for product, found in elements.items()
        if found is not None
    }
    return Planes(labels, len(names), _pairing(sums, elements))


def _pairing(sums: Sequence[Sequence[tuple[fx.Node, fx.Node]]], elements: dict[fx.Node, tuple[int, ...] | None]) -> str:
    """How the elements of one plane lie in the vector: next to each other, half a vector apart, or otherwise."""
    steps = set()
    for terms in sums:
        rows = [row for product, _ in terms if (row := elements[product]) is not None]
        steps |= {max(meeting) - min(meeting) for meeting in zip(*rows, strict=True)}
    steps.discard(0)
    features = len({e for row in elements.values() if row is not None for e in row})
    if steps == {1} and features > 2:
        return "interleaved"
    return "half-split" if steps == {features // 2} else "planes of its own"


class _Union:
    def __init__(self) -> None:
        self.parent: dict[int, int] = {}

    def find(self, e: int) -> int:
        while (above := self.parent.setdefault(e, e)) != e:
            e = above
        return e

    def join(self, elements: Sequence[int]) -> None:
        for other in elements[1:]:
            self.parent[self.find(other)] = self.find(elements[0])


def _routed_from(node: fx.Node) -> list[fx.Node]:
    """The node and what it is a rearrangement of, nearest first, as far as that is one value."""
    chain = [node]
    while True:
        top = chain[-1]
        if not has(top, ROUTES):
            return chain
        sources = _tensor_inputs(top)
        if len(set(sources)) == 1:
            chain.append(sources[0])
            continue
        routed = [_routed_from(s) for s in sources]  # joined again: what all parts come from
        common = next((n for n in routed[0] if all(n in r for r in routed)), None) if routed else None
        if common is None:
            return chain
        chain.append(common)


def _common_root(contents: Sequence[fx.Node]) -> fx.Node | None:
    chains = [_routed_from(c) for c in contents]
    return next((n for n in chains[0] if isinstance(value_of(n), Tensor) and all(n in c for c in chains)), None)


def _tensor_inputs(node: fx.Node) -> list[fx.Node]:
    found = [a for a in node.all_input_nodes if isinstance(value_of(a), (Tensor, list, tuple))]
    return [
        a
        for a in found
        if not isinstance(value_of(a), Tensor) or value_of(a).is_floating_point() or value_of(a).is_complex()
    ]


def _elements(program: Program, root: fx.Node, content: fx.Node) -> tuple[int, ...] | None:
    """For each feature of ``content`` (its last axis, first row) the number of the element of ``root`` that it is."""
    shape = shape_of(root)
    numbers = torch.arange(1, torch.Size(shape).numel() + 1, dtype=torch.float64).reshape(shape)
    try:
        result = followed(program, content, {root: numbers})
    except NotFollowed:
        return None
    if not isinstance(result, Tensor) or result.is_complex() or result.dim() == 0:
        return None
    return tuple(int(e) for e in result.reshape(-1, result.shape[-1])[0].abs().round().tolist())


def followed(program: Program, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """The value of a node computed from ``known`` at the traced sizes (indices and constants are the program's own)."""
    if node not in known:
        known[node] = carry_out(program, node, known, lambda n: followed(program, n, known))
    return known[node]


def carry_out(program: Program, node: fx.Node, known: dict[fx.Node, Any], evaluate: Callable[[fx.Node], Any]) -> Any:
    """The value of one node at the traced sizes, its arguments as ``evaluate`` gives them. Raises `NotFollowed`."""
    value = value_of(node)
    if node.op == "get_attr":
        return getattr(program.module, str(node.target))
    if not isinstance(value, (Tensor, list, tuple)):
        return hint(value)
    if node.op == "placeholder":
        raise NotFollowed("depends on an input")

    def argument(n: fx.Node) -> Any:
        return evaluate(n) if n in known or isinstance(value_of(n), (Tensor, list, tuple)) else hint(value_of(n))

    args, kwargs = fx.map_arg((node.args, node.kwargs), argument)
    target: Any = node.target
    try:
        return target(*args, **({} if op_name(node) == "aten._to_copy" else kwargs))
    except (RuntimeError, TypeError, IndexError) as error:  # torch refuses these sizes, or numbers in place of indices
        raise_if_out_of_memory(error)
        raise NotFollowed(str(error)) from error
