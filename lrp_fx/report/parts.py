"""Parts: a result as one object, whose tensors are cut, moved or copied together.

requires  a result, or a part of one
ensures   the same of the same classes, with other tensors; tensors that were one stay one; nothing that was computed
          when it was first read is carried along

Examples come first in every tensor of a result, but for those named in `AXES`. A tensor of another length there (a
table that all examples share, a number) is nobody's, and stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lrp_fx.capture.outputs import closed, opened
from lrp_fx.errors import InputError

T = TypeVar("T")
#: (tensor, axis of its examples) -> the tensor that takes its place.
Change = Callable[[Tensor, int], Tensor]
#: Where the examples are in fields whose first axis counts something else (depths, leaves, sinks), by class.
AXES: dict[str, dict[str, int]] = {
    "Stream": {"depth": 1},
    "DepthBooks": {"leaves": 1, "sinks": 1, "passing": 1},
}


def changed(part: T, change: Change) -> T:
    """The same with other tensors."""
    return _changed(part, change, 0, {})  # type: ignore[no-any-return]


def _changed(part: Any, change: Change, axis: int, done: dict[int, Any]) -> Any:
    """``done``: what was made of tensors and objects so far, by number, beside themselves (or it might come again)."""
    if id(part) not in done:
        done[id(part)] = part, _made(part, change, axis, done)
    return done[id(part)][1]


def _made(part: Any, change: Change, axis: int, done: dict[int, Any]) -> Any:
    if isinstance(part, Tensor):
        return change(part, axis)
    if dataclasses.is_dataclass(part) and not isinstance(part, type) and type(part).__module__.startswith("lrp_fx."):
        axes = AXES.get(type(part).__name__, {})
        values = {
            f.name: output_changed(getattr(part, f.name), change)
            if f.name == "output"
            else _changed(getattr(part, f.name), change, axes.get(f.name, 0), done)
            for f in dataclasses.fields(part)
        }
        return dataclasses.replace(part, **values)
    if type(part) is dict:
        return {key: _changed(value, change, axis, done) for key, value in part.items()}
    if type(part) in (list, tuple):
        return type(part)(_changed(value, change, axis, done) for value in part)
    return part


def output_changed(output: Any, change: Change) -> Any:
    """A model's own output, of whatever classes, with other tensors."""
    held = opened(output)
    result = pytree.tree_map(lambda v: change(v, 0) if isinstance(v, Tensor) else v, output if held is None else held)
    return result if held is None else closed(result)


# ------------------------------------------------------------------------------------------------ examples
def rows_of(index: Any, count: int) -> list[int]:
    """The examples that an index means: a number, a slice, several numbers, or a truth value for each.

    Raises IndexError for an example that is not there (a loop ends so), `InputError` where none is left, and for
    anything else.
    """
    if isinstance(index, slice):
        rows = list(range(*index.indices(count)))
    elif isinstance(index, Integral) and not isinstance(index, bool):
        rows = [int(index)]
    else:
        rows = _several(index, count)
    outside = [r for r in rows if not -count <= r < count]
    if outside:
        raise IndexError(f"no example {outside[0]}: there are {count}")
    if not rows:
        raise InputError(f"no example is left of {count}: relevance[{index!r}]")
    return [r % count for r in rows]


def _several(index: Any, count: int) -> list[int]:
    values = index.tolist() if hasattr(index, "tolist") else list(index) if isinstance(index, Iterable) else [None]
    values = values if isinstance(values, list) else [values]
    if values and all(isinstance(v, bool) for v in values):
        if len(values) != count:
            raise InputError(f"{len(values)} truth values for {count} examples")
        return [n for n, kept in enumerate(values) if kept]
    if isinstance(index, (str, Mapping)) or not all(isinstance(v, Integral) for v in values):
        raise InputError(
            f"relevance[{index!r}]: examples are taken by a number, a slice, a list of numbers or of truth values"
        )
    return [int(v) for v in values]


def taking(rows: list[int], count: int) -> Change:
    """The change that keeps these examples of ``count``, in this order; those in a row are views."""
    first, last = rows[0], rows[-1] + 1
    together = rows == list(range(first, last))

    def take(tensor: Tensor, axis: int) -> Tensor:
        if rows == list(range(count)) or tensor.dim() <= axis or tensor.shape[axis] != count:
            return tensor
        if together:
            return tensor.narrow(axis, first, last - first)
        return tensor.index_select(axis, torch.tensor(rows, device=tensor.device))

    return take


# ------------------------------------------------------------------------------------------------ places and types
def moving(*args: Any, **kwargs: Any) -> Change:
    """The change that `torch.Tensor.to` makes with these arguments; a type is for real numbers only."""
    try:
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"relevance.to() takes a device, a floating type, or both: {reason}") from error
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(f"relevance.to({dtype}): relevance is real numbers; give a floating type")

    def move(tensor: Tensor, axis: int) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking)

    return move


def compact(tensor: Tensor, axis: int) -> Tensor:
    """A tensor without the memory of what it was cut from."""
    held, own = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
    return tensor.clone(memory_format=torch.contiguous_format) if held > own else tensor


def detached(tensor: Tensor, axis: int) -> Tensor:
    """A tensor that autograd does not follow."""
    return tensor.detach()
