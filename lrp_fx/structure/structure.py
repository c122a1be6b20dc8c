"""Structure: what a rewritten program is made of, found once and used by reports and by the relevance graph."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from lrp_fx.rewrite.application import Application, Rewritten
from lrp_fx.structure.forms import Form, find_forms
from lrp_fx.structure.injections import Injection, find_injections
from lrp_fx.structure.streams import Cut, ResidualStream, find_cuts, find_streams, layers_of


@dataclass(frozen=True)
class Structure:
    """Residual streams with their cuts, the block that each node belongs to, the injections of position, and what
    the axes of the inputs stand for."""

    streams: list[ResidualStream]
    cuts: list[Cut]
    layers: dict[fx.Node, int]
    injections: list[Injection]
    forms: tuple[Form, ...] = ()

    def injection_of(self, leaf: fx.Node, application: Application) -> Injection | None:
        """The injection that a use of a position leaf belongs to."""
        return next((i for i in self.injections if any(u is leaf and a is application for u, a in i.uses)), None)


def find_structure(rewritten: Rewritten) -> Structure:
    """Streams, blocks and injections of a rewritten program."""
    streams = find_streams(rewritten)
    layers = layers_of(rewritten, streams)
    injections = find_injections(rewritten, streams, layers)
    return Structure(streams, find_cuts(rewritten, streams), layers, injections, find_forms(rewritten))
