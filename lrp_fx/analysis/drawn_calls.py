"""Drawn calls: an operation run on drawn values, and what of its result changes with parts of its operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lrp_fx.analysis.probing import Unprobed, drawn_shapes, drawn_value, generators_restored, halved, real
from lrp_fx.errors import raise_if_out_of_memory
from lrp_fx.ir.graph import ancestors, value_of
from lrp_fx.ir.operators import run_call
from lrp_fx.ir.passes import is_own_fault
from lrp_fx.ir.sizes import hint

#: A change is seen where it is this large, beside the largest value (in single precision: the second).
_SEEN = {True: 1e-9, False: 1e-4}
#: What is added to values that are drawn anew, so that each may become the largest or the smallest.
_STEPS = (0.0, 40.0, -40.0)
#: Constants with more elements are drawn.
_LARGEST_CONSTANT = 1 << 16

Answer = TypeVar("Answer")


class DrawnCall:
    """A call on drawn values; ``varied``: the operands that can be drawn anew. ``part``: which of several results.

    ``has_weights``, ``knows_indices``: are there other operands of numbers; do their indices depend on no input?
    Raises `Unprobed` where its results are not finite.
    """

    def __init__(self, node: fx.Node, part: Any, varied: set[fx.Node], wide: bool, smaller: bool) -> None:
        self.node, self.part, self.wide = node, part, wide
        self.flat, self.spec = pytree.tree_flatten((tuple(node.args), dict(node.kwargs)), is_leaf=lambda x: x is None)
        self.shapes = drawn_shapes(self.flat, smaller)
        self.places = {i: a for i, a in enumerate(self.flat) if isinstance(a, fx.Node) and a in varied}
        others = [a for i, a in enumerate(self.flat) if i not in self.places and isinstance(a, fx.Node)]
        self.knows_indices = all(
            constant(a) is not None for a in others if isinstance(value_of(a), Tensor) and not _is_float(a)
        )
        self.has_weights = any(i not in self.places and _is_float(a) for i, a in enumerate(self.flat))
        self.pairs = next((found for domain in range(3) if (found := self._pairs(domain))), [])
        if not self.pairs:
            raise Unprobed("its results on drawn values are not finite")
        self.results = [self.run(x) for x, _ in self.pairs]
        self.shape = tuple(self.results[0].shape)

    def sizes(self, operand: fx.Node) -> tuple[int, ...]:
        return self.shapes[next(i for i, a in self.places.items() if a is operand)]

    def is_repeatable(self) -> bool:
        """Does it give the same for the same values?"""
        return not bool(self._differs(self.run(self.pairs[0][0]), self.results[0]).any())

    def changed(self, masks: dict[fx.Node, Tensor]) -> Tensor:
        """Which elements of the result change when the operands' elements in ``masks`` (broadcast) are drawn anew."""
        found = torch.zeros(self.shape, dtype=torch.bool)
        for (x, z), before in zip(self.pairs, self.results, strict=True):
            values = list(x)
            for i, operand in self.places.items():
                if operand in masks:
                    values[i] = torch.where(masks[operand].to(x[i].device), z[i], x[i])
            found |= self._differs(self.run(values), before).cpu()
        return found

    def run(self, values: list[Any]) -> Tensor:
        """The result on other values of the flattened arguments."""
        copies = [v.clone() if isinstance(v, Tensor) else v for v in values]
        args, kwargs = pytree.tree_unflatten(copies, self.spec)
        out = run_call(self.node, *args, **kwargs)
        result: Tensor = out if self.part is None else out[self.part]
        return result

    def _pairs(self, domain: int) -> list[tuple[list[Any], list[Any]]]:
        """Values and what they are drawn anew as, a few times over, where the results are finite.

        ``domain``: 0 for values of both signs and any size, 1 for positive ones, 2 for such within (-1, 1).
        """
        found = []
        for draw, step in enumerate(_STEPS if domain < 2 else _STEPS[:1]):
            x = [_inside(self._value(i, 10 * draw + i, draw), domain) for i in range(len(self.flat))]
            z = list(x)
            for i, a in self.places.items():
                anew = self._value(i, 1000 + 10 * draw + i, (draw + 1) % 3)
                z[i] = _inside(anew + step if _is_float(a) else anew, domain)
            if all(bool(torch.isfinite(self.run(values)).all()) for values in (x, z)):
                found.append((x, z))
        return found

    def _value(self, place: int, seed: int, draw: int) -> Any:
        """A value for one argument: what indices that depend on no input are, everything else drawn."""
        a = self.flat[place]
        if isinstance(a, fx.Node) and isinstance(value_of(a), Tensor) and not _is_float(a):
            known = constant(a)
            if known is not None:
                return known
        return drawn_value(a, self.shapes.get(place), self.wide, seed, draw, self.shapes)

    def _differs(self, a: Tensor, b: Tensor) -> Tensor:
        """Which elements are other than by rounding?"""
        if a.shape != b.shape:
            raise Unprobed("how large its results are depends on values")
        if not (a.is_floating_point() or a.is_complex()):
            return a != b
        gap, size = real(a) - real(b), real(b).abs()
        seen = gap.abs() > _SEEN[self.wide] * (float(size.max()) if size.numel() else 0.0)
        return seen.any(-1) if a.is_complex() else seen


def ask_drawn(
    node: fx.Node, part: Any, varied: set[fx.Node], shape: tuple[int, ...], ask: Callable[[DrawnCall], Answer | None]
) -> Answer | None:
    """The first answer on a drawn call of an operation whose result has that shape; None where none can be run.

    Sizes are smaller and numbers wider first, where the operation takes them.
    """
    for wide in (True, False):
        for smaller in (True, False):
            try:
                with generators_restored(node), torch.no_grad():
                    call = DrawnCall(node, part, varied, wide, smaller)
                    fits = len(call.shape) == len(shape) and all(
                        n in ((s, halved(s)) if smaller else (s,)) for n, s in zip(call.shape, shape, strict=True)
                    )
                    if fits and (answer := ask(call)) is not None:
                        return answer
            except Unprobed:
                continue
            except Exception as error:  # of the operation, on values that it does not take
                raise_if_out_of_memory(error)
                if is_own_fault(error):
                    raise
    return None


def _is_float(a: Any) -> bool:
    value = value_of(a) if isinstance(a, fx.Node) else None
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _inside(value: Any, domain: int) -> Any:
    """A drawn value as it is, positive, or within (-1, 1)."""
    if domain == 0 or not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.abs() + 0.25 if domain == 1 else 0.9 * value.tanh()


def constant(node: fx.Node) -> Tensor | None:
    """The value of what depends on no input, for the traced sizes; None for what does, or is large."""
    needed = ancestors([node])
    values = [value_of(n) for n in needed]
    if any(n.op == "placeholder" and isinstance(v, Tensor) for n, v in zip(needed, values, strict=True)):
        return None
    if sum(hint(v.numel()) for v in values if isinstance(v, Tensor)) > _LARGEST_CONSTANT:
        return None
    known: dict[fx.Node, Any] = {}
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    for n in sorted(needed, key=order.__getitem__):
        value = value_of(n)
        if n.op == "get_attr":
            known[n] = getattr(n.graph.owning_module, str(n.target))
        elif isinstance(value, (Tensor, list, tuple)):
            args, kwargs = fx.map_arg((n.args, n.kwargs), known.__getitem__)
            known[n] = run_call(n, *args, **kwargs)
        else:
            known[n] = hint(value) if isinstance(value, torch.SymInt) else value
    return known[node] if isinstance(known[node], Tensor) else None
