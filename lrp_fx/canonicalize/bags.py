"""Bags: rows of a table summed, averaged or compared by one kernel, as a lookup and what is done with its rows.

requires  an `embedding_bag` of bags that are equally long, as torch writes those of a batch of texts: their offsets are
          a counter from 0 to the number of indices, in steps of their length
ensures   the lookup has a row for each index; other bags, and the largest beside padding, stay whole
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import fx

from lrp_fx.ir.graph import call_like, op_name, value_of
from lrp_fx.ir.operators import argument, operand_of
from lrp_fx.ir.sizes import same_size

aten = torch.ops.aten
_SUM, _MEAN, _MAX = range(3)


def split_bags(graph: fx.Graph, node: fx.Node) -> None:
    """The rows of each bag, then their sum, mean or largest."""
    results = [u for u in node.users if u.args[1] == 0]
    length = _length(argument(node, "offsets"), operand_of(node, 1))
    others = [u for u in node.users if u not in results and u.users]
    if not results or length is None or others or argument(node, "include_last_offset"):
        return
    mode, padding = argument(node, "mode"), argument(node, "padding_idx")
    padding = None if padding == -1 else padding
    if mode not in (_SUM, _MEAN, _MAX) or (mode == _MAX and padding is not None):
        return
    table, indices, weights = operand_of(node), operand_of(node, 1), argument(node, "per_sample_weights")
    with graph.inserting_before(node):
        write = partial(call_like, graph, results[0])
        bags = write(aten.reshape.default, indices, [-1, length])
        rows = write(aten.embedding.default, table, bags)
        if isinstance(weights, fx.Node):
            rows = write(aten.mul.Tensor, rows, write(aten.reshape.default, weights, [-1, length, 1]))
        if padding is None:
            result = write({_SUM: aten.sum.dim_IntList, _MEAN: aten.mean.dim, _MAX: aten.amax.default}[mode], rows, [1])
        else:
            kept = write(aten.unsqueeze.default, write(aten.ne.Scalar, bags, padding), 2)
            kept = write(aten._to_copy.default, kept, dtype=value_of(rows).dtype)
            result = write(aten.sum.dim_IntList, write(aten.mul.Tensor, rows, kept), [1])
            if mode == _MEAN:
                count = write(aten.clamp_min.default, write(aten.sum.dim_IntList, kept, [1]), 1)
                result = write(aten.div.Tensor, result, count)
    for user in list(node.users):
        user.replace_all_uses_with(result)
        graph.erase_node(user)
    graph.erase_node(node)


def _length(offsets: Any, indices: fx.Node) -> Any:
    """The step of a counter from 0 to the number of indices, None for other offsets."""
    counts = isinstance(offsets, fx.Node) and op_name(offsets) == "aten.arange"
    step, end = (argument(offsets, name) if counts else None for name in ("step", "end"))
    end = value_of(end) if isinstance(end, fx.Node) else end
    if step is None or argument(offsets, "start") != 0 or value_of(indices).dim() != 1:
        return None
    return step if same_size(end, value_of(indices).shape[0]) else None
