"""Leaves: how the relevance that ends at a value is read, summed and laid out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_fx.layout import BatchAxis
from lrp_fx.rule import Call, Rule, identity, where_positive
from lrp_fx.snippet import per_example, relevance_of, sum_by_rows


@dataclass(frozen=True)
class Reading:
    """How one leaf is read.

    ``axis``: where its batch is, None if it has none. ``by_token``: sum features away (index inputs). ``rows``: put the
    batch first, keeping what was merged with it as an axis of its own. ``rule``: a leaf rule, or None for ``x c``.
    ``finite``: is the value known to be finite?
    """

    axis: BatchAxis | None
    by_token: bool = False
    rows: bool = False
    rule: Rule | None = None
    audit: bool = False
    finite: bool = False


def reader(reading: Reading) -> Callable[..., list[Any]]:
    """The function to trace: ``(x, c, batch[, weights]) -> [relevance, total, magnitude per example (, sink)(, site totals)]``."""

    def read(x: Tensor, c: Tensor, batch: Any, weights: Tensor | None = None) -> list[Any]:
        R, sunk = _relevance(reading, x, c, weights)
        total = per_example(R, reading.axis, batch)
        magnitude = per_example(R.abs(), reading.axis, batch)
        kept = batch_first(R, reading.axis, batch) if reading.rows else _unmerged(R.sum(-1) if reading.by_token and R.dim() > 2 else R, reading.axis, batch)
        results = [kept, total, magnitude]
        if sunk is not None:
            results.append(per_example(sunk, reading.axis, batch))
        if reading.audit:
            booked = sum_by_rows(sunk) if sunk is not None else torch.zeros((), dtype=torch.float64, device=R.device)
            results += [sum_by_rows(R), booked, sum_by_rows(R.abs())]
        return results

    # The tracer counts arguments: a leaf without a rule of its own is read without weights.
    return read if reading.rule is not None else lambda x, c, batch: read(x, c, batch)


def _relevance(reading: Reading, x: Tensor, c: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Relevance of a leaf and what its rule does not hand to it."""
    if reading.rule is None:
        return relevance_of(x, c, safe=not reading.finite, last=True), None
    x = x.expand_as(c)
    substitute = reading.rule.surrogate(Call(identity, (x, None if weights is None else weights.reshape(c.shape).to(c.dtype))))
    # Where nothing arrives the value may be minus infinity: a masked pair.
    finite, replaced = where_positive(c.abs(), x), where_positive(c.abs(), substitute)
    return relevance_of(substitute, c, safe=True), relevance_of(finite - replaced, c, safe=True)


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


def _unmerged(R: Tensor, axis: BatchAxis | None, batch: Any) -> Tensor:
    """Summed over windows or heads that were merged with the batch; the batch first where tokens stood before it."""
    if axis is None or axis.axis >= R.dim():
        return R
    return axis.split(R, batch).sum([axis.axis, axis.axis + 2]) if axis.is_merged else R.movedim(axis.axis, 0)
