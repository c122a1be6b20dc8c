"""Targets: which number of the model's output is explained.

A target turns the explained output into one score per example, shape (B,). It is compiled into the relevance graph:
its kind (``signature``) selects a graph, its numbers (``arguments``) are inputs of that graph, so explaining another
class or position does not trace again. Positions count tokens; ``-1`` is the last token that the mask keeps.
"""

from __future__ import annotations

from lrp_fx.targets.at import At
from lrp_fx.targets.classes import LAST, Class, Contrast, Predicted, rows_at
from lrp_fx.targets.content import check_classes, content_of, is_for_each
from lrp_fx.targets.custom import Custom
from lrp_fx.targets.direction import Direction
from lrp_fx.targets.given import as_target, asked, kind_of, named, score_of
from lrp_fx.targets.indices import Index, Names
from lrp_fx.targets.span import Span
from lrp_fx.targets.target import Target

__all__ = [
    "LAST",
    "At",
    "Class",
    "Contrast",
    "Custom",
    "Direction",
    "Index",
    "Names",
    "Predicted",
    "Span",
    "Target",
    "as_target",
    "asked",
    "check_classes",
    "content_of",
    "is_for_each",
    "kind_of",
    "named",
    "rows_at",
    "score_of",
]
