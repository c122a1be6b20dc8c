"""Grids: position that is added to tokens which lie in rows and columns (patches of a picture, frames of patches).

Two axes that run over tokens are pairs of a query and a key elsewhere; here they are one token's place together.
"""

from __future__ import annotations

from torch import fx

from lrp_fx.ir.graph import value_of
from lrp_fx.ir.layout import batch_axis, token_axes
from lrp_fx.ir.sizes import hint
from lrp_fx.rewrite.application import Application
from lrp_fx.structure.injections import ABSOLUTE, KERNEL, ROTARY, SCALE
from lrp_fx.structure.scores import holds_pairs
from lrp_fx.structure.structure import Structure
from lrp_fx.transpose.builder import RelevanceBuilder

_BY_TOKEN = (ABSOLUTE, ROTARY, SCALE, KERNEL)


class Grids:
    """Asked of the uses of position leaves."""

    def __init__(self, builder: RelevanceBuilder, structure: Structure) -> None:
        self.builder, self.structure = builder, structure

    def axes(self, leaf: fx.Node, application: Application) -> list[int]:
        """Axes of the result that a grid's rows and columns are, where the leaf meets tokens that lie in one."""
        node, facts = application.node, self.builder.facts
        layout = facts.layout.get(node)
        batch, injection = batch_axis(layout), self.structure.injection_of(leaf, application)
        axes = [a for a in token_axes(layout) if batch is None or a != batch.axis]
        if len(axes) < 2 or injection is None or injection.kind not in _BY_TOKEN:
            return []
        shape = value_of(node).shape
        if any(self.builder.owners.owned(shape[a], node) for a in axes) or holds_pairs(self.builder.rewritten, node):
            return []  # texts, pairs of tokens with a vector or a score each: no rows and columns of one picture
        return axes

    def is_one_way_only(self, leaf: fx.Node, application: Application) -> bool:
        """Does a leaf of rows (or of columns) stand for all places of each? What these got is told apart then."""
        if application.kind not in ("sum", "residual"):
            return False
        axes, rank = self.axes(leaf, application), value_of(application.node).dim()
        shape = (1,) * (rank - value_of(leaf).dim()) + tuple(value_of(leaf).shape)
        own = [hint(shape[a]) > 1 for a in axes]
        return any(own) and not all(own)

    def in_windows(self, application: Application) -> bool:
        """Are tokens merged with the batch, so that a place of the grid is one in each window?"""
        axis = batch_axis(self.builder.facts.layout.get(application.node))
        return axis is not None and (axis.outer is None or axis.inner is None)
