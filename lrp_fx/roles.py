"""Roles of forward arguments: content, position, segment or mask, read from name and type and always printed."""

from __future__ import annotations

import torch
from torch import Tensor

#: Parts of argument names, in order of precedence. Overridden by ``convert(model, roles={...})``.
_WORDS = (("mask", "mask"), ("position", "position"), ("token_type", "segment"), ("segment", "segment"))


def role_of(name: str, value: Tensor) -> str:
    """The role that an argument's name and type suggest."""
    for word, role in _WORDS:
        if word in name:
            return role
    return "mask" if value.dtype == torch.bool else "content"
