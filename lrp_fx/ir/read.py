"""Read: a tensor whose numbers went into something that is kept, and whether they are still what they were.

Numbers may be written past torch's count of versions (``tensor.data``, an array that shares the memory), so that they
are looked at themselves: all where they are few, some of many.

requires  a tensor, as it was read
ensures   a change of a tensor of up to `WHOLE` numbers is seen; of a larger one, whatever counts, moves or replaces it,
          and what changes every number
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

WHOLE = 1 << 16
_SAMPLE = 1 << 10


class Read:
    """``tensor`` is held, so that nothing else takes its place in memory."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._place = _place_of(tensor)
        with torch.no_grad():
            self._numbers = [part.clone() for part in numbers_of(tensor)]

    def changed(self) -> bool:
        """Does it hold other numbers, as far as can be told?"""
        if _place_of(self.tensor) != self._place:
            return True
        with torch.no_grad():
            return not all(map(_equal, numbers_of(self.tensor), self._numbers))


def all_as_read(read: Iterable[Read]) -> bool:
    """Is all that was read what it was?"""
    return not any(one.changed() for one in read)


def _place_of(tensor: Tensor) -> Any:
    version = None if tensor.is_inference() else tensor._version
    return version, None if holds_none(tensor) else tensor.data_ptr()


def holds_none(tensor: Tensor) -> bool:
    """Has it no numbers, or none of its own?"""
    special = is_traceable_wrapper_subclass(tensor) or isinstance(tensor, FakeTensor)
    return special or tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized


def numbers_of(tensor: Tensor, whole: int = WHOLE) -> list[Tensor]:
    """All of them, or some where there are more than ``whole``: views."""
    if holds_none(tensor):
        return []
    plain = tensor.detach()
    if tensor.numel() <= whole:
        return [plain]
    if not tensor.is_contiguous():
        plain = plain.as_strided((plain.untyped_storage().nbytes() // plain.element_size(),), (1,), 0)
    flat = plain.view(-1)
    return [flat[:: flat.numel() // _SAMPLE + 1], flat[-1:]]


def _equal(a: Tensor, b: Tensor) -> bool:
    if torch.equal(a, b):
        return True
    both = a.isnan() & b.isnan()  # which are no more equal than others
    return bool(both.any()) and torch.equal(a.masked_fill(both, 0), b.masked_fill(both, 0))
