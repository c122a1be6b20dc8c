"""Mask patterns: what a mask of queries by keys says, computed some queries at a time.

requires  a canonical program and a mask in it that depends on sizes, parameters and constant inputs alone
ensures   a pattern is found only if every entry of the mask has been seen to be as that pattern says
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.program import Program, ancestors, op_name, value_of

Constants = tuple[tuple[str, float], ...]
Shapes = Mapping[str, tuple[int, ...]]
_ENTRIES = 2**20  # of a mask, that are computed at a time
#: Entry by entry, without torch's tag for it.
_POINTWISE = frozenset("aten." + n for n in "__and__ __or__ __xor__ _to_copy floor_divide masked_fill where zeros_like ones_like full_like".split())


def kinds(program: Program, mask: fx.Node, constants: Constants, shapes: Shapes) -> set[str]:
    """What a mask may be taken for in a call with these shapes: nothing is masked; everything behind the query is."""
    sizes = value_of(mask).shape
    square = len(sizes) >= 2 and str(sizes[-2]) == str(sizes[-1])
    found = {"all", "causal"} if square else {"all"}
    try:
        for start, value in _blocks(program, mask, dict(constants), shapes):
            keeps, hides = (value, ~value) if value.dtype == torch.bool else (value == 0, value <= torch.finfo(value.dtype).min / 2)
            if not bool(keeps.all()):
                found.discard("all")
            if square:
                before = torch.ones(keeps.shape[-2:], dtype=torch.bool, device=keeps.device).tril(start)
                if not bool((keeps == before).all()) or not bool((hides == ~before).all()):
                    found.discard("causal")
            if not found:
                break
    except (RuntimeError, IndexError):  # sizes that the model does not take
        return set()
    return found


def _blocks(program: Program, mask: fx.Node, constants: dict[str, float], shapes: Shapes) -> Iterator[tuple[int, Tensor]]:
    """First query and values of each part of a mask, for inputs of these shapes: what can be computed query by query is never there whole."""
    inputs = {node: name for name, node in program.input_nodes().items()}
    needed = set(ancestors([mask], until=lambda n: _is_size(n, inputs)))
    entries = _entrywise(mask, needed)
    others = needed - entries
    whole: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in (n for n in program.graph.nodes if n in others):
            if node.op == "placeholder":
                value = value_of(node)
                whole[node] = torch.full(shapes[inputs[node]], constants[inputs[node]], dtype=value.dtype, device=value.device)
            elif node.op == "get_attr":
                whole[node] = operator.attrgetter(str(node.target))(program.module)
            elif _is_size(node, inputs):
                whole[node] = shapes[inputs[node.args[0]]][int(node.args[1])]
            else:
                whole[node] = _run(node, whole)
        order = [n for n in program.graph.nodes if n in entries]
        if not order:
            yield 0, whole[mask]
            return
        rows = {n for n in whole if _queries(n) == _queries(mask)}
        queries = next(whole[n].shape[-2] for n in rows if any(user in entries for user in n.users))
        for start in range(0, queries, step := max(1, _ENTRIES // max(1, queries))):
            part = {n: v.narrow(-2, start, min(step, queries - start)) if n in rows else v for n, v in whole.items()}
            for node in order:
                part[node] = _run(node, part)
            yield start, part[mask]


def _queries(node: fx.Node) -> str | None:
    """The symbol of the last axis but one."""
    value = value_of(node)
    return str(value.shape[-2]) if isinstance(value, Tensor) and value.dim() > 1 and not isinstance(value.shape[-2], int) else None


def _entrywise(mask: fx.Node, needed: set[fx.Node]) -> set[fx.Node]:
    """What is computed of queries by keys entry by entry, and read by nothing else that the mask ``needed``."""
    queries = _queries(mask)
    found: set[fx.Node] = set()
    for node in sorted(needed, reverse=True) if queries is not None else ():  # in the order of the graph, from the mask back
        if _queries(node) == queries and _is_entrywise(node, str(queries)) and all(user in found for user in node.users if user in needed):
            found.add(node)
    return found


def _is_entrywise(node: fx.Node, queries: str) -> bool:
    """Is a part of its operands' queries enough for that part of its own?"""
    if op_name(node) == "aten.expand":
        return isinstance(node.args[0], fx.Node) and _queries(node.args[0]) == queries
    if op_name(node) == "aten.unsqueeze":
        rank: int = value_of(node).dim()
        return int(node.args[1]) % rank < rank - 2  # type: ignore[arg-type]
    pointwise = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
    return (pointwise or op_name(node) in _POINTWISE) and any(_queries(a) == queries for a in node.all_input_nodes)


def _is_size(node: fx.Node, inputs: Mapping[fx.Node, str]) -> bool:
    """Is it a size of an input, which its values do not matter to?"""
    return op_name(node) == "aten.sym_size" and node.args[0] in inputs


def _run(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    read: Any = fx.map_arg((node.args, node.kwargs), lambda a: values[a])
    args, kwargs = read
    if op_name(node) == "aten.expand" and _queries(node) is not None and _queries(node.all_input_nodes[0]) == _queries(node):
        args = (args[0], [*args[1][:-2], -1, args[1][-1]])  # as many queries as there are
    return node.target(*args, **kwargs)  # type: ignore[operator]
