"""Hops: relevance of what was written, handed on to what it was written from.

requires  the relevance of every step, and what of it went to no source
ensures   each step's amounts still add up to its score
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lrp_fx.report.ledger import CANCELLATION_LIMIT

HELD = "not handed on"


def handed_on(
    content: Tensor, position: Tensor, scores: Tensor, rest: Mapping[str, Tensor], own: Sequence[int], times: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Content, position (n, S) and rest (n,) after ``times`` hops; ``own``: the column of each step, ``scores`` (n,).

    One hop: what a row has in the column of step j goes to j's sources, and to j's rest, in the proportions of j's own
    row of the matrix that was given.
    """
    columns = torch.tensor(own, device=content.device)
    parts = (content + position).abs().sum(1).to(scores.dtype) + sum((t.abs() for t in rest.values()), 0 * scores)
    hands = (scores != 0) & (parts <= CANCELLATION_LIMIT * scores.abs())
    share = torch.where(hands, 1 / torch.where(hands, scores, 1.0), 0.0)
    now = content.to(scores.dtype), position.to(scores.dtype), {**rest, HELD: torch.zeros_like(scores)}
    first = now
    for _ in range(times):
        given = (now[0] + now[1])[:, columns]  # (n, n): of row k, what lies on step j
        if not bool(given.any()):
            break
        weights = given * share
        kept = [part.index_fill(1, columns, 0.0) for part in now[:2]]
        booked = {n: t + weights @ first[2][n] for n, t in now[2].items()}
        booked[HELD] = booked[HELD] + torch.where(hands, 0.0, given).sum(1)
        now = kept[0] + weights @ first[0], kept[1] + weights @ first[1], booked
    held = {n: t for n, t in now[2].items() if n != HELD or bool(t.any())}
    return now[0], now[1], held
