"""Mask sense: does a mask keep tokens where it is true, or hide them?

It is decided by evaluation, not by spelling: all that a program computes of the mask is computed for a mask of ones and
for one of zeros, up to where it meets what is computed of content. There a choice of something else, a sum with a very
low number, a product with zero, or an attention kernel hides entries. The mask that hides more is the one that hides
tokens.

requires  a captured program, masks in it as they were given (before any that say nothing are dropped)
ensures   one answer for every way to write the same mask
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx

from lrp_fx.analysis.provenance import POSITION, VERY_LOW
from lrp_fx.errors import raise_if_out_of_memory
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import ancestors, is_float, op_name, value_of
from lrp_fx.ir.operators import argument, has, run_call
from lrp_fx.ir.program import CONTENT_ROLE, Input, Program
from lrp_fx.ir.sizes import hint

#: Answers for captured graphs, which no pass edits: every kind of target asks again.
_KNOWN: WeakKeyDictionary[fx.GraphModule, dict[str, bool | None]] = WeakKeyDictionary()
#: (what is computed of a mask and of no content, an operation in which it meets content)
Meeting = tuple[fx.Node, fx.Node]


def keeps_where_true(program: Program, name: str) -> bool | None:
    """Does a mask input keep tokens where it is true (or 1), or does it hide them there? None where nothing that is
    computed of it meets content, or hides anything.
    """
    if program.captured is None:
        return _keeps_where_true(program, name)
    known = _KNOWN.setdefault(program.captured, {})
    if name not in known:
        known[name] = _keeps_where_true(program, name)
    return known[name]


def _keeps_where_true(program: Program, name: str) -> bool | None:
    module = program.captured or program.module
    inputs = dict(zip(program.inputs, module.graph.find_nodes(op="placeholder"), strict=True))
    met = list(_meetings(module.graph, inputs, name))
    hidden = []
    for number in (0, 1):
        given = {n: _given(i, value_of(n), number if i.name == name else 1) for i, n in inputs.items()}
        values = _evaluated(module, [a for _, user in met for a in user.all_input_nodes], given)
        found = (_hidden(user, node, values) for node, user in met if isinstance(values.get(node), Tensor))
        hidden.append(sum(int(entries.sum()) for entries in found if entries is not None))
    return None if hidden[0] == hidden[1] else hidden[0] > hidden[1]


def _meetings(graph: fx.Graph, inputs: Mapping[Input, fx.Node], name: str) -> Iterator[Meeting]:
    """Content begins where numbers are computed of it: what ids themselves say (which are padding) can be evaluated."""
    ids = {n for i, n in inputs.items() if i.role == CONTENT_ROLE and i.is_index}
    content = {n for i, n in inputs.items() if i.role == CONTENT_ROLE and not i.is_index}
    mask = {n for i, n in inputs.items() if i.name == name}
    for node in graph.nodes:
        read = [] if _is_size(node) or has(node, Fact.FILL) else node.all_input_nodes  # these read sizes alone
        if any(a in content or (a in ids and is_float(node)) for a in read):
            content.add(node)
            yield from ((a, node) for a in read if a in mask and a not in content)
        else:
            if any(a in ids for a in read):
                ids.add(node)
            if any(a in mask for a in read):
                mask.add(node)


def _is_size(node: fx.Node) -> bool:
    return op_name(node) == "aten.sym_size"


def _given(info: Input, value: Tensor, number: int) -> Tensor:
    """An input of the traced sizes that holds one number; places count."""
    shape = [hint(s) for s in value.shape]
    if info.role == POSITION and info.is_index and shape:
        return torch.arange(shape[-1], dtype=value.dtype, device=value.device).expand(shape)
    return torch.full(shape, number, dtype=value.dtype, device=value.device)


def _evaluated(module: fx.GraphModule, wanted: list[fx.Node], given: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
    """The values of what is computed of sizes and of these inputs without looking anything up; without those that
    cannot be.
    """
    needed = set(ancestors(wanted, until=lambda n: _is_size(n) or _looks_up(n) or has(n, Fact.FILL)))
    values: dict[fx.Node, Any] = dict(given)
    with torch.no_grad():
        for node in (n for n in module.graph.nodes if n in needed and n not in values and not _looks_up(n)):
            if _is_size(node):
                values[node] = hint(value_of(node))
            elif node.op == "get_attr":
                values[node] = getattr(module, str(node.target))
            elif has(node, Fact.FILL):
                values[node] = _filled(node, values)
            elif all(a in values for a in node.all_input_nodes):
                read: Any = fx.map_arg((node.args, node.kwargs), lambda a: values[a])
                try:
                    values[node] = run_call(node, *read[0], **read[1])
                except (RuntimeError, IndexError, TypeError) as error:  # the model takes no such mask
                    raise_if_out_of_memory(error)
                    continue
    return values


def _filled(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """``full_like(x, number)``: of ``x`` it reads the size; sizes given as arguments are those that were traced."""

    def like(a: fx.Node) -> Any:
        value = value_of(a)
        if not isinstance(value, Tensor):
            return hint(value)
        return torch.empty(list(map(hint, value.shape)), dtype=value.dtype, device=value.device)

    read: Any = fx.map_arg((node.args, node.kwargs), lambda a: values.get(a, like(a)))
    return run_call(node, *read[0], **read[1])


def _looks_up(node: fx.Node) -> bool:
    """Is it where content begins: rows of a table (ids of one may not be ids of another)?"""
    return has(node, Fact.LOOKUP) and is_float(node)


def _hidden(user: fx.Node, node: fx.Node, values: Mapping[fx.Node, Any]) -> Tensor | None:
    """The entries that an operation hides by a mask of this value; None where it hides none by it."""
    value, name = values[node], op_name(user)
    if name == "aten.masked_fill":
        return value.bool() if user.args[1] is node else None
    if name == "aten.where" and user.args[0] is node:  # hidden is what stands where no content is
        first, second = (_is_fixed(a, values) for a in user.args[1:3])
        return None if first == second else value.bool() if first else ~value.bool()
    if name == "aten.index_put":
        return value if value.dtype == torch.bool and _is_fixed(user.args[2], values) else None
    if name == "aten.index":  # the rows that are kept are taken out
        return ~value if value.dtype == torch.bool else None
    if name == "aten.scaled_dot_product_attention":
        given = argument(user, "attn_mask") is node
        return (~value if value.dtype == torch.bool else value <= VERY_LOW) if given else None
    if has(user, Fact.SUM) or name == "aten.minimum":
        low: Tensor = value if name != "aten.sub" or user.args[0] is node else -value
        return low <= VERY_LOW if value.is_floating_point() else None
    return value == 0 if has(user, Fact.PRODUCT | Fact.SCALING) else None


def _is_fixed(other: Any, values: Mapping[fx.Node, Any]) -> bool:
    """Is what stands in the place of an entry no content: a number, a parameter?"""
    return not isinstance(other, fx.Node) or other in values
