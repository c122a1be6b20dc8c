"""Sparse tensors: what can be asked of tensors of every layout, those that hold only some of their elements too."""

from __future__ import annotations

import torch
from torch import Tensor

_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def numbers_held(tensor: Tensor) -> Tensor:
    """The tensor itself; of a sparse one the elements that it holds."""
    if tensor.layout is torch.sparse_coo:
        return tensor.detach()._values()
    return tensor.detach().values() if tensor.layout in _COMPRESSED else tensor


def address_of(tensor: Tensor) -> int:
    """Where the numbers of a tensor begin in memory."""
    return numbers_held(tensor).data_ptr()


def strides_of(tensor: Tensor) -> tuple[int, ...]:
    """The strides; none for what is laid out by rows or columns that differ in length."""
    return () if tensor.layout in _COMPRESSED else tensor.stride()
