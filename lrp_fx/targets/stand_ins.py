"""Stand-ins: inputs in the place of tensors that a function reads, with sizes that follow those of the output.

requires  a function that is run on an abstract output
ensures   what it reads by example (labels) or by token has as many rows as the output in other calls too; nothing is
          replaced where the function then fits fewer outputs than without
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

#: A size as it is told: a number, or one that follows the output's: its examples, its rows, one row less.
EXAMPLES, ROWS, ONE_LESS = "examples", "rows", "rows - 1"
Size = int | str


def told(tensor: Tensor, shape: Sequence[int]) -> tuple[Size, ...]:
    """The sizes of a tensor that is read beside an output of this shape."""
    names: dict[int, str] = {shape[1] - 1: ONE_LESS, shape[1]: ROWS} if len(shape) > 2 else {}
    first = {shape[0]: EXAMPLES} if len(shape) > 1 and shape[0] > 1 else {}
    sizes = [(names | first if axis == 0 else names).get(n, n) for axis, n in enumerate(tensor.shape)]
    return tuple(n if n < 2 else name for n, name in zip(tensor.shape, sizes, strict=True))


def follows(sizes: Sequence[Size]) -> bool:
    """Does any of them follow the output's?"""
    return any(isinstance(size, str) for size in sizes)


def actual(sizes: Sequence[Size], shape: Sequence[Any]) -> list[Any]:
    """The sizes beside an output of this (perhaps symbolic) shape."""
    rows = shape[1] if len(shape) > 1 else 1
    known = {EXAMPLES: shape[0], ROWS: rows, ONE_LESS: rows - 1}
    return [known[size] if isinstance(size, str) else size for size in sizes]


class OtherwiseError(Exception):
    """The function reads other tensors than the first time."""


def is_abstract(value: Any) -> bool:
    """Does a value depend on the output, or may it (inside a transformation of `torch.func`)?"""
    if isinstance(value, Tensor):
        return isinstance(value, FakeTensor) or torch._C._functorch.is_functorch_wrapped_tensor(value)
    return isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))


@dataclass
class Met:
    """The tensors that met the output, in the order in which they did; ``by``: what stands for them, if anything.

    ``real``: is what does not depend on the output computed for real? ``made``: and what is made of numbers only? (What
    depends on the output cannot be written into these.)
    """

    made: bool = True
    real: bool = True
    tensors: list[Tensor] = field(default_factory=list)
    known: list[Tensor] = field(default_factory=list)  # the same as the function has them
    by: Sequence[Tensor] = ()

    def instead(self, value: Any) -> Any:
        """What stands for a value; notes tensors that were not met before."""
        if not isinstance(value, Tensor) or is_abstract(value):
            return value
        number = next((i for i, known in enumerate(self.known) if known is value), len(self.known))
        if number == len(self.known):
            self.known.append(value)
            self.tensors.append(_tracked(value))
        if not self.by:
            return self.tensors[number]
        if number >= len(self.by) or self.by[number].dtype != value.dtype or self.by[number].dim() != value.dim():
            raise OtherwiseError
        return self.by[number]


def _tracked(value: Tensor) -> Tensor:
    """A tensor that was made in inference mode cannot be differentiated beside: a copy of it can."""
    if not value.is_inference():
        return value
    with torch.inference_mode(False):
        return value.clone()


class Tracking(TorchFunctionMode):
    """For a function that is run on real values with gradients: what was made in inference mode is copied."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = pytree.tree_leaves((args, kwargs or {}))
        if any(isinstance(value, Tensor) and value.is_inference() for value in given):
            args, kwargs = pytree.tree_map_only(Tensor, _tracked, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


class Meeting(TorchFunctionMode):
    """Replaces, in calls that have something abstract among their arguments, what is not."""

    def __init__(self, met: Met) -> None:
        super().__init__()
        self.met = met

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = pytree.tree_leaves((args, kwargs))
        if any(isinstance(value, Tensor) and is_abstract(value) for value in given):
            args, kwargs = pytree.tree_map(self.met.instead, (args, kwargs))
        elif self._is_real(given):
            with _real():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _is_real(self, given: Sequence[Any]) -> bool:
        """Does a call say nothing of the output? (What makes tensors inside it makes real ones, too.)"""
        if not self.met.real or any(map(is_abstract, given)):
            return False
        return self.met.made or any(isinstance(value, Tensor) for value in given)


@contextmanager
def _real() -> Iterator[None]:
    with _disable_current_modes():
        yield


def meeting(function: Callable[[Tensor], Tensor], met: Met) -> Callable[[Tensor], Tensor]:
    """The function, whose tensors are noted, or replaced."""

    def run(output: Tensor) -> Tensor:
        with Meeting(met):
            return function(output)

    return run
