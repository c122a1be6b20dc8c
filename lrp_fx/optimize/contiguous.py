"""Make contiguous: a value that many elementwise operations read across the order of its memory is written out once in
theirs.

A table of biases, looked up and turned so that heads come first, is added to the scores of every layer and multiplied
with their relevance: each of these reads jumps through memory, one copy does so once.

requires  a simplified relevance graph (simplified after this, it would lose the copies), ``own_outputs``: how many of
its
          outputs are the model's own
ensures   the same values; the model's own outputs bit by bit, the rest but for the order in which sums are taken
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import made_for, value_of
from lrp_fx.ir.operators import has, keeps_all_elements, run_call
from lrp_fx.ir.sizes import is_one, same_size

aten = torch.ops.aten
#: A copy costs about what two such reads do.
_WORTH_A_COPY = 3


def make_contiguous(graph: fx.Graph, mode: Any, own_outputs: int) -> None:
    """Write such values out, in place."""
    forward = made_for(graph, own_outputs)
    for node in list(graph.nodes):
        if not keeps_all_elements(node) or not has(node, Fact.VIEW) or not _is_across(value_of(node)):
            continue
        with mode:
            value = value_of(node).clone(memory_format=torch.contiguous_format)
        readers = [
            user
            for user in node.users
            if _reads_all(user, node) and (user not in forward or _keeps_order(user, node, value, mode))
        ]
        if len(readers) < _WORTH_A_COPY:
            continue
        with graph.inserting_after(node):
            copy = graph.call_function(aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
        copy.meta = {**node.meta, "val": value}
        for reader in readers:
            reader.replace_input_with(node, copy)


def _is_across(value: Any) -> bool:
    """Is the last axis not the one that runs along memory?"""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.dim() > 1
        and not is_one(value.stride()[-1])
        and not is_one(value.shape[-1])
    )


def _reads_all(user: fx.Node, node: fx.Node) -> bool:
    """Is the value read element by element along its last two axes, not spread over them?"""
    result, value = value_of(user), value_of(node)
    if not has(user, Fact.SUM | Fact.SCALING) or not isinstance(result, Tensor):
        return False
    return all(same_size(a, b) for a, b in zip(result.shape[-2:], value.shape[-2:], strict=True))


def _keeps_order(user: fx.Node, node: fx.Node, copy: Tensor, mode: Any) -> bool:
    """Does a result lie in memory as before when it reads the copy? Kernels round by the order of what they are
    given.
    """
    strides = []
    for value in (value_of(node), copy):
        values = {n: value if n is node else value_of(n) for n in user.all_input_nodes}
        args, kwargs = fx.map_arg((user.args, user.kwargs), values.__getitem__)
        with mode, enable_python_dispatcher():
            strides.append(str(run_call(user, *args, **kwargs).stride()))
    return strides[0] == strides[1]
