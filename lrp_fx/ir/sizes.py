"""Sizes: numbers and symbols."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import fx

from lrp_fx.ir.graph import value_of

#: The end of a slice that has none.
END = 2**63 - 1


def hint(size: Any) -> int:
    """The traced size behind a possibly symbolic one."""
    return size if isinstance(size, int) else int(size.node.hint) if size.node.hint is not None else 1


def size_key(size: Any) -> Any:
    """Equal for equal numbers and for equal expressions; quick to compare."""
    return size if isinstance(size, int) else printed(size.node.expr)


@lru_cache(maxsize=4096)
def printed(expression: Any) -> str:
    """An expression as text."""
    return str(expression)


def settled(size: Any) -> Any:
    """The number itself where a symbol turned out to be one (tracing found that it can be no other)."""
    return size if isinstance(size, int) or not size.node.expr.is_number else int(size.node.expr)


def is_one(size: Any) -> bool:
    """Is it the number 1 (no symbol that may be 1)?"""
    return isinstance(size, int) and size == 1


def same_size(a: Any, b: Any) -> bool:
    """Are two (symbolic) sizes the same expression?"""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if not isinstance(a, int) and not isinstance(b, int) and a.node.expr == b.node.expr:
        return True
    a, b = settled(a), settled(b)
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return bool(a.node.expr == b.node.expr)


def same_shape(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Have two (abstract) values the same sizes, axis by axis?"""
    return a.dim() == b.dim() and all(same_size(m, n) for m, n in zip(a.shape, b.shape, strict=True))


def shape_of(node: fx.Node) -> tuple[int, ...]:
    val = value_of(node)
    return tuple(hint(s) for s in val.shape) if isinstance(val, torch.Tensor) else ()
