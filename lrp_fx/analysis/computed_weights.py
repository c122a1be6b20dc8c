"""Computed weights: what is made of counters, depends on no input, and is used as a weight all the same.

Codes are read with the help of counters: which bits of a number are which, what a code stands for (``arange(16) - 8``),
how much a digit counts (``2 ** arange(4)``). A counter is a position where its values run along tokens of the content
that it meets; where content's features are summed over, or a row is looked up for what is given, it made a weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from lrp_fx.analysis.meeting import Meeting, is_declared_weight, is_product_of_contents
from lrp_fx.analysis.sources import CONTENT, FIXED, MASK, POSITION, SEGMENT
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import ancestors, is_float, tensor_args
from lrp_fx.ir.layout import FEATURE, Layout, token_axes
from lrp_fx.ir.operators import has, operand_of, operator_of
from lrp_fx.ir.sizes import same_size, shape_of

#: What scores pass on their way to a softmax.
_STEPS = (
    Fact.MOVE | Fact.SCALING | Fact.SUM | Fact.ASSEMBLY | Fact.INTERVAL | Fact.LOOKUP | Fact.CHOICE | Fact.SELECTION
)
#: Values that are looked at between a product and the softmax that it may go into.
_FEW = 64


@dataclass(frozen=True)
class ComputedWeights:
    """Asked for each node before what meets there is told apart (`lrp_fx.analysis.meeting`)."""

    meeting: Meeting

    def used_by(self, node: fx.Node, args: list[fx.Node]) -> list[fx.Node]:
        """Operands that counters made and that the node uses as weights."""
        return [c for c in tensor_args(node) if self._is_counted(c) and self._is_used(c, node, args)]

    def _is_counted(self, value: fx.Node) -> bool:
        """Is it made of counters, and the same whatever is given (so that it is as long for any text)?"""
        own = self.meeting.sources.get(value, frozenset())
        if POSITION not in own or not own <= FIXED | {POSITION, MASK} or not is_float(value):
            return False
        return all(n.op != "placeholder" for n in ancestors([value]))

    def _is_used(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node]) -> bool:
        if has(node, Fact.LOOKUP):
            return candidate is operand_of(node) and self._names_no_place(candidate, args)
        content = [a for a in args if CONTENT in self.meeting.sources[a] and is_float(a)]
        if not content or candidate in content:
            return False
        codes = _holds_codes(candidate)
        if is_declared_weight(candidate, node):
            is_map = codes or (self._is_linear_map(node, args) and not self._has_row_for_each_token(candidate, content))
            return is_map and not self._makes_scores(node, codes)
        if has(node, Fact.CONTRACTION):
            is_map = codes or not self._has_row_for_each_token(candidate, content)
            return is_map and self._maps_features(candidate, node, args) and not self._makes_scores(node, codes)
        along_features = codes and has(node, Fact.SUM | Fact.SCALING) and self._meets_tokens(content)
        return along_features and self.meeting.runs_along_features(candidate, node, args)

    def _names_no_place(self, table: fx.Node, args: list[fx.Node]) -> bool:
        """Do contents or segments pick its rows, and no positions?"""
        picked = frozenset().union(*(self.meeting.sources[a] for a in args if a is not table))
        return bool(picked & {CONTENT, SEGMENT}) and POSITION not in picked

    def _is_linear_map(self, node: fx.Node, args: list[fx.Node]) -> bool:
        """Is it a linear map of features?"""
        layouts = self.meeting.content_layouts(args)
        return operator_of(node).axes is Axes.MAPPED and all(_is_feature(layout, -1) for layout in layouts)

    def _maps_features(self, matrix: fx.Node, node: fx.Node, args: list[fx.Node]) -> bool:
        """Does a matrix product sum over features of content, with one matrix for all tokens?"""
        operands = node.args[1:3] if has(node, Fact.TERM_FIRST) else node.args[:2]
        if matrix not in operands:
            return False
        summed = -1 if matrix is operands[1] else -2
        layouts = self.meeting.content_layouts([a for a in args if a in operands])
        return (
            bool(layouts)
            and all(_is_feature(layout, summed) for layout in layouts)
            and not self.meeting.varies_along_tokens(matrix, node, args, last=2)
            and not self.meeting.gathered_by_position(node)
        )

    def _has_row_for_each_token(self, matrix: fx.Node, content: list[fx.Node]) -> bool:
        """Is an axis of it as long as the tokens that it meets, which its rows may then count?"""
        tokens = [shape_of(a)[axis] for a in content for axis in token_axes(self.meeting.layout.get(a))]
        return any(same_size(own, size) for own in shape_of(matrix) for size in tokens)

    def _meets_tokens(self, content: list[fx.Node]) -> bool:
        """Are there several tokens (the row of one token's place has no axis that shows it)?"""
        sizes = [(shape_of(a), token_axes(self.meeting.layout.get(a))) for a in content]
        return any(shape[axis] != 1 for shape, axes in sizes for axis in axes)

    def _makes_scores(self, node: fx.Node, codes: bool) -> bool:
        """Does the product go into a softmax, so that its columns stand for keys? What holds codes may as well be the
        map of a router: only added to scores of contents its columns are keys'.
        """
        for added in _ways_to_softmax(node):
            if not codes or any(is_product_of_contents(a, self.meeting.content) for a in added):
                return True
        return False


def _is_feature(layout: Layout, axis: int) -> bool:
    return {kind for kind, _ in layout[axis if len(layout) > 1 else -1]} == {FEATURE}


def _holds_codes(value: fx.Node) -> bool:
    """Is it made of whole numbers or truth values that the model holds?"""
    return any(n.op == "get_attr" and not is_float(n) and shape_of(n) != () for n in ancestors([value]))


def _ways_to_softmax(node: fx.Node) -> Iterator[tuple[fx.Node, ...]]:
    """For each softmax that a value goes into as it is, but for moves, scales, sums and choices: what was added."""
    queue: list[tuple[fx.Node, tuple[fx.Node, ...]]] = [(node, ())]
    seen: set[fx.Node] = set()
    for current, added in queue:
        for user in current.users if len(queue) < _FEW else ():
            if has(user, Fact.SOFTMAX):
                yield added
            elif has(user, _STEPS) and user not in seen:
                seen.add(user)
                beside = tuple(a for a in tensor_args(user) if a is not current) if has(user, Fact.SUM) else ()
                queue.append((user, (*added, *beside)))
