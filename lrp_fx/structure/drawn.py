"""Drawn: a part of a program run by itself, on drawn values in place of what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.ir.graph import value_of
from lrp_fx.ir.sizes import hint, shape_of


def drawn(node: fx.Node, generator: torch.Generator) -> Any:
    """A value like a node's: normal numbers in double precision, truth, index 0, the traced size."""
    value = value_of(node)
    if not isinstance(value, Tensor):
        return hint(value) if isinstance(value, (int, torch.SymInt)) else value
    if value.dtype == torch.bool:
        return torch.ones(shape_of(node), dtype=torch.bool)
    if not value.is_floating_point():
        return torch.zeros(shape_of(node), dtype=value.dtype)
    return torch.randn(shape_of(node), generator=generator, dtype=torch.float64)


def run(nodes: Iterable[fx.Node], given: Mapping[fx.Node, Any], seed: int = 0) -> dict[fx.Node, Any]:
    """The values of nodes where others are ``given``; what neither gives is drawn, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    env = dict(given)

    def of(node: fx.Node) -> Any:
        if node not in env:
            env[node] = drawn(node, generator)
        return env[node]

    for node in sorted(set(nodes)):
        if node not in given:
            args, kwargs = (_wide(fx.map_arg(tree, of)) for tree in (node.args, dict(node.kwargs)))
            env[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return env


def _wide(tree: Any) -> Any:
    """Arguments without types narrower than what is drawn, and without devices."""
    if isinstance(tree, torch.dtype):
        return torch.float64 if tree.is_floating_point else tree
    if isinstance(tree, torch.device):
        return torch.device("cpu")
    if isinstance(tree, dict):
        return {k: _wide(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_wide(v) for v in tree] if isinstance(tree, list) else tuple(_wide(v) for v in tree)
    return tree
