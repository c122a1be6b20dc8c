"""Renormed: tables that lookups keep within a norm (``nn.Embedding(max_norm=)``), as functions of the tables alone.

torch writes the rows that are looked up back into the table. What is looked up is the same where all rows are scaled,
and then the table depends on no input.

requires  an exported graph, before its writes are replaced
ensures   where such a table is read by its lookups alone, nothing is written into it; else the graph is as it was
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher

from lrp_fx.errors import UnsupportedOperatorError
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.operators import argument, has, operand_of
from lrp_fx.ir.source import describe, source_line

aten = torch.ops.aten
_LOOKUPS = ("aten.embedding", "aten.embedding_bag", "aten._embedding_bag")
#: What torch adds to a norm that it divides by.
_LITTLE = 1e-7


def scale_tables(graph: fx.Graph) -> None:
    """Let lookups read scaled tables, where nobody else reads what is written into one."""
    written: dict[fx.Node, list[fx.Node]] = {}
    for write in graph.find_nodes(op="call_function", target=aten.embedding_renorm_.default):
        written.setdefault(_table(write), []).append(write)
    for table, writes in written.items():
        if _are_its_lookups(table, writes):
            _read_scaled(graph, table, writes)


def refuse_written_tables(graph: fx.Graph) -> None:
    """Raise `UnsupportedOperatorError` where a table is still written into: to those that read it beside the lookups it
    is another for each example.
    """
    written = [n for n in graph.nodes if op_name(n) in ("aten.embedding_renorm", "aten.embedding_renorm_")]
    if written:
        raise UnsupportedOperatorError(
            f"a lookup writes into its own table (max_norm), which something else reads beside it\n  "
            f"{describe(written[0])}, {source_line(written[0])}\n  next: scale the table once, and explain the model "
            "with max_norm=None: torch.embedding_renorm_(weight.data, torch.arange(len(weight)), max_norm, norm_type)"
        )


def _table(write: fx.Node) -> fx.Node:
    table = operand_of(write)
    while has(table, Fact.DETACHES):
        table = operand_of(table)
    return table


def _are_its_lookups(table: fx.Node, writes: list[fx.Node]) -> bool:
    """Is the table read by nothing but lookups of rows that were written just before?"""
    steps = [n for n in table.graph.nodes if n in writes or table in n.all_input_nodes]
    fresh: list[Any] = []
    for step in steps:
        if step in writes:
            fresh.append(argument(step, "indices"))
        elif has(step, Fact.DETACHES):
            if not set(step.users) <= set(writes):
                return False
        elif op_name(step) not in _LOOKUPS or argument(step, "indices") not in fresh:
            return False
    return not any(write.users for write in writes)


def _read_scaled(graph: fx.Graph, table: fx.Node, writes: list[fx.Node]) -> None:
    """(Lookups of one table may keep within norms of their own: the last before a lookup is its own.)"""
    scaled: fx.Node | None = None
    for step in [n for n in graph.nodes if n in writes or table in n.all_input_nodes]:
        if step in writes:
            with graph.inserting_before(step):
                scaled = _scaled(graph, table if scaled is None else scaled, step)
            graph.erase_node(step)
        elif scaled is not None and op_name(step) in _LOOKUPS:
            step.replace_input_with(table, scaled)


def _scaled(graph: fx.Graph, table: fx.Node, write: fx.Node) -> fx.Node:
    """The table with its rows within the norm."""
    largest, kind = argument(write, "max_norm"), argument(write, "norm_type")

    def call(target: Any, *args: Any) -> fx.Node:
        made = graph.call_function(target, args)
        values = fx.map_arg(args, value_of)
        with value_of(table).fake_mode, enable_python_dispatcher(), torch.no_grad():
            made.meta = {**write.meta, "val": target(*values)}
        return made

    norms = call(aten.linalg_vector_norm.default, table, kind, [1], True)
    factors = call(aten.mul.Tensor, call(aten.reciprocal.default, call(aten.add.Tensor, norms, _LITTLE)), largest)
    kept = call(aten.where.ScalarOther, call(aten.gt.Scalar, norms, largest), factors, 1.0)
    return call(aten.mul.Tensor, table, kept)
