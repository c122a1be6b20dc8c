"""What a file holds: the same records before they are written and after they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lrp_fx.guards.guard import Guard
from lrp_fx.structure.sites import Site
from lrp_fx.transpose.signature import RelevanceGraph

#: 5: every graph has its list of guards. 6: every part has its checksum, none is compressed.
FORMAT = 7
MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"


@dataclass(frozen=True, eq=False)
class SavedGraph:
    """The relevance graph of one kind of target (``target``: its signature), and which calls it serves."""

    target: tuple[Any, ...]
    graph: RelevanceGraph
    guards: tuple[Guard, ...]


@dataclass(frozen=True, eq=False)
class ModelOutputs:
    """What the model returned: one tensor ``alone``, or several by name. ``batch``: the input that has as many rows."""

    names: tuple[str, ...]
    alone: bool
    batch: str | None

    def rebuild(self, flat: tuple[Any, ...]) -> Any:
        return flat[0] if self.alone else dict(zip(self.names, flat, strict=False))


@dataclass(frozen=True, eq=False)
class Contents:
    """Graphs that were made from one captured program, and what is said of them.

    ``graphs``: of two for one target the one that takes more for granted stands first, the last is good for any mask.
    ``device``: the kind of device that they were made on. ``made_with``: versions.
    ``reading``: what turning texts into inputs needs to know of the model, plain values.
    """

    graphs: tuple[SavedGraph, ...]
    outputs: ModelOutputs
    device: str
    ruleset: str
    conserve: str
    method: str
    sites: list[Site]
    coverage: dict[str, dict[str, int]]
    made_with: dict[str, str]
    reading: dict[str, Any] = field(default_factory=dict)
