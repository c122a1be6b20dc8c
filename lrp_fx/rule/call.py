"""Calls: one application of an operation, as a surrogate sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lrp_fx.ir.operators import operation_name


@dataclass(frozen=True)
class Call:
    """One application of an operation, with real or abstract values in place of its arguments.

    ``carriers``: positions (in flattened ``(args, kwargs)``) of the operands that carry relevance.
    ``factors``: for each carrying position, of how many factors its product chain consists (1 if it is none).
    ``masks``: positions of floating operands that only mask (0 and -inf, or the type's lowest number).
    ``facts``: what inference found out about the operation (such as its degree of homogeneity); ``numbers``: (position,
    number) of factors that are a sum with a number.
    ``value``: the operation's own result where the machine has it already, else None.
    ``bases``: by position, what an operand is where all that carries relevance in it is nothing (the weights that
    attention begins with, a mask among scores); none where that is 0, and for rules that are not ``based``.
    """

    op: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    carriers: frozenset[int] = frozenset()
    factors: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    masks: frozenset[int] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    value: Any = None
    bases: Mapping[int, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def name(self) -> str:
        """The operation without its overload: ``aten.mul``, ``aten.layer_norm``, ``mine.op`` for a custom one."""
        return operation_name(self.op)

    def flat(self) -> list[Any]:
        return pytree.tree_leaves((self.args, dict(self.kwargs)), is_leaf=lambda x: x is None)

    def with_flat(self, flat: Sequence[Any]) -> Call:
        _, spec = pytree.tree_flatten((self.args, dict(self.kwargs)), is_leaf=lambda x: x is None)
        args, kwargs = pytree.tree_unflatten(list(flat), spec)
        return replace(self, args=tuple(args), kwargs=kwargs)

    def operand(self, position: int) -> Any:
        return self.flat()[position]

    def operands(self) -> list[Tensor]:
        """The carrying operands, in order."""
        flat = self.flat()
        return [flat[i] for i in sorted(self.carriers)]

    def map(self, edit: Callable[[int, Any], Any]) -> Call:
        """The same call with every flattened argument ``a`` at position ``i`` replaced by ``edit(i, a)``."""
        return self.with_flat([edit(i, a) for i, a in enumerate(self.flat())])

    def put(self, values: Mapping[int, Any]) -> Call:
        """The same call with other arguments at the given flattened positions."""
        return self.map(lambda i, a: values.get(i, a))

    def run(self) -> Any:
        return self.op(*self.args, **self.kwargs)

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """A positional-or-keyword argument of the operation."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)


def covers(prefix: str, names: str) -> tuple[str, ...]:
    """Operation names with a namespace: ``covers("aten", "add sub")`` -> ``("aten.add", "aten.sub")``."""
    return tuple(f"{prefix}.{name}" for name in names.split())


def sample(
    op: Callable[..., Any],
    *args: Any,
    carriers: Sequence[int] = (0,),
    factors: Mapping[int, int] | None = None,
    facts: Mapping[str, Any] | None = None,
    bases: Mapping[int, Tensor] | None = None,
    **kwargs: Any,
) -> Call:
    """A call for the laws: positions in ``carriers`` carry relevance."""
    factors = factors or dict.fromkeys(carriers, 1)
    return Call(op, args, kwargs, frozenset(carriers), factors, facts=facts or {}, bases=bases or {})


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers for samples, the same in every run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def constant_part(call: Call) -> Tensor:
    """The value an affine operation takes where its carriers are zero."""
    result: Tensor = call.map(lambda i, a: torch.zeros_like(a) if i in call.carriers else a).run()
    return result
