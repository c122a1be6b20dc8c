"""Guards: which calls a graph serves.

A graph is made from one call and is right for some others: of the same types, of sizes for which the model decides as
it did, with masks that say what they said. Each such reason is a guard, and a graph has a tuple of them. The same
objects decide in an explainer and, written to a file and read again, in a loaded graph.

requires  the arguments of a call, by the names that the model's forward has for them
ensures   a graph that runs on a call is right for it; a refusal is a sentence for the person who called

(Autocast is none of these reasons: a graph holds the casts it was traced with, and computes the same in every region.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from torch import Tensor, fx

from lrp_fx.ir.program import MASK_ROLE
from lrp_fx.ir.seen import told

#: The mask inputs (by name) that hold one number everywhere, and which.
Constants = tuple[tuple[str, float], ...]


def shapes_in(arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors among arguments."""
    return {n: tuple(v.shape) for n, v in arguments.items() if isinstance(v, Tensor)}


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call by name, and the role of each tensor (`lrp_fx.ir.program.ROLES`)."""

    bound: dict[str, Any]
    roles: dict[str, str]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {n: v for n, v in self.bound.items() if isinstance(v, Tensor)}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return shapes_in(self.bound)

    @cached_property
    def plain(self) -> dict[str, str]:
        """What is no tensor, as text: it is part of what was traced. (Told once: there may be much of it.)"""
        return {n: told(v) for n, v in sorted(self.bound.items()) if not isinstance(v, Tensor)}

    @cached_property
    def constants(self) -> Constants:
        """The masks that hold one number everywhere: read once, values have to be looked at for it."""
        found = []
        for name, value in sorted(self.tensors.items()):
            if self.roles.get(name) == MASK_ROLE and value.numel():
                first = value.flatten()[0]
                if bool((value == first).all()):
                    found.append((name, float(first)))
        return tuple(found)


class Writer(Protocol):
    """What a guard is written with: plain values, graphs and tensors become JSON (a file holds the tensors)."""

    def value(self, value: Any) -> Any: ...

    def graph(self, module: fx.GraphModule) -> Any: ...

    def tensors(self, tensors: Mapping[str, Tensor]) -> Any: ...


class Reader(Protocol):
    """What a guard is read with; everything read is checked, and lies on ``device``."""

    @property
    def device(self) -> torch.device: ...

    def value(self, value: Any) -> Any: ...

    def graph(self, nodes: Any) -> fx.GraphModule: ...

    def tensors(self, names: Any) -> dict[str, Tensor]: ...


class Guard(ABC):
    """One reason why a graph may not serve a call. ``kind`` is its name in a file (`lrp_fx.guards.kinds`).

    Guards are asked in order: one may take for granted what those before it have ensured.
    """

    kind: ClassVar[str]

    @abstractmethod
    def refusal(self, call: Arguments) -> str | None:
        """Why the graph does not serve this call; None if nothing is against it."""

    @abstractmethod
    def encode(self, write: Writer) -> dict[str, Any]:
        """What `decode` makes the same guard of."""

    @classmethod
    @abstractmethod
    def decode(cls, facts: Mapping[str, Any], read: Reader) -> Self:
        """Raises ValueError, KeyError or TypeError for facts that make no guard."""


def refusal(guards: Iterable[Guard], call: Arguments) -> str | None:
    """The first refusal of a call; None where a graph with these guards serves it."""
    return next((why for guard in guards if (why := guard.refusal(call)) is not None), None)


G = TypeVar("G", bound=Guard)


def guard_of(kind: type[G], guards: Iterable[Guard]) -> G:
    """The guard of this kind; raises ValueError if there is none."""
    for guard in guards:
        if isinstance(guard, kind):
            return guard
    raise ValueError(f"no guard of the kind {kind.kind!r}")
