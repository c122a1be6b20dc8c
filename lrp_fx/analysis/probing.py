"""Probing: an operation run on drawn values in place of the program's, so that its class can be measured.

Draws come from generators of their own, the global generators are put back, and the work is bounded by the number of
elements and of runs, so that the answer is the same on every machine.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lrp_fx.errors import raise_if_out_of_memory
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.passes import is_own_fault
from lrp_fx.ir.sizes import hint

#: Elements of all operands together: with more, sizes are halved where the operation lets them be; never more than the
#: second.
SMALL, LARGEST = 1 << 14, 1 << 21
#: Accuracy to expect of float64 and of float32 arithmetic.
DOUBLE, SINGLE = 1e-9, 2e-5
_HALVES = (torch.float16, torch.bfloat16)
_WIDE = {True: torch.complex128, False: torch.float64}


class Unprobed(Exception):
    """The operation cannot be probed; the message says why."""


@dataclass(frozen=True)
class Trial:
    """A function of the carriers with everything else fixed, two draws of the carriers, and the accuracy to expect.

    ``signed``: may values be negative (square roots and logarithms are drawn positive)? ``scales``: multiples to try.
    """

    f: Callable[[Sequence[Tensor]], list[Tensor]]
    x: list[Tensor]
    z: list[Tensor]
    signed: bool
    tolerance: float
    scales: tuple[float, ...]

    def same(self, a: Sequence[Tensor], b: Sequence[Tensor], *others: Sequence[Tensor]) -> bool:
        """Equal to rounding, which is relative to the largest value and to what has cancelled (``others``)?"""
        if any(s.shape != t.shape for s, t in zip(a, b, strict=True)):
            return False
        for k, (s, t) in enumerate(zip(a, b, strict=True)):
            scale = max([_largest(s), _largest(t), *(_largest(o[k]) for o in others)])
            if math.isinf(scale) or not _largest(s - t) <= self.tolerance * scale:
                return False
        return True


def _largest(t: Tensor) -> float:
    return float(t.abs().max()) if t.numel() else 0.0


@contextlib.contextmanager
def generators_restored(node: fx.Node) -> Iterator[None]:
    """Whatever the operation draws, the global generators are as they were."""
    values = [value_of(n) for n in node.all_input_nodes]
    devices = {v.device.index or 0 for v in values if isinstance(v, Tensor) and v.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        yield


def trials_of(node: fx.Node, operands: Sequence[fx.Node]) -> list[Trial]:
    """Trials in float64; in the operation's own types where it has no such kernel. Raises `Unprobed`."""
    flat, spec = pytree.tree_flatten((tuple(node.args), dict(node.kwargs)), is_leaf=lambda x: x is None)
    carriers = [i for i, a in enumerate(flat) if isinstance(a, fx.Node) and a in operands]
    reasons: list[str] = []
    for wide in (True, False):
        for smaller in (True, False):
            try:
                return list(_trials(node, flat, spec, carriers, wide, smaller))
            except Unprobed as error:
                reasons.append(str(error))
            except Exception as error:  # of the operation, on values that it does not take
                raise_if_out_of_memory(error)
                if is_own_fault(error):
                    raise
                reasons.append(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:120]}")
    raise Unprobed(reasons[0] if len(set(reasons)) == 1 else "; ".join(dict.fromkeys(reasons)))


def _trials(
    node: fx.Node, flat: list[Any], spec: pytree.TreeSpec, carriers: list[int], wide: bool, smaller: bool
) -> Iterator[Trial]:
    shapes = drawn_shapes(flat, smaller)
    indexed = any(_is_discrete(a) for a in flat)
    accepted, refusal = 0, None
    for draw in range(3 if indexed else 2):
        base = [drawn_value(a, shapes.get(i), wide, 10 * draw + i, draw, shapes) for i, a in enumerate(flat)]
        try:
            trial = _trial(node, base, spec, carriers, wide)
        except Exception as error:  # an index out of range, say: another draw may do
            raise_if_out_of_memory(error)
            if is_own_fault(error):
                raise
            refusal = error
            continue
        if smaller:
            _check_shapes(node, flat, shapes, trial.f(trial.x))
        accepted += 1
        yield trial
    if accepted < (2 if indexed else 1):
        raise (
            Unprobed("its integer operands must obey more than a range")
            if accepted
            else (refusal or Unprobed("nothing to draw"))
        )


def _trial(node: fx.Node, base: list[Any], spec: pytree.TreeSpec, carriers: list[int], wide: bool) -> Trial:
    target: Callable[..., Any] = node.target  # type: ignore[assignment]
    undefined: list[Tensor] = []

    def f(xs: Sequence[Tensor]) -> list[Tensor]:
        values = [v.clone() if isinstance(v, Tensor) else v for v in base]
        for i, x in zip(carriers, xs, strict=True):
            values[i] = x if x.requires_grad else x.clone()
        args, kwargs = pytree.tree_unflatten(values, spec)
        try:
            out = target(*args, **kwargs)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            if not undefined:  # the inverse of zero is refused, where a division gives NaN
                raise
            return [u.clone() for u in undefined]
        floats = [
            o for o in pytree.tree_leaves(out) if isinstance(o, Tensor) and (o.is_floating_point() or o.is_complex())
        ]
        undefined[:] = undefined or [torch.full_like(real(o.detach()), torch.nan) for o in floats]
        return [o if o.requires_grad else real(o) for o in floats]

    x = [base[i] for i in carriers]
    z = [_noise(t.shape, t.dtype, 1000 + i).to(t.device) for i, t in zip(carriers, x, strict=True)]
    x, z, signed = _in_domain(f, base, carriers, x, z)
    narrow = [t.dtype for t in x if t.dtype in _HALVES]
    tolerance = 8 * torch.finfo(narrow[0]).eps if narrow else DOUBLE if wide else SINGLE
    return Trial(f, x, z, signed, tolerance, (2.0**-5, 2.0**5) if narrow else (2.0**-16, 2.0**20))


def _in_domain(
    f: Callable[[Sequence[Tensor]], list[Tensor]],
    base: list[Any],
    carriers: list[int],
    x: list[Tensor],
    z: list[Tensor],
) -> tuple[list[Tensor], list[Tensor], bool]:
    """The draws where the operation is finite on them: as drawn, else coefficients positive (variances), else carriers
    too, or within (-1, 1).

    The third value tells whether carriers are of both signs and any size.
    """

    def positive(t: Tensor) -> Tensor:
        return t if t.is_complex() else t.abs() + 0.25

    for attempt in range(4):
        if attempt == 1:
            for i, a in enumerate(base):
                if i not in carriers and isinstance(a, Tensor) and a.is_floating_point():
                    base[i] = positive(a)
        edit = (lambda t: t, lambda t: t, positive, lambda t: t if t.is_complex() else 0.9 * t.tanh())[attempt]
        drawn = [[edit(t) for t in ts] for ts in (x, z)]
        if all(bool(y.isfinite().all()) for ts in drawn for y in f(ts)):
            return drawn[0], drawn[1], attempt < 2
    raise Unprobed("its results on drawn values are not finite")


def real(t: Tensor) -> Tensor:
    """Results in float64, complex ones as pairs of numbers."""
    t = torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
    return t.to(torch.float64)


def drawn_shapes(flat: list[Any], smaller: bool) -> dict[int, tuple[int, ...]]:
    """Shape of each tensor operand, by position; sizes halved alike where that is asked for and worth while."""
    shapes = {
        i: tuple(hint(s) for s in value_of(a).shape)
        for i, a in enumerate(flat)
        if isinstance(a, fx.Node) and isinstance(value_of(a), Tensor)
    }
    total = sum(map(math.prod, shapes.values()))
    if smaller:
        if total <= SMALL:
            raise Unprobed("small already")
        return {i: tuple(map(halved, shape)) for i, shape in shapes.items()}
    if total > LARGEST:
        raise Unprobed("its operands are too large to probe")
    return shapes


def halved(size: int) -> int:
    while size > 8 and size % 2 == 0:
        size //= 2
    return size


def _check_shapes(node: fx.Node, flat: list[Any], shapes: dict[int, tuple[int, ...]], got: list[Tensor]) -> None:
    """Smaller operands must give correspondingly smaller results, else static arguments speak of sizes."""
    floats = [
        o
        for o in pytree.tree_leaves(value_of(node))
        if isinstance(o, Tensor) and (o.is_floating_point() or o.is_complex())
    ]
    for expected, result in zip(floats, got, strict=True):
        sizes = [hint(s) for s in expected.shape]
        shape = result.shape[:-1] if expected.is_complex() else result.shape
        if len(sizes) != len(shape) or any(
            small not in (size, halved(size)) for size, small in zip(sizes, shape, strict=True)
        ):
            raise Unprobed("its static arguments speak of sizes")


def _is_discrete(a: Any) -> bool:
    value = value_of(a) if isinstance(a, fx.Node) else None
    return isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()


def _noise(shape: Sequence[int], dtype: torch.dtype, seed: int) -> Tensor:
    drawn = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=_WIDE[dtype.is_complex])
    return drawn.to(dtype)


def drawn_value(
    a: Any, shape: tuple[int, ...] | None, wide: bool, seed: int, draw: int, shapes: dict[int, tuple[int, ...]]
) -> Any:
    """A value for one argument. Integers stay below the smallest size, so that as indices they are in range."""
    if not isinstance(a, fx.Node):
        return a
    val = value_of(a)
    if shape is None:
        return hint(val) if isinstance(val, (int, torch.SymInt)) else val
    if val.is_floating_point() or val.is_complex():
        return _noise(shape, _WIDE[val.is_complex()] if wide else val.dtype, seed).to(val.device)
    count = torch.arange(math.prod(shape))
    if val.dtype == torch.bool:
        mixed = torch.rand(count.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
        return (mixed if draw < 2 else torch.ones_like(mixed)).reshape(shape).to(val.device)
    smallest = min((s for other in shapes.values() for s in other if s > 1), default=1)
    patterns = ((5 * count + 3) % smallest, torch.zeros_like(count), (count + 1) % smallest)
    return patterns[draw].reshape(shape).to(dtype=val.dtype, device=val.device)
