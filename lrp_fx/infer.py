"""Infer: classify an operation that no rule lists, by probing it in float64 on random inputs.

The classes, in this order: linear or affine, elementwise, bilinear, positively homogeneous of degree k. What is none
of them takes the tangent, and is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lrp_fx.layout import hint
from lrp_fx.program import op_name, value_of

TOLERANCE = 1e-9
_LARGEST = 1 << 22  # elements: larger operands are not probed


@dataclass(frozen=True)
class Inferred:
    """The class found (a rule kind), why, and facts for the rule."""

    kind: str
    why: str
    facts: Mapping[str, Any] = field(default_factory=dict)


_cache: dict[Any, Inferred] = {}


def infer(node: fx.Node, operands: list[fx.Node]) -> Inferred:
    """Classify ``node`` as a function of its carrying ``operands``; cached by operation, static arguments and shapes."""
    flat, spec = pytree.tree_flatten((tuple(node.args), dict(node.kwargs)), is_leaf=lambda x: x is None)
    key = (str(node.target), str(spec), tuple(_signature(a, a in operands) for a in flat))
    if key not in _cache:
        if len(_cache) > 4096:
            _cache.clear()
        try:
            _cache[key] = _probe(node, flat, operands)
        except Exception as error:
            _cache[key] = Inferred("tangent", f"{op_name(node)} is in no rule and could not be probed ({type(error).__name__})")
    return _cache[key]


def _signature(a: Any, carries: bool) -> Any:
    if isinstance(a, fx.Node):
        val = value_of(a)
        return (carries, tuple(hint(s) for s in val.shape), str(val.dtype)) if isinstance(val, Tensor) else ("scalar", str(val))
    return str(a)


def _concrete(a: Any, generator: torch.Generator) -> Any:
    if not isinstance(a, fx.Node):
        return a
    val = value_of(a)
    if not isinstance(val, Tensor):
        return hint(val) if isinstance(val, (int, torch.SymInt)) else val
    shape = [hint(s) for s in val.shape]
    if math.prod(shape) > _LARGEST:
        raise ValueError("operand too large to probe")
    if val.is_complex():
        return torch.randn(*shape, generator=generator, dtype=torch.complex128)
    if val.is_floating_point():
        return torch.randn(*shape, generator=generator, dtype=torch.float64)
    return torch.zeros(*shape, dtype=val.dtype)


def _probe(node: fx.Node, flat: list[Any], operands: list[fx.Node]) -> Inferred:
    generator = torch.Generator().manual_seed(0)
    base = [_concrete(a, generator) for a in flat]
    positions = [i for i, a in enumerate(flat) if isinstance(a, fx.Node) and a in operands]
    _, spec = pytree.tree_flatten((tuple(node.args), dict(node.kwargs)), is_leaf=lambda x: x is None)
    target: Callable[..., Any] = node.target  # type: ignore[assignment]

    def f(*xs: Tensor) -> Tensor:
        values = list(base)
        for i, x in zip(positions, xs, strict=True):
            values[i] = x.clone()
        args, kwargs = pytree.tree_unflatten(values, spec)
        out = target(*args, **kwargs)
        return out if isinstance(out, Tensor) else torch.cat([o.flatten().to(torch.float64) for o in pytree.tree_leaves(out)])

    x = [base[i] for i in positions]
    z = [torch.randn_like(t) for t in x]
    zero = f(*[torch.zeros_like(t) for t in x])
    name = op_name(node)
    if zero.isfinite().all():
        mixed = f(*[2.0 * a - 3.0 * b for a, b in zip(x, z, strict=True)])
        if _close(mixed - zero, 2.0 * (f(*x) - zero) - 3.0 * (f(*z) - zero)):
            affine = bool((zero != 0).any())
            return Inferred("linear", f"{name} was found to be {'affine' if affine else 'linear'}", {"affine": affine})
    if len(x) == 1 and _is_elementwise(f, x[0]):
        return Inferred("elementwise", f"{name} was found to act on each element alone")
    if len(x) == 2 and _is_bilinear(f, x, z):
        return Inferred("homogeneous", f"{name} was found to be bilinear", {"degree": 1.0})
    degree = _degree(f, x)
    if degree is not None:
        return Inferred("homogeneous", f"{name} was found to be homogeneous of degree {degree:g}", {"degree": degree / len(x)})
    return Inferred("tangent", f"{name} is in no rule and of no class that can be inferred")


def _close(a: Tensor, b: Tensor) -> bool:
    scale = max(float(a.abs().max()), float(b.abs().max()), 1e-30) if a.numel() else 1.0
    return a.shape == b.shape and bool(((a - b).abs().max() if a.numel() else 0.0) <= TOLERANCE * scale)


def _is_elementwise(f: Callable[..., Tensor], x: Tensor) -> bool:
    y = f(x)
    if y.shape != x.shape or not f(torch.zeros_like(x)).isfinite().all():
        return False
    for i in {0, x.numel() // 2, x.numel() - 1}:
        changed = x.clone().flatten()
        changed[i] += 0.37
        moved = (f(changed.view_as(x)) != y).flatten()
        if moved.sum() - moved[i].to(torch.int64) != 0:
            return False
    return True


def _is_bilinear(f: Callable[..., Tensor], x: list[Tensor], z: list[Tensor]) -> bool:
    first = _close(f(2.0 * x[0] - 3.0 * z[0], x[1]), 2.0 * f(x[0], x[1]) - 3.0 * f(z[0], x[1]))
    return first and _close(f(x[0], 2.0 * x[1] - 3.0 * z[1]), 2.0 * f(x[0], x[1]) - 3.0 * f(x[0], z[1]))


def _degree(f: Callable[..., Tensor], x: list[Tensor]) -> float | None:
    y, doubled, tripled = f(*x), f(*[2.0 * t for t in x]), f(*[3.0 * t for t in x])
    if not (y.isfinite().all() and doubled.isfinite().all()) or float(y.abs().max()) == 0.0:
        return None
    k = round(math.log2(float(doubled.abs().max() / y.abs().max())) * 4) / 4
    fits = _close(doubled, 2.0**k * y) and _close(tripled, 3.0**k * y)
    return k if fits and k != 0 else None
