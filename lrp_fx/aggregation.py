"""The vocabulary of aggregations: how the relevance of an injection becomes one number per token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Relevance of one injection, by token.

    ``joint``: (B, T, n), summed over each rotation plane where features are rotated, element by element elsewhere.
    ``parts``: (B, T, n_k) for each leaf by itself, so that sine and cosine of a rotation are apart.
    """

    joint: Tensor
    parts: tuple[Tensor, ...]


@dataclass(frozen=True)
class Aggregation:
    """One way to sum: ``per_token`` maps `Rows` to (B, T).

    ``law``: the formula. ``cites``: keys of docs/bibliography.bib. ``conserves``: do the results add up to the ledger?
    """

    name: str
    law: str
    cites: tuple[str, ...]
    per_token: Callable[[Rows], Tensor]
    conserves: bool = False
