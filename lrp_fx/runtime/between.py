"""Between: which places inside the model relevance is followed between, and what in each is a unit of its own.

requires  names of places
ensures   places of the program at hand in its order, none of them made of another alone; `InputError` elsewhere
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from lrp_fx.errors import InputError
from lrp_fx.ir.axis_names import BATCHES, GROUPS, HEADS
from lrp_fx.structure.places import Place, Places, require_examples
from lrp_fx.transpose.inside import Stop


@dataclass(frozen=True)
class Between:
    """Places to follow relevance between: ``explainer(..., edges=Between(["heads", "mlp"], total=True))``.

    places: names, as in ``explainer(..., at=...)``. by: name (as it stands in `places`) -> the axis, or several, along
    which its units are counted, by default heads where a place has some, and else the place as a whole; with
    ``"tokens"`` each token is a unit. total: on any way, too, beside directly; that takes twice the time. at_once: how
    many units share a pass of the transpose; more take more memory.
    """

    places: tuple[str, ...]
    by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    total: bool = False
    at_once: int = 32

    def __init__(
        self,
        places: str | Sequence[str],
        *,
        by: Mapping[str, str | Sequence[str]] | None = None,
        total: bool = False,
        at_once: int = 32,
    ) -> None:
        names = (places,) if isinstance(places, str) else tuple(places) if isinstance(places, Sequence) else ()
        if not names or not all(isinstance(n, str) for n in names):
            raise InputError(f"edges= takes names of places, or a Between of some; got {places!r}")
        if isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1:
            raise InputError(f"at_once is a number of units from 1 on, got {at_once!r}")
        axes = {n: (a,) if isinstance(a, str) else tuple(a) for n, a in (by or {}).items()}
        strange = [n for n in axes if n not in names]
        if strange:
            raise InputError(f"by={strange[0]!r}: that is none of the places {', '.join(names)}")
        for name, value in (("places", names), ("by", axes), ("total", bool(total)), ("at_once", at_once)):
            object.__setattr__(self, name, value)

    def stops(self, places: Places) -> tuple[Stop, ...]:
        """The places of a program, in its order; raises `InputError` for those that cannot be told apart."""
        found: dict[str, Stop] = {}
        for name in self.places:
            for place in places.find(name):
                require_examples(place)
                found.setdefault(place.name, Stop(place, self._along(name, place)))
        order = {n: i for i, n in enumerate(places.rewritten.program.graph.nodes)}
        stops = sorted(found.values(), key=lambda stop: order[stop.place.node])
        _refuse_twice(places, [stop.place for stop in stops])
        return tuple(stops)

    def _along(self, name: str, place: Place) -> tuple[int, ...]:
        axes = self.by.get(name)
        if axes is None:
            return tuple(i for i, axis in enumerate(place.axes) if axis in (GROUPS, HEADS))
        strange = [axis for axis in axes if axis not in place.axes or axis == BATCHES]
        if strange:
            raise InputError(f"by={{{name!r}: {strange[0]!r}}}: {place.name} has {', '.join(place.axes[1:])}")
        return tuple(sorted(place.axes.index(axis) for axis in axes))


def between_of(edges: Any) -> Between | None:
    """What a call asks for."""
    return edges if edges is None or isinstance(edges, Between) else Between(edges)


def _refuse_twice(places: Places, found: Sequence[Place]) -> None:
    """Raise `InputError` where one place is another, or is made of another alone: the same relevance twice."""
    nodes: dict[fx.Node, Place] = {}
    for place in found:
        if place.node in nodes:
            raise InputError(
                f"{nodes[place.node].name} and {place.name} are one value\n    next: leave one of them out of edges="
            )
        nodes[place.node] = place
    for place in found:
        part = _made_of(places, place.node, set(nodes))
        if part is not None:
            raise InputError(
                f"{place.name} is made of {nodes[part].name} alone: they are parts of each other, and have the same "
                f"relevance but for biases\n    next: leave {place.name} or {nodes[part].name} out of edges="
            )


def _made_of(places: Places, node: fx.Node, others: set[fx.Node]) -> fx.Node | None:
    """The place that a value is made of by operations with one operand that carries relevance."""
    while (application := places.rewritten.applications.get(node)) is not None:
        carriers = set(application.operands)
        if len(carriers) != 1:
            return None
        (node,) = carriers
        if node in others:
            return node
    return None
