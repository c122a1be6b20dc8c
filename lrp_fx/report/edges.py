"""Edges: how much of the relevance of one place inside the model comes from another, and where the rest goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import ConservationError, InputError
from lrp_fx.report.ledger import TOTAL_TOLERANCE, rounding_floor
from lrp_fx.report.tables import pandas

SCORE = "score"
DIRECT, TOTAL = PATHS = ("direct", "total")


@dataclass(frozen=True)
class Unit:
    """A part of a place that edges lead from and to: a head, or the whole place. ``name``: ``heads.1[3]``; ``index``:
    its number along each of ``axes``; ``layer``: the block that the place belongs to, None outside all blocks.
    """

    name: str
    place: str
    kind: str
    axes: tuple[str, ...]
    index: tuple[int, ...]
    layer: int | None
    module: str


@dataclass(frozen=True, eq=False, repr=False)
class Edges:
    """Relevance between units, for every example. Rows of a matrix are upper ends, the score first and then ``units``
    in the order of the graph; columns are lower ends.

    ``direct`` (B, 1 + units, units): relevance of the lower unit that comes from the upper one without passing a third.
    ``leaves``: input, or kind of leaf, -> (B, 1 + units), and ``sinks`` by name: what went there directly. So each row
    adds up to the upper unit's relevance, and each column of ``direct`` to the lower unit's.
    ``total``: the same as ``direct`` on any way, None unless it was asked for; of rows and columns it is the entry that
    has a meaning, since a way may pass several units.
    ``relevance`` (B, units); ``score`` (B,); ``scale`` (B, 1 + units): absolute amounts, which rounding is measured by.
    ``tokens``: input -> (B, 1 + units, T): by token what of ``leaves`` went to an input of ids.
    """

    units: tuple[Unit, ...]
    direct: Tensor
    total: Tensor | None
    relevance: Tensor
    score: Tensor
    scale: Tensor
    dtype: torch.dtype
    leaves: dict[str, Tensor] = field(default_factory=dict)
    sinks: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """What the units are called."""
        return tuple(u.name for u in self.units)

    def between(self, upper: str, lower: str, paths: str = DIRECT) -> Tensor:
        """(B, upper units, lower units): from ``upper`` (``score``, a place, or a unit) to ``lower``.

        paths: ``direct`` or ``total``. Raises `InputError` for names that are none, and for totals not asked for.
        """
        rows = [0] if upper == SCORE else [1 + n for n in self._numbers(upper)]
        return self.matrix(paths)[:, rows][:, :, self._numbers(lower)]

    def matrix(self, paths: str = DIRECT) -> Tensor:
        """``direct`` or ``total``, (B, 1 + units, units)."""
        if paths not in PATHS:
            raise InputError(f"paths is one of {', '.join(PATHS)}, got {paths!r}")
        if paths == DIRECT:
            return self.direct
        if self.total is None:
            raise InputError(
                "edges on any way were not asked for\n    next: explainer(..., edges=lrp_fx.Between([...], total=True))"
            )
        return self.total

    @property
    def outgoing(self) -> Tensor:
        """(B, 1 + units): all that left the score and each unit downwards; equal to what they have."""
        ends = [*self.leaves.values(), *self.sinks.values()]
        return self.direct.sum(2) + sum(ends, torch.zeros_like(self.scale))

    @property
    def error(self) -> Tensor:
        """(B,): the worst of all units' books, ``in = relevance = out``, relative to absolute amounts (or the
        `rounding_floor` of the score's, if that is more).
        """
        own = torch.cat([self.score.unsqueeze(1), self.relevance], 1)
        arrived = torch.cat([own[:, :1], self.direct.sum(1)], 1)
        amounts = torch.cat([own[:, :1], self.direct.abs().sum(1)], 1)
        gap = torch.maximum((own - self.outgoing).abs(), (own - arrived).abs())
        least = rounding_floor(self.dtype) * self.scale[:, :1]
        scale = torch.maximum(torch.maximum(self.scale, amounts), least)
        return (gap / scale.clamp_min(torch.finfo(own.dtype).tiny)).amax(1)

    def check(self) -> None:
        """Raise `ConservationError` where the books of a unit do not close within the type's rounding."""
        worst = float(self.error.max()) if len(self.error) else 0.0
        if not worst <= TOTAL_TOLERANCE[self.dtype]:
            raise ConservationError(
                f"relevance between places does not add up: off by {worst:.2e} of what passes a unit (allowed "
                f'{TOTAL_TOLERANCE[self.dtype]:.0e} in {self.dtype})\n    next: convert(model, conserve="site") '
                "names the site where relevance is lost"
            )

    def to_frame(self, paths: str = DIRECT) -> Any:
        """A `pandas.DataFrame`, one row for each edge that is not zero: example, upper, lower, relevance. Lower ends
        are units and, of direct edges, leaves and sinks (``leaf input_ids``, ``sink bias``).

        Raises `InputError` without pandas.
        """
        uppers = (SCORE, *self.names)
        columns = [(name, self.matrix(paths)[:, :, n]) for n, name in enumerate(self.names)]
        if paths == DIRECT:
            columns += [(f"leaf {name}", R) for name, R in self.leaves.items()]
            columns += [(f"sink {name}", R) for name, R in self.sinks.items()]
        rows = [
            {"example": b, "upper": uppers[u], "lower": lower, "relevance": float(R[b, u])}
            for lower, R in columns
            for b, u in R.nonzero().tolist()
        ]
        return pandas().DataFrame(rows, columns=["example", "upper", "lower", "relevance"])

    def _numbers(self, name: str) -> list[int]:
        found = [n for n, u in enumerate(self.units) if name in (u.name, u.place, u.kind)]
        if not found:
            known = list(dict.fromkeys([*(u.place for u in self.units), *self.names]))
            close = get_close_matches(name, known, 3, 0.3) or known[:6]
            raise InputError(f"no unit or place {name!r} among these edges; there are {', '.join(close)}")
        return found

    def __repr__(self) -> str:
        places = ", ".join(dict.fromkeys(u.place for u in self.units))
        return f"Edges({len(self.units)} units in {places}; {len(self.score)} examples)"


def units_of(place: str, kind: str, sizes: Sequence[tuple[str, int]], layer: int | None, module: str) -> list[Unit]:
    """The units of one place. sizes: (axis, size) of each axis that they are counted along."""
    axes = tuple(axis for axis, _ in sizes)
    if not sizes:
        return [Unit(place, place, kind, axes, (), layer, module)]
    grid = torch.ones([size for _, size in sizes]).nonzero().tolist()
    return [Unit(f"{place}[{','.join(map(str, i))}]", place, kind, axes, tuple(i), layer, module) for i in grid]
