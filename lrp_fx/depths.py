"""Depths: the books of the residual stream, balanced block by block.

At a depth the stream carries relevance ``R``; what was handed out above it (nearer the output) went to position leaves,
sinks, or past the stream into something else that lies below (an encoder read by every block of a decoder):

    score = R(stream) + leaves above + sinks above + what passed by
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from lrp_fx.recognize.streams import Stream
from lrp_fx.rewrite import Rewritten


@dataclass(frozen=True)
class Cut:
    """Which nodes lie below each depth of one stream: node -> the first depth that it leads to."""

    stream: Stream
    first: dict[fx.Node, int]

    def is_below(self, node: fx.Node, depth: int) -> bool:
        """Does the node lead to the stream at this depth?"""
        return node in self.first and self.first[node] <= depth

    def passed(self, user: fx.Node, operand: fx.Node) -> tuple[int, ...]:
        """Depths that relevance passes by when it flows from ``user`` to ``operand``."""
        if operand not in self.first:
            return ()
        start, end = self.first[operand], self.first.get(user, len(self.stream.depths))
        return tuple(d for d in range(start, end) if self.stream.depths[d] is not operand)


def find_cuts(rewritten: Rewritten, streams: list[Stream]) -> list[Cut]:
    """One walk per stream, from its first depth to its last: each node is visited once."""
    return [Cut(s, _first_depths(rewritten, s)) for s in streams]


def _first_depths(rewritten: Rewritten, stream: Stream) -> dict[fx.Node, int]:
    first: dict[fx.Node, int] = {}
    for depth, node in enumerate(stream.depths):
        stack = [node]
        while stack:
            below = stack.pop()
            if below in first:
                continue
            first[below] = depth
            application = rewritten.applications.get(below)
            stack.extend(application.operands if application is not None and not application.rule.frozen else ())
    return first
