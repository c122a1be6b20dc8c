"""Pairs: what each pair of a query and a key gave to position, added to a relevance graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.ir.layout import batch_axis
from lrp_fx.rewrite.application import Application
from lrp_fx.rule import Call
from lrp_fx.structure.pairs import ROTATED_SHARE, Pairs, keeps_features
from lrp_fx.transpose.builder import RelevanceBuilder
from lrp_fx.transpose.standing import batch_first
from lrp_fx.transpose.vjp import relevance_of

_Change = Callable[[Tensor], Tensor]


def read_by(pairs: Pairs | None) -> set[fx.Node]:
    """The values whose coefficients are needed."""
    if pairs is None:
        return set()
    return {a.node for a, _ in pairs.terms} | ({pairs.product.node} if pairs.rotated else set())


def told_of(pairs: Pairs | None) -> tuple[bool, tuple[str, ...] | None]:
    """What a signature says of pairs: is something of them in the graph, and which sites have more."""
    return (False, None) if pairs is None else (bool(read_by(pairs)), pairs.sites)


def add_position(builder: RelevanceBuilder, pairs: Pairs, coefficients: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """(B, ..., queries, keys): half of what comes from features that were rotated, and the terms that are added."""
    parts = []
    if pairs.rotated:
        flat = pairs.product.flat()
        first = next(i for i in sorted(pairs.product.carriers) if keeps_features(flat[i]))
        parts.append(_part(builder, pairs.product, {first: _only(pairs.rotated)}, ROTATED_SHARE, coefficients))
    for application, leaf in pairs.terms:
        others: dict[int, _Change] = {i: torch.zeros_like for i in application.carriers if i != leaf}
        parts.append(_part(builder, application, others, 1.0, coefficients))
    return builder.sum(parts)


def _only(slices: tuple[tuple[int, int], ...]) -> _Change:
    """The change that leaves these features, and makes 0 of others."""

    def keep(x: Tensor) -> Tensor:
        kept = [torch.zeros_like(x[..., :1]).expand_as(x)]
        for begin, end in slices:
            kept[0] = torch.slice_scatter(kept[0], x[..., begin:end], -1, begin, end)
        return kept[0]

    return keep


def _part(
    builder: RelevanceBuilder,
    application: Application,
    changes: Mapping[int, _Change],
    share: float,
    coefficients: Mapping[fx.Node, fx.Node],
) -> fx.Node:
    """The relevance of what an operation would give with some of its operands changed, examples first."""
    flat, node = application.flat(), application.node
    places = [i for i, a in enumerate(flat) if isinstance(a, fx.Node)]
    axis = batch_axis(builder.facts.layout.get(node))
    call = Call(application.op, application.args, application.kwargs)

    def run(*given: Any) -> list[Any]:
        *operands, c, batch = given
        values = dict(zip(places, operands, strict=True))
        values.update({i: change(values[i]) for i, change in changes.items()})
        R = relevance_of(call.put(values).run(), c, safe=True)
        return [batch_first(R * share, axis, batch)]

    c = coefficients.get(node)
    if c is None:
        (c,) = builder.add(lambda x: [torch.zeros_like(x)], [builder.env[node]], (node.name, "pairs", 0), ())
    operands = [builder.env[flat[i]] for i in places]
    (result,) = builder.add(run, [*operands, c, builder.batch], (node.name, "pairs", 1))
    return result  # type: ignore[no-any-return]
