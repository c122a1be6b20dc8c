"""The bill: what the outputs of a relevance graph are, in order, and where each of them comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx


@dataclass(frozen=True)
class Leaf:
    """A place where relevance ends: ``name`` of the graph node, its kind, the inputs it comes from, where it is used.

    ``owners``: for each token axis, the index input whose tokens it counts (None if it counts something else).
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    module: str
    source: str
    token_axes: tuple[int, ...]
    owners: tuple[str | None, ...]
    used_by: str


@dataclass(frozen=True)
class SiteInfo:
    """A balanced site, as the ledger names it."""

    name: str
    rule: str
    module: str
    source: str


@dataclass
class Bill:
    """What the outputs of a relevance graph are, in order."""

    outputs: int = 0
    leaves: list[Leaf] = field(default_factory=list)
    sinks: list[tuple[str, SiteInfo]] = field(default_factory=list)
    sites: list[SiteInfo] = field(default_factory=list)
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class RelevanceGraph:
    """A flat graph: ``(inputs..., target arguments...) -> (outputs..., score, leaf relevances..., sink totals, site table)``."""

    module: fx.GraphModule
    bill: Bill
