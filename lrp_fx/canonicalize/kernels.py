"""Kernels: operations that torch's own come to, as a trace below autograd writes them, by the names that rules know.

requires  a node of a graph just copied
ensures   where only the kernel's first result is read, the node gone, and that result computed by the operation it is
          the kernel of
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from lrp_fx.ir.graph import call_like, op_name, value_of
from lrp_fx.ir.operators import argument, operand_of

aten = torch.ops.aten
#: (operation, its arguments, by place and by name); None where it is no such.
Named = tuple[Any, tuple[Any, ...], dict[str, Any]] | None


def _layer_norm(node: fx.Node) -> Named:
    return aten.layer_norm.default, tuple(node.args), {}


def _rms_norm(node: fx.Node) -> Named:
    return aten.rms_norm.default, tuple(node.args), {}


def _group_norm(node: fx.Node) -> Named:
    x, weight, bias, groups, eps = (argument(node, n) for n in ("input", "weight", "bias", "group", "eps"))
    return aten.group_norm.default, (x, groups, weight, bias, eps), {}


def _batch_norm(node: fx.Node) -> Named:
    """With statistics of a single row, which is all examples' channels beside each other, it is instance norm's."""
    names = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
    given = tuple(argument(node, n) for n in names)
    if not given[5]:
        return aten.batch_norm.default, (*given, False), {}
    alone = given[3] is None and given[4] is None and value_of(operand_of(node)).shape[0] == 1
    return (aten.instance_norm.default, (*given, False), {}) if alone else None


def _attention(node: fx.Node) -> Named:
    mask = argument(node, "attn_mask") or argument(node, "attn_bias")
    given = [argument(node, n) for n in ("query", "key", "value")]
    options = [argument(node, n) for n in ("dropout_p", "is_causal")]
    scale = {"scale": given_scale} if (given_scale := argument(node, "scale")) is not None else {}
    return aten.scaled_dot_product_attention.default, (*given, mask, *options), scale


def _max_pool(node: fx.Node) -> Named:
    name = op_name(node).removeprefix("aten.").removesuffix("_with_indices")
    return getattr(aten, name).default, tuple(node.args), {}


_NAMES: dict[str, Callable[[fx.Node], Named]] = {
    "aten.native_layer_norm": _layer_norm,
    "aten._fused_rms_norm": _rms_norm,
    "aten.native_group_norm": _group_norm,
    "aten.native_batch_norm": _batch_norm,
    **dict.fromkeys(
        (
            "aten._scaled_dot_product_flash_attention_for_cpu",
            "aten._scaled_dot_product_flash_attention",
            "aten._scaled_dot_product_efficient_attention",
            "aten._scaled_dot_product_cudnn_attention",
            "aten._scaled_dot_product_fused_attention_overrideable",
        ),
        _attention,
    ),
    "aten.max_pool2d_with_indices": _max_pool,
    "aten.max_pool3d_with_indices": _max_pool,
}


def name_kernel(graph: fx.Graph, node: fx.Node) -> None:
    """A kernel as the operation that it is the kernel of."""
    first = [n for n in node.users if n.target is operator.getitem and n.args[1] == 0]
    named = _NAMES[op_name(node)](node) if len(first) == len(node.users) == 1 else None
    if named is None:
        return
    target, args, kwargs = named
    with graph.inserting_before(node):
        whole = call_like(graph, first[0], target, *args, **kwargs)
    first[0].replace_all_uses_with(whole)
    graph.erase_node(first[0])
    graph.erase_node(node)


KERNELS: dict[str, Callable[[fx.Graph, fx.Node], None]] = dict.fromkeys(_NAMES, name_kernel)
