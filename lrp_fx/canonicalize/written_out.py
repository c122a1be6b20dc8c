"""Written out: fused attention as the operations that it is a kernel for.

A kernel's derivative has no derivative of its own, and hides its weights. Written out, attention is what any model
writes by hand: rules for softmax and products serve it, with the coefficients that the rule for the kernel has.

requires  a canonical program
ensures   the same outputs but for rounding: scores, mask or bias, softmax and products; rows in which a mask hides
          everything give zeros, and halves are computed in float32, as in the kernels
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from lrp_fx.ir.graph import AbstractResults, op_name, value_of
from lrp_fx.ir.operators import argument
from lrp_fx.ir.program import Program, copy_graph
from lrp_fx.ir.sizes import same_size

aten = torch.ops.aten
_SDPA = "aten.scaled_dot_product_attention"
_HALVES = (torch.float16, torch.bfloat16)


def has_fused_attention(program: Program) -> bool:
    """Is there a kernel to be written out?"""
    return any(map(_is_fused, program.graph.nodes))


def write_out_attention(program: Program) -> Program:
    """The program with every fused attention as matrix products and a softmax.

    A kernel that drops weights at random stays: no graph can hold what it draws.
    """
    module, env = copy_graph(program)
    results: AbstractResults | None = None
    for node in program.graph.nodes:
        if _is_fused(node):
            fused = env[node]
            results = results or AbstractResults(value_of(fused).fake_mode)
            with module.graph.inserting_before(fused):
                fused.replace_all_uses_with(_Attention(module.graph, fused, results).result())
            module.graph.erase_node(fused)
    module.recompile()
    return replace(program, module=module)


def _is_fused(node: fx.Node) -> bool:
    if op_name(node) != _SDPA or argument(node, "dropout_p", 0.0) != 0.0:
        return False
    return isinstance(value_of(node.all_input_nodes[0]).shape[-1], int)


class _Attention:
    """One kernel. ``wide``: the type that its scores are computed in."""

    def __init__(self, graph: fx.Graph, fused: fx.Node, results: AbstractResults) -> None:
        self.graph, self.fused, self.results = graph, fused, results
        self.type = value_of(fused).dtype
        self.wide = torch.float32 if self.type in _HALVES else self.type

    def result(self) -> fx.Node:
        """What gives the kernel's result."""
        q, k, v = (self._widened(argument(self.fused, n)) for n in ("query", "key", "value"))
        if argument(self.fused, "enable_gqa", False):
            k, v = (self._repeated(t, value_of(q)) for t in (k, v))
        rank, scale = value_of(k).dim(), argument(self.fused, "scale", None)
        scale = 1.0 / math.sqrt(value_of(q).shape[-1]) if scale is None else scale
        turned = self._call(aten.transpose.int, k, rank - 2, rank - 1)
        scores = self._call(aten.matmul.default, self._call(aten.mul.Tensor, q, scale), turned)
        scores, hides = self._masked(scores)
        softmax = aten._safe_softmax.default if hides else aten.softmax.int
        weights = self._call(softmax, scores, value_of(scores).dim() - 1)
        out = self._call(aten.matmul.default, weights, v)
        return out if self.wide == self.type else self._call(aten._to_copy.default, out, dtype=self.type)

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        new = self.graph.call_function(target, args, kwargs)
        new.meta = {**self.fused.meta, "val": self.results.of(target, args, kwargs)}
        return new

    def _widened(self, x: fx.Node) -> fx.Node:
        return x if value_of(x).dtype == self.wide else self._call(aten._to_copy.default, x, dtype=self.wide)

    def _repeated(self, x: fx.Node, queries: torch.Tensor) -> fx.Node:
        """Keys or values with as many heads as there are of queries: those that several share, one after the other."""
        value, rank = value_of(x), value_of(x).dim()
        if rank < 3 or same_size(value.shape[-3], queries.shape[-3]):
            return x
        before, (heads, tokens, size) = rank - 3, self._sizes(x)[-3:]
        times = int(queries.shape[-3]) // int(value.shape[-3])
        apart = self._call(aten.unsqueeze.default, x, rank - 2)
        spread = self._call(aten.expand.default, apart, [*self._sizes(x)[:before], heads, times, tokens, size])
        whole = [*self._sizes(x)[:before], int(value.shape[-3]) * times, tokens, size]
        return self._call(aten.reshape.default, spread, whole)

    def _sizes(self, x: fx.Node) -> list[Any]:
        shape = value_of(x).shape
        return [s if isinstance(s, int) else self._call(aten.sym_size.int, x, i) for i, s in enumerate(shape)]

    def _masked(self, scores: fx.Node) -> tuple[fx.Node, bool]:
        """Scores with what the kernel adds to them or hides; may a whole row be hidden?"""
        mask = argument(self.fused, "attn_mask", None)
        if argument(self.fused, "is_causal", False):  # every row has its first key
            queries, keys = self._sizes(scores)[-2:]
            device = value_of(scores).device
            pairs = self._call(aten.full.default, [queries, keys], True, dtype=torch.bool, device=device)
            later = self._call(aten.triu.default, pairs, 1)
            scores = self._call(aten.masked_fill.Scalar, scores, later, -math.inf)
        if not isinstance(mask, fx.Node):
            return scores, False
        if value_of(mask).dtype == torch.bool:
            hidden = self._call(aten.logical_not.default, mask)
            return self._call(aten.masked_fill.Scalar, scores, hidden, -math.inf), True
        return self._call(aten.add.Tensor, scores, self._widened(mask)), True
