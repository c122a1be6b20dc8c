"""Stops: places where relevance stops and starts anew, while a relevance graph grows.

requires  places of the program that carry relevance
ensures   what arrives at each, unit by unit (B, units), as an output; what goes on below is ``keep`` times that, plus
          the part of a given coefficient that a mask picks; the score is ``scale`` times the target's and what started

So one graph answers for every pair of places: given the coefficients of a whole explanation, a place's masks pick what
starts from it, and what arrives elsewhere is the relevance of the lower place that comes from there: directly with
``keep`` 0, on any way with 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.ir.graph import value_of
from lrp_fx.ir.layout import batch_axis
from lrp_fx.transpose.builder import RelevanceBuilder
from lrp_fx.transpose.inside import Stop, as_it_lay, batch_of, laid_out
from lrp_fx.transpose.seed import Seed
from lrp_fx.transpose.vjp import per_example, relevance_of


class StopBooks:
    """``nodes``: the stops; arguments are ``scale``, ``keep``, and for each stop a coefficient and a mask."""

    def __init__(self, builder: RelevanceBuilder, stops: Sequence[Stop]) -> None:
        self.builder = builder
        self.nodes = {stop.place.node: stop for stop in stops}
        self.arguments: list[fx.Node] = []
        self.arrived: dict[fx.Node, fx.Node] = {}
        self.begun: list[fx.Node] = []

    def add_arguments(self) -> list[str]:
        """Placeholders, behind those of the target; their names."""
        if not self.nodes:
            return []
        b = self.builder
        batch = batch_of(b.program)
        with b.mode:
            likes = [laid_out(value_of(node), stop.place, batch) for node, stop in self.nodes.items()]
            number = torch.empty((), dtype=torch.float32, device=likes[0].device)
            values = [number, number.clone()]
            for like, stop in zip(likes, self.nodes.values(), strict=True):
                sizes = [s if axis in stop.along else 1 for axis, s in enumerate(like.shape)]
                values += [torch.empty(like.shape, dtype=like.dtype, device=like.device), like.new_empty(sizes)]
        for n, value in enumerate(values):
            node = b.graph.placeholder(f"stop_{n}")
            node.meta["val"] = value
            self.arguments.append(node)
        return [node.name for node in self.arguments]

    def scaled(self, seed: Seed) -> Seed:
        """``scale`` times what the target hands to the output; the seed itself where there are no stops."""
        if not self.nodes:
            return seed

        def run(scale: Tensor, *parts: Tensor) -> list[Any]:
            return [(scale * part).to(part.dtype) for part in parts]

        parts = [self.arguments[0], seed.score, seed.coefficient, seed.remainder, seed.total]
        score, coefficient, remainder, total = self._add(run, parts)
        return Seed(score, coefficient, remainder, total)

    def at(self, node: fx.Node, c: fx.Node | None) -> tuple[fx.Node, fx.Node]:
        """The coefficient that goes on below a stop, and what stopped there (B,)."""
        stop, number = self.nodes[node], list(self.nodes).index(node)
        place = stop.place
        axis = batch_axis(place.layout)

        def run(x: Tensor, given: Tensor, mask: Tensor, keep: Tensor, batch: Any, *c_x: Tensor) -> list[Any]:
            started = as_it_lay(lambda t: laid_out(t, place, batch), x)(given * mask)
            begun = per_example(relevance_of(x, started, safe=True), axis, batch)
            if not c_x:
                return [
                    started,
                    _by_units(laid_out(torch.zeros_like(x), place, batch), stop),
                    torch.zeros_like(begun),
                    begun,
                ]
            R = relevance_of(x, c_x[0], safe=True)
            on = (started + keep * c_x[0]).to(started.dtype)
            stopped = per_example(R, axis, batch)
            return [on, _by_units(laid_out(R, place, batch), stop), ((1 - keep) * stopped).to(stopped.dtype), begun]

        given, mask = self.arguments[2 + 2 * number : 4 + 2 * number]
        arguments = [self.builder.env[node], given, mask, self.arguments[1], self.builder.batch]
        same = (axis, place.layout is None, stop.along)
        outputs = self._add(run, [*arguments, *([c] if c is not None else [])], node.name, same)
        self.arrived[node] = outputs[1]
        self.begun.append(outputs[3])
        return outputs[0], outputs[2]

    def score(self, score: fx.Node) -> fx.Node:
        """All that started, (B,)."""
        return self.builder.sum([score, *self.begun])

    def outputs(self) -> list[fx.Node]:
        """(B, units) for each stop: what arrived there."""
        return [self.arrived[node] for node in self.nodes]

    def _add(self, function: Any, nodes: list[Any], name: str = "target", same: Any = ()) -> list[Any]:
        return self.builder.add(function, nodes, (name, "stop", 0), same)


def _by_units(R: Tensor, stop: Stop) -> Tensor:
    """(B, units): summed over all that is no unit's number."""
    R = R.to(torch.float64 if R.dtype == torch.float64 else torch.float32)
    others = [axis for axis in range(1, R.dim()) if axis not in stop.along]
    R = R.sum(others) if others else R
    return R.flatten(1) if R.dim() > 1 else R.unsqueeze(1)
