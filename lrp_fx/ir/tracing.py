"""Tracing: functions on abstract values as flat graphs, and flat graphs copied into others."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import ancestors, copy_node, drop_dead_code, value_of
from lrp_fx.ir.leftovers import forget_source, without_code
from lrp_fx.ir.operators import has
from lrp_fx.ir.program import FlatModule
from lrp_fx.ir.sizes import size_key
from lrp_fx.ir.spared import methods_left_alone, without_notes
from lrp_fx.ir.sparse import strides_of
from lrp_fx.ir.traces import Traced, Traces, copied, known_of


def decomposed(node: fx.Node, mode: Any, traces: Traces) -> tuple[fx.GraphModule, list[fx.Node]]:
    """The kernels that a composite operation calls, as a flat graph of the operands that come with it.

    traces: what was traced before, by what it was traced for; added to.
    """
    flat, spec = pytree.tree_flatten((node.args, dict(node.kwargs)), is_leaf=lambda x: x is None)
    positions = [i for i, a in enumerate(flat) if isinstance(a, fx.Node)]
    operands = [flat[i] for i in positions]
    target: Any = node.target

    def run(*values: Any) -> list[Any]:
        full = list(flat)
        for i, v in zip(positions, values, strict=True):
            full[i] = v
        args, kwargs = pytree.tree_unflatten(full, spec)
        looped = has(node, Fact.LOOP)  # without a gradient it would take a kernel for all tokens at once
        with torch.set_grad_enabled(looped):
            return [target(args[0].requires_grad_() if looped else args[0], *args[1:], **kwargs)]

    arguments = tuple(abstract_key(value_of(a)) if isinstance(a, fx.Node) else repr(a) for a in flat)
    key = ("decomposed", str(target), str(spec), tuple(positions), arguments)  # a size may be a node or a number
    found = traces.get(key, mode)
    if found is None:
        known = known_of(mode) if is_torchs_own(target) else None
        module = trace(run, [value_of(a) for a in operands], mode)
        found = Traced(FlatModule(module, copied(module.graph)))
        traces.keep(key, found, mode, known)
    return found.module, operands


def is_torchs_own(operation: Any) -> bool:
    """Is it an operation that nobody defines anew under the same name?"""
    return isinstance(operation, torch._ops.OpOverload) and operation.namespace in ("aten", "prims")


def inline_decomposed(graph: fx.Graph, node: fx.Node, traces: Traces) -> Any:
    """The kernels that a composite operation calls, inserted before the node: what gives its result (a list of them if
    it has several).
    """
    mode = next(v.fake_mode for v in pytree.tree_leaves(value_of(node)))
    module, operands = decomposed(node, mode, traces)
    with graph.inserting_before(node):
        (result,) = inline(graph, module, operands)
    given = set(operands)
    for new in ancestors(result if isinstance(result, (list, tuple)) else [result], until=lambda n: n in given):
        if new not in given:
            new.meta = {**{k: v for k, v in node.meta.items() if k != "val"}, "val": new.meta["val"]}
    return result


def trace(function: Callable[..., list[Any]], values: Sequence[Any], mode: Any) -> fx.GraphModule:
    """Trace to a flat graph on abstract values, with dead code gone (differentiation leaves recomputed results
    behind). Its code is written if it is run: most are only copied from.
    """
    symbolic = any(_is_symbolic(v) for v in values)
    # symbolic sizes reach kernels through the Python dispatcher only
    quick = without_cache(mode) if symbolic else contextlib.nullcontext()
    with mode, enable_python_dispatcher(), quick, without_code(), methods_left_alone(), without_notes():
        # One object for each input: the tracer tells values apart by identity, and abstract values may be shared.
        values = [v.detach() if isinstance(v, Tensor) else v for v in values]
        module = make_fx(function, _allow_non_fake_inputs=True)(*values)
        if any(isinstance(n.target, torch._ops.OpOverload) and n.target._schema.is_mutable for n in module.graph.nodes):
            # Some derivatives write into views. Equal expressions are computed once later on, so nothing may be written
            # to.
            written = module
            module = make_fx(torch.func.functionalize(module, remove="mutations"), _allow_non_fake_inputs=True)(*values)
            forget_source(written)
    _read_no_strides(module.graph)
    _lay_out_what_is_read_by_strides(module.graph)
    _conjugate(module.graph)
    drop_dead_code(module.graph)
    return module


@contextlib.contextmanager
def without_cache(mode: Any) -> Iterator[None]:
    """Abstract values are computed, not looked up, in here: with symbolic sizes nearly all are new, and torch's cache
    of them takes longer to ask than they take to compute (a quarter of a dynamic capture, torch 2.13).
    """
    before = mode.cache_enabled
    try:
        mode.cache_enabled = False
        yield
    finally:
        mode.cache_enabled = before


def _is_symbolic(value: Any) -> bool:
    if isinstance(value, Tensor):
        return any(isinstance(size, torch.SymInt) for size in value.shape)
    return isinstance(value, torch.SymInt)


def _conjugate(graph: fx.Graph) -> None:
    """Conjugates are written out: `view_as_real` takes no lazy one. That of a Python number is a number."""
    for node in list(graph.find_nodes(op="call_function", target=torch.ops.aten._conj.default)):
        given: Any = node.args[0]
        number = given.meta["val"] if isinstance(given, fx.Node) else given
        if isinstance(number, Tensor):
            node.target = torch.ops.aten.conj_physical.default
            continue
        instead = {node: number.conjugate()}
        for user in list(node.users):
            user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), partial(_replaced, instead))
        graph.erase_node(node)


def _replaced(instead: dict[fx.Node, Any], node: fx.Node) -> Any:
    return instead.get(node, node)


def _read_no_strides(graph: fx.Graph) -> None:
    """Write sizes that the tracer reads from a stride as the product of sizes they are: along an axis of size 1 a
    stride is anything.
    """
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.sym_stride.int):
        source, axis = node.args
        assert isinstance(source, fx.Node) and isinstance(axis, int)
        value = source.meta["val"]
        inner = _axes_within(value, axis)
        if inner is None:
            continue
        with graph.inserting_before(node):
            product: Any = 1
            for a in inner:
                size = value.shape[a]
                if not isinstance(size, int):
                    size = graph.call_function(torch.ops.aten.sym_size.int, (source, a))
                    size.meta["val"] = value.shape[a]
                product = (
                    size
                    if isinstance(product, int) and product == 1
                    else graph.call_function(operator.mul, (product, size))
                )
        node.replace_all_uses_with(product)


def _lay_out_what_is_read_by_strides(graph: fx.Graph) -> None:
    """Operands that kernels read as they lie in memory are laid out for them: tracing leaves that out where abstract
    values lie so already, and where the graph is copied to they may lie otherwise.
    """
    for node in list(graph.nodes):
        if not has(node, Fact.LOOKS_AT_STRIDES):
            continue
        for operand in node.all_input_nodes:
            value = value_of(operand)
            if isinstance(value, Tensor) and value.is_contiguous() and not has(operand, Fact.COPY):
                with graph.inserting_before(node):
                    laid_out = graph.call_function(torch.ops.aten.contiguous.default, (operand,))
                laid_out.meta["val"] = value
                node.replace_input_with(operand, laid_out)


def _axes_within(value: Tensor, axis: int) -> list[int] | None:
    """The axes that a step along ``axis`` passes over: its stride is the product of their sizes (asked for two sizes of
    every symbol).
    """
    symbols = sorted(
        {f for s in (*value.shape, *value.stride()) if not isinstance(s, int) for f in s.node.expr.free_symbols},
        key=str,
    )
    found = []
    for base in (37, 101):
        assigned = {symbol: base + 7 * i for i, symbol in enumerate(symbols)}
        sizes, steps = (
            [s if isinstance(s, int) else int(s.node.expr.subs(assigned)) for s in numbers]
            for numbers in (value.shape, value.stride())
        )
        found.append([a for a in range(len(sizes)) if a != axis and steps[a] < steps[axis]])
        if prod(sizes[a] for a in found[-1]) != steps[axis]:
            return None
    return found[0] if found[0] == found[1] else None


def inline(
    graph: fx.Graph,
    module: fx.GraphModule,
    inputs: Sequence[Any],
    tag: Any = None,
    keep: Callable[[Tensor], fx.Node] | None = None,
) -> list[Any]:
    """Copy a flat graph's operations into ``graph`` at the insertion point; returns what stands for its outputs.

    keep: what stands for a tensor that the traced function closed over; without it, only single numbers may be.
    """
    env: dict[fx.Node, Any] = {}
    feed = iter(inputs)
    outputs: list[Any] = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            env[node] = next(feed)
        elif node.op == "output":
            outputs = list(fx.map_arg(node.args[0], lambda n: env[n]))
        elif node.op == "get_attr":
            constant = getattr(module, str(node.target))
            env[node] = keep(constant) if keep is not None and constant.numel() != 1 else _constant(graph, constant)
        else:
            env[node] = copy_node(graph, node, lambda n: env[n])
            env[node].meta["lrp"] = tag
    return outputs


def _constant(graph: fx.Graph, value: Tensor) -> fx.Node:
    """A tensor constant lifted while tracing (a Python number made a tensor): written out as an operation."""
    if value.numel() != 1:
        raise ValueError("a surrogate closed over a tensor: pass it as an argument")
    new = graph.call_function(
        torch.ops.aten.scalar_tensor.default, (value.item(),), {"dtype": value.dtype, "device": value.device}
    )
    new.meta["val"] = value
    return new


def abstract_key(value: Any) -> Any:
    if isinstance(value, Tensor):
        sizes, strides = (tuple(map(size_key, numbers)) for numbers in (value.shape, strides_of(value)))
        return (sizes, strides, value.dtype, str(value.device), str(value.layout))
    if isinstance(value, (list, tuple)):
        return tuple(abstract_key(v) for v in value)
    return size_key(value) if isinstance(value, torch.SymInt) else str(value)
