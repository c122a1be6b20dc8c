"""The signature: what the outputs of a relevance graph are, in order, and where each of them comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import fx

from lrp_fx.structure.forms import Form
from lrp_fx.structure.windows import Windows

#: An input, and the row at which its tokens begin: a prompt may stand in front of them.
Owned = tuple[str, int]


@dataclass(frozen=True)
class Leaf:
    """A place where relevance ends: ``name`` of the graph node, its kind, the inputs it comes from, where it is used.

    ``user``: for position, the node it meets content in. ``owners``: for each token axis, the index input whose tokens
    it counts (None if it counts something else). ``apart``: its rows may stand in another order than the input's.
    ``grid``: its axes of tokens are rows and columns of one grid. ``windows``: the token of each row (of one window).
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    module: str
    source: str
    token_axes: tuple[int, ...]
    owners: tuple[Owned | None, ...]
    user: str | None = None
    apart: bool = False
    grid: bool = False
    windows: Windows | None = None


@dataclass(frozen=True)
class SiteInfo:
    """A balanced site, as the ledger names it."""

    name: str
    rule: str
    module: str
    source: str


@dataclass(frozen=True)
class PairsInfo:
    """Scores that are an injection's own, read pair by pair: the node, and the inputs whose tokens query and key axes
    count.
    """

    name: str
    owners: tuple[Owned | None, ...]


@dataclass(frozen=True)
class InjectionInfo:
    """One injection of position (`lrp_fx.structure.injections`); ``uses``: (leaf, user) names of its leaves.

    ``planes``: for each use the plane of every feature, None where nothing is rotated; ``count``: number of planes.
    ``pairs``: where its relevance is read pair by pair as well, None elsewhere. ``windows``: the tokens of each window.
    """

    kind: str
    variant: str
    layer: int | None
    module: str
    source: str
    rule: str
    uses: tuple[tuple[str, str], ...]
    planes: tuple[tuple[int, ...] | None, ...]
    count: int
    pairs: PairsInfo | None = None
    windows: Windows | None = None


@dataclass(frozen=True)
class DepthInfo:
    """One depth of a residual stream, and which leaves, sinks and passing sums (by number) lie above it."""

    stream: int
    name: str
    module: str
    owner: str | None
    leaves: tuple[int, ...]
    sinks: tuple[int, ...]
    passing: tuple[int, ...]


@dataclass(frozen=True)
class PlaceInfo:
    """A place inside the model whose value and coefficient are read: its name and kind, its node, what its axes stand
    for. ``rotated``: is what rotated features of pairs gave to position read as well? ``sites``: injections that add to
    pairs; None where nothing is known of pairs.
    """

    name: str
    kind: str
    node: str
    axes: tuple[str, ...]
    module: str
    source: str
    layer: int | None
    rotated: bool = False
    sites: tuple[str, ...] | None = None


@dataclass
class GraphSignature:
    """What the outputs of a relevance graph are, in order; ``dtype``: the coarsest on the way
    (`Rewritten.precision`). ``outputs``: how many are the model's own; ``explained``: which of them, None if no one is.
    ``target_mask``: the input that tells a target which rows count, and what it says
    (`lrp_fx.analysis.mask_sense`).
    ``gates``: arguments behind the target's, masks of what relevance has to pass. ``inside``: places that are read.
    ``stops``: how many places relevance starts anew from; their arguments are among the gates'.
    """

    outputs: int = 0
    explained: int | None = None
    target_mask: tuple[str, str] | None = None
    dtype: torch.dtype = torch.float32
    leaves: list[Leaf] = field(default_factory=list)
    sinks: list[tuple[str, SiteInfo]] = field(default_factory=list)
    depths: list[DepthInfo] = field(default_factory=list)
    passing: int = 0
    pairs: list[str] = field(default_factory=list)
    sites: list[SiteInfo] = field(default_factory=list)
    arguments: tuple[str, ...] = ()
    injections: list[InjectionInfo] = field(default_factory=list)
    gates: tuple[str, ...] = ()
    inside: list[PlaceInfo] = field(default_factory=list)
    stops: int = 0
    forms: tuple[Form, ...] = ()

    @property
    def count(self) -> int:
        """How many outputs there are."""
        totals = len(self.sinks) + len(self.depths) + self.passing + len(self.pairs)
        inside = self.read_inside + self.stops
        return self.outputs + 1 + 3 * len(self.leaves) + totals + inside + bool(self.sites)

    @property
    def read_inside(self) -> int:
        """How many of them are of places inside the model."""
        return sum(2 + place.rotated for place in self.inside)


@dataclass(frozen=True)
class RelevanceGraph:
    """A flat graph.

    ``(inputs..., target arguments..., masks of gates...) -> (outputs..., score, leaf relevances (three each), sink
    totals, stream relevances, passing sums, pairwise relevances, places inside (value and coefficient each, and what
    pairs gave to position), what arrives at stops, site table)``.
    """

    module: fx.GraphModule
    signature: GraphSignature
