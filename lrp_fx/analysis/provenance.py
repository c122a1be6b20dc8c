"""Provenance: what every value depends on, and along which axes it varies.

requires  a canonical program
ensures   for every node its sources (content, position, learned token, segment, mask, parameter, constant), the
          inputs it comes from, and its layout; facts only, nothing is rewritten
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from lrp_fx.analysis.examples import Examples
from lrp_fx.analysis.layout import propagate
from lrp_fx.ir.axes import element_taken
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import is_float, op_name, tensor_args, value_of
from lrp_fx.ir.layout import (
    BATCH,
    FEATURE,
    SEGMENTED,
    TOKEN,
    UNKNOWN,
    Layout,
    batch_axis,
    from_symbols,
    single,
    token_axes,
)
from lrp_fx.ir.operators import argument, axis_of, has, operator_of
from lrp_fx.ir.program import CACHED_ROLE, Program
from lrp_fx.ir.sizes import hint, shape_of

CONTENT, POSITION, LEARNED, SEGMENT = "content", "position", "learned", "segment"
#: What was computed for earlier tokens is content, and a leaf of its own kind.
CACHED = CACHED_ROLE
MASK, PARAMETER, CONSTANT = "mask", "parameter", "constant"
#: What masks are filled with is minus infinity, or as low as this.
VERY_LOW = -1e4
#: Sources that can carry relevance; the others are coefficients, routing or constants.
LEAF_KINDS = (CONTENT, POSITION, LEARNED, SEGMENT)
#: Where a parameter meets content it may be a leaf of its own.
_MEETING = Fact.ASSEMBLY | Fact.SUM | Fact.SCALING | Fact.PRODUCT


@dataclass(frozen=True)
class Facts:
    """What is known of each node.

    ``sources[n]`` is a subset of the seven source kinds; ``inputs[n]`` names the arguments it depends on as content;
    ``layout[n]`` is present for values that run over a batch; ``batch`` is the (symbolic) batch size. ``example[n]``:
    the one example that a value belongs to, where a model loops over its batch. ``rows[n]``: of a batch of fixed size
    cut and put together otherwise, the example of each row along the axis of that kind (`lrp_fx.ir.layout.SEGMENTED`).
    """

    sources: dict[fx.Node, frozenset[str]] = field(default_factory=dict)
    inputs: dict[fx.Node, frozenset[str]] = field(default_factory=dict)
    layout: dict[fx.Node, Layout] = field(default_factory=dict)
    batch: Any = 1
    example: dict[fx.Node, int] = field(default_factory=dict)
    rows: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)

    def is_position_only(self, node: fx.Node) -> bool:
        """Depends on positions and on no content (a frozen statistic of content is never position)."""
        sources = self.sources[node]
        return POSITION in sources and CONTENT not in sources

    def leaf_kind(self, node: fx.Node) -> str | None:
        """The leaf kind of a value that depends on no activation, None for activations and for what is no leaf."""
        sources = self.sources[node]
        if CONTENT in sources:
            return None
        return next((k for k in (POSITION, LEARNED, SEGMENT) if k in sources), None)


def find_provenance(program: Program) -> Facts:
    """One forward walk over the graph; facts only grow."""
    walk = _Walk(program)
    for node in program.graph.nodes:
        if node.op != "output":
            walk.visit(node)
    return Facts(walk.sources, walk.inputs, walk.layout, walk.batch, walk.example, walk.examples.rows)


class _Walk:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.by_node = {n: i for i, n in zip(program.inputs, program.input_nodes().values(), strict=True)}
        self.sources: dict[fx.Node, frozenset[str]] = {}
        self.inputs: dict[fx.Node, frozenset[str]] = {}
        self.layout: dict[fx.Node, Layout] = {}
        self.uniform: set[fx.Node] = set()
        self.batch = self._batch_size()
        self.examples = Examples(self.layout, self.batch)
        self.example = self.examples.example

    def _batch_size(self) -> Any:
        batched = self.program.batch_input
        return value_of(batched[1]).shape[0] if batched is not None else 1

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._visit_input(node)
        elif node.op == "get_attr":
            self.sources[node] = frozenset({node.meta.get("origin", CONSTANT)})
            self.inputs[node] = frozenset()
            tensor = getattr(self.program.module, str(node.target))
            if not tensor.is_floating_point() and tensor.numel() and bool((tensor == tensor.flatten()[0]).all()):
                self.uniform.add(node)
        else:
            self._visit_call(node)

    def _visit_input(self, node: fx.Node) -> None:
        info = self.by_node[node]
        source = CONTENT if info.role == CACHED else info.role
        self.sources[node] = frozenset({source})
        self.inputs[node] = frozenset({info.name} if source == CONTENT else ())
        if info.shape:
            kinds = [BATCH, *[TOKEN] * (len(info.shape) - 1)]
            if info.shape[0] != hint(self.batch) and (source == CONTENT or info.shape[0] == 1):
                kinds[0] = TOKEN  # packed: patches of all images in one row; or one row for all examples
            if len(info.shape) == 4 and not info.is_index:
                kinds[1] = FEATURE  # channels-first images, heads of a cache
                kinds[3] = FEATURE if info.role == CACHED else TOKEN
            elif len(info.shape) == 3 and not info.is_index:
                kinds[2] = FEATURE  # sequences of vectors
            elif info.role != CONTENT and self._counts_tokens_only(node):
                kinds[0] = TOKEN
            self.layout[node] = tuple(single(k, s) for k, s in zip(kinds, info.shape, strict=True))

    def _counts_tokens_only(self, node: fx.Node) -> bool:
        """Positions (T,) and masks (T, T) have no batch axis."""
        sizes = value_of(node).shape
        return len(sizes) == 1 or (len(sizes) == 2 and str(sizes[0]) == str(sizes[1]))

    def _visit_call(self, node: fx.Node) -> None:
        args = [a for a in node.all_input_nodes if a in self.sources]
        for declared, kind in self._leaves_met(node, args):
            self.sources[declared] = frozenset({kind})
        self.inputs[node] = frozenset().union(*(self.inputs[a] for a in tensor_args(node) if a in self.inputs))
        self.sources[node] = self._sources(node, args)
        if CONTENT not in self.sources[node]:
            self.inputs[node] = frozenset()
        if self._is_uniform(node):
            self.uniform.add(node)
        example = self._example(node)
        if example is not None:
            self.example[node] = example
        layout = self._layout(node)
        if layout is not None:
            self.layout[node] = layout
            self.examples.note(node, layout)

    def _sources(self, node: fx.Node, args: list[fx.Node]) -> frozenset[str]:
        name = op_name(node)
        tensors = [a for a in tensor_args(node) if a in self.sources]
        if has(node, Fact.COUNTER):
            return frozenset({POSITION})
        if has(node, Fact.FILL):
            return frozenset({MASK if any(is_very_low(a) for a in node.args[1:]) else CONSTANT})
        value = value_of(node)
        if isinstance(value, torch.Tensor) and value.dtype == torch.bool:
            return frozenset({MASK}) if tensors else frozenset({CONSTANT})
        if not tensors:
            return frozenset({CONSTANT})
        if (
            isinstance(value, torch.Tensor)
            and not is_float(node)
            and any(is_float(a) for a in tensors)
            and name != "aten._to_copy"
        ):
            return frozenset({MASK})  # an index computed from activations only routes
        union = frozenset().union(*(self.sources[a] for a in tensors))
        if name == "aten.cumsum" and CONTENT not in union:
            return frozenset({POSITION})
        if has(node, Fact.LOOKUP):
            return self._lookup(node, tensors)
        if has(node, Fact.CHOICE):
            return union if union == frozenset({MASK}) or union - {MASK} <= {CONSTANT} else union - {MASK}
        return union

    def _is_uniform(self, node: fx.Node) -> bool:
        """Does the value have one number everywhere (so that, as an index, it tells no position)?"""
        tensors = [a for a in tensor_args(node) if a in self.sources]
        if has(node, Fact.FILL):
            return True
        if has(node, Fact.COUNTER | Fact.CUMULATIVE) or op_name(node) == "aten.embedding":
            return False
        if has(node, Fact.LOOKUP):
            return bool(tensors) and tensors[0] in self.uniform
        return all(a in self.uniform for a in tensors)

    def _lookup(self, node: fx.Node, tensors: list[fx.Node]) -> frozenset[str]:
        """A table row selected by an index: the index says what the row stands for."""
        table, indices = tensors[0], tensors[1:]
        own = self.sources[table]
        if own - {PARAMETER, CONSTANT}:
            return own  # activations (or positions) picked by an index: routing
        if table in self.uniform:
            return own
        chosen = frozenset().union(*(self.sources[i] for i in indices))
        for kind in (CONTENT, POSITION, SEGMENT):
            if kind in chosen and not all(i in self.uniform for i in indices):
                return frozenset({kind})
        if op_name(node) == "aten.embedding" or (PARAMETER in own and CONSTANT in chosen and MASK not in chosen):
            varied = CONSTANT in chosen and not all(i in self.uniform for i in indices)
            return frozenset({POSITION if varied else SEGMENT})
        return own

    def _leaves_met(self, node: fx.Node, args: list[fx.Node]) -> list[tuple[fx.Node, str]]:
        """Parameters that turn out to be leaves where they meet content: learned tokens and position tables."""
        if not (has(node, _MEETING) or op_name(node) == "aten.addcmul") or not any(
            CONTENT in self.sources[a] and is_float(a) for a in args
        ):
            return []
        met: list[tuple[fx.Node, str]] = []
        fixed = [
            a
            for a in tensor_args(node)
            if a in self.sources
            and is_float(a)
            and self.sources[a] <= {PARAMETER, CONSTANT, MASK}
            and self.sources[a] != {MASK}
        ]
        for candidate in fixed:
            kind = self._kind_met(candidate, node, args)
            if kind is not None:
                met.append((candidate, kind))
        return met

    def _kind_met(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node]) -> str | None:
        """What a fixed value is where it meets content: a learned token, a table of positions, or (None) neither."""
        learned, masked = PARAMETER in self.sources[candidate], MASK in self.sources[candidate]
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

    def _joins_tokens(self, node: fx.Node, args: list[fx.Node]) -> bool:
        """Does a concatenation put tokens behind tokens (not features beside features)?"""
        rank = len(shape_of(node))
        dim = axis_of(node, rank)
        known = [self.layout[a] for a in args if CONTENT in self.sources[a] and a in self.layout]
        return not known or any(dim in token_axes(layout) for layout in known)

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
                if node in self.by_node and self.by_node[node].role == CONTENT:
                    return False
                continue
            found = found or has(node, Fact.COUNTER)
            stack.extend(tensor_args(node))
        return found

    def _varies_along_tokens(self, candidate: fx.Node, node: fx.Node, args: list[fx.Node]) -> bool:
        while has(candidate, Fact.EXPANSION) and isinstance(candidate.args[0], fx.Node):
            candidate = candidate.args[0]  # copies do not vary
        shape, rank = shape_of(candidate), len(shape_of(node))
        content = [self.layout[a] for a in args if CONTENT in self.sources[a] and a in self.layout]
        for layout in content:
            for axis in token_axes(layout):
                own = axis + (rank - len(layout)) - (rank - len(shape))
                if 0 <= own < len(shape) and shape[own] > 1:
                    return True
        return False

    def _example(self, node: fx.Node) -> int | None:
        """The example that a value belongs to: taken out of the batch by number, and not put together with others
        since.
        """
        if CONTENT not in self.sources[node]:
            return None
        taken = element_taken(node)
        axis = batch_axis(self.layout.get(taken[0])) if taken is not None else None
        if taken is not None and axis is not None and not axis.is_merged and taken[1] == axis.axis:
            return taken[2] % hint(self.batch)
        content = [a for a in tensor_args(node) if a in self.sources and CONTENT in self.sources[a] and is_float(a)]
        found = {self.example.get(a) for a in content}
        return found.pop() if len(found) == 1 else None

    def _gathered(self, node: fx.Node) -> Layout | None:
        """The layout of all examples put together again, in their order."""
        parts: Any = node.args[0]
        if operator_of(node).axes not in (Axes.JOINED, Axes.STACKED) or not isinstance(parts, (list, tuple)):
            return None
        shape = shape_of(node)
        if argument(node, "dim") != 0 or [self.example.get(p) for p in parts] != list(range(hint(self.batch))):
            return None
        inner = self.layout.get(parts[0]) or tuple(single(UNKNOWN, s) for s in shape_of(parts[0]))
        examples = single(BATCH, len(parts))
        return (
            (examples, *inner)
            if op_name(node) == "aten.stack"
            else (examples + inner[0], *inner[1:])
            if shape[0] == len(parts) * shape_of(parts[0])[0]
            else None
        )

    def _layout(self, node: fx.Node) -> Layout | None:
        if (together := self._gathered(node) or self.examples.put_together(node)) is not None:
            return together
        if CONTENT not in self.sources[node] and not any(a in self.layout for a in tensor_args(node)):
            return None
        if op_name(node) == "aten.embedding":
            return self._looked_up(node, 0, node.args[1])
        if op_name(node) == "aten.index_select" and node.args[0] not in self.layout:
            return self._looked_up(node, argument(node, "dim"), node.args[2])
        if (
            op_name(node) == "aten.index"
            and node.args[0] not in self.layout
            and (rows := _row_lookup(node)) is not None
        ):
            return self._looked_up(node, 0, rows)
        if has(node, Fact.LOOKUP) and CONTENT in self.sources[node] and is_float(node):
            found = propagate(node, self.layout, self.examples.ask)
            return found if found is not None else self._fallback(node)
        found = propagate(node, self.layout, self.examples.ask)
        if found is not None and not _has(found, BATCH, SEGMENTED):
            stronger = from_symbols(node, self.batch)
            found = stronger if stronger is not None and _has(stronger, BATCH) else found
        return found if found is not None else self._fallback(node)

    def _looked_up(self, node: fx.Node, dim: int, index: Any) -> Layout | None:
        """Rows of a table laid out as their indices are."""
        inner = self.layout.get(index)
        if inner is None:
            return None
        shape = shape_of(node)
        dim = dim % (len(shape) - len(inner) + 1)
        after = dim + len(inner)
        return (*(single(FEATURE, s) for s in shape[:dim]), *inner, *(single(FEATURE, s) for s in shape[after:]))

    def _fallback(self, node: fx.Node) -> Layout | None:
        return from_symbols(node, self.batch)


def _row_lookup(node: fx.Node) -> fx.Node | None:
    """The index of ``table[index]``."""
    indices = node.args[1]
    return (
        indices[0]
        if isinstance(indices, (list, tuple)) and len(indices) == 1 and isinstance(indices[0], fx.Node)
        else None
    )


def is_very_low(value: object) -> bool:
    """Is it minus infinity, or as low as masks are filled with?"""
    if isinstance(value, fx.Node):
        return any(is_very_low(a) for a in value.args)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value <= VERY_LOW


def _has(layout: Layout | None, *kinds: str) -> bool:
    return any(k in kinds for axis in layout or () for k, _ in axis)
