"""Roles of forward arguments: content, position, segment or mask, read from name and type and always printed."""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_fx.arguments import last_word

#: Words of argument names, in order of precedence. Overridden by ``convert(model, roles={...})``.
_WORDS = (
    ({"mask"}, "mask"),
    ({"position", "positions", "pos", "grid", "sizes", "shapes", "bbox", "aspect"}, "position"),
    ({"segment", "segments"}, "segment"),
)


def role_of(name: str, value: Tensor) -> str:
    """The role that an argument's name (by its words) and type suggest."""
    words = set(last_word(name).lower().split("_"))
    if {"token", "type"} <= words:
        return "segment"
    for known, role in _WORDS:
        if words & known:
            return role
    return "mask" if value.dtype == torch.bool else "content"
