"""Edges: what passes from place to place, from one relevance graph that relevance starts anew in.

requires  the result of an explanation with the coefficients of all places, and the graph that stops at them
ensures   one number for each pair of units, by one batched transpose for each upper place (several small ones share
          one); the books of every unit, in = relevance = out
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrp_fx.analysis.provenance import CONTENT
from lrp_fx.errors import raise_if_out_of_memory
from lrp_fx.guards.guard import Arguments, guard_of
from lrp_fx.guards.inputs import TensorGuard
from lrp_fx.report.activation import Activations
from lrp_fx.report.edges import Edges, Unit, units_of
from lrp_fx.report.relevance import Relevance
from lrp_fx.runtime.between import Between
from lrp_fx.runtime.run import Executable, Terms, one_by_one, without_autocast
from lrp_fx.transpose.inside import Stop

#: Places with fewer units than this share a pass.
_FEW = 8


@dataclass(frozen=True)
class _Read:
    """What is read of the rows of a pass, the rows first: ``arrived`` (n, B, units), the ends by name (n, B)."""

    score: Tensor
    arrived: Tensor
    leaves: dict[str, Tensor]
    sinks: dict[str, Tensor]
    tokens: dict[str, Tensor]
    scale: Tensor


class _Runner:
    """The graph with stops on one call. ``places``: those of the stops, with their coefficients."""

    def __init__(
        self, executable: Executable, stops: Sequence[Stop], call: Arguments, arguments: list[Tensor], at: Activations
    ) -> None:
        self.module, self.signature = executable.graph.module, executable.graph.signature
        names = [info.name for info in guard_of(TensorGuard, executable.guards).inputs]
        self.inputs = [call.bound[name] for name in names]
        self.bound, self.arguments, self.stops = call.bound, arguments, stops
        self.places = [at[stop.place.name] for stop in stops]
        self.sizes = [[a.value.shape[axis] for axis in s.along] for s, a in zip(stops, self.places, strict=True)]
        self.counts = [int(torch.Size(sizes).numel()) for sizes in self.sizes]

    def run(self, rows: Sequence[tuple[int, int]], *, keep: bool) -> _Read:
        """What starts from some units, (stop, number) each; of no units: what starts from the score."""
        device, like = self.inputs[0].device, self.places[0].value
        scale, kept = (torch.tensor(float(v), device=device) for v in (not rows, keep))
        masks = [self._mask(stop, rows) for stop in range(len(self.stops))]
        started = [any(stop == s for s, _ in rows) for stop in range(len(self.stops))]
        given = [place.coefficient.to(like.device) for place in self.places]

        def run(*varying: Tensor) -> tuple[Tensor, ...]:
            mine = iter(varying)
            pairs = [
                (c, next(mine) if varies else mask[0]) for c, mask, varies in zip(given, masks, started, strict=True)
            ]
            flat = self.module(*self.inputs, *self.arguments, scale, kept, *(t for pair in pairs for t in pair))
            return tuple(self._needed(flat))

        varying = [mask for mask, varies in zip(masks, started, strict=True) if varies]
        with torch.no_grad(), without_autocast(self.inputs):
            return self._read(_batched(run, varying))

    def _mask(self, stop: int, rows: Sequence[tuple[int, int]]) -> Tensor:
        """(n, 1, sizes...): one of the stop's units in each row, or none."""
        value = self.places[stop].value
        mask = torch.zeros(max(1, len(rows)), self.counts[stop], dtype=value.dtype, device=value.device)
        for number, (own, unit) in enumerate(rows):
            if own == stop:
                mask[number, unit] = 1
        along = self.stops[stop].along
        return mask.reshape(-1, *(s if axis in along else 1 for axis, s in enumerate(value.shape)))

    def _needed(self, flat: Sequence[Any]) -> Iterator[Tensor]:
        """The score, three of each leaf (those by token, or nothing, first), sinks, and what arrives at stops."""
        signature = self.signature
        yield flat[0]
        for number in range(len(signature.leaves)):
            own, total, magnitude = flat[1 + 3 * number : 4 + 3 * number]
            yield own if self._input(number, own.shape) is not None else total
            yield total
            yield magnitude
        yield from flat[1 + 3 * len(signature.leaves) :]

    def _input(self, number: int, shape: torch.Size) -> str | None:
        """The input of ids whose tokens a leaf's relevance is laid out by."""
        leaf = self.signature.leaves[number]
        given = self.bound.get(leaf.inputs[0]) if leaf.kind == CONTENT and leaf.inputs else None
        if not isinstance(given, Tensor) or given.is_floating_point() or given.dim() != 2:
            return None
        return leaf.inputs[0] if given.shape == shape else None

    def _read(self, flat: Sequence[Tensor]) -> _Read:
        signature, score = self.signature, _wide(flat[0])
        leaves: dict[str, Tensor] = {}
        tokens: dict[str, Tensor] = {}
        scale = torch.zeros_like(score)
        for number, leaf in enumerate(signature.leaves):
            own, total, magnitude = map(_wide, flat[1 + 3 * number : 4 + 3 * number])
            name = leaf.inputs[0] if leaf.kind == CONTENT and leaf.inputs else leaf.kind
            leaves[name] = leaves.get(name, 0) + _each(total, score)
            scale = scale + _each(magnitude, score)
            if (name := self._input(number, own.shape[1:]) or "") and own.dim() == 3:
                tokens[name] = tokens.get(name, 0) + own
        rest = list(flat[1 + 3 * len(signature.leaves) :])
        sinks: dict[str, Tensor] = {}
        for (name, site), total in zip(signature.sinks, rest, strict=False):
            if site.rule != "stop":
                sinks[name] = sinks.get(name, 0) + _each(_wide(total), score)
                scale = scale + _each(_wide(total), score).abs()
        arrived = torch.cat([_wide(t) for t in rest[len(signature.sinks) :]], 2)
        return _Read(score, arrived, leaves, sinks, tokens, scale + arrived.abs().sum(2))


def edges_of(
    executable: Executable,
    stops: Sequence[Stop],
    call: Arguments,
    arguments: list[Tensor],
    relevance: Relevance,
    between: Between,
) -> Edges:
    """The edges of one explained target; relevance: with all of the places in its ``at``."""
    runner = _Runner(executable, stops, call, arguments, relevance.at)
    passes: list[list[tuple[int, int]]] = [[], *_passes(runner.counts, between.at_once)]
    found = [runner.run(rows, keep=False) for rows in passes]
    own = [(a, s.along) for a, s in zip(runner.places, stops, strict=True)]
    R = torch.cat([_by_units(a.relevance, along) for a, along in own], 1)
    amounts = torch.cat([_by_units(a.relevance.abs(), along) for a, along in own], 1)
    total = None
    if between.total:
        below = [runner.run(rows, keep=True).arrived for rows in passes[1:]]
        total = _without_itself(torch.cat([R.unsqueeze(0), *below]).transpose(0, 1), runner.counts)
    scale = torch.cat([f.scale for f in found]).transpose(0, 1)
    scale = torch.maximum(scale, torch.cat([relevance.score.abs().to(scale.dtype).unsqueeze(1), amounts], 1))
    units: list[Unit] = []
    for place, stop, sizes in zip(runner.places, stops, runner.sizes, strict=True):
        named = [(place.axes[axis], size) for axis, size in zip(stop.along, sizes, strict=True)]
        units += units_of(place.name, place.kind, named, place.layer, place.module)
    return Edges(
        units=tuple(units),
        direct=torch.cat([f.arrived for f in found]).transpose(0, 1),
        total=total,
        relevance=R,
        score=_wide(relevance.score),
        scale=scale,
        dtype=executable.graph.signature.dtype,
        leaves=_together([f.leaves for f in found]),
        sinks=_together([f.sinks for f in found]),
        tokens=_together([f.tokens for f in found]),
    )


def with_edges(
    results: Sequence[Relevance],
    graphs: Sequence[tuple[Executable, Sequence[Stop]]],
    call: Arguments,
    arguments: Sequence[list[Tensor]],
    between: Between,
    terms: Terms,
    names: set[str],
) -> list[Relevance]:
    """Results with their edges; ``at`` keeps the places of these names, the others were read for the edges.

    Raises `ConservationError` where the books of a unit do not close, unless conservation is not demanded.
    """
    found = []
    for result, (executable, stops), given in zip(results, graphs, arguments, strict=True):
        edges = edges_of(executable, stops, call, given, result, between)
        if terms.conserve != "off":
            edges.check()
        kept = Activations({n: a for n, a in result.at.named.items() if n in names})
        found.append(replace(result, at=kept, edges=edges))
    return found


def _passes(counts: Sequence[int], at_once: int) -> Iterator[list[tuple[int, int]]]:
    """The units of each place in passes of at most so many; places with few share one."""
    rows: list[tuple[int, int]] = []
    for stop, count in enumerate(counts):
        if rows and len(rows) + count > min(_FEW, at_once):
            yield rows
            rows = []
        rows = rows + [(stop, unit) for unit in range(count)]
        while len(rows) > at_once:
            yield rows[:at_once]
            rows = rows[at_once:]
    if rows:
        yield rows


def _batched(run: Any, varying: list[Tensor]) -> tuple[Tensor, ...]:
    """The outputs for each row of the arguments; what does not depend on them is computed once."""
    if not varying:
        return tuple(t.unsqueeze(0) for t in run())
    count = len(varying[0])
    try:
        with one_by_one():
            found: tuple[Tensor, ...] = torch.vmap(run)(*varying)
        return found
    except RuntimeError as error:
        raise_if_out_of_memory(error)  # else it may be an operation that has no batched form
        rows = [run(*(mask[k] for mask in varying)) for k in range(count)]
        return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


def _without_itself(total: Tensor, counts: Sequence[int]) -> Tensor:
    """What starts from a unit does not arrive at its own place."""
    place = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(total.device)
    below = torch.cat([torch.ones_like(place, dtype=torch.bool).unsqueeze(0), place[:, None] > place[None, :]])
    return total * below


def _by_units(R: Tensor, along: Sequence[int]) -> Tensor:
    """(B, units)."""
    others = [axis for axis in range(1, R.dim()) if axis not in along]
    R = _wide(R)
    R = R.sum(others) if others else R
    return R.flatten(1) if R.dim() > 1 else R.unsqueeze(1)


def _each(total: Tensor, score: Tensor) -> Tensor:
    """(n, B). Where an operation hid which axis is the batch, each example has an equal part of a total."""
    if total.shape == score.shape:
        return total
    return (total.flatten(1).sum(1, keepdim=True) / score.shape[1]).expand_as(score)


def _together(found: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """name -> (B, 1 + units, ...) of all passes."""
    return {name: torch.cat([f[name] for f in found]).transpose(0, 1) for name in found[0]}


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.float64 if t.dtype == torch.float64 else torch.float32)
