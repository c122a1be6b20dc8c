"""Divisions: which part of a parameter is whose: of which head of an attention, of which expert."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

#: What a parameter may be divided among.
HEAD, EXPERT = "head", "expert"


@dataclass(frozen=True)
class Division:
    """One axis of a parameter, divided among the heads of one attention, or among experts.

    ``site``: where these are. ``shares`` (groups, size of the axis): what each group has of each place. Keys and values
    that several heads read are theirs in equal parts; places that are nobody's have zeros.
    """

    kind: str
    site: str
    parameter: str
    axis: int
    shares: Tensor
