"""Full masks: attention to everything, or to everything before, without a mask written out query by key.

Where nothing is padded, a mask says nothing, and the fused kernels need none: memory then grows with the length and not
with its square. Which masks say nothing is found by computing them, for lengths on both sides of every number that their
computation mentions (a window of 512 tokens is no causal mask, which 5 tokens would not show).

requires  a canonical program; for some mask inputs, one number that they hold everywhere
ensures   the same outputs for such inputs; what attention reads of masks is gone where it is all true, or causal
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lrp_fx.program import MASK_ROLE, Program, copy_graph, op_name, value_of

Constants = tuple[tuple[str, float], ...]
_SIZES = (1, 2, 3, 6, 11)
_LARGEST = 4096  # a mask for more tokens than this is not written out to see what it is
_SDPA = "aten.scaled_dot_product_attention"


def constant_masks(bound: Mapping[str, Any], roles: Mapping[str, str]) -> Constants:
    """The mask inputs (by name) that hold one number everywhere, and which."""
    found = []
    for name, value in sorted(bound.items()):
        if isinstance(value, Tensor) and roles.get(name) == MASK_ROLE and value.numel():
            first = value.flatten()[0]
            if bool((value == first).all()):
                found.append((name, float(first)))
    return tuple(found)


def drop_full_masks(program: Program, constants: Constants) -> Program:
    """The program for calls in which the masks hold these numbers; the same object where that changes nothing."""
    module, env = copy_graph(program)
    masks = _Masks(program, dict(constants))
    changed = False
    for node in program.graph.nodes:
        if op_name(node) == _SDPA:
            changed |= _without_mask(node, env, masks)
        elif op_name(node) == "aten.add" and constants:
            changed |= _without_zeros(node, env, masks)
    if not changed:
        return program
    for old in reversed(list(program.graph.nodes)):  # not what nobody read before either: scores of chosen weights wait for relevance
        if old.users and not env[old].users and old.op in ("call_function", "get_attr"):
            module.graph.erase_node(env[old])
    module.recompile()
    return replace(program, module=module).evolve("drop_full_masks")


def _without_mask(node: fx.Node, env: dict[fx.Node, fx.Node], masks: _Masks) -> bool:
    """Fused attention without its mask, if that says nothing or that attention is causal."""
    q, k, v, mask, dropout, causal = _arguments(node)
    if not isinstance(mask, fx.Node) or causal or (pattern := masks.pattern(mask)) is None:
        return False
    env[node].args = (env[q], env[k], env[v], None, dropout, pattern == "causal")
    env[node].kwargs = {n: a for n, a in env[node].kwargs.items() if n in ("scale", "enable_gqa")}
    return True


def _without_zeros(node: fx.Node, env: dict[fx.Node, fx.Node], masks: _Masks) -> bool:
    """Scores without a mask that adds nothing to them."""
    for scores, mask in (node.args[:2], node.args[1::-1]):
        if not isinstance(scores, fx.Node) or not isinstance(mask, fx.Node) or node.kwargs or not masks.reads_a_mask(mask):
            continue
        alike = [str(s) for s in value_of(scores).shape] == [str(s) for s in value_of(node).shape] and value_of(scores).dtype == value_of(node).dtype
        if alike and masks.pattern(mask) == "all":
            env[node].replace_all_uses_with(env[scores])
            return True
    return False


class _Masks:
    """What the masks in a program are, found once each."""

    def __init__(self, program: Program, constants: dict[str, float]) -> None:
        self.program, self.constants = program, constants
        self.known: dict[fx.Node, str | None] = {}
        inputs = program.input_nodes()
        self.readers = _dependents(program, {node for name, node in inputs.items() if name in constants})
        self.open = _dependents(program, {node for name, node in inputs.items() if name not in constants})

    def reads_a_mask(self, node: fx.Node) -> bool:
        """Is it made of constant masks, and of nothing that is not known?"""
        value = value_of(node)
        return node in self.readers and node not in self.open and isinstance(value, Tensor) and value.is_floating_point()

    def pattern(self, node: fx.Node) -> str | None:
        """``all``, ``causal`` or None: what a mask is for all sizes, if that depends on sizes and constants alone."""
        if node not in self.known:
            self.known[node] = None if node in self.open else _pattern(self.program, node, self.constants)
        return self.known[node]


def _dependents(program: Program, inputs: set[fx.Node]) -> set[fx.Node]:
    """All that is computed from the values of inputs (not from their sizes), with the inputs."""
    found = set(inputs)
    for node in program.graph.nodes:
        if op_name(node) != "aten.sym_size" and any(a in found for a in node.all_input_nodes):
            found.add(node)
    return found


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    default = (None, None, None, None, 0.0, False)
    return tuple(node.args[i] if i < len(node.args) else node.kwargs.get(n, default[i]) for i, n in enumerate(names))


def _pattern(program: Program, mask: fx.Node, constants: dict[str, float]) -> str | None:
    nodes = _computation(program, mask)
    found = set()
    for sizes in _probes(program, nodes):
        try:
            value = _compute(program, nodes, mask, constants, sizes)
        except (RuntimeError, IndexError):
            continue  # sizes that the model cannot take (a table is shorter)
        found.add(frozenset(_kinds(value)))
    return next((kind for kind in ("all", "causal") if found and all(kind in kinds for kinds in found)), None)


def _computation(program: Program, mask: fx.Node) -> list[fx.Node]:
    """The nodes that a mask is computed from, in order; where only sizes of an input are read, without the input."""
    inputs = set(program.input_nodes().values())
    needed: set[fx.Node] = set()
    stack = [mask]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(() if op_name(node) == "aten.sym_size" and node.args[0] in inputs else node.all_input_nodes)
    return [n for n in program.graph.nodes if n in needed]


def _probes(program: Program, nodes: list[fx.Node]) -> Iterator[dict[str, int]]:
    """Sizes for the symbols of the inputs' shapes: small ones, and those about every number that is mentioned."""
    numbers = sorted(_numbers(program, nodes))
    if any(n > _LARGEST for n in numbers):
        return
    about = {n + d for n in numbers for d in (-1, 0, 1, 2)} | {a + b + 1 for a, b in itertools.combinations(numbers, 2)}
    batches, others = _symbols(program)
    for tokens in sorted({*_SIZES, *(n for n in about if 0 < n <= _LARGEST + 2)}):
        for batch in (1, 2) if tokens <= max(_SIZES) else (1,):
            yield dict.fromkeys(batches, batch) | {symbol: tokens + 3 * i for i, symbol in enumerate(others)}


def _numbers(program: Program, nodes: list[fx.Node]) -> set[int]:
    """Numbers above 1 that the computation mentions, in arguments or small tables (the largest integers mean: to the end)."""
    found: list[float] = []
    for node in nodes:
        if node.op == "get_attr":
            table = getattr(program.module, str(node.target))
            if isinstance(table, Tensor) and table.numel() <= 16:
                found += table.flatten().tolist()
        elif node.op == "call_function":
            found += [a for a in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(a, (int, float)) and not isinstance(a, bool)]
    return {int(abs(n)) for n in found if 1 < abs(n) < 2**31}


def _symbols(program: Program) -> tuple[list[str], list[str]]:
    """Symbols of the inputs' sizes: those of first axes, and the others."""
    first: list[str] = []
    others: list[str] = []
    for node in program.input_nodes().values():
        for axis, size in enumerate(value_of(node).shape):
            if not isinstance(size, int):
                (first if axis == 0 else others).append(str(size))
    return list(dict.fromkeys(first)), [s for s in dict.fromkeys(others) if s not in first]


def _compute(program: Program, nodes: list[fx.Node], mask: fx.Node, constants: dict[str, float], sizes: dict[str, int]) -> tuple[Tensor, bool]:
    """The mask for these sizes, and whether its queries and keys are the same tokens."""
    inputs = {node: name for name, node in program.input_nodes().items()}
    values: dict[fx.Node, Any] = {}

    def shape_of(node: fx.Node) -> list[int]:
        return [s if isinstance(s, int) else sizes[str(s)] for s in value_of(node).shape]

    with torch.no_grad():
        for node in nodes:
            if node.op == "placeholder":
                values[node] = torch.full(shape_of(node), constants[inputs[node]], dtype=value_of(node).dtype, device=value_of(node).device)
            elif node.op == "get_attr":
                values[node] = operator.attrgetter(str(node.target))(program.module)
            elif op_name(node) == "aten.sym_size" and node.args[0] in inputs:
                values[node] = shape_of(node.args[0])[int(node.args[1])]  # type: ignore[arg-type]
            else:
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda a: values[a])
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    queries, keys = value_of(mask).shape[-2:]
    return values[mask], str(queries) == str(keys)


def _kinds(found: tuple[Tensor, bool]) -> Iterator[str]:
    """What a mask may be taken for: nothing is masked; everything behind the query is."""
    value, alike = found
    keeps = value if value.dtype == torch.bool else value == 0
    hides = ~keeps if value.dtype == torch.bool else value <= torch.finfo(value.dtype).min / 2
    if bool(keeps.all()):
        yield "all"
    if alike:
        before = torch.ones(keeps.shape[-2:], dtype=torch.bool, device=value.device).tril()
        if bool((keeps == before).all()) and bool((hides == ~before).all()):
            yield "causal"
