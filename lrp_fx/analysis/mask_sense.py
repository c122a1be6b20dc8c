"""Mask sense: does a mask keep tokens where it is true, or hide them?

It is decided by evaluation, not by spelling: all that a program computes of the mask is computed for a mask of ones and
for one of zeros, each with another number in the middle, up to where it meets what is computed of content. There a
choice of something else, a sum with a very low number, a product with zero, or an attention kernel hides entries. Where
that tells nothing, the program is run (`lrp_fx.analysis.mask_effect`): what is hidden reaches no other token.

requires  a captured program, masks in it as they were given (before any that say nothing are dropped)
ensures   one answer for every way to write the same mask
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx

from lrp_fx.analysis.mask_effect import (
    HIDES,
    KEEPS,
    LENGTHS,
    LOW,
    axis_of_tokens,
    sense_by_running,
    sense_of_lengths,
    tokens_of,
)
from lrp_fx.analysis.provenance import POSITION, VERY_LOW
from lrp_fx.errors import raise_if_out_of_memory
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import ancestors, is_float, op_name, value_of
from lrp_fx.ir.operators import argument, has, run_call
from lrp_fx.ir.program import CONTENT_ROLE, Input, Program
from lrp_fx.ir.sizes import hint

#: Answers for captured graphs, which no pass edits: every kind of target asks again.
_KNOWN: WeakKeyDictionary[fx.GraphModule, dict[str, str | None]] = WeakKeyDictionary()
#: (what is computed of a mask and of no content, an operation in which it meets content)
Meeting = tuple[fx.Node, fx.Node]


def kept(mask: Tensor, sense: str, batch: int, tokens: int = 0) -> Tensor:
    """(B, T): which tokens a mask (B, T), (B, T, 1) or (B, ..., queries, T) keeps: shows to some query at least.

    Lengths (B,) keep the first of so many ``tokens``. Heads may be merged with the ``batch``, each example's behind one
    another, as in `nn.MultiheadAttention`.
    """
    if sense == LENGTHS:
        return torch.arange(tokens, device=mask.device) < mask.unsqueeze(1)
    shown = mask > VERY_LOW if sense == LOW else (mask == 0 if sense == HIDES else mask != 0)
    shown = shown.movedim(axis_of_tokens(shown), -1)
    if shown.dim() > 2 and len(shown) not in (1, batch):
        shown = shown.reshape(batch, -1, *shown.shape[1:])
    return shown.flatten(1, -2).any(1) if shown.dim() > 2 else shown


def sense_of(program: Program, name: str) -> str | None:
    """What a mask input says (`KEEPS`, `HIDES`, `LOW`, `LENGTHS` or `NO_PADDING`), None where neither what is computed
    of it nor the program's output tells.
    """
    module = program.captured or program.module
    known = _KNOWN.setdefault(module, {}) if program.captured is not None else {}
    if name not in known:
        known[name] = _sense(program, module, name)
    return known[name]


def _sense(program: Program, module: fx.GraphModule, name: str) -> str | None:
    dtype, shape = next((i.dtype, i.shape) for i in program.inputs if i.name == name)
    if len(shape) == 1:
        return sense_of_lengths(program, module, name)
    lowest = [(LOW, 0, torch.finfo(dtype).min)] if dtype.is_floating_point else []
    by_truth = _by_meeting(program, module, name, [(KEEPS, 1, 0), (HIDES, 0, 1)])
    # what is very low where it meets content may be turned about behind it: running comes first
    return by_truth or sense_by_running(program, module, name) or _by_meeting(program, module, name, lowest)


def _by_meeting(
    program: Program, module: fx.GraphModule, name: str, settings: Sequence[tuple[str, float, float]]
) -> str | None:
    """By what is hidden where the mask meets content; None where that hides nothing, or no token from all queries."""
    inputs = dict(zip(program.inputs, module.graph.find_nodes(op="placeholder"), strict=True))
    node = next(n for i, n in inputs.items() if i.name == name)
    met = list(_meetings(module.graph, inputs, name))
    tokens = tokens_of(value_of(node))
    if not met or tokens < 2:
        return None

    def hidden(number: float, hole: float) -> list[Tensor | None]:
        given = {n: _given(i, value_of(n), number if i.name == name else 1) for i, n in inputs.items()}
        given[node].select(axis_of_tokens(given[node]), tokens // 2).fill_(hole)
        values = _evaluated(module, [a for _, user in met for a in user.all_input_nodes], given)
        return [_hidden(user, a, values) if isinstance(values.get(a), Tensor) else None for a, user in met]

    for sense, keeping, hiding in settings:
        pairs = zip(hidden(keeping, hiding), hidden(keeping, keeping), strict=True)
        if any(a is not None and b is not None and _is_gone(a & ~b, tokens) for a, b in pairs):
            return sense
    return None


def _is_gone(hidden: Tensor, tokens: int) -> bool:
    """Is a token in the middle hidden from the last query, where queries are told apart?"""
    while hidden.dim() > 1 and hidden.shape[-1] == 1:  # features of the token
        hidden = hidden.squeeze(-1)
    if hidden.dim() == 0 or hidden.shape[-1] != tokens:
        return False
    column = hidden[..., tokens // 2]
    return bool((column[..., -1] if column.dim() > 1 else column).any())


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


def _given(info: Input, value: Tensor, number: float) -> Tensor:
    """An input of the traced sizes that holds one number; places count."""
    shape = [hint(s) for s in value.shape]
    if info.role == POSITION and info.is_index and info.dtype != torch.bool and shape:
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
        sign = -1 if name == "aten.sub" and user.args[0] is not node else 1
        times = argument(user, "alpha", 1) if user.args[0] is not node else 1
        factor = sign * times if isinstance(times, (int, float)) else sign
        return value * factor <= VERY_LOW if value.is_floating_point() else None
    return value == 0 if has(user, Fact.PRODUCT | Fact.SCALING) else None


def _is_fixed(other: Any, values: Mapping[fx.Node, Any]) -> bool:
    """Is what stands in the place of an entry no content: a number, a parameter?"""
    return not isinstance(other, fx.Node) or other in values
