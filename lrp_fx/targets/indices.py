"""Indices: the numbers that targets are given, of any integer type, and the names that stand for them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_fx.errors import TargetError

#: A number, one for each example, or the name of a label or token in the place of a number.
Index = int | str | Sequence[int | str] | Tensor
#: The index that a name has among outputs of this number.
Names = Callable[[str, int], int]


class RaggedError(TargetError, ValueError):
    """Lists of numbers that are no table: of different lengths, or beside numbers."""


def listed(index: Any) -> Any:
    """A column of a table, an array of names, any other sequence: as a list, or an array of numbers."""
    if isinstance(index, (str, list, tuple, range, Tensor)):
        return index
    if hasattr(index, "__array__"):
        array = np.asarray(index)
        return array.tolist() if array.dtype.kind in "OUST" else array
    return list(index) if isinstance(index, Sequence) else index


def whole_numbers(index: Any, what: str) -> Tensor:
    """Integers of any kind (Python's, numpy's, torch's; nested in lists) as a tensor of int64, of the same shape.

    Raises `TargetError` for truth values, fractions and anything else: nothing is rounded.
    """
    if isinstance(index, Tensor):
        if index.dtype.is_floating_point or index.dtype.is_complex or index.dtype == torch.bool:
            raise TargetError(f"{what}: a whole number is needed, got a tensor of {index.dtype}")
        return index.detach().to(torch.int64)
    plain = _plain(index, what)
    try:
        return torch.tensor(plain, dtype=torch.int64)
    except (TypeError, ValueError) as error:
        raise RaggedError(
            f"{what}: {index!r} has lists of different lengths, or lists beside numbers\n    next: give one number, or "
            "a list with one for each example"
        ) from error


def _plain(index: Any, what: str) -> Any:
    if isinstance(index, Tensor) and index.dim():
        return whole_numbers(index, what).tolist()
    if isinstance(index, np.ndarray) and index.ndim:
        return [_plain(i, what) for i in index]
    if isinstance(index, (list, tuple, range)):
        return [_plain(i, what) for i in index]
    is_truth = isinstance(index, (bool, np.bool_)) or (isinstance(index, Tensor) and index.dtype == torch.bool)
    try:
        if not is_truth:
            return _of_64_bits(operator.index(index if not isinstance(index, np.ndarray) else index[()]), what)
    except TypeError:
        pass
    raise TargetError(f"{what}: a whole number is needed, got {index!r}")


def _of_64_bits(number: int, what: str) -> int:
    if not -(2**63) <= number < 2**63:
        raise TargetError(f"no such {what}: {number}")
    return number


def has_names(index: Any) -> bool:
    """Is there a name among the indices?"""
    return isinstance(index, str) or (isinstance(index, (list, tuple)) and any(map(has_names, index)))


def without_names(index: Any, size: int, names: Names | None) -> Any:
    """The same with numbers in the place of names; raises `TargetError` where these are not known."""
    if isinstance(index, str):
        if names is None:
            raise TargetError(
                f"{index!r} is a name, and what the outputs are called is not known here\n    next: give an index, or "
                "convert(model, tokenizer=...)"
            )
        return names(index, size)
    return [without_names(i, size, names) for i in index] if isinstance(index, (list, tuple)) else index


def column(index: Any, batch: int, device: torch.device, name: str) -> Tensor:
    """(B,): one number for each example, or one for all."""
    values = whole_numbers(index, name).to(device).reshape(-1)
    if values.numel() not in (1, batch):
        raise TargetError(f"{name}: {values.numel()} values for a batch of {batch}; give one, or one per example")
    return values.expand(batch).contiguous()


def check_range(values: Tensor, size: int, what: str) -> None:
    """Raise `TargetError` for a class that is none of ``size``, or a position that is none (these count back too)."""
    bad = values[(values >= size) | (values < -size)] if what == "position" else values[(values >= size) | (values < 0)]
    if bad.numel():
        limits = f"-{size}..{size - 1}" if what == "position" else f"0..{size - 1}"
        raise TargetError(f"no such {what}: {int(bad[0])} (the output has {size}, valid are {limits})")
