"""Meeting: what a value that depends on no input turns out to be where it meets content.

A weight, a learned token, or rows of a table of positions: the tensor does not say it, its use does. The same rows,
picked by the same fixed index, are a matrix in a product (a code book), tokens where they are put beside tokens (a soft
prompt), and places where they are added to tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from lrp_fx.analysis.picked import is_repeated, row_picked, shown_through_masks, whole_of
from lrp_fx.analysis.place_classes import chooses_tokens
from lrp_fx.analysis.sources import CONTENT, FIXED, LEARNED, MASK, PARAMETER, POSITION, SEGMENT
from lrp_fx.ir.axes import element_taken
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import ancestors, is_float, op_name, tensor_args, value_of
from lrp_fx.ir.layout import BATCH, FEATURE, TOKEN, Layout, place_axes, token_axes
from lrp_fx.ir.operators import (
    argument,
    axis_of,
    declared_arguments,
    has,
    is_matrix_product,
    operator_of,
)
from lrp_fx.ir.sizes import shape_of

#: Where a parameter meets content it may be a leaf of its own.
_MEETING = Fact.ASSEMBLY | Fact.SUM | Fact.SCALING | Fact.PRODUCT
#: Assemblies along one axis, which may be that of features.
_BESIDE = ("aten.cat", "aten.slice_scatter", "aten.select_scatter")
_PLACES = frozenset({BATCH, TOKEN})
#: From a token to where the row of its place is added.
_FEW_STEPS = 6
#: Arguments that are weights by the operation's own declaration.
_WEIGHTS = ("weight", "bias")


@dataclass(frozen=True)
class Meeting:
    """What the walk knows when a node is asked about: the facts it has found so far, which grow.

    ``rows``: values made of rows that a fixed index picks from a table, and what kind of leaf such rows are where their
    use says nothing else. ``chosen``: those that a choice picks (by activations, by a mask): one expert's, not one
    place's. ``content``: the placeholders of content.
    """

    sources: dict[fx.Node, frozenset[str]]
    layout: dict[fx.Node, Layout]
    uniform: set[fx.Node]
    rows: dict[fx.Node, str]
    chosen: set[fx.Node]
    content: frozenset[fx.Node]

    def leaves_met(self, node: fx.Node, args: list[fx.Node]) -> list[tuple[fx.Node, str]]:
        """Operands that turn out to be leaves where they meet content: learned tokens, tables of positions; or masks:
        one-hot vectors of places.
        """
        if not any(CONTENT in self.sources[a] and is_float(a) for a in args):
            return []
        met: list[tuple[fx.Node, str]] = []
        for candidate in tensor_args(node):
            if candidate not in self.sources or not is_float(candidate):
                continue
            if chooses_tokens(candidate, node, self.sources):
                met.append((candidate, MASK))
                continue
            kind = self._kind(candidate, node, args)
            if kind == POSITION and has(node, Fact.SUM) and self._stands_beside_tokens(candidate):
                kind = LEARNED
            if kind is not None:
                met.append((candidate, kind))
        return met

    def _kind(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node]) -> str | None:
        own, rows = self.sources[candidate], self.rows.get(candidate)
        if has(node, Fact.SUM) and own <= FIXED | {SEGMENT} and self._is_row_of_token(candidate, node, args):
            return POSITION
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
        if is_declared_weight(candidate, node) or (adds_or_scales and self.runs_along_features(candidate, node, args)):
            return None
        if has(node, Fact.SCALING) and any(self._is_number_given(a) for a in args):
            return None  # each number of the input has a row of its own: a linear map
        if is_matrix_product(node) and not (has(node, Fact.TERM_FIRST) and candidate is node.args[0]):
            matrices = shape_of(candidate)[:-2]
            by_token = any(matrices) and self.varies_along_tokens(candidate, node, args, last=2)
            return rows if by_token or self._kind_met(candidate, node, args) == POSITION else None
        return rows

    def _kind_met(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node]) -> str | None:
        """What a fixed value is where it meets content: a learned token, a table of positions, or (None) neither."""
        own = self.sources[candidate]
        learned, masked = PARAMETER in own, MASK in own
        if operator_of(node).axes is Axes.ATTENTION:  # what is added to the scores inside
            is_bias = learned and not masked and candidate is argument(node, "attn_mask")
            return POSITION if is_bias and _varies_by_key(candidate) else None
        if learned and has(node, Fact.SUM) and self.varies_along_tokens(candidate, node, args):
            # one vector switched on at some tokens stands for them, rows of a table that are hidden in part for places
            shown = shown_through_masks(candidate, self.sources)
            varies = MASK not in self.sources[shown] and self.varies_along_tokens(shown, node, args)
            if masked or not varies:
                return POSITION if varies else LEARNED
        if masked:
            return None
        if has(node, Fact.PRODUCT):
            rows = (learned and self.gathered_by_position(node)) or self._is_cut_to_length(candidate, node)
            return POSITION if rows or self._is_term_of_scores(candidate, node, args) else None
        if has(node, Fact.ASSEMBLY):
            if (
                (op_name(node) == "aten.stack" or (op_name(node) in _BESIDE and not self._joins_tokens(node, args)))
                and candidate not in self.uniform
                and (axis := self._axis_of_places(candidate, node, args)) is not None
                and not is_repeated(*axis)
            ):
                return POSITION  # features beside features, another row for each token
            return LEARNED if learned else None
        if has(node, Fact.SCALING) and any(self._is_number_given(a) for a in args):
            return None  # each number of the input has a vector of its own: a linear map
        if candidate in self.uniform or candidate in self.chosen:
            return None
        return POSITION if self.varies_along_tokens(candidate, node, args) else None

    def _stands_beside_tokens(self, candidate: fx.Node) -> bool:
        """Is what is made of these rows one by one (their norm, say) put beside tokens? Then they are a stream to which
        what the rows have read is added.
        """
        rows, base = shape_of(candidate)[-2:], candidate
        while (has(base, Fact.EXPANSION) or operator_of(base).axes is Axes.UNITS) and isinstance(base.args[0], fx.Node):
            base = base.args[0]
        made = [base]
        for node in made if len(rows) == 2 else ():
            for user in node.users:
                own = self.sources.get(user)
                if own is None or user in made or shape_of(user)[-2:] != rows:
                    continue
                if own == {LEARNED}:
                    return True
                made += [user] if own <= FIXED else []
        return False

    def _is_row_of_token(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node]) -> bool:
        """Is it row i of a table, added to token i, and are others of its rows added to the tokens of their numbers?

        So a loop over tokens adds a table of places. (One row at one token may be any vector.)
        """
        row = row_picked(candidate)
        tokens = [a for a in args if CONTENT in self.sources[a]]
        if row is None or len(tokens) != 1 or not self._is_token(tokens[0], row[1]):
            return False
        for other in row[0].users:
            found = row_picked(other)
            if found is not None and found[1] != row[1] and self._meets_token(other, *found):
                return True
        return False

    def _meets_token(self, candidate: fx.Node, table: fx.Node, number: int) -> bool:
        """Is a row added to the token of its number (which the walk may not yet have come to)?"""
        sums = [u for u in candidate.users if has(u, Fact.SUM)]
        return any(self._is_token(a, number) for u in sums for a in tensor_args(u) if a is not candidate)

    def _is_token(self, value: fx.Node, number: int) -> bool:
        """Is it the token of this number (or what is made of it alone), or what was looked up for it?"""
        for _ in range(_FEW_STEPS):
            taken = element_taken(value)
            whole = whole_of(taken[0], self.sources) if taken is not None else None
            if taken is not None and whole is not None and CONTENT in self.sources.get(whole, ()):
                return taken[2] == number and taken[1] in token_axes(self.layout.get(whole))
            read = [a for a in tensor_args(value) if self.content.intersection(ancestors([a]))]
            if len(read) != 1 or read[0] in self.content:
                return False
            value = read[0]
        return False

    def _is_number_given(self, value: fx.Node) -> bool:
        """Is it an input that gives one number for each place (a column, a time), moved, scaled or shifted?

        Where tokens are vectors, or were computed from vectors, a factor for each place is a position.
        """
        if CONTENT not in self.sources[value] or {k for axis in self.layout.get(value, ()) for k, _ in axis} - _PLACES:
            return False
        while value not in self.content:
            read = [a for a in tensor_args(value) if CONTENT in self.sources[a]]
            if len(read) != 1 or not has(value, Fact.MOVE | Fact.SCALING | Fact.SUM | Fact.GUARD):
                return False
            value = read[0]
        return is_float(value) and len(shape_of(value)) == 2

    # ---- tokens and features
    def content_layouts(self, args: list[fx.Node]) -> list[Layout]:
        return [self.layout[a] for a in args if CONTENT in self.sources[a] and a in self.layout]

    def _joins_tokens(self, node: fx.Node, args: list[fx.Node]) -> bool:
        """Are tokens put behind tokens, or written in their place (not features beside features)?"""
        known = self.content_layouts(args)
        dim = axis_of(node, len(shape_of(node)))
        return not known or any(dim in token_axes(layout) for layout in known)

    def _joins_known_tokens(self, node: fx.Node, args: list[fx.Node]) -> bool:
        is_cat = op_name(node) == "aten.cat"
        return is_cat and bool(self.content_layouts(args)) and self._joins_tokens(node, args)

    def varies_along_tokens(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node], last: int = 0) -> bool:
        """Has a value a row of its own for each token? (``last``: but for the last axes.)"""
        return self._axis_of_places(candidate, node, args, last) is not None

    def _axis_of_places(
        self, candidate: fx.Node, node: fx.Node, args: list[fx.Node], last: int = 0
    ) -> tuple[fx.Node, int] | None:
        """(a value without its copies, its axis that has an entry for each token)."""
        while has(candidate, Fact.EXPANSION) and isinstance(candidate.args[0], fx.Node):
            candidate = candidate.args[0]  # copies do not vary
        shape, rank = shape_of(candidate), len(shape_of(node))
        if op_name(node) == "aten.select_scatter" and candidate is not node.args[0]:  # lacks the axis it is written to
            dim, shape = axis_of(node, rank), (1,) * (rank - 1 - len(shape)) + shape
            shape = (*shape[:dim], 1, *shape[dim:])
        for layout in self.content_layouts(args):
            for axis in place_axes(layout):
                own = axis + (rank - len(layout)) - (rank - len(shape))
                if 0 <= own < len(shape) - last and shape[own] > 1:
                    return candidate, own
        return None

    def runs_along_features(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node]) -> bool:
        """Do all axes along which a value varies run over features of the content that it meets?"""
        shape, layouts = _shape_of_one(candidate), self.content_layouts(args)
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

    def _is_term_of_scores(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node]) -> bool:
        """Is the product of queries with a table added to the scores of queries and keys?

        Then a row of the table stands for each key, however the table came by that many (sizes that are fixed do not
        say that it was cut).
        """
        summed = -1 if candidate is node.args[1] else -2
        axes = [(token_axes(layout), len(layout)) for layout in self.content_layouts(args)]
        if not axes or any(len(tokens) != 1 or tokens[0] - rank == summed for tokens, rank in axes):
            return False
        others = [a for s, came in sums_before_softmax(node) for a in tensor_args(s) if a is not came]
        return any(is_product_of_contents(a, self.content) for a in others)

    def gathered_by_position(self, node: fx.Node) -> bool:
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


def sums_before_softmax(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """(sum, the operand on the way) for every sum between a value and the softmax of its last axis that it goes into,
    if it goes into one as it is, but for moves, scales and masks.
    """
    queue: list[tuple[fx.Node, tuple[tuple[fx.Node, fx.Node], ...]]] = [(node, ())]
    for current, sums in queue:
        for user in current.users if len(queue) < 64 else ():
            if has(user, Fact.SOFTMAX):
                if axis_of(user, len(shape_of(user))) == len(shape_of(user)) - 1:
                    return list(sums)
            elif has(user, Fact.SUM):
                queue.append((user, (*sums, (user, current))))
            elif has(user, Fact.MOVE | Fact.SCALING | Fact.ASSEMBLY | Fact.INTERVAL):
                queue.append((user, sums))
    return []


def is_product_of_contents(value: fx.Node, content: frozenset[fx.Node]) -> bool:
    """Is a value a matrix product of two values made of content, moved, scaled or masked?"""
    while has(value, Fact.MOVE | Fact.SCALING | Fact.CHOICE | Fact.SUM) and isinstance(value.args[0], fx.Node):
        value = value.args[0]
    matrices = value.args[:2] if has(value, Fact.PRODUCT) else ()
    return bool(matrices) and all(isinstance(m, fx.Node) and content & {*ancestors([m])} for m in matrices)


def _shape_of_one(value: fx.Node) -> tuple[Any, ...]:
    """The shape of a value before it was repeated, or of the rows of a table before their numbers were: one prompt for
    all examples.
    """
    if op_name(value) == "aten.embedding" and isinstance(index := argument(value, "indices"), fx.Node):
        return (*_shape_of_one(index), shape_of(value)[-1])
    if not has(value, Fact.EXPANSION) or not isinstance(value.args[0], fx.Node):
        return shape_of(value)
    return _shape_of_one(value.args[0])


def _varies_by_key(bias: fx.Node) -> bool:
    """Is it another for another query or key (its last two axes), before it is repeated?"""
    while has(bias, Fact.EXPANSION) and isinstance(bias.args[0], fx.Node):
        bias = bias.args[0]
    return any(size > 1 for size in shape_of(bias)[-2:])


def _is_meeting(node: fx.Node) -> bool:
    return has(node, _MEETING) or operator_of(node).axes is Axes.ATTENTION


def is_declared_weight(candidate: fx.Node, node: fx.Node) -> bool:
    """Does the operation itself call the operand a weight or a bias?"""
    names = [a.name for a in declared_arguments(node.target)]
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return any(given.get(name) is candidate for name in _WEIGHTS)
