"""Windows: which token of the stream each slot of a window holds, where attention runs inside windows.

Found by sending the numbers of the stream's tokens down to the keys of a score: moves are carried out, maps of features
and normalisations leave a token where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.ir.examples import depends_on_values, example
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import ancestors, is_float, value_of
from lrp_fx.ir.layout import batch_axis, token_axes
from lrp_fx.ir.operators import has, is_matrix_product
from lrp_fx.ir.sizes import hint, shape_of
from lrp_fx.rewrite.application import Application, Rewritten
from lrp_fx.structure.planes import ROUTES, NotFollowed, carry_out
from lrp_fx.structure.streams import ResidualStream


@dataclass(frozen=True)
class Windows:
    """``tokens[w][n]``: number of the token in slot n of window w, -1 for padding; ``count``: tokens of the stream."""

    tokens: tuple[tuple[int, ...], ...]
    count: int


def find_windows(
    rewritten: Rewritten, streams: list[ResidualStream], leaf: fx.Node, application: Application
) -> Windows | None:
    """The windows of the scores that a bias is added to; None where attention runs over the whole stream."""
    axis = batch_axis(rewritten.facts.layout.get(application.node))
    product = _product(rewritten, leaf, application)
    if (
        axis is None
        or axis.axis != 0
        or axis.inner is not None
        or product is None
        or not isinstance(product.args[1], fx.Node)
    ):
        return None
    known: dict[fx.Node, Any] = {}
    counts: dict[fx.Node, int] = {}
    for node in (n for s in streams for n in (*s.sums, *s.depths)):
        known[node], counts[node] = _numbers(rewritten, node)
    batch = hint(rewritten.facts.batch)
    try:
        slots = follow(rewritten, product.args[1], known)
    except NotFollowed:
        return None
    if not isinstance(slots, Tensor) or slots.dim() < 2 or slots.shape[0] % batch or not slots.numel():
        return None
    tokens = _of_one_example(slots, batch, shape_of(application.node)[0] // batch)
    behind = set(ancestors([product]))
    count = max((c for n, c in counts.items() if n in behind), default=0, key=lambda c: c == int(tokens.max()))
    return (
        Windows(tuple(tuple(int(t) - 1 for t in row) for row in tokens.round().tolist()), count)
        if len(tokens) > 1 and count
        else None
    )


def _of_one_example(slots: Tensor, batch: int, merged: int) -> Tensor:
    """(windows, slots) of the keys of all windows, as batched products have them: of an example the scores have
    ``merged`` rows, and the keys more where heads stand among them, too.
    """
    rows = merged if merged > 1 and slots.shape[0] % (batch * merged) == 0 else slots.shape[0] // batch
    return slots.reshape(batch, rows, -1, slots.shape[-1])[0, :, 0]


def _product(rewritten: Rewritten, leaf: fx.Node, application: Application) -> fx.Node | None:
    """The product of queries and keys behind the scores."""
    node: fx.Node | None = next((o for o in application.operands if o is not leaf), None)
    while node is not None and not is_matrix_product(node):
        node = rewritten.flow.coefficient_of(node)
    return node


def _numbers(rewritten: Rewritten, node: fx.Node) -> tuple[Tensor, int]:
    """The stream's value with the number of its token (from 1) everywhere, and how many tokens there are."""
    shape, axes = shape_of(node), token_axes(rewritten.facts.layout.get(node))
    sizes = [shape[a] if a in axes else 1 for a in range(len(shape))]
    count = int(torch.Size(sizes).numel())
    return torch.arange(1, count + 1, dtype=torch.float64).reshape(sizes).expand(shape), count


def follow(rewritten: Rewritten, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """Where the numbers are at ``node``: moves carried out, everything else leaves tokens in place."""
    if node in known:
        return known[node]
    if has(node, ROUTES | Fact.PADDING):
        known[node] = carry_out(rewritten.program, node, known, lambda n: follow(rewritten, n, known))
        return known[node]
    operands = rewritten.flow.operands(node)
    if not operands:
        if is_float(node) or depends_on_values(node) or (index := example(node, {})) is None:
            raise NotFollowed("no stream above")
        return index
    before = follow(rewritten, operands[0], known)
    shape = shape_of(node)
    if is_matrix_product(node):
        known_rows = isinstance(before, Tensor) and before.dim() == len(shape) > 0
        before = before[..., :1].expand(*before.shape[:-1], shape[-1]) if known_rows else before
    if not isinstance(before, Tensor) or tuple(before.shape) != shape or not isinstance(value_of(node), Tensor):
        raise NotFollowed("tokens are mixed on the way")
    if has(node, Fact.SUM) and any(_are_others(rewritten, o, before, known) for o in operands[1:]):
        raise NotFollowed("tokens are added to others")
    known[node] = before
    return before


def _are_others(rewritten: Rewritten, node: fx.Node, numbers: Tensor, known: dict[fx.Node, Any]) -> bool:
    """Is a further term of a sum known to be of other tokens?"""
    try:
        found = follow(rewritten, node, known)
    except NotFollowed:
        return False
    return isinstance(found, Tensor) and found.shape == numbers.shape and not torch.equal(found, numbers)
