"""Detached: where the model's code stops gradients (``detach()``, ``.data``, ``no_grad`` regions), said in the graph.

Only ``aten.detach`` says so in a program, whatever the code spells. It is the identity, and so it is for relevance; a
ruleset that follows gradients asks for it (`lrp_fx.canonicalize.detached`).

requires  what torch traced with gradients on
ensures   a graph without regions; a float value that they return, or that was taken as ``.data``, is detached
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from lrp_fx.capture.flex import flex_written_out
from lrp_fx.capture.functional import writes, written_operand
from lrp_fx.capture.unfollowed import GRADIENTS
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import copy_node, is_float, is_tensor, output_node, value_of
from lrp_fx.ir.operators import has, operand_of, run_call
from lrp_fx.ir.passes import is_own_fault

_DETACH = torch.ops.aten.detach.default
_SWITCH = torch._C._set_grad_enabled
_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]
T = TypeVar("T")


class DataIsDetached(TorchFunctionMode):
    """While inside, ``x.data`` is ``x.detach()``, which tracing sees; ``.data`` it takes for a constant."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _DATA:
            return args[0].detach()
        return func(*args, **(kwargs or {}))


def with_gradients(trace: Callable[[], T]) -> T:
    """What a trace gives with gradients on, so that regions without show; with gradients off where the model's code
    does what torch allows only then (it writes into a weight).
    """
    try:
        with torch.enable_grad(), DataIsDetached(), flex_written_out():
            return trace()
    except Exception as error:
        if is_own_fault(error) or not any(word in str(error) for word in ("grad", "leaf", "leaves")):
            raise
    with torch.no_grad(), DataIsDetached(), flex_written_out():
        return trace()


# ---------------------------------------------------------------------------------------------- exported regions
def open_regions(module: nn.Module) -> None:
    """Put the operations of every region without (or with) gradients where the region is called, in place."""
    for part in reversed([m for m in module.modules() if isinstance(m, fx.GraphModule)]):
        calls = [n for n in part.graph.nodes if n.target is torch.ops.higher_order.wrap_with_set_grad_enabled]
        for node in calls:
            _open(part, node)
        if calls:
            part.recompile()


def _open(module: fx.GraphModule, node: fx.Node) -> None:
    on, holder, *given = node.args
    assert isinstance(holder, fx.Node)
    region = getattr(module, str(holder.target))
    env = dict(zip(region.graph.find_nodes(op="placeholder"), given, strict=True))
    graph = module.graph
    with graph.inserting_before(node):
        for inner in region.graph.nodes:
            if inner.op == "get_attr":
                name = f"{holder.target}_{inner.target}"
                setattr(module, name, getattr(region, str(inner.target)))
                env[inner] = graph.get_attr(name)
                env[inner].meta = dict(inner.meta)
            elif inner.op not in ("placeholder", "output"):
                env[inner] = copy_node(graph, inner, lambda n: env[n])
                env[inner].meta.setdefault(GRADIENTS, bool(on))
        results: Any = fx.map_arg(output_node(region.graph).args[0], lambda n: env[n])
        for part, result in _results(node, results):
            kept = on or not is_float(result) or very_tensor(result) in given
            new = result if kept else _detached(graph, result)
            part.replace_all_uses_with(new)
            graph.erase_node(part)
            if new.op == "call_function":
                new._rename(part.name)
    if not isinstance(results, fx.Node):
        graph.erase_node(node)
    if not holder.users:
        graph.erase_node(holder)


def _results(node: fx.Node, results: Any) -> list[tuple[fx.Node, fx.Node]]:
    """The nodes that stand for a region's results, and these."""
    if isinstance(results, fx.Node):
        return [(node, results)]
    assert all(n.target is operator.getitem for n in node.users)
    return [(n, results[n.args[1]]) for n in list(node.users)]


def very_tensor(node: fx.Node) -> fx.Node:
    """The value whose very tensor a call returns, as ``to`` does where there is nothing to convert, and a write; else
    the node.

    (Gradients pass there, whatever the mode.)
    """
    while is_tensor(node) and (writes(node) or has(node, Fact.CAST | Fact.IDENTITY)):
        if (written := written_operand(node)) is not None:
            node = written
            continue
        source = operand_of(node)
        args, kwargs = fx.map_arg((node.args, node.kwargs), value_of)
        if not is_tensor(source) or run_call(node, *args, **kwargs) is not value_of(source):
            break
        node = source
    return node


def _detached(graph: fx.Graph, node: fx.Node) -> fx.Node:
    new = graph.call_function(_DETACH, (node,))
    new.meta = {k: v for k, v in node.meta.items() if k in ("val", "nn_module_stack", "stack_trace")}
    return new


# ---------------------------------------------------------------------------------------------- a recorded call
def close_regions(graph: fx.Graph) -> None:
    """Detach what was made between switches of gradient mode and is read outside; the switches go, in place."""
    on, made_inside = True, set()
    switches: list[fx.Node] = []
    for node in graph.nodes:
        if node.target is _SWITCH:
            switches.append(node)
            on = bool(node.args[0])
        elif not on:
            node.meta[GRADIENTS] = False
            if (source := very_tensor(node)) is node or source in made_inside:
                made_inside.add(node)
        elif node.op != "placeholder":
            for source in [a for a in node.all_input_nodes if a in made_inside]:
                made_inside.discard(source)
                _detach_for_later(graph, source, node)
    for switch in switches:
        graph.erase_node(switch)


def _detach_for_later(graph: fx.Graph, source: fx.Node, first: fx.Node) -> None:
    """Let ``first``, and all that read the value after it, read it detached."""
    value = source.meta.get("val")
    if source.op != "call_function" or not isinstance(value, Tensor) or not value.is_floating_point():
        return
    with graph.inserting_before(first):
        new = _detached(graph, source)
    source.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new and not user < first)


# ---------------------------------------------------------------------------------------------- what it says
def drop_idle(graph: fx.Graph) -> None:
    """Drop what is detached though no gradient could reach an input or a parameter, in place."""
    reaching: set[fx.Node] = set()
    for node in list(graph.nodes):
        tensors = [a for a in node.all_input_nodes if is_tensor(a) or isinstance(value_of(a), (tuple, list))]
        leaf = node.op == "placeholder" or (node.op == "get_attr" and node.meta.get("origin") == "parameter")
        if leaf or any(a in reaching for a in tensors):
            reaching.add(node)
        elif has(node, Fact.DETACHES):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
