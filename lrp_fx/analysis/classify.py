"""Classify: tell the class of an operation that no rule lists, from its schema and from what it does to drawn values.

In this order: move (each result is one of the values, wherever it came from), linear or affine (in all carriers
jointly), elementwise, route (each result is one of the values, chosen by value), normalise (the operand times a
statistic), product (linear in each carrier apart), homogeneous (of a degree in each carrier apart, or in all jointly).
What is none of them takes the tangent, and is reported. A function of degree 0 that is no multiple of its operand is
none of them: Euler's theorem gives it nothing to share out, and which part of it is a statistic cannot be measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lrp_fx.analysis.probing import DOUBLE, SINGLE, Trial, Unprobed, generators_restored, real, trials_of
from lrp_fx.errors import raise_if_out_of_memory
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.sizes import hint


@dataclass(frozen=True)
class Inferred:
    """The class found (a rule kind), why, and facts for the rule (``derivative``: False where autograd has none)."""

    kind: str
    why: str
    facts: Mapping[str, Any] = field(default_factory=dict)


_cache: dict[Any, Inferred] = {}


def infer(node: fx.Node, operands: list[fx.Node]) -> Inferred:
    """Classify ``node`` as a function of its carrying ``operands``; cached by operation, static arguments and
    shapes.
    """
    flat, spec = pytree.tree_flatten((tuple(node.args), dict(node.kwargs)), is_leaf=lambda x: x is None)
    key = (str(node.target), id(node.target), str(spec), tuple(_signature(a, a in operands) for a in flat))
    if key not in _cache:
        if len(_cache) > 4096:
            _cache.clear()
        with generators_restored(node):
            _cache[key] = _infer(node, operands)
    return _cache[key]


def _signature(a: Any, carries: bool) -> Any:
    if isinstance(a, fx.Node):
        val = value_of(a)
        return (
            (carries, tuple(hint(s) for s in val.shape), str(val.dtype))
            if isinstance(val, Tensor)
            else ("scalar", str(hint(val) if isinstance(val, torch.SymInt) else val))
        )
    return repr(a)


def _infer(node: fx.Node, operands: list[fx.Node]) -> Inferred:
    name, tags = op_name(node), getattr(node.target, "tags", [])
    if torch.Tag.nondeterministic_seeded in tags:
        return Inferred("tangent", f"{name} draws random numbers")
    if _is_view(node, operands):
        return Inferred("move", f"{name} is a view, says its schema", {"affine": False})
    try:
        with torch.no_grad():
            trials = trials_of(node, operands)
            found = _classify(trials, name, pointwise=torch.Tag.pointwise in tags)
            if found.kind == "tangent":  # it may compute in float32 inside
                trials = [replace(t, tolerance=max(t.tolerance, SINGLE)) for t in trials]
                found = _classify(trials, name, pointwise=torch.Tag.pointwise in tags)
        missing = _derivative_problem(trials)
    except Unprobed as error:
        return Inferred("tangent", f"{name} is in no rule and could not be probed: {error}")
    if missing is None:
        return found
    return Inferred(found.kind, f"{found.why}, but {missing}", {**found.facts, "derivative": False})


def _is_view(node: fx.Node, operands: list[fx.Node]) -> bool:
    """Does the schema say that the results share a carrier's memory? Then they are made of its values.

    Views of complex numbers (which may be conjugated) and in another type (which reinterpret bits) are probed.
    """
    schema = getattr(node.target, "_schema", None)
    if (
        schema is None
        or op_name(node) == "aten._neg_view"
        or not schema.returns
        or any(r.alias_info is None or r.alias_info.is_write for r in schema.returns)
    ):
        return False
    shared = [a for p, a in zip(schema.arguments, node.args, strict=False) if p.alias_info is not None]
    values = [value_of(a) if isinstance(a, fx.Node) else a for a in shared]
    results = [r for r in pytree.tree_leaves(value_of(node)) if isinstance(r, Tensor)]
    return (
        len(shared) == 1
        and shared[0] in operands
        and isinstance(values[0], Tensor)
        and not values[0].is_complex()
        and all(r.dtype == values[0].dtype for r in results)
    )


def _classify(trials: list[Trial], name: str, *, pointwise: bool) -> Inferred:
    n = len(trials[0].x)
    if not all(t.same(t.f(t.x), t.f(t.x)) for t in trials):
        return Inferred("tangent", f"{name} gives other results for the same values")
    if all(map(_is_linear, trials)):
        affine = not all(_is_zero(_at_zero(t)) for t in trials)
        if not affine and all(map(_selects, trials)):
            return Inferred(
                "move" if n == 1 else "route", f"{name} was found to place values unchanged", {"affine": False}
            )
        return Inferred(
            "linear", f"{name} was found to be {'affine' if affine else 'linear'}{_jointly(n)}", {"affine": affine}
        )
    degrees = _degrees(trials)
    if n == 1 and _keeps_type(trials[0]) and (pointwise or all(map(_is_elementwise, trials))):
        reason = (
            f"{name} "
            f"{'acts on each element alone, says its tag' if pointwise else 'was found to act on each element alone'}"
        )
        if all(_finite(_at_zero(t)) for t in trials):
            return Inferred("elementwise", reason)
        if degrees is not None and len(degrees) == 1:
            return Inferred("elementwise", f"{reason}, with degree {degrees[0][0]:g}", {"power": True})
        return Inferred("tangent", f"{reason}, but has no finite value at 0 and no degree")
    if all(map(_selects, trials)):
        return Inferred("route", f"{name} was found to choose among the values")
    if n == 1 and (axes := _statistic_axes(trials)) is not None:
        return Inferred(
            "normalise", f"{name} was found to multiply its operand by one number along axes {axes}", {"axes": axes}
        )
    return _homogeneous(trials, name, degrees)


def _homogeneous(trials: list[Trial], name: str, degrees: tuple[tuple[float, ...], ...] | None) -> Inferred:
    n = len(trials[0].x)
    if n > 1 and all(_is_linear(_only(t, i)) and _is_zero(_at_zero(_only(t, i))) for t in trials for i in range(n)):
        return Inferred(
            "product",
            f"{name} was found to be {'bilinear' if n == 2 else f'{n}-linear'}: linear in each of {n} operands apart",
        )
    if degrees is not None and all(k != 0 for row in degrees for k in row):
        stated = "; ".join(", ".join(f"{k:g}" for k in row) for row in dict.fromkeys(degrees))
        return Inferred(
            "homogeneous",
            f"{name} was found to be homogeneous of degree {stated}{' in its operands apart' if n > 1 else ''}",
            {"degrees": degrees},
        )
    joint = None if n == 1 else _degrees([_together(t) for t in trials])
    if joint is not None and all(row[0] != 0 for row in joint):
        stated = ", ".join(f"{row[0]:g}" for row in dict.fromkeys(joint))
        return Inferred(
            "homogeneous",
            f"{name} was found to be homogeneous of degree {stated}{_jointly(n)}",
            {"degrees": tuple((row[0] / n,) * n for row in joint)},
        )
    scaleless = [k for k in (degrees, joint) if k is not None and any(v == 0 for row in k for v in row)]
    if scaleless:
        return Inferred(
            "tangent",
            f"{name} does not change with the scale of an operand, but is no multiple of it: which part is a "
            "statistic cannot be inferred",
        )
    return Inferred(
        "tangent",
        f"{name} is in no rule, and neither linear, elementwise, a choice, a product nor homogeneous was found by "
        "probing",
    )


# ------------------------------------------------------------------------------------------------ what is measured
def _jointly(n: int) -> str:
    return " in all its operands jointly" if n > 1 else ""


def _at_zero(t: Trial) -> list[Tensor]:
    return t.f([torch.zeros_like(x) for x in t.x])


def _is_zero(ys: Sequence[Tensor]) -> bool:
    return not any(bool((y != 0).any()) for y in ys)


def _finite(ys: Sequence[Tensor]) -> bool:
    return all(bool(y.isfinite().all()) for y in ys)


def _keeps_type(t: Trial) -> bool:
    """Are the results real where the operand is (the modulus of a complex number is no multiple of it)?"""
    return not t.x[0].is_complex()


def _is_linear(t: Trial) -> bool:
    """Affine in all carriers jointly: sums, differences and multiples from tiny to huge (a clamp far out is none)."""
    zero = _at_zero(t)
    if not _finite(zero):
        return False
    y, w = t.f(t.x), t.f(t.z)
    for a, b in ((0.5, 2.0), (2.0, -3.0)) if t.signed else ((0.5, 2.0),):
        mixed = t.f([a * p + b * q for p, q in zip(t.x, t.z, strict=True)])
        if not t.same(mixed, [a * p + b * q + (1 - a - b) * o for p, q, o in zip(y, w, zero, strict=True)], y, w, zero):
            return False
    return all(
        t.same(t.f([s * p for p in t.x]), [s * p + (1 - s) * o for p, o in zip(y, zero, strict=True)], zero)
        for s in t.scales
    )


def _selects(t: Trial) -> bool:
    """Is every element of the results one of the carriers' (or zero, but not all of them), exactly, tiny or huge?"""
    for scale in (1.0, *t.scales):
        xs = [scale * x for x in t.x]
        known = torch.cat([torch.zeros(1, dtype=torch.float64, device=xs[0].device), *(real(x).flatten() for x in xs)])
        if not all(bool(torch.isin(y, known).all()) and (bool((y != 0).any()) or not y.numel()) for y in t.f(xs)):
            return False
    return True


def _is_elementwise(t: Trial) -> bool:
    """Does each result depend on one element of the operand only, the one it is aligned with?

    Elements are changed in groups, those with a one (then with a zero) at each binary digit of their number: any two
    elements are in different groups at some digit, so that no dependence between them escapes.
    """
    x, ys = t.x[0], t.f(t.x)
    number = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    try:
        aligned = [number.expand(y.shape) for y in ys]
    except RuntimeError:
        return False
    for digit in range(max(x.numel() - 1, 1).bit_length()):
        for bit in (0, 1):
            chosen = (number >> digit) & 1 == bit
            moved = t.f([torch.where(chosen, t.z[0], x)])
            if any(
                bool(((m != y) & ((own >> digit) & 1 != bit)).any())
                for m, y, own in zip(moved, ys, aligned, strict=True)
            ):
                return False
    return True


def _statistic_axes(trials: list[Trial]) -> tuple[int, ...] | None:
    """Axes (from the right) along which result over operand is one number, at every draw."""
    x, ys = trials[0].x[0], trials[0].f(trials[0].x)
    if len(ys) != 1 or ys[0].shape != x.shape or x.is_complex() or not all(t.signed for t in trials):
        return None

    def is_constant(t: Trial, v: Tensor, axis: int) -> bool:
        ratio = t.f([v])[0] / real(v)
        return bool(
            (
                (ratio - ratio.mean(axis, keepdim=True)).abs()
                <= 100 * t.tolerance * ratio.abs().amax(axis, keepdim=True)
            ).all()
        )

    axes = tuple(
        a
        for a in range(-x.dim(), 0)
        if x.shape[a] > 1 and all(is_constant(t, v, a) for t in trials for v in (t.x[0], t.z[0]))
    )
    return axes or None


def _only(t: Trial, i: int) -> Trial:
    """The trial as a function of carrier ``i`` alone."""
    return Trial(lambda xs: t.f([*t.x[:i], *xs, *t.x[i + 1 :]]), [t.x[i]], [t.z[i]], t.signed, t.tolerance, t.scales)


def _together(t: Trial) -> Trial:
    """The trial as a function of one number by which all carriers are multiplied."""
    one = torch.ones((), dtype=torch.float64, device=t.x[0].device)
    return Trial(
        lambda xs: t.f([xs[0].to(x.real.dtype if x.is_complex() else x.dtype) * x for x in t.x]),
        [one],
        [one],
        t.signed,
        t.tolerance,
        t.scales,
    )


def _degrees(trials: list[Trial]) -> tuple[tuple[float, ...], ...] | None:
    """Degree of each result in each carrier, the others fixed: (results, carriers); None unless all have one."""
    results = []
    for k in range(len(trials[0].f(trials[0].x))):
        row = [_degree([_only(t, i) for t in trials], k) for i in range(len(trials[0].x))]
        if any(d is None for d in row):
            return None
        results.append(tuple(d for d in row if d is not None))
    return tuple(results)


def _degree(trials: list[Trial], result: int) -> float | None:
    degree: float | None = None
    for t in trials:
        y = t.f(t.x)[result]
        if not y.numel() or float(y.abs().max()) == 0.0:
            continue
        doubled, tripled = (t.f([s * t.x[0]])[result] for s in (2.0, 3.0))
        if not _finite([doubled, tripled]) or float(doubled.abs().max()) == 0.0:
            return None
        k = math.log2(float(doubled.abs().max() / y.abs().max()))
        k = round(k * 12) / 12 if abs(k - round(k * 12) / 12) <= 10 * t.tolerance else k
        far = [(s, t.f([s * t.x[0]])[result]) for s in t.scales if abs(k) * abs(math.log2(s)) < 100]
        if (degree is not None and abs(k - degree) > 10 * t.tolerance) or not all(
            t.same([v], [s**k * y]) for s, v in [(2.0, doubled), (3.0, tripled), *far]
        ):
            return None
        degree = k
    return degree


# ------------------------------------------------------------------------------------------------ derivatives
def _derivative_problem(trials: list[Trial]) -> str | None:
    """What is wrong with the operation's derivative, if anything: none, or another than differences say."""
    for t in trials:
        leaves = [x.clone().requires_grad_() for x in t.x]
        try:
            with torch.enable_grad():
                ys = t.f(leaves)
                seeds = [
                    torch.cos(torch.arange(y.numel(), dtype=torch.float64, device=y.device)).reshape(y.shape)
                    for y in map(real, ys)
                ]
                total = sum(
                    ((real(y) * s).sum() for y, s in zip(ys, seeds, strict=True)),
                    torch.zeros((), dtype=torch.float64, device=leaves[0].device),
                )
                grads = (
                    torch.autograd.grad(total, leaves, allow_unused=True)
                    if total.requires_grad
                    else (None,) * len(leaves)
                )
        except (RuntimeError, NotImplementedError) as error:
            raise_if_out_of_memory(error)
            return f"it has no derivative ({next(iter(str(error).splitlines()), '')[:100]})"
        given = [torch.zeros_like(x) if g is None else g for g, x in zip(grads, t.x, strict=True)]
        # along the derivative itself nothing cancels; along the draw nothing that it lacks escapes
        for along in (
            t.z,
            given,
        ):
            problem = _compare(t, given, along, seeds)
            if problem is not None:
                return (
                    "it has no derivative (autograd does not reach its operands)"
                    if all(g is None for g in grads)
                    else problem
                )
    return None


def _compare(t: Trial, grads: Sequence[Tensor], along: Sequence[Tensor], seeds: Sequence[Tensor]) -> str | None:
    """The derivative along a direction against differences to both sides (which differ at a kink: either is right)."""
    h, rounding = (
        (1e-6, 1e-13) if t.tolerance <= DOUBLE else (0.01, 1e-5) if t.tolerance <= SINGLE else (0.125, t.tolerance)
    )
    steps = [h * d / d.abs().max().clamp_min(1e-30) if d.numel() else d for d in along]

    def value(factor: float) -> Tensor:
        return torch.stack(
            [
                (y * s).sum()
                for y, s in zip(t.f([x + factor * d for x, d in zip(t.x, steps, strict=True)]), seeds, strict=True)
            ]
        )

    with torch.no_grad():
        up, here, down = (value(factor) for factor in (1.0, 0.0, -1.0))
        parts = torch.cat([(real(g) * real(d)).flatten() for g, d in zip(grads, steps, strict=True)])
        forward, backward, told = float((up - here).sum()), float((here - down).sum()), float(parts.sum())
        slack = (
            abs(forward - backward)
            + 0.01 * max(abs(told), abs(forward))
            + 1e-4 * float(parts.abs().sum())
            + rounding * float(here.abs().sum())
        )
    if min(abs(forward - told), abs(backward - told)) <= slack:
        return None
    return f"its derivative is not that of its values ({told / h:.3g} where differences give {forward / h:.3g})"
