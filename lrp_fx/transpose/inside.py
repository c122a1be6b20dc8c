"""Inside: what is read, gated, or begun at places inside the model, while a relevance graph grows.

requires  places of the program that carry relevance
ensures   the value and coefficient of each place that is read; at a gate only what passes a mask goes on, and all else
          of the score, on whatever way, is the sink `ELSEWHERE`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.errors import InputError
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.layout import BatchAxis, batch_axis
from lrp_fx.ir.program import Program
from lrp_fx.structure.places import Place
from lrp_fx.transpose.builder import RelevanceBuilder
from lrp_fx.transpose.pairs import add_position, read_by
from lrp_fx.transpose.standing import batch_first
from lrp_fx.transpose.vjp import per_example, relevance_of, sum_by_rows

ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Gate:
    """A place that relevance has to pass; ``given``: the axes of its mask (examples first) that are as long as the
    value's, the others are 1.
    """

    place: Place
    given: tuple[bool, ...]


@dataclass(frozen=True)
class Stop:
    """A place where relevance stops and starts anew (`lrp_fx.transpose.stops`); ``along``: the axes (examples first)
    that its units are numbered by, none where it is one.
    """

    place: Place
    along: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inside:
    """What is asked for. ``at``: places that are read; ``gates``: those that relevance has to pass; ``source``: the
    value that the target reads, None for the explained output; ``stops``: places between which relevance is followed,
    unit by unit, in a graph without the model's output.
    """

    at: tuple[Place, ...] = ()
    gates: tuple[Gate, ...] = ()
    source: Place | None = None
    stops: tuple[Stop, ...] = ()

    @property
    def key(self) -> Any:
        """Equal for requests that one graph serves."""
        source = self.source.node.name if self.source is not None else None
        gates = tuple((g.place.node.name, g.given) for g in self.gates)
        at = tuple((p.name, p.node.name) for p in self.at)
        stops = tuple((s.place.node.name, s.along) for s in self.stops)
        return at, gates, source, stops


NOTHING = Inside()


@dataclass
class InsideBooks:
    """``coefficients``: those that arrived at the places that are read; ``passed``: gates that were met."""

    builder: RelevanceBuilder
    asked: Inside
    coefficients: dict[fx.Node, fx.Node] = field(default_factory=dict)
    passed: set[fx.Node] = field(default_factory=set)
    masks: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gates = {g.place.node: g for g in self.asked.gates}
        self.read = {p.node for p in self.asked.at}.union(*(read_by(p.pairs) for p in self.asked.at))
        self.nodes = {*self.gates, *self.read}

    def add_masks(self) -> list[str]:
        """Placeholders for the masks of gates, behind those of the target; their names."""
        names = []
        for number, gate in enumerate(self.asked.gates):
            with self.builder.mode:
                like = laid_out(value_of(gate.place.node), gate.place, batch_of(self.builder.program))
                sizes = [s if given else 1 for s, given in zip(like.shape, gate.given, strict=True)]
                value = torch.empty(sizes, dtype=like.dtype, device=like.device)
            node = self.builder.graph.placeholder(f"through_{number}")
            node.meta["val"] = value
            self.masks[gate.place.node] = node
            names.append(node.name)
        return names

    def note(self, node: fx.Node, c: fx.Node) -> None:
        """All relevance has arrived at a value, as the coefficient ``c``."""
        if node in self.read:
            self.coefficients[node] = c

    def gated(self, node: fx.Node, c: fx.Node, score: fx.Node) -> tuple[fx.Node, fx.Node, list[fx.Node]]:
        """What passes a gate: its coefficient, what of the score (B,) does not, and the books of the site."""
        place = self.gates[node].place
        axis = batch_axis(place.layout)

        def run(x: Tensor, c_x: Tensor, mask: Tensor, s: Tensor, batch: Any) -> list[Any]:
            kept = _masked(c_x, place, mask, batch)
            R, whole = relevance_of(x, kept, safe=True), relevance_of(x, c_x, safe=True)
            passed, total = per_example(R, axis, batch), sum_by_rows(whole)
            through = sum_by_rows(R)
            return [kept, s - passed, through, total - through, sum_by_rows(whole.abs())]

        b, own = self.builder, self.builder.env[node]
        same = (axis, self.gates[node].given, place.layout is None)
        outputs = b.add(run, [own, c, self.masks[node], score, b.batch], (node.name, "through", 0), same)
        self.passed.add(node)
        return outputs[0], outputs[1], outputs[2:]

    def outputs(self) -> list[fx.Node]:
        """[value, coefficient] of each place that is read, examples first; of scores also what each pair gave to
        position.
        """
        found: list[fx.Node] = []
        for place in self.asked.at:
            own, c = self.builder.env[place.node], self.coefficients.get(place.node)
            found += [self._laid_out(own, place), self._zeros(own, place) if c is None else self._laid_out(c, place)]
            if place.pairs is not None and read_by(place.pairs):
                found.append(add_position(self.builder, place.pairs, self.coefficients))
        return found

    def check(self) -> None:
        """Raise `InputError` where a gate was never met."""
        missed = [g.place.name for g in self.asked.gates if g.place.node not in self.passed]
        if missed:
            others = [g.place.name for g in self.asked.gates if g.place.node in self.passed]
            after = f" after {', '.join(others)}" if others else ""
            raise InputError(
                f"through={missed[0]!r}: no relevance gets there{after}\n    next: places of one through= lie one "
                "below the other; parts of one place are chosen by its mask"
            )

    def _laid_out(self, node: fx.Node, place: Place) -> fx.Node:
        axis = batch_axis(place.layout)
        if axis is not None and axis.axis == 0 and not axis.is_merged:
            return node
        tag = (place.node.name, "at", 0)
        same = (axis, place.layout is None)
        (result,) = self.builder.add(lambda x, b: [laid_out(x, place, b)], [node, self.builder.batch], tag, same)
        return result  # type: ignore[no-any-return]

    def _zeros(self, node: fx.Node, place: Place) -> fx.Node:
        (zeros,) = self.builder.add(lambda x: [torch.zeros_like(x)], [node], (place.node.name, "at", 1), ())
        return self._laid_out(zeros, place)


def laid_out(x: Tensor, place: Place, batch: Any) -> Tensor:
    """A value with its examples first, as its `axes` say."""
    return batch_first(x, batch_axis(place.layout), batch)


def as_it_lay(change: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """The way back of a change that only moves elements: its transpose."""

    def back(laid: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            moved = change(leaf)
        (found,) = torch.autograd.grad(moved, leaf, laid)
        return found

    return back


def _masked(c: Tensor, place: Place, mask: Tensor, batch: Any) -> Tensor:
    axis: BatchAxis | None = batch_axis(place.layout)
    if axis is not None and axis.axis == 0 and not axis.is_merged:
        return c * mask
    back = as_it_lay(lambda t: batch_first(t, axis, batch), c)
    return back(batch_first(c, axis, batch) * mask)


def batch_of(program: Program) -> Any:
    """How many examples there are, perhaps as a symbol."""
    batched = program.batch_input
    return value_of(batched[1]).shape[0] if batched is not None else 1
