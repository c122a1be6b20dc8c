"""Meeting: what a value that depends on no input turns out to be where it meets content.

A weight, a learned token, or rows of a table of positions: the tensor does not say it, its use does. The same rows,
picked by the same fixed index, are a matrix in a product (a code book), tokens where they are put beside tokens (a soft
prompt), and places where they are added to tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from lrp_fx.analysis.sources import CONTENT, FIXED, LEARNED, MASK, PARAMETER, POSITION
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import is_float, op_name, tensor_args, value_of
from lrp_fx.ir.layout import FEATURE, Layout, token_axes
from lrp_fx.ir.operators import argument, axis_of, declared_arguments, has, is_matrix_product
from lrp_fx.ir.sizes import shape_of

#: Where a parameter meets content it may be a leaf of its own.
_MEETING = Fact.ASSEMBLY | Fact.SUM | Fact.SCALING | Fact.PRODUCT
#: Arguments that are weights by the operation's own declaration.
_WEIGHTS = ("weight", "bias")


@dataclass(frozen=True)
class Meeting:
    """What the walk knows when a node is asked about: the facts it has found so far, which grow.

    ``rows``: values made of rows that a fixed index picks from a table, and what kind of leaf such rows are where their
    use says nothing else. ``content``: the placeholders of content.
    """

    sources: dict[fx.Node, frozenset[str]]
    layout: dict[fx.Node, Layout]
    uniform: set[fx.Node]
    rows: dict[fx.Node, str]
    content: frozenset[fx.Node]

    def leaves_met(self, node: fx.Node, args: list[fx.Node]) -> list[tuple[fx.Node, str]]:
        """Operands that turn out to be leaves where they meet content: learned tokens and tables of positions."""
        if not any(CONTENT in self.sources[a] and is_float(a) for a in args):
            return []
        met: list[tuple[fx.Node, str]] = []
        for candidate in tensor_args(node):
            if candidate not in self.sources or not is_float(candidate):
                continue
            kind = self._kind(candidate, node, args)
            if kind is not None:
                met.append((candidate, kind))
        return met

    def _kind(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node]) -> str | None:
        own, rows = self.sources[candidate], self.rows.get(candidate)
        if rows is not None and self._joins_known_tokens(node, args) and CONTENT not in own:
            return LEARNED  # rows of a table that stand beside tokens, by whatever index
        if not own <= FIXED | {MASK} or own == {MASK}:
            return None
        if rows is not None:
            return self._kind_of_rows(candidate, node, args, rows)
        return self._kind_met(candidate, node, args) if _is_meeting(node) else None

    def _kind_of_rows(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node], rows: str) -> str | None:
        """What rows picked by a fixed index are: a weight (None) where they are used as one."""
        adds_or_scales = rows == POSITION and has(node, Fact.SUM | Fact.SCALING)
        if _is_declared_weight(candidate, node) or (
            adds_or_scales and self._runs_along_features(candidate, node, args)
        ):
            return None
        if is_matrix_product(node) and not (has(node, Fact.TERM_FIRST) and candidate is node.args[0]):
            matrices = shape_of(candidate)[:-2]
            by_token = any(matrices) and self._varies_along_tokens(candidate, node, args, last=2)
            return rows if by_token or self._kind_met(candidate, node, args) == POSITION else None
        return rows

    def _kind_met(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node]) -> str | None:
        """What a fixed value is where it meets content: a learned token, a table of positions, or (None) neither."""
        own = self.sources[candidate]
        learned, masked = PARAMETER in own, MASK in own
        if masked:  # a parameter switched on at some tokens stands for them
            varies = has(node, Fact.SUM) and self._varies_along_tokens(candidate, node, args)
            return LEARNED if learned and varies else None
        if has(node, Fact.PRODUCT):
            rows = (learned and self._gathered_by_position(node)) or self._is_cut_to_length(candidate, node)
            return POSITION if rows else None
        if has(node, Fact.ASSEMBLY):
            if (
                op_name(node) == "aten.cat"
                and not self._joins_tokens(node, args)
                and candidate not in self.uniform
                and self._varies_along_tokens(candidate, node, args)
            ):
                return POSITION  # features beside features, another row for each token
            return LEARNED if learned else None
        return POSITION if candidate not in self.uniform and self._varies_along_tokens(candidate, node, args) else None

    # ---- tokens and features
    def _content_layouts(self, args: list[fx.Node]) -> list[Layout]:
        return [self.layout[a] for a in args if CONTENT in self.sources[a] and a in self.layout]

    def _joins_tokens(self, node: fx.Node, args: list[fx.Node]) -> bool:
        """Does a concatenation put tokens behind tokens (not features beside features)?"""
        known = self._content_layouts(args)
        dim = axis_of(node, len(shape_of(node)))
        return not known or any(dim in token_axes(layout) for layout in known)

    def _joins_known_tokens(self, node: fx.Node, args: list[fx.Node]) -> bool:
        is_cat = op_name(node) == "aten.cat"
        return is_cat and bool(self._content_layouts(args)) and self._joins_tokens(node, args)

    def _varies_along_tokens(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node], last: int = 0) -> bool:
        """Has a value a row of its own for each token? (``last``: but for the last axes.)"""
        while has(candidate, Fact.EXPANSION) and isinstance(candidate.args[0], fx.Node):
            candidate = candidate.args[0]  # copies do not vary
        shape, rank = shape_of(candidate), len(shape_of(node))
        for layout in self._content_layouts(args):
            for axis in token_axes(layout):
                own = axis + (rank - len(layout)) - (rank - len(shape))
                if 0 <= own < len(shape) - last and shape[own] > 1:
                    return True
        return False

    def _runs_along_features(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node]) -> bool:
        """Do all axes along which a value varies run over features of the content that it meets?"""
        shape, layouts = shape_of(candidate), self._content_layouts(args)
        varied = [i - len(shape) for i, size in enumerate(shape) if size > 1]
        return bool(layouts) and all(
            len(layout) >= -axis and {k for k, _ in layout[axis]} == {FEATURE} for layout in layouts for axis in varied
        )

    # ---- tables
    def _is_cut_to_length(self, candidate: fx.Node, node: fx.Node) -> bool:
        """Is an operand of a matrix product a table cut to the length of the input, its rows mapped or not?

        Then its rows stand for places or distances. (A matrix that mixes tokens is cut where it is summed over: no
        table.)
        """
        sizes = value_of(candidate).shape
        summed = sizes[-1 if candidate is node.args[0] or len(sizes) < 2 else -2]
        if not isinstance(summed, int):
            return False
        current = candidate
        for _ in range(12):
            is_cut = op_name(current) == "aten.slice"
            if is_cut and any(isinstance(argument(current, a), fx.Node) for a in ("start", "end")):
                return True
            is_mapped = has(current, Fact.PRODUCT) or op_name(current) == "aten.linear"
            if not (is_cut or is_mapped or has(current, Fact.MOVE)) or not isinstance(current.args[0], fx.Node):
                return False
            current = current.args[0]
        return False

    def _gathered_by_position(self, node: fx.Node) -> bool:
        """Is an axis of the product later picked by relative positions? Then the other operand is a table of
        positions.
        """
        queue = [(user, 0) for user in node.users]
        while queue:
            user, depth = queue.pop()
            if has(user, Fact.PICK):
                return self._counts_positions(argument(user, "index", argument(user, "indices")))
            if depth < 4 and has(user, Fact.MOVE | Fact.SCALING | Fact.SUM):
                queue.extend((u, depth + 1) for u in user.users)
        return False

    def _counts_positions(self, index: object) -> bool:
        """Does an index (not yet visited by the walk) come from counters and from no content?"""
        stack, seen = [index], set()
        found = False
        while stack:
            node = stack.pop()
            if not isinstance(node, fx.Node) or node in seen:
                continue
            seen.add(node)
            if node.op == "placeholder":
                if node in self.content:
                    return False
                continue
            found = found or has(node, Fact.COUNTER)
            stack.extend(tensor_args(node))
        return found


def _is_meeting(node: fx.Node) -> bool:
    return has(node, _MEETING) or op_name(node) == "aten.addcmul"


def _is_declared_weight(candidate: fx.Node, node: fx.Node) -> bool:
    """Does the operation itself call the operand a weight or a bias?"""
    names = [a.name for a in declared_arguments(node.target)]
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return any(given.get(name) is candidate for name in _WEIGHTS)
