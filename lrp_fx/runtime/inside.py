"""Inside: what a call asks of places inside the model, as what its program and its relevance graph can answer.

requires  names of places, and masks of what relevance has to pass
ensures   places of the program at hand, and masks with an axis for each of theirs; `InputError` for what is not there
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrp_fx.analysis.mask_sense import sense_of
from lrp_fx.errors import InputError
from lrp_fx.guards.guard import Arguments
from lrp_fx.guards.sizes import sizes_of
from lrp_fx.ir.axis_names import BATCHES, FEATURES, HEADS
from lrp_fx.ir.graph import value_of
from lrp_fx.runtime.between import Between, between_of
from lrp_fx.runtime.compiled import CompiledProgram
from lrp_fx.runtime.run import output_shape, target_arguments
from lrp_fx.structure.places import SCORES, Place, require_examples
from lrp_fx.targets import At, Target, asked
from lrp_fx.transpose.inside import NOTHING, Gate, Inside, batch_of, laid_out


@dataclass(frozen=True)
class Request:
    """``at``: places to be read. ``through``: place -> mask. ``edges``: places whose edges are asked for, which are
    read; the graph for them (``follow``) has them ``between`` which it stops and starts anew.
    """

    at: tuple[str, ...] = ()
    through: Mapping[str, Any] = field(default_factory=dict)
    edges: Between | None = None
    between: Between | None = None

    @property
    def follow(self) -> Request | None:
        """What is asked of the graph for edges."""
        return None if self.edges is None else Request(between=self.edges)

    @property
    def is_empty(self) -> bool:
        return not (self.at or self.through or self.edges or self.between)

    def reads_scores(self, goals: Sequence[Target]) -> bool:
        """Does it ask for scores of attention, which kernels do not make?"""
        edges = self.edges.places if self.edges is not None else ()
        names = (*self.at, *self.through, *edges, *(goal.place for goal in goals if isinstance(goal, At)))
        return any(name == SCORES or name.startswith(f"{SCORES}.") for name in names)

    def inside(self, entry: CompiledProgram, call: Arguments, target: Target) -> Inside:
        """The same in terms of a program; raises `InputError`."""
        source = entry.places.one(target.place) if isinstance(target, At) else None
        if self.is_empty and source is None:
            return NOTHING
        masks = self.masks(entry, call)
        order = {n: i for i, n in enumerate(entry.program.graph.nodes)}
        _require_apart([place for place, _ in masks])
        gates = [Gate(place, tuple(s != 1 for s in mask.shape)) for place, mask in masks]
        gates.sort(key=lambda gate: order[gate.place.node], reverse=True)
        at = entry.places.find(self.at)
        if self.edges is not None:
            at += [s.place for s in self.edges.stops(entry.places) if s.place not in at]
        if source is not None:
            require_examples(source)
        stops = self.between.stops(entry.places) if self.between is not None else ()
        return Inside(tuple(at), tuple(gates), source, stops)

    def masks(self, entry: CompiledProgram, call: Arguments) -> list[tuple[Place, Tensor]]:
        """A mask for each place that relevance has to pass."""
        found = []
        for name, given in self.through.items():
            place = entry.places.one(name)
            require_examples(place)
            found.append((place, mask_of(place, given, shape_at(entry, place, call), value_of(place.node))))
        return found

    def arguments(self, entry: CompiledProgram, inside: Inside, call: Arguments) -> list[Tensor]:
        """The masks in the order in which the graph takes them."""
        masks = {place.node: mask for place, mask in self.masks(entry, call)} if inside.gates else {}
        device = next(iter(call.tensors.values())).device
        return [masks[gate.place.node].to(device) for gate in inside.gates]


def request_of(at: Any, through: Any, edges: Any = None) -> Request:
    """What a call asks for, looked at as far as it can be without a program."""
    if at is not None and not isinstance(at, (str, list, tuple, set, dict)):
        raise InputError(f"at= takes a name or a list of names of places, got {at!r}")
    names = (at,) if isinstance(at, str) else tuple(at or ())
    if not all(isinstance(n, str) for n in names):
        raise InputError(f"at= takes names of places, got {at!r}")
    if through is not None and not (isinstance(through, Mapping) and all(isinstance(n, str) for n in through)):
        raise InputError(f"through= takes a dictionary: place -> mask or numbers, got {through!r}")
    if through and edges:
        raise InputError(
            "edges= and through= at once: edges are of all relevance\n    next: leave one out; Edges.between(B, A, "
            '"total") is what of A passes B'
        )
    return Request(names, dict(through or {}), edges=between_of(edges))


def asked_now(goals: Sequence[Target], entry: CompiledProgram, call: Arguments) -> list[Target]:
    """The targets of a call; functions as they are now, for what they read in it."""
    found = []
    for goal in goals:
        like, shape = read_by(goal, entry, call)
        found.append(asked(goal, shape, like.dtype, like.device))
    return found


def read_by(goal: Target, entry: CompiledProgram, call: Arguments) -> tuple[Tensor, tuple[int, ...]]:
    """The abstract value that a target reads, and its shape in a call (inside the model examples first)."""
    place = entry.places.one(goal.place) if isinstance(goal, At) else None
    like = value_of(entry.program.explained_node if place is None else place.node)
    return like, output_shape(entry.guards, call) if place is None else shape_at(entry, place, call)


def arguments_of(goals: Sequence[Target], entry: CompiledProgram, call: Arguments) -> list[list[Tensor]]:
    """What graphs are given beside the inputs, for each target; raises `TargetError` for what its value has not."""
    device = next(iter(call.tensors.values())).device
    found: list[list[Tensor]] = []
    for goal in goals:
        if not isinstance(goal, At):
            found += target_arguments([goal], entry.guards, call, lambda name: sense_of(entry.program, name))
            continue
        shape = shape_at(entry, entry.places.one(goal.place), call)
        found.append(list(goal.arguments(shape, device).values()) if goal.example_arguments() else [])
    return found


def shape_at(entry: CompiledProgram, place: Place, call: Arguments) -> tuple[int, ...]:
    """The shape of a place's value in a call, examples first."""
    value, batch = value_of(place.node), batch_of(entry.program)
    with next(v.fake_mode for n in entry.program.graph.nodes if hasattr(v := value_of(n), "fake_mode")):
        like = laid_out(value, place, batch)
    return sizes_of(entry.program, like.shape).output_shape(call.shapes)


def _require_apart(places: Sequence[Place]) -> None:
    """Refuse two gates at one value: which mask counts would depend on their order."""
    names: dict[Any, str] = {}
    for place in places:
        other = names.setdefault(place.node, place.name)
        if other != place.name:
            raise InputError(
                f"through=: {other!r} and {place.name!r} are one value (%{place.node.name})\n    next: give one mask, "
                "for what passes both"
            )


def mask_of(place: Place, given: Any, shape: Sequence[int], like: Tensor) -> Tensor:
    """What is given of a place as numbers between 0 and 1 with an axis for each of the value's.

    given: True (all of it), a number or several (of features; of heads where it has some), an axis's name -> numbers
    or truth values, or a mask with an axis for each of the value's (of its size, or 1), examples first.
    """
    if isinstance(given, Mapping):
        mask = torch.ones((1,) * len(shape), dtype=like.dtype)
        for axis, numbers in given.items():
            mask = mask * _chosen(place, str(axis), _tensor(place, numbers), shape, like)
        return mask
    if given is True:
        return torch.ones((1,) * len(shape), dtype=like.dtype)
    mask = _tensor(place, given)
    if not mask.is_floating_point() and mask.dtype != torch.bool and mask.dim() < 2:
        axis = HEADS if HEADS in place.axes else FEATURES if FEATURES in place.axes else place.axes[-1]
        return _chosen(place, axis, mask, shape, like)
    fits = mask.dim() == len(shape) and all(s in (1, size) for s, size in zip(mask.shape, shape, strict=True))
    if not fits:
        sizes = ", ".join(f"{axis} {size}" for axis, size in zip(place.axes, shape, strict=True))
        raise InputError(
            f"through={place.name!r}: a mask of shape {tuple(mask.shape)} for a value of shape {tuple(shape)} ({sizes})"
            "\n    next: give one with an axis for each of the value's, of its size or 1; numbers of "
            f"{HEADS if HEADS in place.axes else FEATURES}; or {{axis: numbers}}"
        )
    wide = mask.detach().float()
    if not bool(((wide >= 0) & (wide <= 1)).all()):
        raise InputError(
            f"through={place.name!r}: a mask holds numbers from 0 to 1, this one {float(wide.min()):g} to "
            f"{float(wide.max()):g}\n    next: numbers of an axis are given as {{axis: numbers}}"
        )
    return mask.to(like.dtype)


def _tensor(place: Place, given: Any) -> Tensor:
    """What is given of a place, as a tensor."""
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"through={place.name!r}: {given!r} is neither numbers nor a mask\n    next: True, numbers, "
            "{axis: numbers}, or a tensor"
        ) from None


def _chosen(place: Place, axis: str, numbers: Tensor, shape: Sequence[int], like: Tensor) -> Tensor:
    """1 at these numbers of an axis, 0 elsewhere."""
    if axis not in place.axes or axis == BATCHES:
        raise InputError(f"through={place.name!r}: no axis {axis!r}; there are {', '.join(place.axes[1:])}")
    along = place.axes.index(axis)
    chosen = numbers.reshape(-1)
    size = shape[along]
    if chosen.dtype == torch.bool and len(chosen) == size:
        chosen = chosen.nonzero().flatten()
    outside = [int(n) for n in chosen.tolist() if not -size <= n < size] if not chosen.is_floating_point() else []
    if chosen.is_floating_point() or chosen.dtype == torch.bool or outside:
        what = f"{outside[0]} is none of" if outside else f"{numbers.tolist()} are no numbers of"
        raise InputError(f"through={place.name!r}: {what} its {size} {axis}")
    chosen = chosen.long() % size
    if len(set(chosen.tolist())) < len(chosen):
        raise InputError(
            f"through={place.name!r}: some numbers of {axis} come twice ({numbers.tolist()})\n    next: a mask of an "
            f"axis is given as truth values, {{{axis!r}: mask.bool()}}"
        )
    mask = torch.zeros(size, dtype=like.dtype)
    mask[chosen] = 1
    return mask.reshape([size if i == along else 1 for i in range(len(shape))])
