"""Standing: the tokens at which rows of a position leaf stand, where their number does not say it.

Halves of a text, every other token, a padded text, one token: numbers of the tokens take the way of the content from
where it is looked up to where position is added (`lrp_fx.structure.windows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from lrp_fx.analysis.provenance import CONTENT
from lrp_fx.ir.graph import ancestors, value_of
from lrp_fx.ir.layout import BatchAxis, batch_axis
from lrp_fx.ir.sizes import hint, shape_of
from lrp_fx.rewrite.application import Application
from lrp_fx.structure.planes import NotFollowed
from lrp_fx.structure.windows import Windows, follow
from lrp_fx.transpose.builder import RelevanceBuilder
from lrp_fx.transpose.origins import numbers_at_hand

#: The longest way that is followed, in operations.
_LONGEST = 400


class Standing(NamedTuple):
    """The text, the axis of a leaf's relevance along which its rows are (none for one row), and the token of each row,
    as one window.
    """

    text: str
    axes: tuple[int, ...]
    windows: Windows

    @property
    def are_turned(self) -> bool:
        """Are all tokens there, each once, in another order than in the text?"""
        places = list(self.windows.tokens[0])
        return sorted(places) == list(range(hint(self.windows.count))) != places


def tokens_met(
    builder: RelevanceBuilder, leaf: fx.Node, application: Application, axes: Sequence[int]
) -> Standing | None:
    """Where the rows of a leaf stand along an axis of the result, its batch put first; without an axis, the one token
    that it is; told at the traced sizes. None where that is not known.
    """
    node, facts = application.node, builder.facts
    batch = batch_axis(facts.layout.get(node))
    met = [o for o in application.operands if o is not leaf and CONTENT in facts.sources[o]]
    if (
        len(axes) > 1
        or batch is None
        or (batch.is_merged and axes)
        or len(met) != 1
        or shape_of(met[0]) != shape_of(node)
    ):
        return None
    text, known = _known(builder, met[0])
    if text is None:
        return None
    try:
        numbers = follow(builder.rewritten, met[0], known)
    except NotFollowed:
        return None
    if not isinstance(numbers, Tensor) or tuple(numbers.shape) != shape_of(node):
        return None
    if batch.is_merged:
        axes = (batch.axis + 1,)  # what is merged with the batch: tokens, one text behind the other
    rows = batch_first(numbers, batch, hint(facts.batch))
    rows = rows.movedim(axes[0], 1) if axes else rows.unsqueeze(1)
    rows = rows.movedim(0, 1).flatten(1)  # along the axis, everything else
    if not bool((rows == rows[:, :1]).all()):
        return None
    places = tuple(int(n) - 1 for n in rows[:, 0].round().tolist())
    count = shape_of(builder.program.input_nodes()[text])[-1]
    return Standing(text, tuple(axes), Windows((places,), count)) if max(places) >= 0 else None


def batch_first(R: Tensor, axis: BatchAxis | None, batch: Any) -> Tensor:
    """``R`` with the batch as its first axis; what was merged with it (heads, windows) becomes the axis after."""
    if axis is None:
        return R.unsqueeze(0)
    if not axis.is_merged:
        return R.movedim(axis.axis, 0)
    split = axis.split(R, batch).movedim(axis.axis + 1, 0)  # (batch, before..., outer, inner, after...)
    return split.flatten(axis.axis + 1, axis.axis + 2)


def axes_batch_first(axes: tuple[int, ...], axis: BatchAxis | None) -> tuple[int, ...]:
    """Where axes of a value are after `batch_first`."""
    if axis is None:
        return tuple(a + 1 for a in axes)
    kept = [a for a in axes if a != axis.axis]
    return tuple(a + 1 if a < axis.axis or axis.is_merged else a for a in kept)


def _in_order(numbers: Tensor) -> bool:
    """Do tokens stand as in the text? Those of a text that is turned before it is looked up have no places."""
    rows = numbers.flatten(0, -2) if numbers.dim() > 1 else numbers.unsqueeze(1)
    return all(bool((row[row > 0].diff() > 0).all()) for row in rows)


def _known(builder: RelevanceBuilder, operand: fx.Node) -> tuple[str | None, dict[fx.Node, Any]]:
    """The one text that an operand is made of, and the numbers of its tokens where it is looked up."""
    behind = ancestors([operand])
    lookups = [n for n in behind if builder.rewritten.leaves.get(n) == CONTENT]
    texts = {name for n in lookups for name in builder.facts.inputs[n]}
    if len(texts) != 1 or len(behind) > _LONGEST:
        return None, {}
    (text,) = texts
    known: dict[fx.Node, Any] = {}
    for lookup in lookups:
        numbers, given = numbers_at_hand(lookup, builder.facts), value_of(builder.program.input_nodes()[text])
        if numbers is None or given.dim() != 2 or not _in_order(numbers):
            return None, {}
        shape, length = shape_of(lookup), hint(given.shape[1])
        place = torch.where(numbers > 0, (numbers - 1) % length + 1, 0).to(torch.float64)
        known[lookup] = place.reshape(*place.shape, *[1] * (len(shape) - place.dim())).expand(shape)
    return text, known
