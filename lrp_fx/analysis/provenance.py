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

from lrp_fx.analysis.beside import Beside, beside
from lrp_fx.analysis.computed_weights import ComputedWeights
from lrp_fx.analysis.examples import Examples
from lrp_fx.analysis.indicators import Indicators
from lrp_fx.analysis.layout import propagate
from lrp_fx.analysis.meeting import Meeting
from lrp_fx.analysis.picked import tells_apart
from lrp_fx.analysis.sources import (
    CONSTANT,
    CONTENT,
    FIXED,
    LEAF_KINDS,
    LEARNED,
    MASK,
    PARAMETER,
    POSITION,
    SEGMENT,
    VERY_LOW,
    is_one_number,
    is_very_low,
    source_of_tensor,
)
from lrp_fx.ir.axes import element_taken
from lrp_fx.ir.facts import Axes, Fact
from lrp_fx.ir.graph import ancestors, is_float, op_name, tensor_args, value_of
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
)
from lrp_fx.ir.operators import argument, has, operator_of
from lrp_fx.ir.program import CACHED_ROLE, Program
from lrp_fx.ir.sizes import hint, shape_of

#: What was computed for earlier tokens is content, and a leaf of its own kind.
CACHED = CACHED_ROLE

__all__ = [
    "CACHED", "CONSTANT", "CONTENT", "LEAF_KINDS", "LEARNED", "MASK", "PARAMETER", "POSITION", "SEGMENT", "VERY_LOW",
    "Facts", "find_provenance",
]  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What is known of each node.

    ``sources[n]`` is a subset of the seven source kinds; ``inputs[n]`` names the arguments it depends on as content;
    ``layout[n]`` is present for values that run over a batch; ``batch`` is the (symbolic) batch size. ``example[n]``:
    the one example that a value belongs to, where a model loops over its batch. ``rows[n]``: of a batch of fixed size
    cut and put together otherwise, the example of each row along the axis of that kind (`lrp_fx.ir.layout.SEGMENTED`).
    ``beside[n]``: how many elements stand beside the batch, where both sides of it may change from call to call.
    """

    sources: dict[fx.Node, frozenset[str]] = field(default_factory=dict)
    inputs: dict[fx.Node, frozenset[str]] = field(default_factory=dict)
    layout: dict[fx.Node, Layout] = field(default_factory=dict)
    batch: Any = 1
    example: dict[fx.Node, int] = field(default_factory=dict)
    rows: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    beside: dict[fx.Node, Beside] = field(default_factory=dict)

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
    return Facts(walk.sources, walk.inputs, walk.layout, walk.batch, walk.example, walk.examples.rows, walk.beside)


class _Walk:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.by_node = {n: i for i, n in zip(program.inputs, program.input_nodes().values(), strict=True)}
        self.sources: dict[fx.Node, frozenset[str]] = {}
        self.inputs: dict[fx.Node, frozenset[str]] = {}
        self.layout: dict[fx.Node, Layout] = {}
        self.beside: dict[fx.Node, Beside] = {}
        self.uniform: set[fx.Node] = set()
        self.codes: set[fx.Node] = set()  # integers taken out of weights that are packed
        self.batch = self._batch_size()
        self.examples = Examples(self.layout, self.batch)
        self.example = self.examples.example
        self.rows: dict[fx.Node, str] = {}
        self.chosen: set[fx.Node] = set()
        content = frozenset(n for n, info in self.by_node.items() if info.role == CONTENT)
        self.indicators = Indicators(self.sources, self.uniform)
        self.meeting = Meeting(self.sources, self.layout, self.uniform, self.rows, self.chosen, content)
        self.weights = ComputedWeights(self.meeting)

    def _batch_size(self) -> Any:
        batched = self.program.batch_input
        return value_of(batched[1]).shape[0] if batched is not None else 1

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._visit_input(node)
        elif node.op == "get_attr":
            self._visit_tensor(node, getattr(self.program.module, str(node.target)))
        else:
            self._visit_call(node)

    def _visit_tensor(self, node: fx.Node, tensor: torch.Tensor) -> None:
        origin = node.meta.get("origin", CONSTANT)
        self.sources[node] = frozenset({source_of_tensor(tensor, origin)})
        self.inputs[node] = frozenset()
        single_number = tensor.numel() == 1 and origin != PARAMETER
        dense = tensor.layout is torch.strided
        if single_number or (dense and not tensor.is_floating_point() and tensor.numel() and is_one_number(tensor)):
            self.uniform.add(node)

    def _visit_input(self, node: fx.Node) -> None:
        info = self.by_node[node]
        source = CONTENT if info.role == CACHED else info.role
        self.sources[node] = frozenset({source})
        self.inputs[node] = frozenset({info.name} if source == CONTENT else ())
        self.indicators.note_input(node, source, info.is_index)
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
        for weight in self.weights.used_by(node, args):
            self.sources[weight] = frozenset({PARAMETER})
        for declared, kind in self.meeting.leaves_met(node, args):
            self.sources[declared] = frozenset({kind})
        self.indicators.note(node)
        told = self.indicators.speaks(node, tensor_args(node))
        given = [a for a in tensor_args(node) if a in self.inputs and (told or a not in self.indicators.kinds)]
        self.inputs[node] = frozenset().union(*(self.inputs[a] for a in given))
        self.sources[node] = self._sources(node, args)
        if CONTENT not in self.sources[node] and node not in self.indicators.kinds:
            self.inputs[node] = frozenset()
        if self._is_uniform(node):
            self.uniform.add(node)
        self._pass_rows_on(node, args)
        example = self._example(node)
        if example is not None:
            self.example[node] = example
        layout = self._layout(node)
        if layout is not None:
            self.layout[node] = layout = self.indicators.laid_out(node, layout)
            self.examples.note(node, layout)
            if (known := beside(node, self.layout, self.beside)) is not None:
                self.beside[node] = known

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
        union = frozenset().union(*(self.sources[a] for a in tensors))
        if (kind := self.indicators.chosen(node, tensors)) is not None:
            if kind == POSITION:
                self.rows[node] = POSITION
            return frozenset({kind})
        if (
            isinstance(value, torch.Tensor)
            and not is_float(node)
            and any(is_float(a) for a in tensors)
            and (name != "aten._to_copy" or self._is_activation(tensors[0]))
        ):
            # an index computed from activations only routes; one of places (which of some intervals) tells a place
            of_places = POSITION in union and not union & {CONTENT, SEGMENT, LEARNED}
            return frozenset({POSITION} if of_places else {MASK})
        if self._unpacks(node, tensors, union):
            self.codes.add(node)
            return frozenset({PARAMETER})
        if name == "aten.cumsum" and CONTENT not in union:
            return frozenset({POSITION})
        if has(node, Fact.LOOKUP):
            return self._lookup(node, tensors)
        if has(node, Fact.CHOICE):
            return union if union == frozenset({MASK}) or union - {MASK} <= {CONSTANT} else union - {MASK}
        return union

    def _is_activation(self, node: fx.Node) -> bool:
        """Was it computed of content by weights, and not given (whole numbers may come as others do)?"""
        if CONTENT not in self.sources[node] or not is_float(node):
            return False
        return any(n.meta.get("origin") == PARAMETER for n in ancestors([node]) if n.op == "get_attr")

    def _unpacks(self, node: fx.Node, tensors: list[fx.Node], union: frozenset[str]) -> bool:
        """Is it made of bits of a weight (by a counter that says which, or in what order, and counts no places)?"""
        if is_float(node) or not union <= FIXED | {POSITION}:
            return False
        packed = self.sources[tensors[0]]
        return any(a in self.codes for a in tensors) or (
            has(node, Fact.BITS) and PARAMETER in packed and packed <= FIXED
        )

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
        if table in self.uniform and op_name(table) != "aten.eye":
            return own
        chosen = frozenset().union(*(self.sources[i] for i in indices))
        uniform = all(i in self.uniform and not tells_apart(i) for i in indices)
        for kind in (CONTENT, POSITION, SEGMENT):
            if kind in chosen and not uniform:
                if kind == POSITION and is_float(node):
                    self.rows[node] = POSITION
                return frozenset({kind})
        is_fixed = bool(chosen & FIXED)
        if is_fixed and is_float(node) and (has(node, Fact.TABLE) or (PARAMETER in own and MASK not in chosen)):
            self.rows[node] = SEGMENT if uniform else POSITION
            return own
        if op_name(node) == "aten.embedding":
            return frozenset({SEGMENT})
        if MASK in chosen:
            self.chosen.add(node)
        return own

    def _pass_rows_on(self, node: fx.Node, args: list[fx.Node]) -> None:
        """What is made of rows of a table, and of no content, is made of rows of a table."""
        if CONTENT in self.sources[node] or not is_float(node):
            return
        if any(a in self.chosen for a in args):
            self.chosen.add(node)
        kinds = {self.rows[a] for a in args if a in self.rows}
        if kinds and node not in self.rows:
            self.rows[node] = POSITION if POSITION in kinds else SEGMENT

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
        content = [a for a in tensor_args(node) if a in self.sources and CONTENT in self.sources[a]]
        found = {self.example.get(a) for a in [c for c in content if is_float(c)] or content}
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


def _has(layout: Layout | None, *kinds: str) -> bool:
    return any(k in kinds for axis in layout or () for k, _ in axis)
