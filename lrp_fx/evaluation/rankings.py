"""What is compared: explanations, scores given, and controls that explain nothing.

A ranking is worth something only if it beats the controls of its kind: a random order, and the place alone. *Later
tokens first* is a strong one in models of language, which lean on what was said last; in images it is the centre.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Ruleset

RANDOM, LATER, CENTRE = "random order", "later tokens first", "centre first"


@dataclass(frozen=True)
class Ranking:
    """Scores of an explanation.

    ``rules``: a preset, or a ruleset made for the comparison. ``options``: of how position is aggregated, as
    `lrp_fx.Relevance.per_token` has them.
    """

    label: str
    rules: str | Ruleset
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """What a control knows of an example: its units (T,), the ``free`` ones (N,), and the scores of rankings."""

    length: int
    free: Tensor
    found: Mapping[str, Tensor]
    generator: torch.Generator


@dataclass(frozen=True)
class Control:
    """Scores (T,) that are no explanation."""

    label: str
    scores: Callable[[Given], Tensor]


def random_order() -> Control:
    return Control(RANDOM, lambda given: torch.rand(given.length, generator=given.generator))


def later_first() -> Control:
    return Control(LATER, lambda given: torch.arange(given.length, dtype=torch.float32))


def centre_first(rows: int, columns: int) -> Control:
    """Cells of a grid, the nearest to its middle first."""

    def scores(given: Given) -> Tensor:
        down = (torch.arange(rows) - (rows - 1) / 2) / rows
        across = (torch.arange(columns) - (columns - 1) / 2) / columns
        return -(down.square().unsqueeze(1) + across.square()).flatten()

    return Control(CENTRE, scores)
